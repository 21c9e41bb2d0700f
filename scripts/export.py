"""Write one candidate, base model plus task vector, as a Hugging Face folder."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidate", required=True, help="its name, as in evaluations.csv")
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--task-vector", required=True, help="the candidate's task vector, safetensors")
    parser.add_argument("--scale", type=float, default=1.0, help="the factor λ on the task vector")
    parser.add_argument("--dtype", nargs="?", help="dtype of the weights; the base model's own where there is none")
    parser.add_argument("--max-shard-size", default="5GB", help="size of a weight file, as 5GB")
    parser.add_argument("--output", required=True, type=Path, help="the candidate's folder")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import torch

        from spunge.export import folder
        from spunge.merging import recipe
        from spunge.models import task_vector

        base = task_vector.BaseModel.open(arguments.base)
        change = recipe.read(arguments.task_vector)
        if arguments.scale != 1:
            change = task_vector.Scaled(change, arguments.scale)
        dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
        folder.export(base, change, arguments.output, arguments.candidate, dtype, arguments.max_shard_size)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
