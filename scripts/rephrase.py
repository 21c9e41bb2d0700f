"""Ask one candidate the rephrased questions, and open-ended ones."""

import argparse
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and ask; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_results(parser)
    cli.add_model(parser)
    parser.add_argument("--questions", required=True, help="the questions asked, Parquet")
    parser.add_argument("--rephrased", nargs="?", help="the rephrased questions asked, Parquet")
    parser.add_argument("--batch-size", required=True, type=int, help="questions asked together")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.datasets import tables
        from spunge.evaluation import knowledge, open_ended

        if cli.scale(arguments) is None:
            return cli.write_results(arguments, {})
        model, tokenizer = cli.load_model(arguments)
        scores = {}
        if "rephrased" in arguments.evaluations:
            rephrased = tables.read("rephrased", arguments.rephrased)
            scores["rephrased"] = knowledge.score(model, tokenizer, rephrased, arguments.batch_size)
        if "open_ended" in arguments.evaluations:
            questions = tables.read("questions", arguments.questions)
            scores["open_ended"] = open_ended.score(model, tokenizer, questions)
        cli.write_results(arguments, scores)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
