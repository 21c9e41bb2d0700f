"""Compute once the frozen layers' activations on every forget and retain text."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and compute; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", required=True, type=Path, help="the method's Python file")
    parser.add_argument("--options", required=True, type=json.loads, help="the method's options, JSON")
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--forget", required=True, help="all forget texts, Parquet")
    parser.add_argument("--retain", required=True, help="the retain texts, Parquet")
    parser.add_argument("--attributes", required=True, help="all attributes to forget, JSON")
    parser.add_argument("--output", required=True, help="the activations, safetensors")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge import methods
        from spunge.core.files import attributes_to_forget
        from spunge.datasets import tables
        from spunge.models import base_model, task_vector

        method = methods.load(arguments.method)
        options = methods.options(method, arguments.options)
        forget = tables.read("forget", arguments.forget)
        run = methods.Run(
            base=task_vector.BaseModel.open(arguments.base),
            forget=forget["text"].tolist(),
            retain=tables.read("retain", arguments.retain)["text"].tolist(),
            seed=0,
            device=base_model.device(),
            attributes=forget["attribute"].tolist(),
            all_attributes=attributes_to_forget(arguments.attributes),
        )
        method.cache_activations(run, options, arguments.output)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
