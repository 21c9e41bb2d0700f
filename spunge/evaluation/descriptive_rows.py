"""Rows of evaluations.csv that describe rather than score: data, training, merges."""

import json
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from spunge.core.tidy import CANDIDATE_COLUMNS, COLUMNS
from spunge.experiment.records import ALL_SEEDS


def data(
    experiment: str,
    attributes: Sequence[str],
    forget: pd.DataFrame,
    questions: pd.DataFrame | None,
    prompts: pd.DataFrame | None,
    answer_places: Mapping[str, tuple[float, int]] | None = None,
    held_out: Sequence[str] = (),
) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with the number of forget texts, questions, subjects and prompts of each attribute.

    `attributes` are those to forget, in the order wanted; the others follow as the questions have them. Neutral prompts
    of no group have an empty attribute. Tables that the experiment lacks are None. `answer_places` gives, for a table
    whose right answers mostly stand at one place among the choices, their share and the number of questions. `held_out`
    are retained attributes of which no text is trained on.
    """
    counts = {"forget_texts": forget.groupby("attribute", sort=False).size().reindex(attributes)}
    if questions is not None:
        by_attribute = questions.groupby("attribute", sort=False)
        counts |= {"questions": by_attribute.size(), "subjects": by_attribute["subject"].nunique()}
    if prompts is not None:
        for kind, prompts_of_kind in prompts.groupby("kind", sort=False):
            counts[f"{kind}_prompts"] = prompts_of_kind.groupby("attribute", sort=False).size()
    rows = [
        {"attribute": attribute, "metric": metric, "value": count, "n": count}
        for metric, by_attribute in counts.items()
        for attribute, count in by_attribute.items()
    ]
    for table, (share, n) in (answer_places or {}).items():
        metric = "commonest_answer_place" + ("" if table == "questions" else f"_{table}")
        rows.append({"attribute": "", "metric": metric, "value": share, "n": n})
    rows += [{"attribute": attribute, "metric": "held_out", "value": 1, "n": 1} for attribute in held_out]
    return _table(_base(experiment), "data", rows)


def methods(experiment: str, families: Mapping[str, Sequence]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with each method's factor λ; its family, whose runs it takes, stands as attribute.

    `families` maps each method of the configuration to its family and λ.
    """
    tables = [
        _table(
            _base(experiment) | {"candidate": method, "method": method},
            "method",
            [{"attribute": family, "metric": "scale", "value": scale, "n": 1}],
        )
        for method, (family, scale) in families.items()
    ]
    return pd.concat(tables, ignore_index=True)


def tuning(experiment: str, table: pd.DataFrame, arms: Collection[str]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with what tuning tried and chose for each of the `arms`, method/split.

    `table` is what spunge/experiment/tuning.py makes. `n` is the number of trials, `steps` those of all of them;
    `validation`, `scale` (λ) and `option_…` are of the chosen one. Options that are no numbers have no value.
    """
    tables = []
    for (method, split), of_arm in table.groupby(["method", "split"], sort=False):
        if f"{method}/{split}" not in arms:
            continue
        chosen = of_arm[of_arm["chosen"] == 1].iloc[0]
        values = {"steps": of_arm["steps"].sum(), "validation": chosen["value"], "scale": chosen["scale"]}
        for name, value in json.loads(chosen["options"]).items():
            values[f"option_{name}"] = float(value) if isinstance(value, (bool, int, float)) else float("nan")
        rows = [
            {"attribute": "", "metric": metric, "value": value, "n": len(of_arm)} for metric, value in values.items()
        ]
        described = _base(experiment) | {"candidate": f"{method}/{split}", "method": method, "split": split}
        tables.append(_table(described, "tuning", rows))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def classifiers(experiment: str, evaluation: str, rows: list[dict]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with what toxicity classifiers make of known texts (rated_texts.py)."""
    return _table(_base(experiment), evaluation, rows)


def tasks(experiment: str, scores: pd.DataFrame, forget: Mapping[str, str]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with the number of questions of each of lm-eval's tasks, from the base model's scores.

    `scores` are those of benchmarks, `forget` tells the task that asks about an attribute. The metric names the task;
    the group that a subtask is part of stands as shard. Tasks that the base model answers `at_chance` have such a row.
    """
    counts = scores.groupby(["attribute", "part_of"], sort=False).size()
    rows = [
        {"attribute": name, "shard": group, "metric": f"questions_{forget.get(name, name)}", "value": count, "n": count}
        for (name, group), count in counts.items()
    ]
    guessed = scores[scores["at_chance"]].groupby("attribute", sort=False)["chance"].agg(["mean", "size"])
    rows += [
        {"attribute": name, "metric": "at_chance", "value": chance, "n": count}
        for name, chance, count in guessed.itertuples()
    ]
    return _table(_base(experiment), "task", rows)


def _base(experiment: str) -> dict[str, str]:
    return dict.fromkeys(CANDIDATE_COLUMNS, "") | {"experiment": experiment, "candidate": "base", "seed": ALL_SEEDS}


def training(
    run: dict, losses: list[dict], visits: Mapping[str, int] | None = None, steps: int | None = None
) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with a run's losses and how many texts of each attribute it had (`visits`).

    `n` is the number of optimizer steps taken; `steps` is that of the whole run.
    """
    rows = [
        {"attribute": "", "metric": metric, "value": value, "n": record["step"]}
        for record in losses
        for metric, value in record.items()
        if metric != "step"
    ]
    rows += [
        {"attribute": attribute, "metric": "visits", "value": number, "n": steps}
        for attribute, number in (visits or {}).items()
    ]
    return _table(run, "training", rows)


def merge(candidate: dict, diagnostics: list[dict]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with what a merge did to its shards."""
    return _table(candidate, "merge", [{"n": 1} | row for row in diagnostics])


def edit(candidate: dict, realised: float) -> pd.DataFrame:
    """Return the tidy row (COLUMNS) with the share of an edit's norm that the evaluated weights hold."""
    return _table(candidate, "edit", [{"attribute": "", "metric": "realised_share", "value": realised, "n": 1}])


def budgets(candidate: dict, strengths: Mapping[str, Mapping[str, float | None]]) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with the fields of a candidate's `budget.Strength` at each budget, by label.

    A budget that isn't reached has the row `reached` alone.
    """
    tables = []
    for label, strength in strengths.items():
        reached = strength["scale"] is not None
        metrics = {"reached": float(reached)} | (strength if reached else {})
        rows = [{"attribute": "", "metric": metric, "value": value, "n": 1} for metric, value in metrics.items()]
        tables.append(_table({**candidate, "budget": label}, "budget", rows))
    return pd.concat(tables, ignore_index=True)


def _table(described: dict, evaluation: str, rows: list[dict]) -> pd.DataFrame:
    described = {column: described[column] for column in CANDIDATE_COLUMNS}
    complete = [{**described, "evaluation": evaluation, "low": "", "high": "", **row} for row in rows]
    return pd.DataFrame(complete, columns=COLUMNS)
