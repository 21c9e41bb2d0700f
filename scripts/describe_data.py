"""Count the forget texts, questions and subjects of each attribute."""

import argparse
import json
import sys
from pathlib import Path

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and count; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--forget", required=True, help="the forget texts, Parquet")
    parser.add_argument("--questions", required=True, help="the questions, Parquet")
    parser.add_argument("--output", required=True, help="rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.datasets import tables
        from spunge.evaluation import description
        from spunge.files import whole_file

        forget = tables.read("forget", arguments.forget)
        questions = tables.read("questions", arguments.questions)
        attributes = [entry["attribute"] for entry in json.loads(arguments.attributes.read_text())]
        with whole_file(arguments.output) as temporary:
            description.data(arguments.experiment, attributes, forget, questions).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
