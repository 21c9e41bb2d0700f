"""Time a dry run of a large grid and take its peak memory: methods × splits × shards × merges × seeds.

python benchmarks/plan.py [--shards 200 --methods 5 --merges 5 --seeds 10]

Nothing is downloaded or computed. The experiment is the default one with as many attributes, methods and merges.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def experiment(shards: int, methods: int, merges: int, seeds: int, single: bool) -> dict:
    """Return the configuration of the grid; its methods and merges differ in nothing but a number."""
    import yaml

    made = yaml.safe_load((PROJECT / "config.yaml").read_text())
    rmu, ties = made["methods"]["rmu"], made["merges"]["ties"]
    made["splits"] = ["joint", "attribute", "random"]
    del made["tuning"], made["budgets"], rmu["tune"]  # they add trials, arms and tables to the grid
    made["data"]["forget"] = [f"attribute{number}" for number in range(1, shards + 1)]
    made["methods"] = {
        f"rmu{number}": {**rmu, "method": "rmu", "cache_activations": False} for number in range(methods)
    }
    made["merges"] = {f"ties{number}": {**ties, "merge": "ties"} for number in range(merges)}
    return made | {"experiment": "large", "seeds": list(range(seeds)), "single_shards": single}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, plan and print; return Snakemake's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=200, help="attributes, each with a shard of its own")
    parser.add_argument("--methods", type=int, default=5)
    parser.add_argument("--merges", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--no-single-shards", action="store_true", help="evaluate no unlearning run of one shard")
    arguments = parser.parse_args(argv)
    grid = (arguments.shards, arguments.methods, arguments.merges, arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.json"
        file.write_text(json.dumps(experiment(*grid, not arguments.no_single_shards)))
        command = ["snakemake", "--dry-run", "--quiet", "all", "--directory", folder, "--configfile", file]
        started = time.perf_counter()
        planned = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    jobs = next((line.split()[1] for line in planned.stdout.splitlines() if line.startswith("total ")), "no")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    print(f"{jobs} jobs planned in {seconds:.1f} s, {memory:.0f} MB of memory at most")
    if planned.returncode:
        print(planned.stdout[-2000:] + planned.stderr[-2000:], file=sys.stderr)
    return planned.returncode


if __name__ == "__main__":
    sys.exit(main())
