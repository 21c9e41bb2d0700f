"""An experiment's jobs, kind by kind, as `snakemake plan` reckons with them: counted from the records of its grid.

What a new rule adds to the jobs stands here too, and a test holds the sum against a dry run.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from spunge.experiment import configuration
from spunge.experiment.grid import Grid
from spunge.experiment.jobs import Jobs, model_folder
from spunge.experiment.records import Run

PREPARATION, TABLES = "durability, preparation", "tables, figures"


def known_attributes(jobs: Jobs) -> Sequence[str] | None:
    """Return the attributes to forget, or None where only the data can say which, and have not yet been built."""
    configured = jobs.grid.configuration["data"]["forget"]
    if configured != "all":
        return configured
    path = Path(jobs.results) / "data" / "attributes.json"
    return [entry["attribute"] for entry in json.loads(path.read_text())] if path.is_file() else None


def describe(jobs: Jobs, attributes: Sequence[str] | None) -> dict:
    """Return an experiment as the estimate reckons with it: settings with their defaults, and its kinds of jobs.

    With None for `attributes`, one stands for those that aren't known: what follows from their number is left open.
    """
    configured = jobs.grid.configuration
    grid = Grid(configured, attributes or ["all"])
    data = configured["data"]
    defaults = configuration.option_defaults("data", data["dataset"])
    known = attributes is not None
    return {
        "experiment": grid.experiment,
        "results": jobs.results,
        "seeds": grid.seeds,
        "attributes": attributes,
        "model": configured["model"] | {"folder": model_folder(configured["model"])},
        "data": {"options": defaults | data["options"]},
        "methods": {method: _method(jobs, method) for method in grid.trained},
        "jobs": [*_preparation(jobs), *_training(jobs, grid, known), *_evaluation(jobs, grid, known)],
    }


def _method(jobs: Jobs, method: str) -> dict:
    """Return a method's options with their defaults, and what the workflow adds to them."""
    section = jobs.grid.methods[method]
    defaults = configuration.option_defaults("methods", section["method"]) if section["method"] != "command" else {}
    return {
        "kind": section["method"],
        "options": defaults | jobs.grid.method_options(method),
        "cache_activations": section["cache_activations"],
        "gpus": section["gpus"],
        "sharded": "accelerate" in section,
        "norms_of": section.get("norms_of"),
    }


def _kind(
    folder: str, rule: str, jobs: int | None, label: str = "", patterns: Iterable[str] = (), gpu: int = 0, **more
) -> dict:
    """Return a kind of jobs: how many (None where it isn't known), and where earlier ones left their benchmarks."""
    files = [f"{folder}/{rule}/{pattern}.tsv" for pattern in patterns] or [f"{folder}/{rule}.tsv"]
    return {"rule": rule, "label": label or rule, "jobs": jobs, "benchmarks": files, "gpu": gpu, **more}


def _preparation(jobs: Jobs) -> list[dict]:
    """Return the jobs that make wheels, models and tables."""
    data, shared = jobs.grid.configuration["data"], partial(_kind, "resources/benchmarks")
    kind = partial(_kind, f"{jobs.results}/benchmarks")
    sources = [section["source"] for section in jobs.models.values()]
    wheels = [*data["wheels"], *(section["wheel"] for section in jobs.classifiers.values() if "wheel" in section)]
    wheels += [source.removeprefix("wheel:") for source in sources if source.startswith("wheel:")]
    wheels = list(dict.fromkeys(wheels))
    found = [shared("wheel", len(wheels), "", ["*"], wheels=wheels)] if wheels else []
    for folder, section in jobs.models.items():
        label, source = f"model {Path(section['source']).name}", section["source"]
        found.append(shared("model", 1, label, [folder], model=folder, source=source))
    hub = "hub:" in json.dumps(data["options"])
    hub |= data["dataset"] in ("toxigen", "wmdp") and not data["options"].get("mirror")
    found.append(kind("data", 1, hub=hub))
    found += [kind("discover", 1, "data")] if data["forget"] == "all" else []
    return [*found, kind("data_rows", 1, "data")]


def _training(jobs: Jobs, grid: Grid, known: bool) -> list[dict]:
    """Return the jobs that make shards, frozen states, task vectors and merges."""
    kind, runs = partial(_kind, f"{jobs.results}/benchmarks"), grid.runs()
    found = [kind("shard", len({run.partition for run in runs}), "shard", ["*"])]
    kept = [method for method in grid.trained if grid.methods[method].get("cache_activations")]
    found += [kind("states", 1, f"states {method}", [method], 1, method=method) for method in kept]
    alike: dict[tuple, list[Run]] = {}
    for run in runs:
        joint = run.split == "joint"
        steps = grid.options(run).get("steps") if known or not joint else None
        alike.setdefault((run.method, joint, steps), []).append(run)
    for (method, joint, steps), group in alike.items():
        folders = dict.fromkeys(run.path.rpartition("/")[0] for run in group)
        label = f"unlearn {method}: {', '.join(dict.fromkeys(run.split for run in group))}"
        count, gpus = len(group) if known or joint else None, grid.methods[method]["gpus"]
        found.append(kind("unlearn", count, label, [f"{one}/*" for one in folders], gpus, method=method, steps=steps))
    for method in grid.trained:
        if number := len(grid.merges([method])):
            found.append(kind("merge", number, f"merge {method}", [f"{method}/**/*"], method=method))
    return found


def _evaluation(jobs: Jobs, grid: Grid, known: bool) -> list[dict]:
    """Return the jobs that evaluate all candidates, and what is made of that."""
    kind, evaluations = partial(_kind, f"{jobs.results}/benchmarks"), grid.configuration["evaluations"]
    open_end = not known and grid.configuration["single_shards"] and "attribute" in grid.configuration["splits"]
    number = sum(known or not candidate.shard for candidate in grid.candidates())
    generation = configuration.generation_options(grid.toxicity) if grid.toxicity else {}
    by_vllm = bool(grid.toxicity) and grid.toxicity["generator"] == "vllm"
    asked = {name: evaluations[name] for name in grid.of_a_model}
    more = {"evaluations": asked, "generation": {} if by_vllm else generation, "more": open_end}
    found = [kind("evaluate", number, "evaluate", ["**/*"], 1, **more)]
    if by_vllm:
        found.append(kind("generate", number, "generate", ["**/*"], 1, generation=generation, more=open_end))
    if benchmarks := evaluations.get("benchmarks"):
        more = {"options": benchmarks, "hub": not benchmarks["mirror"], "more": open_end}
        found.append(kind("benchmarks", number, "benchmarks", ["**/*"], 1, **more))
    if grid.toxicity:
        gpu = int("huggingface" in [section["classifier"] for section in jobs.classifiers.values()])
        more = {"generation": generation, "more": open_end}
        found.append(kind("score_toxicity", number, "score toxicity", ["**/*"], gpu, **more))
    if grid.durability:
        number = len(grid.attacked())
        found.append(kind("draw_durability", 1, PREPARATION))
        found.append(kind("as_unlearned", number, PREPARATION, ["**/*"]))
        found += [kind("base_states", 1, PREPARATION, gpu=1)] if grid.attacks["ablate"] else []
        attacks = [rule for rule, names in grid.attacks.items() if names]
        found += [kind(rule, number, f"durability, {rule}", ["**/*"], 1) for rule in attacks]
    tables = [
        kind("compare", len(grid.evaluation_names + grid.attack_names), TABLES, ["*"]),
        *([kind("equal_fluency", 1, TABLES)] if grid.toxicity else []),
        kind("gather", 1, TABLES),
        kind("figure", len(grid.figures), TABLES, ["*"]),
        kind("summary", 1, TABLES),
        kind("findings", 1, TABLES),
        *([kind("comparison", 1, TABLES)] if grid.toxicity or "benchmarks" in evaluations else []),
    ]
    return found + tables
