"""Ablate the directions in which unlearning moved one candidate's activations, and ask the questions."""

import argparse
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and ablate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_results(parser)
    cli.add_model(parser)
    parser.add_argument("--base-activations", nargs="?", help="the base model's means; none for the base model")
    parser.add_argument("--texts", required=True, help="the texts whose activations are compared, Parquet")
    parser.add_argument("--questions", required=True, help="the questions asked, Parquet")
    parser.add_argument("--batch-size", required=True, type=int, help="questions asked together")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import contextlib

        from spunge.core import parquet
        from spunge.datasets import tables
        from spunge.evaluation import ablation, knowledge
        from spunge.models.task_vector import opened

        if cli.scale(arguments) is None:
            return cli.write_results(arguments, {})
        questions = tables.read("questions", arguments.questions)
        model, tokenizer = cli.load_model(arguments)
        with contextlib.ExitStack() as stack:
            if arguments.base_activations:
                with opened(arguments.base_activations) as file:
                    base = file.get_tensor("means")
                means = ablation.mean_activations(model, tokenizer, parquet.read(arguments.texts)["text"])
                stack.enter_context(ablation.ablated(model, ablation.directions(means, base), base))
            scores = knowledge.score(model, tokenizer, questions, arguments.batch_size)
        cli.write_results(arguments, {"ablated": scores})

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
