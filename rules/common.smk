# Constants, the checkpoint's reader, the wildcards' constraints, and what all commands have in common.
import atexit
import gc
import json
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import sourcecache_entry
from snakemake.settings.types import DeploymentMethod

PROJECT = Path(str(workflow.current_basedir)).parent
if {"{", "}"} & set(str(PROJECT)):
    raise WorkflowError(f"the workflow lies in {PROJECT}, and Snakemake takes braces in a path for wildcards; move it")
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))  # or `spunge` could not be imported here

from spunge.experiment import configuration, sources, yaml_values
from spunge.core.errors import InputError
from spunge.experiment.grid import Grid
from spunge.experiment.jobs import Jobs

SCRIPTS = PROJECT / "scripts"
ENVS = PROJECT / "envs"
CAPTIONS = PROJECT / "report" / "captions"


def source_file(path):
    """A file of the workflow's, or code of the user's, as an input that isn't looked for in a storage.

    Without a shared disk Snakemake brings such files to every job. Its own flag `local` is for the user's data: a job that
    reads those runs where Snakemake does. A file of ours is remembered by its place in the clone, so that this may be moved.
    """
    return sourcecache_entry(str(path), str(path).removeprefix(f"{PROJECT}{os.sep}"))


def library(script):
    """What a rule's script imports, as a parameter, so that a change in it reruns the rule.

    As inputs these files were four of five that a job had, and a quarter of a plan's time. Without a shared disk Snakemake
    brings all of the workflow's files to every job, inputs or not.
    """
    return sources.fingerprint(SCRIPTS / script)


def discovered_attributes():
    """The attributes to forget as the checkpoint found them in the data."""
    with open(checkpoints.discover.get().output[0]) as file:
        return [entry["attribute"] for entry in json.load(file)]


try:
    if workflow.is_main_process:
        for path in workflow.configfiles:
            yaml_values.check_file(path)
    configuration.check(config, workflow.config_settings.config)
    FORGET_ALL = config["data"]["forget"] == "all"
    GRID = Grid(config, discovered_attributes if FORGET_ALL else config["data"]["forget"])
    JOBS = Jobs(GRID, PROJECT, source=source_file, local=local)
except InputError as error:
    raise WorkflowError(str(error))

RESULTS = JOBS.results
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
DTYPE = config["model"]["dtype"]
MEMORY = config["model"]["memory"]  # MB of a job that uses the base model, where its method says nothing else
GPU_MEMORY = config["model"]["gpu_memory"]  # of that on each GPU; 0: all of it
EVALUATIONS = f"{RESULTS}/evaluations.csv"
# What a job that uses a candidate reads besides its task vector, where that is a recipe.
MERGED = JOBS.merged_task_vectors if JOBS.has_recipes else []


wildcard_constraints:
    partition=r"joint|attribute(?:-\d+)?|random(?:-\d+)?-seed\d+",
    method="|".join(GRID.trained),
    run=GRID.patterns["run"],
    merge=GRID.patterns["merge"],
    candidate=GRID.patterns["candidate"],
    evaluation="|".join(GRID.evaluation_names + GRID.attack_names),
    figure="|".join(GRID.figures),
    model="|".join(JOBS.models),


# Where no environment of its own gives a job its `python`, it is the one that runs Snakemake. How often a script saves its
# state is no parameter of a rule, so that another number reruns nothing. Both variables are read by our commands alone.
OWN_PYTHON = workflow.deployment_settings.deployment_method & {DeploymentMethod.CONDA, DeploymentMethod.APPTAINER}
PATH_BEFORE = "" if OWN_PYTHON else f"{Path(sys.executable).parent}{os.pathsep}"
os.environ.update(SPUNGE_PATH=PATH_BEFORE, SPUNGE_SAVE_EVERY=str(config["save_every_minutes"]))


# To look through a large plan's millions of objects for garbage, again and again and at the end, takes a fifth of its time.
# The process of another's workflow, of which ours is a module, stays as it is.
if workflow.modifier.parent_modifier is None:
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)


def python(arguments, program="python"):
    """The command of a job: the rule's script, with the library that lies beside it; what it says goes to the log, too.

    A signal to all processes of a job is for the script, that may have to save its state: the shell and `tee` outlive it. A log
    that can't be written fails no job. PyTorch takes large pages for large tensors: small ones cost a twentieth of the time.
    """
    environment = 'export PATH="$SPUNGE_PATH$PATH" PYTHONPATH="${{script%/scripts/*}}" THP_MEM_ALLOC_ENABLE=1'
    before = f"set -euo pipefail; trap '' TERM; script={{input.script:q}}; {environment};"
    return f"{before} {program} {{input.script:q}} {arguments} 2>&1 | (trap '' INT; tee {{log:q}} || :)"


def on_gpus(arguments, program="python"):
    """The same on GPUs of its own, as many as the rule asks for."""
    lease = "python -P -m spunge.gpus --gpus {resources.gpu} --memory {resources.gpu_mem_mb} --"
    return python(arguments, f"{lease} {program}")


def growing(amount):
    """So much for a job's first attempt, twice as much for its second; a number, or a function of the wildcards."""
    return lambda wildcards, attempt: attempt * (amount(wildcards) if callable(amount) else amount)
