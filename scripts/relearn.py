"""Fine-tune one candidate on a few texts, several times over, and ask about others after each."""

import argparse
import json
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and relearn; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_results(parser)
    cli.add_model(parser)
    parser.add_argument("--texts", required=True, help="the texts to relearn, Parquet")
    parser.add_argument("--questions", required=True, help="the questions asked, Parquet")
    parser.add_argument("--batch-size", required=True, type=int, help="questions asked together")
    parser.add_argument("--options", required=True, type=json.loads, help="how to fine-tune, JSON")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--unfinished", help="folder that keeps what was done so far, if anything shall")
    parser.add_argument("--save-every", type=float, default=10, help="minutes between saves; 0 for every step")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core import parquet
        from spunge.datasets import tables
        from spunge.evaluation import relearning
        from spunge.experiment.options import make
        from spunge.training import resume

        if cli.scale(arguments) is None:
            return cli.write_results(arguments, {})
        texts, questions = parquet.read(arguments.texts), tables.read("questions", arguments.questions)
        options = make("evaluations.durability.relearn", relearning.Options, arguments.options)
        model, tokenizer = cli.load_model(arguments)
        settings = (options, arguments.batch_size, arguments.dtype, arguments.seed)
        facts = {"options": arguments.options, "settings": settings[1:], "strength": cli.scale(arguments)}
        identity = cli.identity(arguments, facts, [__file__, arguments.texts, arguments.questions])
        with resume.Checkpoint(arguments.unfinished, identity, arguments.save_every) as checkpoint:
            cli.write_results(arguments, relearning.relearn(model, tokenizer, texts, questions, *settings, checkpoint))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
