"""The answer for a terminal: a sentence for each attribute split, and the summary table without intervals.

python -m spunge.report.answer results/country-capitals/evaluations.csv
"""

import argparse
import sys

import pandas

from spunge.core import errors
from spunge.report import results_table, summary
from spunge.report.comparisons import AT_EQUAL_DAMAGE, Comparison, comparisons, judge
from spunge.report.results_table import Estimate
from spunge.report.verdict import BROKEN, NOT_MEASURED, NOT_SHOWN, NOT_SHOWN_AGAINST, RIVAL_BROKEN
from spunge.report.wording import sentence


def text(evaluations: pandas.DataFrame) -> str:
    """Return what was found by the comparison that the answer rests on, and the candidates side by side."""
    decisive = next(iter(comparisons(evaluations).values()))
    narrow = table(evaluations).rename(columns=lambda heading: heading.replace(" ", "\n"))
    aligned = ("left", *["right"] * len(narrow.columns))
    shown = narrow.to_markdown(tablefmt="simple", disable_numparse=True, colalign=aligned)
    return "\n".join([*sentences(decisive), "", shown])


def sentences(comparison: Comparison) -> list[str]:
    """Return one sentence for each attribute split: how it did against each rival."""
    facts = {"measure": comparison.outcome.name, "comparison": comparison.name}
    judged = judge([comparison])
    judged = judged[judged["measure"] == comparison.outcome.name]
    told = []
    for candidate in comparison.attribute_splits():
        of_split = facts | {"label": candidate.label}
        if comparison.name == AT_EQUAL_DAMAGE and not comparison.has_value(candidate):
            told.append(sentence("in_short_unreached", of_split))
        else:
            rivals = _rivals(judged[judged["candidate"] == candidate.path], comparison)
            told.append(sentence("in_short", of_split | {"rivals": rivals}))
    return told


def _rivals(judged: pandas.DataFrame, comparison: Comparison) -> dict[str, list[dict]]:
    """Return the rivals by the verdict, each with its name and the difference, for people."""
    found: dict[str, list[dict]] = {}
    percent = comparison.outcome.unit == "points"
    for row in judged.itertuples():
        difference = summary.text(Estimate(row.difference, row.low, row.high), percent, True).replace("\u00a0", " ")
        kind = NOT_SHOWN if row.verdict == NOT_SHOWN_AGAINST else row.verdict
        compared = kind not in (NOT_MEASURED, BROKEN, RIVAL_BROKEN)
        found.setdefault(kind, []).append({"name": row.rival, "difference": difference if compared else ""})
    return found


def table(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the summary's columns that say which way is better, but for differences, and without intervals."""
    wide = summary.readable(evaluations)
    chosen = [heading for heading in wide if heading[-1] in "↓↑" and "against" not in heading]
    return wide[chosen].map(lambda cell: cell.partition(" ")[0])


def main(argv: list[str] | None = None) -> int:
    """Read the command line, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", help="evaluations.csv of one experiment")
    arguments = parser.parse_args(argv)
    return errors.run(lambda: print(text(results_table.read(arguments.evaluations))))


if __name__ == "__main__":
    sys.exit(main())
