"""Compute the base model's mean activations over the forget texts, once for all candidates."""

import argparse
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and compute; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_model(parser)
    parser.add_argument("--texts", required=True, help="the texts whose activations are compared, Parquet")
    parser.add_argument("--output", required=True, help="mean activations by layer, safetensors")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from safetensors.torch import save_file

        from spunge.core import parquet
        from spunge.core.files import whole_file
        from spunge.evaluation import ablation

        model, tokenizer = cli.load_model(arguments)
        means = ablation.mean_activations(model, tokenizer, parquet.read(arguments.texts)["text"])
        with whole_file(arguments.output) as temporary:
            save_file({"means": means}, temporary)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
