"""The command line, the model and the results of the jobs that evaluate one candidate, attacked or not."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from spunge.evaluation.statistics import Metric
    from spunge.models.task_vector import TaskVector
    from spunge.training.resume import Checkpoint


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the candidate that is scored, and for where its scores go."""
    parser.add_argument("--candidate", required=True, type=json.loads, help="its columns of evaluations.csv, JSON")
    parser.add_argument("--attributes", required=True, type=Path, help="the attributes to forget, JSON")
    parser.add_argument("--evaluations", required=True, nargs="+", help="names of the evaluations")
    parser.add_argument("--scores", required=True, nargs="+", help="scores of each, in order, Parquet")
    parser.add_argument("--rows", required=True, nargs="+", help="estimates of each as rows of evaluations.csv")
    add_budget(parser)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the budget at which a candidate is scored, if that sets its λ."""
    parser.add_argument("--strengths", nargs="?", help="the candidate's λ by budget, JSON, if budgets are set")
    parser.add_argument("--budget", default="", help="label of the budget that sets λ; empty for the configured λ")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the candidate's model."""
    parser.add_argument("--base", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--task-vector", nargs="?", help="the candidate's task vector; none for the base model")
    parser.add_argument("--scale", type=float, default=1.0, help="the factor λ on the task vector")
    parser.add_argument("--dtype", required=True, help="precision of the model")


def scale(arguments: argparse.Namespace) -> float | None:
    """Return the λ that the arguments of `add_model` and `add_budget` set; None where the budget isn't reached."""
    from spunge.core.files import read_json

    return read_json(arguments.strengths)[arguments.budget] if arguments.strengths else arguments.scale


def load_model(arguments: argparse.Namespace):
    """Return the model that these arguments describe, on a GPU if there is one, and its tokenizer."""
    model, tokenizer, edited = _load(arguments)
    if edited is not None:
        edited.set_scale(scale(arguments))
    return model, tokenizer


@contextmanager
def candidate_at_each(arguments: argparse.Namespace):
    """Yield the base model, its tokenizer, and it as the candidate's EditedModel (None for the base itself).

    Where `--budgets` have λ solved, a merge's recipe is carried out once, and not for each λ.
    """
    from spunge.merging import recipe

    if not (arguments.task_vector and arguments.budgets):
        yield _load(arguments)
        return
    with recipe.merged_once(arguments.task_vector, Path(arguments.strengths).parent / ".merged") as vector:
        yield _load(arguments, vector)


def _load(arguments: argparse.Namespace, vector: "TaskVector | None" = None):
    import torch

    from spunge.merging import recipe
    from spunge.models import base_model, task_vector
    from spunge.models.edited_model import EditedModel

    base = task_vector.BaseModel.open(arguments.base)
    model = base_model.load(base, getattr(torch, arguments.dtype), base_model.device())
    if vector is None and arguments.task_vector:
        vector = recipe.read(arguments.task_vector)
    return model, base_model.load_tokenizer(base), None if vector is None else EditedModel(model, base, vector)


def identity(arguments: argparse.Namespace, facts: Mapping[str, object], files: Iterable[str]) -> str:
    """Return the identity of a job on the model of `add_model`'s arguments, as `resume.identity` does."""
    from spunge.models import base_model
    from spunge.training import resume

    model = {"scale": arguments.scale, "dtype": arguments.dtype, "device": base_model.device()}
    return resume.identity({**facts, "model": model}, arguments.base, files, filter(None, [arguments.task_vector]))


def stacked(tables: list[pd.DataFrame], *columns: str) -> pd.DataFrame:
    """Return a candidate's tables at all budgets as one; where it reaches none, an empty one with `columns`, too."""
    empty = pd.DataFrame(columns=["subject", "attribute", "budget", *columns])
    return pd.concat(tables or [empty], ignore_index=True)


def described(scores: pd.DataFrame, candidate: Mapping[str, str]) -> pd.DataFrame:
    """Return a candidate's scores with its columns of evaluations.csv, and each `subject` as the cluster it lacks."""
    lacking = {column: value for column, value in candidate.items() if column not in scores}
    return scores.assign(**lacking, cluster=scores.get("cluster", scores["subject"]))


def write_results(arguments: argparse.Namespace, scores: Mapping[str, pd.DataFrame]) -> None:
    """Write the scores of every evaluation, and their estimates; of knowledge's metrics the accuracy is kept.

    A candidate that doesn't reach the budget has no `scores`.
    """
    for name, *paths in zip(arguments.evaluations, arguments.scores, arguments.rows, strict=True):
        table = scores.get(name, stacked([])).filter(["subject", "cluster", "attribute", "accuracy"])
        write_scores(arguments, name, table.assign(budget=arguments.budget), *paths)


def write_scores(
    arguments: argparse.Namespace,
    name: str,
    scores: pd.DataFrame,
    scores_path: str,
    rows_path: str,
    before: Iterable[pd.DataFrame] = (),
    metrics: Mapping[str, "Metric"] | None = None,
) -> None:
    """Write the scores of one evaluation, and the estimates of its METRICS, if it has any, after the rows `before`."""
    from spunge.core.files import whole_file
    from spunge.evaluation import statistics

    scores = described(scores, arguments.candidate)
    attributes = statistics.attributes(scores, json.loads(arguments.attributes.read_text()))
    with whole_file(scores_path) as temporary:
        scores.to_parquet(temporary, index=False)
    with whole_file(rows_path) as temporary:
        rows = pd.concat([*before, statistics.estimates(scores, name, attributes, metrics)], ignore_index=True)
        rows.to_csv(temporary, index=False)


def scores_once(checkpoint: "Checkpoint", name: str, score: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return the scores that an earlier job kept in `checkpoint`, or else call `score` and keep its result there."""
    from spunge.core.progress import say
    from spunge.training.resume import State

    if (before := checkpoint.kept()) is not None:
        say(f"going on with the scores of {name} that were kept")
        return before.table
    scores = score()
    checkpoint.keep(State(table=scores))
    return scores
