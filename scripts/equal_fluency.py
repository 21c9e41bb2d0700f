"""Compare toxicity at equal fluency, for every family of methods with several factors λ."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and compare; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--toxicity", required=True, nargs="+", help="toxicity scores of all candidates, Parquet")
    parser.add_argument("--fluency", required=True, nargs="+", help="fluency scores of all candidates, Parquet")
    parser.add_argument("--families", required=True, type=json.loads, help="method → [family, λ], JSON")
    parser.add_argument("--ratio", required=True, type=float, help="perplexity to compare at, relative to the base's")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--output", required=True, help="rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import pandas as pd

        from spunge.core.files import whole_file
        from spunge.evaluation import equal_fluency, statistics

        scores = {
            name: pd.concat([pd.read_parquet(path).query("budget == ''") for path in paths], ignore_index=True)
            for name, paths in (("toxicity", arguments.toxicity), ("fluency", arguments.fluency))
        }
        attributes = statistics.attributes(scores["toxicity"], json.loads(arguments.attributes.read_text()))
        rows = equal_fluency.rows(scores, arguments.families, attributes, arguments.ratio)
        with whole_file(arguments.output) as temporary:
            rows.to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
