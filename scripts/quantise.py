"""Quantise one candidate's weights, and ask the questions."""

import argparse
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and quantise; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_results(parser)
    cli.add_model(parser)
    parser.add_argument("--bits", required=True, type=int, nargs="+", help="of each evaluation, in order")
    parser.add_argument("--questions", required=True, help="the questions asked, Parquet")
    parser.add_argument("--batch-size", required=True, type=int, help="questions asked together")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.datasets import tables
        from spunge.evaluation import knowledge, quantisation

        if cli.scale(arguments) is None:
            return cli.write_results(arguments, {})
        questions = tables.read("questions", arguments.questions)
        scores = {}
        for name, bits in zip(arguments.evaluations, arguments.bits, strict=True):
            model, tokenizer = cli.load_model(arguments)  # anew: two of them would take the memory of two
            quantisation.quantise(model, bits)
            scores[name] = knowledge.score(model, tokenizer, questions, arguments.batch_size)
            del model
        cli.write_results(arguments, scores)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
