"""Put one candidate through one evaluation: scores per question or text, and rows of evaluations.csv."""

import argparse
import json
import sys
from pathlib import Path

from spunge import errors


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and evaluate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluation", required=True, choices=["knowledge", "fluency"])
    parser.add_argument("--options", required=True, type=json.loads, help="the evaluation's options, JSON")
    parser.add_argument("--dtype", required=True, help="precision of the evaluated model")
    parser.add_argument("--statistics", required=True, type=json.loads, help="resamples and seed, JSON")
    parser.add_argument("--candidate", required=True, type=json.loads, help="its columns of evaluations.csv, JSON")
    parser.add_argument("--base", required=True, type=Path, help="manifest of the base model")
    parser.add_argument("--task-vector", nargs="?", help="the candidate's task vector; none for the base model")
    parser.add_argument("--scale", type=float, default=1.0, help="the factor λ on the task vector")
    parser.add_argument("--data", required=True, help="questions or held-out prose, Parquet")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--scores", required=True, help="scores per question or text, Parquet")
    parser.add_argument("--rows", required=True, help="estimates as rows of evaluations.csv")
    arguments = parser.parse_args(argv)

    def work() -> None:
        import importlib

        import torch

        from spunge import models, task_vector
        from spunge.datasets import tables
        from spunge.evaluation import statistics
        from spunge.files import whole_file

        table = {"knowledge": "questions", "fluency": "fluency"}[arguments.evaluation]
        data = tables.read(table, arguments.data)
        base = task_vector.BaseModel.open(arguments.base.parent)
        change = None
        if arguments.task_vector:
            change = task_vector.Scaled(task_vector.read(arguments.task_vector), arguments.scale)
        model = models.load(base, getattr(torch, arguments.dtype), models.device(), change)
        evaluation = importlib.import_module(f"spunge.evaluation.{arguments.evaluation}")
        scores = evaluation.score(model, models.load_tokenizer(base), data, **arguments.options)
        scores = scores.assign(**arguments.candidate)
        with whole_file(arguments.scores) as temporary:
            scores.to_parquet(temporary, index=False)
        resampling = statistics.resampling(scores, json.loads(arguments.attributes.read_text()), arguments.statistics)
        with whole_file(arguments.rows) as temporary:
            statistics.estimates(scores, arguments.evaluation, resampling).to_csv(temporary, index=False)

    return errors.run(work)


if __name__ == "__main__":
    sys.exit(main())
