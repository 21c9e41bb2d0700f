"""The power note against simulation and hand-made numbers."""

import math

import numpy as np
import pandas as pd
import pytest
from evaluations_example import example
from scipy import stats

from spunge.evaluation import statistics
from spunge.experiment.records import Candidate
from spunge.report import comparisons, findings, power, results_table

ATTRIBUTES = statistics.Attributes(forget=("Africa",), retain=("Europe",))


def test_variance_of_a_simulated_difference():
    found = power.Components(seeds=0.04, clusters=0.01, both=0.02)
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
    found = power.Components(seeds=0.0025, clusters=0.0004, both=0.0009)
    difference = 0.1
    wanted = (difference / 2.801585) ** 2
    seeds = power.seeds_needed(difference, found)
    assert found.variance(seeds) <= wanted < found.variance(seeds - 1)
    subjects = power.clusters_needed(difference, found, 5)
    assert found.variance(5, subjects) == pytest.approx(wanted, rel=1e-6)
    # .03 / 2.8 = .0107, and its square is below what the subjects alone add; 3 seeds alone add .0025 / 3.
    assert power.seeds_needed(0.03, found) == math.inf
    assert power.clusters_needed(0.03, found, 3) == math.inf
    both = power.both_needed(difference, found, 2)
    assert found.variance(2 * both, both) == pytest.approx(wanted, rel=1e-6)


def parts(rows, metric="accuracy_minus_joint", candidate="rmu/attribute/merge/ties"):
    """The parts of the variance of the forget mean's difference, as the table tells them."""
    chosen = rows[(rows["candidate"] == candidate) & (rows["attribute"] == "forget mean")].set_index("metric")["value"]
    return power.Components(*(chosen[f"{metric}_variance_of_{part}"] for part in ("seeds", "clusters", "both")))


@pytest.mark.parametrize("truth", [(0.0, 0.02, 0.0), (0.03, 0.0, 0.0), (0.02, 0.02, 0.02)])
def test_components_are_found_again(truth):
    """Simulated accuracies' differences: 40 seeds and 300 clusters, so that the estimates are good."""
    seeds, clusters = 40, 300
    generator = np.random.default_rng(1)
    a, b, c = truth
    values = (
        generator.normal(0, math.sqrt(a), (seeds, 1))
        + generator.normal(0, math.sqrt(b * clusters), (1, clusters))
        + generator.normal(0, math.sqrt(c * clusters), (seeds, clusters))
    )
    table = scores(tuple(map(str, range(seeds))), clusters)
    spunge = (table["split"] == "attribute") & (table["attribute"] == "Africa")
    joint = (table["split"] == "joint") & (table["attribute"] == "Africa")
    table.loc[spunge, "accuracy"] = table.loc[joint, "accuracy"].to_numpy() + values.ravel()
    found = parts(statistics.comparisons(table, "knowledge", ATTRIBUTES))
    assert found.seeds == pytest.approx(a, abs=0.012)
    assert found.clusters == pytest.approx(b, abs=0.004)
    assert found.both == pytest.approx(c, abs=0.004)


def scores(seeds=("0", "1", "2"), clusters=60):
    """Base, joint, random and attribute runs whose accuracies differ by seed and cluster."""
    generator = np.random.default_rng(2)
    kinds = [("", "", ""), ("rmu", "joint", ""), ("rmu", "random", "ties"), ("rmu", "attribute", "ties")]
    tables = []
    for method, split, merge in kinds:
        for seed in seeds if method else ("all",):
            path = Candidate(method, split, merge=merge, seed=seed).path
            described = dict(
                experiment="e", candidate=path, method=method, split=split, shard="", merge=merge, seed=seed, budget=""
            )
            for attribute in ("Africa", "Europe"):
                chance = 0.5 + generator.normal(0, 0.1)
                right = (generator.random(clusters) < chance).astype(float)
                frame = pd.DataFrame({"cluster": [f"{attribute} {one}" for one in range(clusters)], "accuracy": right})
                tables.append(frame.assign(attribute=attribute, accuracy_norm=right, **described))
    return pd.concat(tables, ignore_index=True)


def test_parts_of_the_variance_make_the_interval():
    rows = statistics.comparisons(scores(), "knowledge", ATTRIBUTES)
    found = parts(rows)
    assert found.seeds > 0 and found.both > 0
    chosen = rows[(rows["candidate"] == "rmu/attribute/merge/ties") & (rows["attribute"] == "forget mean")]
    row = chosen[chosen["metric"] == "accuracy_minus_joint"].iloc[0]
    error = math.sqrt(found.variance(3))
    quantile = (row["high"] - row["low"]) / 2 / error
    assert any(quantile == pytest.approx(stats.t.ppf(0.975, freedom)) for freedom in range(2, 60))
    assert not any(rows.loc[rows["split"] != "attribute", "metric"].str.contains("_variance_of_"))
    one_seed = statistics.comparisons(scores(seeds=("0",)), "knowledge", ATTRIBUTES)
    assert not one_seed["metric"].str.contains("_variance_of_").any()


def test_seeds_that_only_a_smaller_quantile_finds_are_a_lower_bound():
    """At t = 3.18 clusters alone add (0.0046 / 4.02)² = 1.3e-6 or more; at 1.96, 2.7e-6 - 2e-6 is left for seeds."""
    rows = pd.concat(made(scores(), "knowledge", ATTRIBUTES) for made in (statistics.estimates, statistics.comparisons))
    variances = power.Components(seeds=1.4e-5, clusters=2e-6, both=0.0)
    half = 3.18 * math.sqrt(variances.variance(3))
    made = {"accuracy_minus_joint": 0.0046} | {
        f"accuracy_minus_joint_variance_of_{part}": value for part, value in variances._asdict().items()
    }
    of_spunge = (rows["candidate"] == "rmu/attribute/merge/ties") & (rows["attribute"] == "forget mean")
    for metric, value in made.items():
        rows.loc[of_spunge & (rows["metric"] == metric), ["value", "low", "high"]] = value, value - half, value + half
    candidate = next(one for one in results_table.candidates(rows) if one.kind == "attribute")
    measure = "knowledge", "accuracy", "forget mean"
    assert power.needed(rows, candidate, measure, "joint")["more_seeds"] == "at least 21"
    (told,) = [line for line in notes_against_joint(rows)]
    assert "would take at least 21 seeds with the same clusters, or about" in told


def notes_against_joint(rows):
    compared = next(iter(comparisons.comparisons(rows).values()))
    return [note for note in findings.power_notes(compared) if "against joint" in note]


def test_what_is_not_shown_takes_more_than_there_was():
    """Three seeds whose interval takes t = 4.3, and 600 clusters: a formula with 1.96 says that two would do."""
    table = scores(clusters=600)
    generator = np.random.default_rng(0)
    for seed, difference in (("0", -0.05), ("1", -0.12), ("2", -0.14)):
        joint, spunge = (
            (table["split"] == split) & (table["attribute"] == "Africa") & (table["seed"] == seed)
            for split in ("joint", "attribute")
        )
        table.loc[joint, "accuracy"] = (generator.random(600) < 0.5).astype(float)
        table.loc[spunge, "accuracy"] = table.loc[joint, "accuracy"].to_numpy() + difference
    rows = pd.concat(made(table, "knowledge", ATTRIBUTES) for made in (statistics.estimates, statistics.comparisons))
    candidate = next(one for one in results_table.candidates(rows) if one.kind == "attribute")
    found = power.needed(rows, candidate, ("knowledge", "accuracy", "forget mean"), "joint")
    assert (found["shown"], found["seeds"]) == (False, 3)
    assert int(found["more_seeds"].removeprefix("about ")) > 3 and float(found["both"]) > 1
    assert found["more_units"] == "", "the seeds differ too much"
    # All clusters of all seeds differ alike, so what either adds is 0, and the interval has another reason.
    for row in table.index[(table["split"] == "attribute") & (table["attribute"] == "Africa")]:
        table.loc[row, "accuracy"] = 0.4
    table.loc[(table["split"] == "joint") & (table["attribute"] == "Africa"), "accuracy"] = 0.5
    table = table.groupby(["candidate", "attribute"], sort=False).head(12)
    rows = pd.concat(made(table, "knowledge", ATTRIBUTES) for made in (statistics.estimates, statistics.comparisons))
    found = power.needed(rows, candidate, ("knowledge", "accuracy", "forget mean"), "joint")
    assert (found["shown"], found["seeds"]) == (False, 0) and float(found["both"]) > 1


def test_the_page_says_what_it_would_take_or_that_it_is_shown():
    table = example()
    for rival, numbers in (("joint", (0.05, -0.05, 0.15)), ("random", (-0.05, -0.09, -0.01))):
        rows = (table["metric"] == f"accuracy_minus_{rival}") & (table["attribute"] == "forget mean")
        rows &= (table["split"] == "attribute") & (table["merge"] != "") & (table["seed"] == "all")
        table.loc[rows, ["value", "low", "high"]] = numbers
    (comparison,) = comparisons.comparisons(table).values()
    against_joint, against_random = findings.power_notes(comparison)
    # (2.8 · .051 / .05)² = 8.2: a standard error of .2 / 3.92 = .051.
    assert "against joint (+5.0 points" in against_joint
    assert against_joint.endswith("about 8.2 times the seeds and as many times the clusters.")
    assert against_random.endswith("is shown with what was measured.")


def test_both_numbers_grow_from_the_seeds_that_there_were():
    rows = pd.concat(made(scores(), "knowledge", ATTRIBUTES) for made in (statistics.estimates, statistics.comparisons))
    candidate = next(one for one in results_table.candidates(rows) if one.kind == "attribute")
    chosen = rows[(rows["candidate"] == candidate.path) & (rows["attribute"] == "forget mean")].set_index("metric")
    row, variances = chosen.loc["accuracy_minus_joint"], parts(rows)
    found = power.needed(rows, candidate, ("knowledge", "accuracy", "forget mean"), "joint")
    t = (row["high"] - row["low"]) / 2 / math.sqrt(variances.variance(3))
    factor = float(found["both"])
    assert variances.variance(3 * factor, factor) == pytest.approx((row["value"] / (t + 0.8416)) ** 2, rel=0.05)


def test_seeds_and_clusters_that_differ_less_than_their_interaction_add_nothing():
    """A Latin square: every seed and every cluster has the same mean."""
    table = scores(clusters=3)
    spunge, joint = ((table["split"] == one) & (table["attribute"] == "Africa") for one in ("attribute", "joint"))
    table.loc[joint, "accuracy"] = 0.0
    table.loc[spunge, "accuracy"] = np.eye(3).ravel()
    found = parts(statistics.comparisons(table, "knowledge", ATTRIBUTES))
    assert (found.seeds, found.clusters) == (0, 0)
    assert found.both > 0.1
