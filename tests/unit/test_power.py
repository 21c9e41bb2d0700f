"""The power note against simulation and hand-made numbers."""

import math

import numpy as np
import pandas as pd
import pytest
from evaluations_example import example

from spunge.evaluation import statistics
from spunge.experiment.records import Candidate
from spunge.report import comparisons, findings, power


def test_variance_of_a_simulated_difference():
    found = power.Components(seeds=0.04, subjects=0.01, both=0.02)
    generator = np.random.default_rng(0)
    draws = 200_000
    for seeds, subjects in ((3, 1.0), (6, 4.0)):
        means = (
            generator.normal(0, math.sqrt(0.04 / seeds), draws)
            + generator.normal(0, math.sqrt(0.01 / subjects), draws)
            + generator.normal(0, math.sqrt(0.02 / (seeds * subjects)), draws)
        )
        assert found.variance(seeds, subjects) == pytest.approx(means.var(), rel=0.02)


def test_needed_numbers_give_the_standard_error_that_80_percent_power_takes():
    found = power.Components(seeds=0.0025, subjects=0.0004, both=0.0009)
    difference = 0.1
    wanted = (difference / 2.801585) ** 2
    seeds = power.seeds_needed(difference, found)
    assert found.variance(seeds) <= wanted < found.variance(seeds - 1)
    subjects = power.subjects_needed(difference, found, 5)
    assert found.variance(5, subjects) == pytest.approx(wanted, rel=1e-6)
    # .03 / 2.8 = .0107, and its square is below what the subjects alone add; 3 seeds alone add .0025 / 3.
    assert power.seeds_needed(0.03, found) == math.inf
    assert power.subjects_needed(0.03, found, 3) == math.inf
    both = power.both_needed(difference, found, 2)
    assert found.variance(2 * both, both) == pytest.approx(wanted, rel=1e-6)
    # By hand: a standard error of .05 must fall to .1 / 2.8 = .0357, so about (1.4)² times as much of everything.
    assert power.factor_needed(0.1, 0.05) == pytest.approx(1.4008**2, rel=1e-3)


@pytest.mark.parametrize("truth", [(0.0, 0.02, 0.0), (0.03, 0.0, 0.0), (0.02, 0.02, 0.02)])
def test_components_are_found_again(truth):
    """Simulated accuracies differences: 40 seeds and 300 subjects, so that the estimates are good."""
    seeds, subjects = 40, 300
    generator = np.random.default_rng(1)
    a, b, c = truth
    values = (
        generator.normal(0, math.sqrt(a), (seeds, 1))
        + generator.normal(0, math.sqrt(b * subjects), (1, subjects))
        + generator.normal(0, math.sqrt(c * subjects), (seeds, subjects))
    )
    errors = values.std(axis=1, ddof=1) / math.sqrt(subjects)
    fixed = values.mean(axis=0).std(ddof=1) / math.sqrt(subjects)
    found = power.components(list(values.mean(axis=1)), list(errors), fixed)
    assert found.seeds == pytest.approx(a, abs=0.012)
    assert found.subjects == pytest.approx(b, abs=0.004)
    assert found.both == pytest.approx(c, abs=0.004)


def scores(seeds=("0", "1", "2"), subjects=60):
    """Base, joint, random and attribute runs whose accuracies differ by seed and subject."""
    generator = np.random.default_rng(2)
    kinds = [("", "", ""), ("rmu", "joint", ""), ("rmu", "random", "ties"), ("rmu", "attribute", "ties")]
    tables = []
    for method, split, merge in kinds:
        for seed in seeds if method else ("all",):
            path = Candidate(method, split, merge=merge, seed=seed).path
            described = dict(
                experiment="e", candidate=path, method=method, split=split, shard="", merge=merge, seed=seed
            )
            for attribute in ("Africa", "Europe"):
                chance = 0.5 + generator.normal(0, 0.1)
                right = (generator.random(subjects) < chance).astype(float)
                frame = pd.DataFrame({"subject": [str(one) for one in range(subjects)], "accuracy": right})
                tables.append(frame.assign(attribute=attribute, accuracy_norm=right, **described))
    return pd.concat(tables, ignore_index=True)


def test_fixed_seeds_give_the_interval_over_subjects_alone():
    table = scores()
    resampling = statistics.Resampling(4000, 0, forget=("Africa",), retain=("Europe",))
    rows = statistics.comparisons(table, "knowledge", resampling)
    metric = "accuracy_minus_joint"
    chosen = rows[(rows["candidate"] == "rmu/attribute/merge/ties") & (rows["attribute"] == "forget mean")]
    fixed, free = (chosen[chosen["metric"] == name].iloc[0] for name in (f"{metric}_fixed_seeds", metric))
    assert fixed["value"] == free["value"]
    # The mean over seeds of the paired difference of every subject: its standard error over the subjects.
    africa = table[table["attribute"] == "Africa"]
    means = africa[africa["seed"] != "all"].groupby(["split", "subject"])["accuracy"].mean().unstack("split")
    error = (means["attribute"] - means["joint"]).std(ddof=0) / math.sqrt(60)
    assert power.standard_error(fixed["low"], fixed["high"]) == pytest.approx(error, rel=0.06)
    assert free["high"] - free["low"] > fixed["high"] - fixed["low"]
    assert not any(rows.loc[rows["split"] != "attribute", "metric"].str.endswith("_fixed_seeds"))


def test_the_page_says_what_it_would_take_or_that_it_is_shown():
    table = example()
    rows = (table["metric"] == "accuracy_minus_joint") & (table["attribute"] == "retain minus forget")
    rows &= (table["split"] == "attribute") & (table["merge"] != "") & (table["seed"] == "all")
    table.loc[rows, ["value", "low", "high"]] = (0.05, -0.05, 0.15)
    (comparison,) = comparisons.comparisons(table).values()
    against_joint, against_random = findings.power_notes(comparison)
    # (2.8 · .051 / .05)² = 8.2: a standard error of .2 / 3.92 = .051.
    assert "against joint (+5.0 points" in against_joint
    assert against_joint.endswith("about 8.2 times the seeds and as many times the subjects.")
    assert against_random.endswith("is shown with what was measured.")
