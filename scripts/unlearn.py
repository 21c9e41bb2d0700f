"""Unlearn one shard from the base model and write its task vector."""

import argparse
import json
import sys
from pathlib import Path

from spunge.core import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and unlearn; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", required=True, type=Path, help="the method's Python file")
    parser.add_argument("--options", required=True, type=json.loads, help="the method's options, JSON")
    parser.add_argument("--steps-of-shards", default="equal", help="`proportional` to their texts, or equal")
    parser.add_argument("--run", required=True, type=json.loads, help="the run's columns of evaluations.csv, JSON")
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--forget", required=True, type=Path, help="the shard, Parquet, called as it is in paths")
    parser.add_argument("--retain", required=True, type=Path, help="the retain texts, Parquet")
    parser.add_argument("--attributes", required=True, help="all attributes to forget, JSON")
    parser.add_argument("--activations", nargs="?", type=Path, help="what cache_activations.py wrote, if anything")
    parser.add_argument("--norms-of", nargs="?", help="another method's task vector for this shard and seed, if wanted")
    parser.add_argument("--accelerate", nargs="?", help="accelerate's settings that this was launched with, if any")
    parser.add_argument("--tuning", nargs="?", help="the options that were chosen for this arm, CSV, if it was tuned")
    parser.add_argument("--unfinished", help="folder that keeps what was done so far, if anything shall")
    parser.add_argument("--save-every", type=float, default=10, help="minutes between saves; 0 for every step")
    parser.add_argument("--task-vector", required=True, help="the task vector, safetensors")
    parser.add_argument("--training", required=True, help="the losses as rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import dataclasses

        from spunge import methods
        from spunge.core.files import read_json, whole_file
        from spunge.evaluation import descriptive_rows
        from spunge.experiment import sources, tuning
        from spunge.models import base_model, task_vector
        from spunge.training import processes, resume

        method = methods.load(arguments.method)
        texts = {entry["attribute"]: entry["texts"] for entry in read_json(arguments.attributes)}
        run = methods.Run.of_files(
            arguments.forget,
            arguments.retain,
            arguments.run,
            base=task_vector.BaseModel.open(arguments.base),
            device=base_model.device(),
            all_attributes=list(texts),
            steps_of_shards=arguments.steps_of_shards,
            activations=arguments.activations,
            norms_of=task_vector.read(arguments.norms_of) if arguments.norms_of else None,
        )
        arm, chosen = (arguments.run["method"], run.split), (arguments.tuning, run.steps_of_shards)
        given = tuning.options_of_run(arguments.options, arm, run.shard, texts, *chosen)
        options = methods.options(method, given)
        code = [__file__, arguments.method, *sources.of(arguments.method), *filter(None, [arguments.accelerate])]
        identity = methods.identity(run, options, code, arguments.norms_of)
        with (
            processes.scratch_folder(Path(arguments.task_vector).parent / ".scratch") as scratch,
            resume.Checkpoint(arguments.unfinished, identity, arguments.save_every) as checkpoint,
        ):
            unlearned = method.unlearn(dataclasses.replace(run, scratch=scratch, checkpoint=checkpoint), options)
            if unlearned is None:  # launched over several devices, one process of them writes
                return
            with whole_file(arguments.training) as temporary:
                steps = getattr(options, "steps", None)
                rows = descriptive_rows.training(arguments.run, unlearned.losses, unlearned.visits, steps)
                rows.to_csv(temporary, index=False)
            methods.write(unlearned, arguments.task_vector, methods.provenance(run, arguments.method, options))

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
