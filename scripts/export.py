"""Write one candidate as a Hugging Face folder, base model plus task vector, or as a PEFT adapter."""

import argparse
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--candidate", required=True, help="its name, as in evaluations.csv")
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--task-vector", required=True, help="the candidate's task vector, safetensors")
    parser.add_argument("--scale", type=float, default=1.0, help="the factor λ on the task vector")
    parser.add_argument("--strengths", nargs="?", help="λ by budget, JSON, in place of the one λ, for a budget")
    parser.add_argument("--budget", default="", help="whose λ it is then, as in evaluations.csv")
    parser.add_argument("--format", choices=["model", "adapter"], default="model", help="a whole model, or an adapter")
    parser.add_argument("--adapter-rank", nargs="?", type=int, help="rank of an adapter; the shards' together if none")
    parser.add_argument("--shards", nargs="*", default=[], help="the task vectors that were merged, for an adapter")
    parser.add_argument("--dtype", nargs="?", help="dtype of the weights; the base model's own where there is none")
    parser.add_argument("--max-shard-size", default="5GB", help="size of a weight file, as 5GB")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import torch

        from spunge.core.files import read_json
        from spunge.export import adapter, folder
        from spunge.merging import recipe
        from spunge.models import task_vector

        base = task_vector.BaseModel.open(arguments.base)
        change = recipe.read(arguments.task_vector)
        scale = read_json(arguments.strengths).get(arguments.budget) if arguments.strengths else arguments.scale
        if scale is None:
            raise errors.InputError(
                f"{arguments.candidate} has no λ for {arguments.budget}, which it doesn't reach or wasn't evaluated "
                "at; set export.budget to another one"
            )
        if arguments.strengths:
            change.provenance["budget"] = arguments.budget
        dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
        name = arguments.candidate
        if arguments.format == "adapter":
            shards = [task_vector.read(path) for path in filter(None, arguments.shards)]
            adapter.export(base, change, shards, arguments.output, name, scale, arguments.adapter_rank, dtype)
            return
        if scale != 1:
            change = task_vector.Scaled(change, scale)
        folder.export(base, change, arguments.output, name, dtype, arguments.max_shard_size)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
