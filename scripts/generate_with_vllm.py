"""Continue prompts with one candidate by vLLM, which loads a model folder: written for each λ, and removed after."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors
from spunge.evaluation import cli


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and generate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidate", required=True, help="its name, as in evaluations.csv")
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--task-vector", nargs="?", help="the candidate's task vector; none for the base model")
    parser.add_argument("--scale", type=float, default=1.0, help="the factor λ on the task vector")
    parser.add_argument("--strengths", nargs="?", help="λ by budget, JSON, in place of the one λ, if budgets are set")
    parser.add_argument("--generation", required=True, type=json.loads, help="how prompts are continued, JSON")
    parser.add_argument("--prompts", required=True, help="prompts to continue, Parquet")
    parser.add_argument("--continuations", required=True, type=Path, help="what the model makes of them, Parquet")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import torch

        from spunge.core.files import read_json, scratch_folder, whole_file
        from spunge.datasets import tables
        from spunge.evaluation import generation, vllm_generation
        from spunge.experiment.options import make
        from spunge.export.folder import export
        from spunge.merging import recipe
        from spunge.models import base_model, task_vector

        vllm_generation.check_installed()  # before minutes and gigabytes go into the export
        base = task_vector.BaseModel.open(arguments.base)
        prompts = tables.read("prompts", arguments.prompts)["prompt"].tolist()
        options = make("evaluations.toxicity", generation.Options, arguments.generation)
        tokenizer = base_model.load_tokenizer(base)
        scales = read_json(arguments.strengths) if arguments.strengths else {"": arguments.scale}
        continuations = []
        for budget, scale in scales.items():
            if scale is None:
                continue
            with scratch_folder(arguments.continuations.parent / ".exported") as folder:
                if arguments.task_vector:
                    change = task_vector.Scaled(recipe.read(arguments.task_vector), scale)
                    export(base, change, folder, arguments.candidate, torch.float32)
                model = folder if arguments.task_vector else base.folder
                written = vllm_generation.continue_prompts(model, tokenizer, prompts, options)
            continuations.append(written.assign(budget=budget))
        with whole_file(arguments.continuations) as temporary:
            cli.stacked(continuations, *generation.COLUMNS).to_parquet(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
