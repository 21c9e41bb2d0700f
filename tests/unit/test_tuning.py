"""Tuning: the trial of each arm that leaves least on the validation part, and what its runs take from the table."""

import csv
import json

import pandas as pd
import pytest

from spunge.core.errors import InputError
from spunge.core.tidy import COLUMNS
from spunge.evaluation import descriptive_rows
from spunge.experiment import records, tuning

SEEDS = [100, 101]


def write(path, metric, attribute, value):
    """A table of evaluations.csv's rows, of which one is looked for."""
    rows = [dict.fromkeys(COLUMNS, "") | {"metric": "other", "attribute": attribute, "value": 0.5}]
    if value is not None:
        rows.insert(0, dict.fromkeys(COLUMNS, "") | {"metric": metric, "attribute": "another", "value": 0.9})
        rows.append(dict.fromkeys(COLUMNS, "") | {"metric": metric, "attribute": attribute, "value": value})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def tried(tmp_path):
    """Two arms with three trials of two seeds each: their files, for values that are given seed by seed."""

    def tried(values):
        trials, outcomes, budgets = [], [], []
        for (split, trial), of_seeds in values.items():
            options = {"steps": 10 * (trial + 1), "mask": True}
            options |= {"merge.density": 0.5} if split == "attribute" else {}
            described = {"method": "rmu", "split": split, "trial": trial, "options": options, "budget": "kl=0.03"}
            trials.append(described | {"seeds": SEEDS, "steps": 40})
            for seed, value in zip(SEEDS, of_seeds, strict=True):
                name = f"{split}-{trial}-{seed}"
                outcomes.append(write(tmp_path / f"{name}.csv", "accuracy", "forget mean", value))
                scale = None if value is None else 2 * value
                budgets.append(write(tmp_path / f"{name}-budget.csv", "scale", "", scale))
        return trials, "accuracy", outcomes, budgets

    return tried


VALUES = {
    ("joint", 0): (0.4, 0.2),
    ("joint", 1): (0.1, 0.6),
    ("joint", 2): (0.2, 0.4),
    ("attribute", 0): (0.5, 0.5),
    ("attribute", 1): (0.1, None),  # one seed doesn't reach the budget
    ("attribute", 2): (0.4, 0.5),
}


def test_of_each_arm_the_trial_is_chosen_that_leaves_least_on_average(tried):
    table = tuning.choose(*tried(VALUES))
    assert table["value"].round(6).tolist()[:4] == [0.3, 0.35, 0.3, 0.5]
    assert pd.isna(table["value"][4])
    assert table["scale"].round(6).tolist()[:2] == [0.6, 0.7]
    # Of two that are equal the first.
    assert table["chosen"].tolist() == [1, 0, 0, 0, 0, 1]


def test_runs_take_the_options_of_their_arm(tried, tmp_path):
    path = tmp_path / "tuning.csv"
    tuning.choose(*tried(VALUES)).to_csv(path, index=False)
    assert tuning.chosen(path, "rmu", "joint") == {"steps": 10, "mask": True}
    assert tuning.chosen(path, "rmu", "attribute") == {"steps": 30, "mask": True, "merge.density": 0.5}
    table = pd.read_csv(path)
    of_another = table.assign(method="npo", chosen=0)
    of_another.loc[1, "chosen"] = 1
    pd.concat([table, of_another]).to_csv(tmp_path / "two.csv", index=False)
    assert tuning.chosen(tmp_path / "two.csv", "rmu", "joint") == {"steps": 10, "mask": True}
    assert tuning.chosen(tmp_path / "two.csv", "npo", "joint") == {"steps": 20, "mask": True}
    # What was chosen counts, whatever is configured; a run's method knows nothing of a density.
    of_run = tuning.options_of_run({"alpha": 2, "steps": 7}, ("rmu", "attribute"), "a", {"a": 3, "b": 1}, path)
    assert of_run == {"alpha": 2, "steps": 30, "mask": True}
    texts = {"a": 3, "b": 1}
    assert tuning.options_of_run({"alpha": 2}, ("rmu", "joint"), "all", texts, path)["steps"] == 20
    by_texts = tuning.options_of_run({"steps": 8}, ("rmu", "attribute"), "a", texts, None, "proportional")
    assert by_texts == {"steps": 12}
    # What was chosen is for one attribute; a run on three takes as many steps as their shards would.
    scaled = records.scaled_options({"steps": 10, "mask": True}, "joint", "all", ["a", "b", "c"])
    assert scaled == {"steps": 30, "mask": True}
    with pytest.raises(InputError, match=r"tuning.csv has 0 choices for rmu/random, and one is needed"):
        tuning.chosen(path, "rmu", "random")
    with pytest.raises(InputError, match=r"missing.csv can't be read as a tuning table"):
        tuning.chosen(tmp_path / "missing.csv", "rmu", "joint")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"other.csv has no column method, which a tuning table has"):
        tuning.read(tmp_path / "other.csv")


def test_a_table_is_of_the_arms_and_values_that_are_configured(tried, tmp_path):
    path = tmp_path / "tuning.csv"
    table = tuning.choose(*tried(VALUES))
    table.to_csv(path, index=False)
    tries = [{"steps": 10 * number, "mask": True} for number in (1, 2, 3)]
    arms = {("rmu", "joint"): tries, ("rmu", "attribute"): [trial | {"merge.density": 0.5} for trial in tries]}
    tuning.check(path, arms)
    with pytest.raises(InputError, match=r'has {"mask": true, "steps": 10} for rmu/joint, which is none of the values'):
        tuning.check(path, arms | {("rmu", "joint"): tries[1:]})
    with pytest.raises(InputError, match="has 0 choices for rmu/random, and one is needed"):
        tuning.check(path, arms | {("rmu", "random"): tries})
    for damaged in ("{steps: 10}", "[1]", "null", "5"):
        table.assign(options=damaged).to_csv(path, index=False)
        with pytest.raises(InputError, match="the options of rmu/joint are no JSON object; let tuning write"):
            tuning.check(path, arms)


@pytest.mark.parametrize("name", ["1", "007", "NA", "null"])
def test_a_method_may_have_any_name(tried, tmp_path, name):
    trials, *others = tried(VALUES)
    path = tmp_path / "tuning.csv"
    tuning.choose([trial | {"method": name} for trial in trials], *others).to_csv(path, index=False)
    assert tuning.chosen(path, name, "joint") == {"steps": 10, "mask": True}
    assert tuning.read(path)["value"].isna().sum() == 1


def test_an_arm_that_never_reaches_the_budget_is_told(tried):
    with pytest.raises(InputError, match=r"no trial of rmu/joint does the damage of the budget kl=0.03"):
        tuning.choose(*tried({("joint", 0): (None, None), ("joint", 1): (0.1, None)}))


def test_what_was_tried_and_chosen_stands_in_evaluations_csv(tried):
    table = tuning.choose(*tried(VALUES))
    rows = descriptive_rows.tuning("small", table, ["rmu/joint", "rmu/attribute"])
    assert list(rows.columns) == COLUMNS and set(rows["split"]) == {"joint", "attribute"}
    of_one = descriptive_rows.tuning("small", table, ["rmu/joint", "npo/attribute"])
    assert set(of_one["split"]) == {"joint"}, "a table of another experiment may have more arms"
    assert descriptive_rows.tuning("small", table, []).empty
    assert set(rows["n"]) == {3}
    joint = rows[rows["split"] == "joint"].set_index("metric")["value"].to_dict()
    assert joint == pytest.approx({"steps": 120, "validation": 0.3, "scale": 0.6, "option_steps": 10, "option_mask": 1})
    assert json.loads(tuning.choose(*tried(VALUES))["options"][0]) == {"steps": 10, "mask": True}
