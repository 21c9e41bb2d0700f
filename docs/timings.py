"""Print where an experiment's time went, rule by rule, from Snakemake's benchmark files.

python docs/timings.py results/country-capitals resources
"""

import sys
from pathlib import Path

import pandas as pd


def table(folders: list[Path]) -> pd.DataFrame:
    """Return one row per rule: jobs, their seconds in all and on average, and the largest peak memory of one (MB)."""
    rows = []
    for folder in folders:
        for path in sorted((folder / "benchmarks").rglob("*.tsv")):
            rule = path.relative_to(folder / "benchmarks").parts[0].removesuffix(".tsv")
            rows.append(pd.read_csv(path, sep="\t", na_values="-").assign(rule=rule))
    by_rule = pd.concat(rows).groupby("rule")
    result = by_rule.agg(jobs=("s", "size"), seconds=("s", "sum"), mean=("s", "mean"), peak_mb=("max_rss", "max"))
    return result.sort_values("seconds", ascending=False).round(0).astype("Int64")


if __name__ == "__main__":
    print(table([Path(argument) for argument in sys.argv[1:]]).to_markdown())
