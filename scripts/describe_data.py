"""Count the forget texts, questions and subjects of each attribute."""

import argparse
import sys

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and count; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
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
        with whole_file(arguments.output) as temporary:
            description.data(arguments.experiment, forget, questions).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
