"""Rows of evaluations.csv that describe rather than score: data, training, merges."""

from collections.abc import Sequence

import pandas as pd

from spunge.evaluation.statistics import ALL_SEEDS, CANDIDATE_COLUMNS, COLUMNS


def data(experiment: str, attributes: Sequence[str], forget: pd.DataFrame, questions: pd.DataFrame) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with the number of forget texts, questions and subjects of each attribute.

    `attributes` are those to forget, in the order wanted; the others follow as the questions have them.
    """
    base = dict.fromkeys(CANDIDATE_COLUMNS, "") | {"experiment": experiment, "candidate": "base", "seed": ALL_SEEDS}
    counts = {
        "forget_texts": forget.groupby("attribute", sort=False).size().reindex(attributes),
        "questions": questions.groupby("attribute", sort=False).size(),
        "subjects": questions.groupby("attribute", sort=False)["subject"].nunique(),
    }
    rows = [
        {"attribute": attribute, "metric": metric, "value": count, "n": count}
        for metric, by_attribute in counts.items()
        for attribute, count in by_attribute.items()
    ]
    return _table(base, "data", rows)


def training(run: dict, losses: list[dict]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with a run's losses; `n` is the number of optimizer steps taken."""
    rows = [
        {"attribute": "", "metric": metric, "value": value, "n": record["step"]}
        for record in losses
        for metric, value in record.items()
        if metric != "step"
    ]
    return _table(run, "training", rows)


def merge(candidate: dict, diagnostics: list[dict]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with what a merge did to its shards."""
    return _table(candidate, "merge", [{"n": 1} | row for row in diagnostics])


def _table(described: dict, evaluation: str, rows: list[dict]) -> pd.DataFrame:
    described = {column: described[column] for column in CANDIDATE_COLUMNS}
    complete = [{**described, "evaluation": evaluation, "low": "", "high": "", **row} for row in rows]
    return pd.DataFrame(complete, columns=COLUMNS)
