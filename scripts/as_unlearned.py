"""Select a candidate's scores before any attack, on the questions that are asked after the attacks."""

import argparse
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and select; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_results(parser)
    parser.add_argument("--questions", required=True, help="the questions asked, with their rows, Parquet")
    parser.add_argument("--knowledge", required=True, help="the candidate's scores of all questions, Parquet")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core import parquet
        from spunge.datasets import tables

        rows = tables.read("questions", arguments.questions)["row"]
        scores = parquet.read(arguments.knowledge)
        scores = scores[scores["budget"] == arguments.budget]  # none where the candidate doesn't reach it
        cli.write_results(arguments, {"as_unlearned": scores if scores.empty else scores.iloc[rows]})

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
