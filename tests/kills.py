"""Run an experiment undisturbed, and once more with kills at random moments; compare what comes out, byte for byte.

Each run has a fresh folder below --folder, with a copy of the models and wheels of this checkout, so that nothing is
downloaded twice. A kill is SIGKILL to Snakemake and all its jobs, as when the power fails; then `snakemake --unlock`,
and the same command again. Moments are drawn uniformly from 0 to the seconds that the undisturbed run took, divided by
the number of kills: some fall in the start of libraries, most in the work. At the end evaluations.csv must be the same,
and nothing may be left in `unfinished`; the exit code is 1 where that isn't so. With --save-every 0.01 a job of seconds
has states to go on from; with the default of ten minutes the jobs of a small experiment start anew.

    python tests/kills.py --configfile config.yaml --folder kills --kills 10 --save-every 0.01 --cores 2
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
GOING_ON = re.compile("going on (?:after step|with the scores)")  # spunge/training/resume.py, scripts/evaluate.py


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run twice and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", required=True, type=Path, help="the experiment")
    parser.add_argument("--folder", required=True, type=Path, help="where both runs get a folder of their own")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--save-every", type=float, help="minutes; as configured unless given")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--resources", type=Path, default=PROJECT / "resources", help="models and wheels there are")
    arguments = parser.parse_args(argv)

    config = yaml.safe_load(arguments.configfile.read_text())
    if arguments.save_every is not None:
        config["save_every_minutes"] = arguments.save_every
    results = f"results/{config['experiment']}"
    undisturbed, killed = (prepare(arguments, name, config) for name in ("undisturbed", "killed"))

    started = time.monotonic()
    if finish(undisturbed, arguments.cores) != 0:
        return told(f"the undisturbed run failed: see {undisturbed / 'terminal.txt'}")
    seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.0f} s", flush=True)

    drawn = random.Random(arguments.seed)
    for number in range(1, arguments.kills + 1):
        after = drawn.uniform(0, seconds / arguments.kills)
        if not killed_after(killed, arguments.cores, after):
            print(f"kill {number}: the run had ended before {after:.1f} s were over", flush=True)
            break
        states = len(list((killed / results).glob("unfinished/**/state")))
        print(f"kill {number}: after {after:.1f} s; {states} states are kept", flush=True)
        subprocess.run([*command(arguments.cores), "--unlock"], cwd=killed, check=True, capture_output=True)
    if finish(killed, arguments.cores) != 0:
        return told(f"the killed run failed in the end: see {killed / 'terminal.txt'}")
    terminal = (killed / "terminal.txt").read_text(errors="replace")
    print(f"{len(GOING_ON.findall(terminal))} times a job went on from a state", flush=True)
    if left := list((killed / results).glob("unfinished")):
        return told(f"{left[0]} is left")
    tables = [(folder / results / "evaluations.csv").read_bytes() for folder in (undisturbed, killed)]
    if tables[0] != tables[1]:
        return told(f"{results}/evaluations.csv differs between {undisturbed} and {killed}")
    print(f"evaluations.csv: the same {len(tables[0]):,} bytes")
    return 0


def told(problem: str) -> int:
    """Print what is wrong and return the exit code for it."""
    print(f"error: {problem}", file=sys.stderr)
    return 1


def prepare(arguments: argparse.Namespace, name: str, config: dict) -> Path:
    """Make a fresh folder with the experiment's file, the examples that its data may lie in, and the resources."""
    folder = arguments.folder / name
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "examples").symlink_to(PROJECT / "examples")
    for kind in ("models", "wheels"):
        if (arguments.resources / kind).is_dir():
            shutil.copytree(arguments.resources / kind, folder / "resources" / kind, symlinks=True)
    return folder


def command(cores: str) -> list[str]:
    """Return snakemake's command line, to be run in the folder of a run."""
    places = ["--snakefile", PROJECT / "Snakefile", "--configfile", "experiment.yaml", "--cores", cores]
    return [sys.executable, "-m", "snakemake", *map(str, places), "--rerun-triggers", "input", "code", "params"]


def start(folder: Path, cores: str) -> subprocess.Popen:
    """Start snakemake as the leader of a group of processes that its jobs belong to."""
    with open(folder / "terminal.txt", "a") as terminal:
        return subprocess.Popen(
            command(cores),
            cwd=folder,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def finish(folder: Path, cores: str) -> int:
    """Run snakemake to its end and return its exit code."""
    return start(folder, cores).wait()


def killed_after(folder: Path, cores: str, seconds: float) -> bool:
    """Run snakemake, kill it and its jobs after this time, and tell whether it came to that."""
    snakemake = start(folder, cores)
    try:
        snakemake.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
        time.sleep(1)  # the jobs are the system's to bury
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
