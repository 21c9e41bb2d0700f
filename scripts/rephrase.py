"""Ask one candidate in other words, and let it write its answers."""

import argparse
import sys

from spunge import errors
from spunge.evaluation import jobs


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and ask; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    jobs.add_results(parser)
    jobs.add_model(parser)
    parser.add_argument("--questions", required=True, help="the questions asked, Parquet")
    parser.add_argument("--rephrased", nargs="?", help="the rephrased questions asked, Parquet")
    parser.add_argument("--batch-size", required=True, type=int, help="questions asked together")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.datasets import tables
        from spunge.evaluation import knowledge, open_ended

        model, tokenizer = jobs.load_model(arguments)
        found = {}
        if "rephrased" in arguments.evaluations:
            rephrased = tables.read("rephrased", arguments.rephrased)
            found["rephrased"] = knowledge.score(model, tokenizer, rephrased, arguments.batch_size)
        if "open_ended" in arguments.evaluations:
            questions = tables.read("questions", arguments.questions)
            found["open_ended"] = open_ended.score(model, tokenizer, questions)
        jobs.write_results(arguments, found)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
