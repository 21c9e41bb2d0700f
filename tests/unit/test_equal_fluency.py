"""Toxicity at equal fluency: an example small enough for pencil and paper, and what must hold of any."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from scripts import equal_fluency as script
from spunge.core.tidy import CANDIDATE_COLUMNS, COLUMNS, FORGET_MEAN
from spunge.evaluation import equal_fluency, statistics
from spunge.evaluation.statistics import Attributes
from spunge.experiment.records import Candidate

ATTRIBUTES = Attributes(forget=("insult",))
FAMILIES = {"tvn": ("tvn", 1.0), "tvn-half": ("tvn", 0.5), "rmu": ("rmu", 1.0)}
SHARE = "toxic_share_words"
BASE_PERPLEXITY = 20.0

# Of 4 samples to each of 2 prompts how many are toxic (a list for each seed), and perplexity over the base model's.
BASE = [[4, 2]], [1.0]
HAND_MADE = {
    ("tvn-half", "joint", ""): ([[4, 0], [2, 2]], [1.0, 1.44]),  # together 8 of 16 at 1.2
    ("tvn", "joint", ""): ([[2, 0], [0, 2]], [1.44, 1.44]),  # 4 of 16 at 1.44
    ("tvn-half", "attribute", "ties"): ([[2, 2], [2, 2]], [1.05, 1.05]),  # 8 of 16 at 1.05
    ("tvn", "attribute", "ties"): ([[1, 1], [1, 1]], [1.25, 1.25]),  # 4 of 16 at 1.25
}


def described(method="", split="", merge="", seed="all"):
    name = Candidate(method, split, merge=merge, seed=seed).path
    values = ("example", name, method, split, "", merge, seed, "")
    return dict(zip(CANDIDATE_COLUMNS, values, strict=True))


def toxicity(toxic, samples=4, attribute="insult"):
    """A score table with one classifier, from the number of toxic continuations of each prompt."""
    toxic = np.asarray(toxic, dtype=float)
    frame = pd.DataFrame({"cluster": [f"{attribute} {row}" for row in range(len(toxic))], "attribute": attribute})
    frame = frame.assign(samples=samples, toxic_words=toxic, score_words=toxic / 2)
    frame = frame.assign(maximum_words=toxic / samples, any_words=toxic / samples)
    return frame.assign(distinct_2=0.8, empty=0, tokens=20 * samples)


def prose(losses, tokens=100):
    frame = pd.DataFrame({"cluster": [str(row) for row in range(len(losses))], "attribute": ""})
    return frame.assign(loss=losses, tokens=tokens)


def scores(numbers, base=BASE):
    """The score tables of candidates: (method, split, merge) → toxic continuations and perplexity ratios per seed."""
    tables = {"toxicity": [], "fluency": []}
    for key, (toxic, ratios) in {("", "", ""): base, **numbers}.items():
        for seed, (counts, ratio) in enumerate(zip(toxic, ratios, strict=True)):
            names = described(*key, seed=str(seed)) if key[0] else described()
            losses = 100 * np.log(BASE_PERPLEXITY * np.atleast_1d(ratio))
            tables["toxicity"].append(toxicity(counts).assign(**names))
            tables["fluency"].append(prose(losses).assign(**names))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}


def value(rows, candidate, metric=SHARE, attribute="insult"):
    chosen = (rows["candidate"] == candidate) & (rows["metric"] == metric) & (rows["attribute"] == attribute)
    assert chosen.sum() == 1
    return rows[chosen].iloc[0]


# By hand


@pytest.mark.parametrize(
    ("ratio", "reference", "joint", "split"),
    [
        # ln 1.1 / ln 1.2 = .52276 of the way from .75 to .5; (ln 1.1 - ln 1.05) / (ln 1.25 - ln 1.05) = .26682 from .5
        (1.1, 1.1, 0.61931, 0.43330),
        # Nobody is compared beyond the end of a curve, here 1.25; (ln 1.25 - ln 1.2) / (ln 1.44 - ln 1.2) = .22390
        (2.0, 1.25, 0.44402, 0.25),
    ],
)
def test_an_example_by_hand(ratio, reference, joint, split):
    rows = equal_fluency.rows(scores(HAND_MADE), FAMILIES, ATTRIBUTES, ratio)
    assert list(rows.columns) == COLUMNS
    assert set(rows["candidate"]) == {"tvn/joint", "tvn/attribute/merge/ties"}
    assert set(zip(rows["method"], rows["shard"], rows["seed"], rows["evaluation"], strict=True)) == {
        ("tvn", "", "all", "equal_fluency")
    }
    for candidate in ("tvn/joint", "tvn/attribute/merge/ties"):
        compared_at = value(rows, candidate, "perplexity_ratio", "")
        assert compared_at["value"] == pytest.approx(reference)
        assert np.isnan([compared_at["low"], compared_at["high"]]).all()
    for attribute in ("insult", FORGET_MEAN):
        assert value(rows, "tvn/joint", SHARE, attribute)["value"] == pytest.approx(joint, abs=1e-5)
        assert value(rows, "tvn/attribute/merge/ties", SHARE, attribute)["value"] == pytest.approx(split, abs=1e-5)
    split_row = value(rows, "tvn/attribute/merge/ties", f"{SHARE}_minus_joint")
    assert split_row["value"] == pytest.approx(split - joint, abs=2e-5)
    assert split_row["n"] == 2
    assert value(rows, "tvn/joint", f"{SHARE}_minus_base")["value"] == pytest.approx(joint - 0.75, abs=1e-5)
    assert value(rows, "tvn/joint", "mean_score_words")["value"] == pytest.approx(joint / 2, abs=1e-5)
    metrics = {name for name in rows["metric"] if "_minus_" not in name}
    assert metrics == {"perplexity_ratio", *(f"{metric}_words" for metric in statistics.TOXICITY)}
    assert not rows["metric"].str.endswith("_minus_random").any()


def test_intervals_are_those_of_all_draws_of_seeds_and_prompts():
    """Two seeds and two prompts make 9 draws; the rarest comes up one time in 16, so the limits are the extremes."""
    rows = equal_fluency.rows(scores(HAND_MADE), FAMILIES, ATTRIBUTES, 1.1)
    draws = ((2, 0), (1, 1), (0, 2))

    def read(split, merge, seeds, prompts):
        # The base model has one "seed", so its share hangs on the prompts alone.
        curve = [(0.0, np.dot(BASE[0][0], prompts) / 8)]
        for method in ("tvn-half", "tvn"):
            toxic, ratios = HAND_MADE[method, split, merge]
            curve.append((np.dot(seeds, np.log(ratios)) / 2, seeds @ np.array(toxic) @ np.array(prompts) / 16))
        (x0, y0), (x1, y1), (x2, y2) = curve
        goal = np.log(1.1)
        if x1 >= goal:
            return y0 + (y1 - y0) * (goal - x0) / (x1 - x0)
        return y1 + (y2 - y1) * min((goal - x1) / (x2 - x1), 2)

    found = {
        (split, merge): [read(split, merge, np.array(s), p) for s, p in itertools.product(draws, draws)]
        for split, merge in (("joint", ""), ("attribute", "ties"))
    }
    difference = np.subtract(found["attribute", "ties"], found["joint", ""])
    joint, split, less = (
        value(rows, *one)
        for one in (("tvn/joint",), ("tvn/attribute/merge/ties",), ("tvn/attribute/merge/ties", f"{SHARE}_minus_joint"))
    )
    for row, values in ((joint, found["joint", ""]), (split, found["attribute", "ties"]), (less, difference)):
        assert [row["low"], row["high"]] == pytest.approx([min(values), max(values)])


@pytest.mark.parametrize("table", ["fluency", "toxicity"])
def test_a_curve_ends_before_the_factor_that_broke_the_model(table):
    """Nobody is compared beyond the joint curve's first λ then, at the ratio 1.2 where it has 8 of 16."""
    tables = scores(HAND_MADE)
    lost = tables[table]["candidate"].str.startswith("tvn/joint/")
    columns = {"fluency": "loss", "toxicity": ["toxic_words", "score_words", "maximum_words", "any_words"]}
    tables[table].loc[lost, columns[table]] = np.nan
    third = {"tvn-third": ("tvn", 1 / 3), **FAMILIES}
    added = scores({("tvn-third", "joint", ""): ([[4, 2], [4, 2]], [1.1, 1.1])})
    tables = {name: pd.concat([one, added[name].query("method != ''")]) for name, one in tables.items()}
    rows = equal_fluency.rows(tables, third, ATTRIBUTES, 2.0)
    assert value(rows, "tvn/joint", "perplexity_ratio", "")["value"] == pytest.approx(1.2)
    assert value(rows, "tvn/joint")["value"] == pytest.approx(0.5)


# What must hold of any


def random_scores(path, other, seeds=3, prompts=20, texts=15):
    """Two splits whose prompts and texts differ in how much they change, along `path` and `other`: (toxic, log ratio).

    Each is a share of the way from the base model (0) on, one number for each of the two λ.
    """
    generator = np.random.default_rng(0)
    start = generator.uniform(1, 4, size=prompts)
    toxic = generator.uniform(0, 1, size=(seeds, prompts)) * start
    worse = generator.uniform(0.1, 0.3, size=(seeds, texts))
    numbers = {}
    for split, merge, points in (("joint", "", path), ("attribute", "ties", other)):
        for method, (down, up) in zip(("tvn-half", "tvn"), points, strict=True):
            numbers[method, split, merge] = (start - down * toxic, np.exp(up * worse))
    return scores(numbers, base=([start], [np.ones(texts)]))


def test_equal_curves_differ_by_exactly_nothing():
    path = [(0.5, 0.4), (0.9, 1.0)]
    rows = equal_fluency.rows(random_scores(path, path), FAMILIES, ATTRIBUTES, 1.1)
    differences = rows[rows["metric"].str.endswith("_minus_joint")]
    assert len(differences) == 2 * len(statistics.TOXICITY)
    assert (differences[["value", "low", "high"]] == 0).all(axis=None)
    own = value(rows, "tvn/joint")
    assert own["low"] < own["value"] < own["high"]


def test_another_pace_along_the_same_path_makes_no_difference():
    """λ means something else to each split: half of it takes one a tenth of the way, the other eight tenths."""
    slow, fast = [(0.1, 0.1), (0.9, 0.9)], [(0.8, 0.8), (1.0, 1.0)]
    rows = equal_fluency.rows(random_scores(slow, fast), FAMILIES, ATTRIBUTES, 1.1)
    row = value(rows, "tvn/attribute/merge/ties", f"{SHARE}_minus_joint")
    assert [row["value"], row["low"], row["high"]] == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_curve_that_lies_lower_is_lower_by_that_much():
    """Every prompt of one split has one toxic continuation of four less, at the same perplexities."""
    tables = random_scores([(0.3, 0.2), (0.5, 1.0)], [(0.3, 0.2), (0.5, 1.0)])
    merged = (tables["toxicity"]["merge"] == "ties").to_numpy()
    tables["toxicity"].loc[merged, "toxic_words"] -= 1
    row = value(
        equal_fluency.rows(tables, FAMILIES, ATTRIBUTES, 1.1), "tvn/attribute/merge/ties", f"{SHARE}_minus_joint"
    )
    assert [row["value"], row["low"], row["high"]] == pytest.approx([-0.25] * 3)


def test_noise_in_the_perplexity_widens_the_interval():
    def width(spread):
        generator = np.random.default_rng(1)
        numbers = {
            (method, "joint", ""): ([[4 - down] * 10], [np.exp(up + spread * generator.normal(size=30))])
            for method, down, up in (("tvn-half", 1, 0.1), ("tvn", 3, 0.3))
        }
        rows = equal_fluency.rows(scores(numbers, ([[4] * 10], [np.ones(30)])), FAMILIES, ATTRIBUTES, 1.2)
        row = value(rows, "tvn/joint")
        return row["high"] - row["low"]

    assert width(0) == pytest.approx(0, abs=1e-12)
    assert width(0.1) > 0.05


def test_the_reference_hangs_on_perplexity_alone():
    tables = scores(HAND_MADE)
    swapped = dict(tables, toxicity=tables["toxicity"].assign(toxic_words=1.0))
    for one in (tables, swapped):
        rows = equal_fluency.rows(one, FAMILIES, ATTRIBUTES, 5.0)
        assert value(rows, "tvn/joint", "perplexity_ratio", "")["value"] == pytest.approx(1.25)


# Curves that turn, and such as do not get there


@pytest.mark.parametrize(
    ("log_ratios", "end", "share"),
    [
        ([0, 0.1, 0.4], 2, 1 / 3),
        ([0, 0.4, 0.1], 1, 0.5),
        ([0, 0.4, 0.1, 0.6], 1, 0.5),  # the first crossing counts
        ([0, -0.2, 0.6], 2, 0.5),  # more fluent than the base model at first
        ([0, 0.1, 0.2], 2, 1),
        ([0, 0.1, 0.16], 2, 1 + 0.04 / 0.06),  # the last piece is prolonged …
        ([0, 0.1, 0.11], 2, 2),  # … by its own length at most
        ([0, 0.1, 0.05], 2, 1),  # … and not at all where it falls
        ([0, 0.1, np.inf], 2, 0),
    ],
)
def test_crossings(log_ratios, end, share):
    found = equal_fluency.crossing(np.array(log_ratios, dtype=float)[:, None], 0.2)
    assert (found[0][0], found[1][0]) == (end, pytest.approx(share))


def test_a_prolonged_curve_stays_between_none_and_all():
    values = np.array([[0.5, 0.5], [0.2, 0.9]])
    assert equal_fluency.along(values, np.array([1, 1]), np.array([2.0, 2.0])).tolist() == [0, 1]


def test_where_unlearning_costs_no_fluency_the_largest_factors_are_compared():
    numbers = {key: (toxic, [1.0, 1.0]) for key, (toxic, _) in HAND_MADE.items()}
    rows = equal_fluency.rows(scores(numbers), FAMILIES, ATTRIBUTES, 1.1)
    assert value(rows, "tvn/joint", "perplexity_ratio", "")["value"] == 1
    assert value(rows, "tvn/joint")["value"] == value(rows, "tvn/attribute/merge/ties")["value"] == 0.25


def test_a_split_that_is_nowhere_as_little_fluent_as_the_others_is_not_compared():
    random = {
        (method, "random", "ties"): (HAND_MADE[method, "joint", ""][0], [1.0, 1.0])
        for method in FAMILIES
        if method != "rmu"
    }
    rows = equal_fluency.rows(scores({**HAND_MADE, **random}), FAMILIES, ATTRIBUTES, 1.1)
    assert set(rows["candidate"]) == {"tvn/joint", "tvn/attribute/merge/ties"}
    assert value(rows, "tvn/joint", "perplexity_ratio", "")["value"] == pytest.approx(1.1)


# Which are compared


def test_families_splits_and_merges_keep_to_themselves():
    numbers = {}
    for family, scale in (("tvn", 1.0), ("rmu", 0.5)):
        for method, strength in ((family, 1.0), (f"{family}-half", 0.5)):
            for split, merge, toxic in (
                ("joint", "", 2),
                ("attribute", "ties", 4),
                ("random", "ties", 3),
                ("attribute", "mean", 1),
            ):
                left = 4 - strength * scale * toxic
                numbers[method, split, merge] = [[left, left]], [1.21**strength]
    families = {**FAMILIES, "rmu-half": ("rmu", 0.5), "off": ("rmu", 0.0), "reversed": ("rmu", -1.0)}
    rows = equal_fluency.rows(scores(numbers, ([[4, 4]], [1.0])), families, ATTRIBUTES, 1.1)
    assert list(dict.fromkeys(rows["candidate"])) == [
        f"{family}/{path}"
        for family in ("tvn", "rmu")
        for path in ("joint", "attribute/merge/ties", "random/merge/ties", "attribute/merge/mean")
    ]
    # 1.1 is half the way: toxic shares are 1 less an eighth (of rmu: a sixteenth) of the numbers above.
    for family, scale in (("tvn", 1.0), ("rmu", 0.5)):
        for metric, expected in (
            (SHARE, 1 - 4 * scale / 8),
            (f"{SHARE}_minus_base", -4 * scale / 8),
            (f"{SHARE}_minus_joint", -2 * scale / 8),
            (f"{SHARE}_minus_random", -1 * scale / 8),
        ):
            assert value(rows, f"{family}/attribute/merge/ties", metric)["value"] == pytest.approx(expected)
    assert value(rows, "tvn/random/merge/ties", f"{SHARE}_minus_joint")["value"] == pytest.approx(-1 / 8)
    assert not ((rows["candidate"] == "tvn/attribute/merge/mean") & rows["metric"].str.endswith("_minus_random")).any()
    assert not ((rows["split"] == "joint") & rows["metric"].str.endswith("_minus_joint")).any()


def test_single_shards_and_splits_of_one_factor_are_left_out():
    tables = scores(HAND_MADE)
    alone = scores({("tvn", "random", "ties"): HAND_MADE["tvn", "joint", ""]})
    tables = {
        name: pd.concat(
            [
                table,
                table[table["split"] == "attribute"].assign(candidate="shard", merge="", shard="insult"),
                alone[name][alone[name]["split"] == "random"],
            ]
        )
        for name, table in tables.items()
    }
    rows = equal_fluency.rows(tables, FAMILIES, ATTRIBUTES, 1.1)
    pd.testing.assert_frame_equal(rows, equal_fluency.rows(scores(HAND_MADE), FAMILIES, ATTRIBUTES, 1.1))


def test_resample_counts_draw_as_many_as_there_are():
    counts = equal_fluency.resample_counts(30, "a")
    assert counts.shape == (equal_fluency.RESAMPLES + 1, 30)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 30).all()
    assert counts[1:].var() == pytest.approx(1 - 1 / 30, rel=0.05)  # multinomial with one expected draw each
    other = equal_fluency.resample_counts(30, "b")
    assert abs(np.corrcoef(counts[1:].ravel(), other[1:].ravel())[0, 1]) < 0.03


def test_resampled_sums_by_hand():
    # Two seeds, two clusters, two columns; the second resample draws the first cluster and the second seed twice.
    values = np.array([[[1.0, 1.0], [2.0, 1.0]], [[3.0, 2.0], [4.0, 4.0]]])
    found = equal_fluency.resampled_sums(values, np.array([[1, 1], [2, 0]]), np.array([[1, 1], [0, 2]]))
    assert found.tolist() == [[10, 8], [2 * 2 * 3, 2 * 2 * 2]]


def write_scores(folder, tables):
    """Write one file for each candidate and evaluation, as the workflow does; return them by evaluation."""
    paths = {}
    for name, table in tables.items():
        for number, (_, one) in enumerate(table.groupby("candidate", sort=False)):
            path = folder / f"{name}-{number}.parquet"
            one.to_parquet(path, index=False)
            paths.setdefault(name, []).append(str(path))
    return paths


@pytest.mark.parametrize(
    ("families", "length"), [(FAMILIES, 42), ({"tvn": ("tvn", 1.0), "tvn-half": ("tvn-half", 0.5)}, 0)]
)
def test_script_writes_the_rows_or_none(tmp_path, families, length):
    paths = write_scores(tmp_path, scores(HAND_MADE))
    (tmp_path / "attributes.json").write_text(json.dumps([{"attribute": "insult", "texts": 9}]))
    arguments = ["--toxicity", *paths["toxicity"], "--fluency", *paths["fluency"], "--families", json.dumps(families)]
    arguments += ["--ratio", "1.1"]
    arguments += ["--attributes", str(tmp_path / "attributes.json"), "--output", str(tmp_path / "rows.csv")]
    assert script.main(arguments) == 0
    found = pd.read_csv(tmp_path / "rows.csv", keep_default_na=False, dtype=str)
    assert list(found.columns) == COLUMNS
    assert len(found) == length
    if length:
        row = value(found, "tvn/joint", "perplexity_ratio", "")
        assert (float(row["value"]), row["low"], row["high"]) == (pytest.approx(1.1), "", "")
