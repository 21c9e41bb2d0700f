"""Combine the seeds of every candidate and compare the candidates, paired by question and seed."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--evaluation", required=True, help="its name in evaluations.csv")
    parser.add_argument("--metrics", type=json.loads, help="its METRICS as JSON, if it has its own")
    parser.add_argument("--seeds", required=True, nargs="+", help="the experiment's, also those without scores")
    parser.add_argument("--budgets", default=[], nargs="*", help="what this is measured at, also without scores")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--scores", required=True, nargs="+", help="scores of all candidates, Parquet")
    parser.add_argument("--output", required=True, help="rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.core import parquet
        from spunge.core.files import whole_file
        from spunge.evaluation import statistics

        scores = pd.concat([parquet.read(path) for path in arguments.scores], ignore_index=True)
        attributes = statistics.attributes(scores, json.loads(arguments.attributes.read_text()))
        metrics = {name: statistics.Metric(**metric) for name, metric in (arguments.metrics or {}).items()}
        measured_at = arguments.seeds, arguments.budgets
        rows = statistics.comparisons(scores, arguments.evaluation, attributes, metrics, *measured_at)
        with whole_file(arguments.output) as temporary:
            rows.to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
