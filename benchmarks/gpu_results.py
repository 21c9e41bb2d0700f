"""Fold what benchmarks/gpu.sh measured into results.csv and its figure, docs/speed.md, README.md here and docs/plan.md.

python benchmarks/gpu_results.py gpu.json
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

from spunge.core import errors  # noqa: E402
from spunge.core.errors import InputError  # noqa: E402
from spunge.core.files import json_object, whole_file  # noqa: E402

PARTS = {
    "machine": "the machine",
    "rmu_7b": "RMU, Llama-2-7B's shape",
    "rmu_70b": "RMU, Llama-2-70B's shape, layers 0 … 7",
    "gradient_7b": "TVN and NPO with LoRA, Llama-2-7B's shape",
    "ties": "TIES of 8 RMU vectors, Llama-2-7B's shape",
    "generation": "continuations, Llama-2-7B's shape",
    "correctness": "the device against the CPU, a small model",
    "leases": "leases",
    "default_experiment": "the default experiment, seed 0",
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and fold; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the gpu.json that benchmarks/gpu.sh wrote")
    parser.add_argument("--project", type=Path, default=PROJECT, help="the project whose tables are changed")
    arguments = parser.parse_args(argv)
    return errors.run(lambda: fold(json_object(arguments.file), arguments.project))


def fold(record: Mapping, project: Path) -> None:
    """Put what was measured into the project's tables and pages; raises InputError for a rehearsal's numbers."""
    from benchmarks import figure, results
    from spunge.models import task_vector
    from spunge.report.figures import style

    if record["rehearsal"]:
        raise InputError("these numbers are a rehearsal's, of tiny models: run bash benchmarks/gpu.sh on a GPU")
    measured = {name: part["measured"] for name, part in record["parts"].items()}
    if "name" not in measured.get("machine", {}):
        raise InputError(
            "the part `machine` has not said what the machine is, so its numbers can't be told from others"
        )
    path = project / "benchmarks" / "results.csv"
    result_rows = list(rows(measured))
    commit = task_vector.commit() if record["commit"] == "unknown" else record["commit"]
    table = results.update(results.read(path), result_rows, commit)
    results.write(table, path)
    style.save(figure.draw(table), *(path.with_suffix(suffix) for suffix in (".pdf", ".png")))
    of_machine = f"One {measured['machine']['name']}, {record['started'][:10]}, commit {commit}."
    _replace(project / "docs" / "speed.md", "\n".join([of_machine, "", *ratios(result_rows)]))
    _replace(project / "benchmarks" / "README.md", "\n".join([of_machine, "", *everything(record)]))
    _replace(project / "docs" / "plan.md", "\n".join([of_machine, "", *planned(measured.get("plan", {}))]))


def rows(measured: Mapping[str, Mapping]) -> Iterator:
    """Yield the rows of results.csv: each pair of ours and a reference that was measured whole."""
    from benchmarks.results import Row

    machine, rmu = measured["machine"]["name"], measured.get("rmu_7b", {})
    rate = measured["machine"].get("matmul_rate")
    kinds = {"first": "", "cached": ", states at hand"}
    if {"first step", "cached step", "reference step", "reference operations"} <= rmu.keys():
        for kind, named in kinds.items():
            seconds = rmu[f"{kind} step"], rmu["reference step"]
            yield Row("rmu_step_7b_gpu", f"time per step{named}", *seconds, "s", machine)
        operations = rmu["first operations"] / 1e12, rmu["reference operations"] / 1e12
        yield Row("rmu_step_7b_gpu", "operations", *operations, "10^12", machine)
        for kind, named in kinds.items():
            needed = rmu[f"{kind} operations"]
            shares = [100 * needed / rmu[f"{way} step"] / rate for way in (kind, "reference")]
            metric = f"needed operations, share of the measured rate{named}"
            yield Row("rmu_step_7b_gpu", metric, *shares, "%", machine, more_is_better=True)
    if {"first peak", "reference peak"} <= rmu.keys():
        peaks = rmu["first peak"] / 1e6, rmu["reference peak"] / 1e6
        yield Row("rmu_memory_7b_gpu", "peak memory", *peaks, "MB", machine)
    ties = measured.get("ties", {})
    if "seconds of mergekit" in ties:
        yield Row("ties_rmu_8_7b_gpu", "time", ties["seconds on the CPU"], ties["seconds of mergekit"], "s", machine)
    written = measured.get("generation", {})
    if {"ours tokens a second", "reference tokens a second"} <= written.keys():
        rates = written["ours tokens a second"], written["reference tokens a second"]
        yield Row("generation_7b_gpu", "tokens", *rates, "1/s", machine, more_is_better=True)


def ratios(result_rows: list) -> Iterator[str]:
    """Yield docs/speed.md's table of the rows: how many times better than the reference each is."""
    from benchmarks import results

    yield "| | ours | reference | times better | target |"
    yield "|---|---|---|---|---|"
    for row in result_rows:
        target = results.target(row)
        ours, reference = (f"{number:.4g} {row.unit}" for number in (row.ours, row.reference))
        yield f"| {row.name}: {row.metric} | {ours} | {reference} | {row.ratio:.3g} | {target or ''} |"


def everything(record: Mapping) -> Iterator[str]:
    """Yield a table of all that was measured, part by part, with what failed or ran out of time."""
    yield "| | measured | |"
    yield "|---|---|---|"
    for name, title in PARTS.items():
        part = record["parts"].get(name)
        if part is None:
            continue
        ended = "" if part["status"] == "done" else f": {part['status']}"
        yield f"| **{title}{ended}** | | {part['seconds']:.0f} s |"
        for what, value in part["measured"].items():
            if not what.endswith("losses"):
                yield f"| | {what} | {_told(value)} |"


def _told(value: object) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(inner)}" for key, inner in value.items()).replace("|", "\\|")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def planned(comparisons: Mapping[str, Mapping]) -> Iterator[str]:
    """Yield docs/plan.md's table: what the arithmetic says, what was measured, and whether the two are near."""
    yield "| | planned | measured | measured / planned | within |"
    yield "|---|---|---|---|---|"
    for name, row in comparisons.items():
        scale, unit = (1e9, "GB") if row["unit"] == "bytes" else (1, "s")
        numbers = " | ".join(f"{row[key] / scale:.3g} {unit}" for key in ("planned", "measured"))
        near = f"{row['within']:g} ×: {'yes' if row['near'] else '**no**'}"
        yield f"| {name} | {numbers} | {row['measured'] / row['planned']:.2f} | {near} |"


def _replace(page: Path, text: str) -> None:
    """Put the text between the page's two marks; raises InputError where it has none."""
    changed, times = re.subn(
        r"(<!-- gpu -->\n).*?(<!-- /gpu -->)",
        lambda match: f"{match[1]}{text}\n{match[2]}",
        page.read_text(),
        flags=re.S,
    )
    if times != 1:
        raise InputError(f"{page} has {times} places between <!-- gpu --> and <!-- /gpu -->; it needs one")
    with whole_file(page) as temporary:
        temporary.write_text(changed)


if __name__ == "__main__":
    sys.exit(main())
