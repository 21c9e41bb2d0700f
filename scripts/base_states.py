"""Compute the base model's last hidden states of the texts that budgets are measured on, once for all candidates."""

import argparse
import json
import sys

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and compute; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_model(parser)
    parser.add_argument("--reading", required=True, type=json.loads, help="options of the evaluation fluency, JSON")
    parser.add_argument("--damaged", required=True, nargs="+", help="texts that set λ or measure damage, Parquet")
    parser.add_argument("--output", required=True, help="states by table, safetensors")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.core.files import whole_file
        from spunge.evaluation import candidate

        model, tokenizer = cli.load_model(arguments)
        with whole_file(arguments.output) as temporary:
            candidate.write_base_states(model, tokenizer, arguments.damaged, arguments.reading, temporary)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
