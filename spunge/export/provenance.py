"""From a row of evaluations.csv back to the data: task vectors, their provenance, and whether files still match it.

python -m spunge.export.provenance results/country-capitals rmu/attribute/merge/ties/seed0 [--provenance]
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spunge.core import errors
from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.experiment.records import Candidate, Run
from spunge.models import task_vector
from spunge.report import results_table

MATCHES, DIFFERS, GONE = "as recorded", "DIFFERS from what was recorded", "is not there"
SHOWN = 10


class Step(NamedTuple):
    """One file that a number rests on: what it is, its path, its SHA-256 (recorded or else computed), its state."""

    what: str
    path: str
    sha256: str
    state: str


def trace(results: Path, models: Path, candidate: str) -> tuple[list[Step], dict]:
    """Return what a candidate of an experiment rests on, step by step down to data and base model, and its provenance.

    `results` is the experiment's folder, `models` the one with the base models, `candidate` as in evaluations.csv.
    Every file is hashed again and compared with what the task vectors recorded when they were made. Raises InputError
    where there is no such candidate, or where its task vector is gone.
    """
    table = results_table.read(results / "evaluations.csv")
    rows = table[(table["candidate"] == candidate) & (table["seed"] != results_table.COMBINED)]
    if rows.empty:
        known = table.loc[table["seed"] != results_table.COMBINED, "candidate"].unique()
        raise InputError(
            f"{results / 'evaluations.csv'} has no candidate {candidate!r} of one seed; it has "
            f"{', '.join(known[:SHOWN])}{' …' if len(known) > SHOWN else ''}"
        )
    record = Candidate.parse(candidate)
    path = results / record.source(results_table.families(table)[record.method][0]).task_vector
    provenance = task_vector.facts(path)
    steps = [Step(f"{len(rows)} rows", str(results / "evaluations.csv"), "", ""), _file("task vector", path)]
    for unlearned in provenance.get("unlearned", []):
        shard, path = unlearned["shard"], results / Run.parse(unlearned["run"]).task_vector
        steps.append(_file(f"task vector of {shard}", path, provenance["shards"][shard]))
        steps.append(_data(results, unlearned))
    if "unlearned" not in provenance:
        steps.append(_data(results, provenance))
    retain = {unlearned["data"]["retain"] for unlearned in provenance.get("unlearned", [provenance])}
    steps += [_file("texts to retain", results / "data" / "retain.parquet", digest) for digest in sorted(retain)]
    return [*steps, _base(models, provenance)], provenance


def _data(results: Path, provenance: Mapping) -> Step:
    texts = results / Run.parse(provenance["run"]).texts
    return _file("  its texts to forget", texts, provenance["data"]["forget"])


def _file(what: str, path: Path, recorded: str = "") -> Step:
    if not path.is_file():
        return Step(what, str(path), recorded, GONE)
    actual = sha256(path)
    return Step(what, str(path), recorded or actual, "" if not recorded else MATCHES if actual == recorded else DIFFERS)


def _base(models: Path, provenance: Mapping) -> Step:
    """Return the step of the base model, whose identity is a digest over those of its weight files."""
    for manifest in sorted(models.glob("*/manifest.json")):
        recorded = json.loads(manifest.read_text())
        if recorded["identity"] != provenance["base"]:
            continue
        files = {name: manifest.parent / name for name in recorded["weights"]}
        same = all(
            path.is_file() and sha256(path) == recorded["weights"][name]["sha256"] for name, path in files.items()
        )
        return Step("base model", str(manifest.parent), provenance["base"], MATCHES if same else DIFFERS)
    return Step(f"base model {provenance['base_source']}", str(models), provenance["base"], GONE)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and trace; return the exit code, 1 where a file is not what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="an experiment's folder in results/")
    parser.add_argument("candidate", help="as in evaluations.csv, of one seed")
    parser.add_argument("--models", type=Path, default=Path("resources/models"), help="where the base models lie")
    parser.add_argument("--provenance", action="store_true", help="print the task vector's provenance whole, as JSON")
    arguments = parser.parse_args(argv)

    def work() -> None:
        steps, provenance = trace(arguments.results, arguments.models, arguments.candidate)
        if arguments.provenance:
            print(json.dumps(provenance, indent=1, ensure_ascii=False))
            return
        for step in steps:
            print(f"{step.what:<34} {step.sha256[:16]:<17} {step.state:<12} {step.path}".rstrip())
        versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
        print(f"made at commit {provenance['commit']} with {versions}")
        if wrong := [step for step in steps if step.state in (DIFFERS, GONE)]:
            raise InputError(f"{wrong[0].path} {wrong[0].state}: these numbers can't be traced back to it")

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
