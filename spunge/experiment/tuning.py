"""Tuning: of each arm's trials, the one whose options its reported runs take.

Every arm of a method, a split of the forget texts, is tried with the same options on seeds that nothing else has; an
arm of shards with those of its merge besides. A trial is judged at one damage budget by what is left of what was to be
forgotten, on questions or prompts that no result counts.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from spunge.core.errors import InputError
from spunge.core.tidy import FORGET_MEAN
from spunge.experiment import records

ARM = ["method", "split"]
COLUMNS = [*ARM, "trial", "options", "seeds", "steps", "budget", "scale", "metric", "value", "chosen"]


def choose(
    trials: Sequence[Mapping], metric: str, outcomes: Sequence[str | os.PathLike], budgets: Sequence[str | os.PathLike]
) -> pd.DataFrame:
    """Return the table of the trials, COLUMNS, in which one of each arm is `chosen` (1, the others 0).

    `trials` have method, split, trial, options, seeds, steps (of all seeds and shards together) and budget. `outcomes`
    and `budgets` are files of rows of evaluations.csv for each trial and seed, in that order. `value` is the mean over
    seeds of the metric's mean over the attributes to forget, `scale` that of the factors λ. A trial that doesn't reach
    the budget with every seed has no value. Of equal trials the first is chosen. Raises InputError for an arm of which
    no trial has a value.
    """
    files = zip(outcomes, budgets, strict=True)
    rows = []
    for trial in trials:
        of_seeds = [next(files) for _ in trial["seeds"]]
        values = [_read(outcome, metric, FORGET_MEAN) for outcome, _ in of_seeds]
        scales = [_read(damage, "scale", "") for _, damage in of_seeds]
        described = trial | {
            "options": json.dumps(trial["options"], sort_keys=True),
            "seeds": " ".join(map(str, trial["seeds"])),
            "scale": sum(scales) / len(scales),
            "metric": f"{metric}, {FORGET_MEAN}",
            "value": sum(values) / len(values),
        }
        rows.append(described | {"chosen": 0})
    table = pd.DataFrame(rows, columns=COLUMNS)
    for arm, of_arm in table.groupby(ARM, sort=False):
        if of_arm["value"].isna().all():
            raise InputError(
                f"no trial of {'/'.join(arm)} does the damage of the budget {of_arm['budget'].iloc[0]}, so none can be "
                "chosen; try stronger options, or a smaller budget"
            )
        table.loc[of_arm["value"].idxmin(), "chosen"] = 1
    return table


def _read(path: str | os.PathLike, metric: str, attribute: str) -> float:
    """Return the one value of a metric in rows of evaluations.csv; NaN where there is none."""
    rows = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    values = rows.loc[(rows["metric"] == metric) & (rows["attribute"] == attribute), "value"]
    return float(values.iloc[0]) if len(values) else float("nan")


def read(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table that `choose` made; InputError names what it lacks."""
    names, numbers = {"method": str, "split": str}, {"value": [""], "scale": [""]}  # a method may be called 1 or NA
    try:
        table = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=numbers)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as a tuning table: {error}") from None
    if missing := [column for column in COLUMNS if column not in table]:
        raise InputError(f"{path} has no column {missing[0]}, which a tuning table has; let tuning write it again")
    return table


def check(path: str | os.PathLike, trials: Mapping[tuple[str, str], Collection[Mapping]]) -> None:
    """Check that a table has a choice for each arm, one of its `trials`; raises InputError."""
    table = read(path)
    for arm, options in trials.items():
        if (found := _chosen(table, path, *arm)) not in options:
            raise InputError(
                f"{path} has {json.dumps(found)} for {'/'.join(arm)}, which is none of the values in "
                f"methods.{arm[0]}.tune: name it there, or leave out `tuning.file`, so that it is tuned again"
            )


def chosen(path: str | os.PathLike, method: str, split: str) -> dict[str, object]:
    """Return the options that were chosen for an arm; InputError where the table has no choice for it."""
    return _chosen(read(path), path, method, split)


def _chosen(table: pd.DataFrame, path: str | os.PathLike, method: str, split: str) -> dict[str, object]:
    rows = table[(table["method"] == method) & (table["split"] == split) & (table["chosen"] == 1)]
    if len(rows) != 1:
        raise InputError(
            f"{path} has {len(rows)} choices for {method}/{split}, and one is needed: leave out `tuning.file`, so that "
            "it is tuned again"
        )
    try:
        return dict(json.loads(rows["options"].iloc[0]))
    except (ValueError, TypeError):
        raise InputError(
            f"{path}: the options of {method}/{split} are no JSON object; let tuning write the table again"
        ) from None


def options_of_run(
    options: Mapping[str, object],
    arm: tuple[str, str],
    shard: str,
    texts: Mapping[str, int],
    table: str | os.PathLike | None = None,
    steps_of_shards: str = "equal",
) -> dict[str, object]:
    """Return the options of a run: the configured ones, those that tuning chose for its arm, its share of the steps.

    `arm` is its method and split; `texts`: how many texts each attribute to forget has, in their order. `table` is
    that of `choose`; None where nothing was tuned. Raises InputError as `chosen` does.
    """
    _, split = arm
    if table:
        tuned = records.method_options(chosen(table, *arm))
        options = {**options, **records.scaled_options(tuned, split, shard, texts)}
    if steps_of_shards == "proportional":
        options = records.proportional_options(options, split, shard, texts)
    return dict(options)
