"""Unlearn one shard from the base model and write its task vector."""

import argparse
import json
import sys
from pathlib import Path

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and unlearn; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", required=True, type=Path, help="the method's Python file")
    parser.add_argument("--options", required=True, type=json.loads, help="the method's options, JSON")
    parser.add_argument("--run", required=True, type=json.loads, help="the run's columns of evaluations.csv, JSON")
    parser.add_argument("--base", required=True, type=Path, help="manifest of the base model")
    parser.add_argument("--forget", required=True, help="the shard, Parquet")
    parser.add_argument("--retain", required=True, help="the retain texts, Parquet")
    parser.add_argument("--states", nargs="?", help="what frozen_states.py wrote, if anything")
    parser.add_argument("--task-vector", required=True, help="the task vector, safetensors")
    parser.add_argument("--training", required=True, help="the losses as rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        from spunge import methods, models, task_vector
        from spunge.datasets import tables
        from spunge.evaluation import description
        from spunge.files import sha256, whole_file

        method = methods.load(arguments.method.stem)
        options = methods.options(method, arguments.options)
        base = task_vector.BaseModel.open(arguments.base.parent)
        run, seed = arguments.run, int(arguments.run["seed"])
        forget = tables.read("forget", arguments.forget)["text"].tolist()
        retain = tables.read("retain", arguments.retain)["text"].tolist()
        unlearned = method.unlearn(
            base, forget, retain, options, seed, models.device(), run["candidate"], arguments.states
        )
        data = {"forget": sha256(arguments.forget), "retain": sha256(arguments.retain)}
        provenance = task_vector.make_provenance(
            base, method=arguments.method.stem, options=arguments.options, seed=seed, run=run["candidate"], data=data
        )
        shapes = {name: delta.shape for name, delta in unlearned.delta.items()}
        with whole_file(arguments.training) as temporary:
            description.training(run, unlearned.losses).to_csv(temporary, index=False)
        task_vector.write(arguments.task_vector, shapes, unlearned.delta.items(), provenance)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
