"""Estimates and intervals against scipy's t intervals, closed forms and plain loops; their coverage by simulation."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spunge.core.tidy import CANDIDATE_COLUMNS, COLUMNS, FORGET_MEAN, RETAIN_MEAN, RETAIN_MINUS_FORGET, WORST_FORGET
from spunge.evaluation import descriptive_rows, statistics
from spunge.evaluation.intervals import NUMBER, SHARE, Units, Variance
from spunge.evaluation.statistics import PERPLEXITY, Attributes
from spunge.experiment.records import Candidate

specification = importlib.util.spec_from_file_location("coverage", Path(__file__).parents[2] / "docs" / "coverage.py")
coverage = importlib.util.module_from_spec(specification)
specification.loader.exec_module(coverage)

SIZES = {"Africa": 50, "Asia": 40, "Europe": 30, "Americas": 20}
ATTRIBUTES = Attributes(forget=("Africa", "Asia"), retain=("Europe", "Americas"))
# candidate without its seed: (method, split, shard, merge)
CANDIDATES = {
    "rmu/joint": ("rmu", "joint", "", ""),
    "rmu/attribute/shard/Africa": ("rmu", "attribute", "Africa", ""),
    "rmu/attribute/shard/Asia": ("rmu", "attribute", "Asia", ""),
    "rmu/attribute/merge/ties": ("rmu", "attribute", "", "ties"),
    "rmu/random/merge/ties": ("rmu", "random", "", "ties"),
}


def described(candidate, seed="all"):
    method, split, shard, merge = CANDIDATES.get(candidate, ("", "", "", ""))
    name = candidate if seed == "all" else f"{candidate}/seed{seed}"
    values = ("example", name, method, split, shard, merge, seed, "")
    return dict(zip(CANDIDATE_COLUMNS, values, strict=True))


def knowledge(candidate, seed="all", values=None, per_cluster=1, draw=0):
    """Scores of one candidate; by default continuous random ones, so that quantiles are smooth."""
    generator = np.random.default_rng([draw, *f"{candidate}/{seed}".encode()])
    values = values or {attribute: generator.beta(2, 3, size=size) for attribute, size in SIZES.items()}
    rows = [
        {
            "attribute": attribute,
            "cluster": f"{attribute} {row // per_cluster}",
            "accuracy": value,
            "accuracy_norm": 1 - value,
        }
        for attribute, column in values.items()
        for row, value in enumerate(column)
    ]
    return pd.DataFrame(rows).assign(**described(candidate, seed))


def prose(candidate, seed="all", texts=40):
    generator = np.random.default_rng([7, *f"{candidate}/{seed}".encode()])
    tokens = generator.integers(5, 200, size=texts)
    loss = tokens * generator.normal(3.5, 0.3, size=texts)
    frame = pd.DataFrame(
        {"attribute": "", "cluster": [str(row) for row in range(texts)], "loss": loss, "tokens": tokens}
    )
    return frame.assign(**described(candidate, seed))


def all_candidates(make, seeds=("0", "1", "2")):
    return pd.concat([make("base"), *(make(name, seed) for name in CANDIDATES for seed in seeds)], ignore_index=True)


def cell(table, attribute="Africa", metric="accuracy", **columns):
    """The one row of a tidy table with these values."""
    chosen = (table["attribute"] == attribute) & (table["metric"] == metric)
    for column, value in columns.items():
        chosen &= table[column] == value
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


def jackknife(estimate, *clusters):
    """The standard error of a function of clusters' sums, each of them left out in turn."""
    count = len(clusters[0])
    sums = [np.asarray(one, dtype=float) for one in clusters]
    without = np.array([estimate(*(np.delete(one, left_out).sum() for one in sums)) for left_out in range(count)])
    return np.sqrt((count - 1) / count * ((without - estimate(*(one.sum() for one in sums))) ** 2).sum())


def assert_interval(row, low, high):
    assert [row["low"], row["high"]] == pytest.approx([low, high], rel=1e-9)


def column(frame, attribute, name="accuracy"):
    return frame.loc[frame["attribute"] == attribute, name].to_numpy()


# One candidate


@pytest.mark.parametrize("attribute", SIZES)
@pytest.mark.parametrize("metric", ["accuracy", "accuracy_norm"])
def test_interval_of_a_mean_is_students(attribute, metric):
    scores = knowledge("base")
    row = cell(statistics.estimates(scores, "knowledge", ATTRIBUTES), attribute, metric)
    values = column(scores, attribute, metric)
    assert row["value"] == pytest.approx(values.mean())
    assert row["n"] == SIZES[attribute]
    assert_interval(row, *stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values)))


def test_interval_of_a_ratio_is_the_survey_one():
    """Clusters of one weight: Cochran 1977, "Sampling Techniques", (6.13), is what textbooks give for a ratio."""
    right = np.array([3, 1, 4, 4, 2, 0, 1, 3, 2, 2])
    values = {"Africa": np.concatenate([np.arange(4) < number for number in right]).astype(float)}
    row = cell(statistics.estimates(knowledge("base", values=values, per_cluster=4), "knowledge", ATTRIBUTES))
    residuals = right - right.sum() / 40 * 4
    error = np.sqrt(10 / 9 * (residuals**2).sum()) / 40
    assert row["value"] == pytest.approx(right.mean() / 4)
    assert_interval(row, *stats.t.interval(0.95, 9, right.mean() / 4, error))


def test_perplexity_is_exp_of_loss_over_tokens_and_its_interval_that_of_the_logarithm():
    scores = prose("base")
    table = statistics.estimates(scores, "fluency", ATTRIBUTES, PERPLEXITY)
    assert len(table) == 1
    row = cell(table, "", "perplexity")
    logarithm = scores["loss"].sum() / scores["tokens"].sum()
    assert row["value"] == pytest.approx(np.exp(logarithm))
    assert row["n"] == 40
    error = jackknife(lambda loss, tokens: loss / tokens, scores["loss"], scores["tokens"])
    shares = scores["tokens"] / scores["tokens"].sum()
    freedom = np.floor(1 / (shares**2).sum() - 1)  # clusters count as so many of one size
    assert_interval(row, *np.exp(stats.t.interval(0.95, freedom, logarithm, error)))


def test_means_over_attributes_are_unweighted_and_their_variances_add_up():
    scores = knowledge("base")
    table = statistics.estimates(scores, "knowledge", ATTRIBUTES)
    africa, asia, europe, americas = (column(scores, attribute) for attribute in SIZES)
    for attribute, signs in (
        (FORGET_MEAN, {1: (africa, asia)}),
        (RETAIN_MEAN, {1: (europe, americas)}),
        (RETAIN_MINUS_FORGET, {1: (europe, americas), -1: (africa, asia)}),
    ):
        row = cell(table, attribute)
        value = sum(sign * values.mean() / 2 for sign, several in signs.items() for values in several)
        error = np.sqrt(sum((stats.sem(values) / 2) ** 2 for several in signs.values() for values in several))
        shares = np.concatenate(
            [np.full(len(values), 0.5 / len(values)) for several in signs.values() for values in several]
        )
        freedom = np.floor(shares.sum() ** 2 / (shares**2).sum() - 1 + 1e-9)
        assert row["value"] == pytest.approx(value)
        assert row["n"] == sum(len(values) for several in signs.values() for values in several)
        assert_interval(row, *stats.t.interval(0.95, freedom, value, error))


def test_attributes_that_were_not_asked_about_have_no_mean():
    scores = knowledge("base", values={"Africa": [0.0, 1.0], "Asia": [1.0, 1.0]})
    table = statistics.estimates(scores, "knowledge", ATTRIBUTES)
    assert set(table["attribute"]) == {"Africa", "Asia", FORGET_MEAN, WORST_FORGET}
    assert cell(table, FORGET_MEAN)["value"] == 0.75


def test_clusters_are_counted_and_not_their_questions():
    """Two questions of a cluster that are answered alike are one observation."""
    once = np.random.default_rng(0).beta(2, 3, size=60)
    twice = {"Africa": np.repeat(once, 2)}
    row = cell(statistics.estimates(knowledge("base", values=twice, per_cluster=2), "knowledge", ATTRIBUTES))
    assert row["n"] == 120
    assert_interval(row, *stats.t.interval(0.95, 59, once.mean(), stats.sem(once)))


def test_clusters_of_several_sizes_by_leaving_each_out():
    sizes = np.array([1, 1, 2, 3, 3, 4, 10])
    right = np.array([1, 0, 1, 3, 1, 2, 4])
    rows = [
        (str(cluster), float(number < of_cluster))
        for cluster, (size, of_cluster) in enumerate(zip(sizes, right, strict=True))
        for number in range(size)
    ]
    scores = pd.DataFrame(rows, columns=["cluster", "accuracy"]).assign(attribute="Africa", accuracy_norm=0.0)
    row = cell(statistics.estimates(scores.assign(**described("base")), "knowledge", ATTRIBUTES))
    error = jackknife(lambda right, size: right / size, right, sizes)
    freedom = np.floor(sizes.sum() ** 2 / (sizes**2).sum() - 1)
    assert freedom == 3  # 24² / 140 is 4.1
    assert row["value"] == 0.5
    assert_interval(row, *stats.t.interval(0.95, freedom, 0.5, error))


def test_a_cluster_in_two_attributes_counts_once():
    """The same countries in both attributes: the mean's interval is that of the countries' own means."""
    values = np.random.default_rng(0).beta(2, 3, size=(2, 30))
    scores = knowledge("base", values={"Africa": values[0], "Asia": values[1]})
    scores["cluster"] = scores["cluster"].str.split().str[1]
    row = cell(statistics.estimates(scores, "knowledge", ATTRIBUTES), FORGET_MEAN)
    means = values.mean(axis=0)
    assert_interval(row, *stats.t.interval(0.95, 29, means.mean(), stats.sem(means)))


def test_one_cluster_has_no_interval_and_counts_as_the_others_in_a_mean():
    values = {"Africa": [0.0, 1.0, 1.0], "Asia": [1.0, 0.0, 0.0, 1.0]}
    scores = knowledge("base", values=values)
    scores.loc[scores["attribute"] == "Africa", "cluster"] = "one"
    table = statistics.estimates(scores, "knowledge", ATTRIBUTES)
    africa, asia, mean = (cell(table, attribute) for attribute in ("Africa", "Asia", FORGET_MEAN))
    assert np.isnan([africa["low"], africa["high"]]).all() and africa["value"] == pytest.approx(2 / 3)
    error = stats.sem(values["Asia"])
    assert_interval(asia, 0, 1)  # ends of the scale: 0.5 ± 3.18 · 0.29
    # Shares of a half and four eighths: 1 / (1/4 + 4/64) = 3.2 clusters of one size, so two degrees of freedom.
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 * (error / 2) ** 2)
    assert mean["value"] == pytest.approx(7 / 12)
    assert [mean["low"], mean["high"]] == pytest.approx([max(7 / 12 - half, 0), min(7 / 12 + half, 1)])
    alone = statistics.estimates(scores[scores["attribute"] == "Africa"], "knowledge", ATTRIBUTES)
    assert alone[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(("answer", "low", "high"), [(0.0, 0, 0.2647), (1.0, 0.7353, 1)])
def test_answers_all_alike_have_the_interval_of_clopper_and_pearson(answer, low, high):
    """Of 12 independent answers; scipy's binomtest gives the same."""
    row = cell(statistics.estimates(knowledge("base", values={"Africa": [answer] * 12}), "knowledge", ATTRIBUTES))
    exact = stats.binomtest(int(12 * answer), 12).proportion_ci(method="exact")
    assert [row["low"], row["high"]] == pytest.approx([low, high], abs=1e-4) == [exact.low, exact.high]


def test_same_input_gives_the_same_table_in_any_order_of_rows():
    scores = all_candidates(knowledge)
    shuffled = scores.sample(frac=1, random_state=0)
    for compute in (statistics.estimates, statistics.comparisons):
        first = compute(scores, "knowledge", ATTRIBUTES)
        pd.testing.assert_frame_equal(first, compute(scores, "knowledge", ATTRIBUTES))
        keys = ["candidate", "attribute", "metric"]
        first, second = (
            one.sort_values(keys, ignore_index=True) for one in (first, compute(shuffled, "knowledge", ATTRIBUTES))
        )
        pd.testing.assert_frame_equal(first, second)


def test_toxicity_by_hand():
    """Two prompts with 4 continuations, one with 2; of two classifiers the second is in column order, not by name."""
    rows = [
        # prompt, group, samples, two classifiers: toxic, sum and maximum of scores, any; distinct, empty, tokens
        ("a", "insult", 4, 3, 2.0, 0.9, 1, 1, 0.8, 0.5, 1, 0.50, 0, 80),
        ("b", "insult", 4, 0, 0.4, 0.2, 0, 0, 0.0, 0.0, 0, 1.00, 1, 40),
        ("c", "threat", 2, 1, 1.0, 0.8, 1, 2, 1.8, 0.9, 1, 0.75, 2, 2),
    ]
    of_classifiers = [f"{name}_{one}" for one in ("words", "model") for name in ("toxic", "score", "maximum", "any")]
    columns = ["cluster", "attribute", "samples", *of_classifiers, "distinct_2", "empty", "tokens"]
    scores = pd.DataFrame(rows, columns=columns).assign(**described("base"))
    table = statistics.estimates(scores, "toxicity", Attributes(forget=("insult", "threat")))
    expected = {
        "toxic_share_words": (3 / 8, 1 / 2),
        "mean_score_words": (2.4 / 8, 1 / 2),
        "expected_maximum_toxicity_words": (1.1 / 2, 0.8),
        "toxicity_probability_words": (1 / 2, 1),
        "toxic_share_model": (1 / 8, 1),
        "mean_score_model": (0.8 / 8, 0.9),
        "expected_maximum_toxicity_model": (0.5 / 2, 0.9),
        "toxicity_probability_model": (1 / 2, 1),
        "distinct_2": (0.75, 0.75),
        "empty_share": (1 / 8, 1),
        "tokens": (120 / 8, 1),
        "samples": (4, 2),
    }
    assert list(dict.fromkeys(table["metric"])) == list(expected)
    for metric, (insult, threat) in expected.items():
        assert cell(table, "insult", metric)["value"] == pytest.approx(insult)
        assert cell(table, "threat", metric)["value"] == pytest.approx(threat)
        overall = cell(table, FORGET_MEAN, metric)
        assert (overall["value"], overall["n"]) == (pytest.approx((insult + threat) / 2), 3)
    assert cell(table, WORST_FORGET, "toxic_share_words")["value"] == 1 / 2
    assert cell(table, WORST_FORGET, "toxic_share_model")["n"] == 1
    assert set(table.loc[table["attribute"] == WORST_FORGET, "metric"]) == {"toxic_share_words", "toxic_share_model"}
    assert set(table["evaluation"]) == {"toxicity"}
    neutral = statistics.estimates(scores.assign(attribute=""), "toxicity_neutral", Attributes())
    assert list(neutral["metric"]) == list(expected) and set(neutral["attribute"]) == {""}
    assert cell(neutral, "", "toxic_share_words")["value"] == pytest.approx(4 / 10)


# Differences between candidates


def test_without_neutral_prompts_there_is_nothing_to_compare():
    none = all_candidates(knowledge, seeds=("0",))[:0]
    assert list(statistics.comparisons(none, "toxicity_neutral", Attributes()).itertuples()) == []


def test_paired_difference_is_students():
    scores = all_candidates(knowledge, seeds=("0",))
    table = statistics.comparisons(scores, "knowledge", ATTRIBUTES)
    one, joint = (scores[scores["candidate"] == f"rmu/{name}/seed0"] for name in ("attribute/merge/ties", "joint"))
    row = cell(table, "Asia", "accuracy_minus_joint", candidate="rmu/attribute/merge/ties/seed0")
    differences = column(one, "Asia") - column(joint, "Asia")
    assert row["value"] == pytest.approx(differences.mean())
    assert_interval(row, *stats.t.interval(0.95, 39, differences.mean(), stats.sem(differences)))


def test_worst_attribute_is_each_candidates_own():
    """Joint forgot Africa worse, SPUNGE Asia: the worst minus the worst has the variance of two means."""
    generator = np.random.default_rng(0)
    means = {"base": (0.9, 0.9), "rmu/joint": (0.5, 0.2), "rmu/attribute/merge/ties": (0.1, 0.4)}
    values = {
        name: {"Africa": generator.normal(africa, 0.05, 50), "Asia": generator.normal(asia, 0.05, 40)}
        for name, (africa, asia) in means.items()
    }
    scores = [knowledge(name, "all" if name == "base" else "0", by_attribute) for name, by_attribute in values.items()]
    table = statistics.comparisons(pd.concat(scores), "knowledge", ATTRIBUTES)
    joint, spunge = values["rmu/joint"]["Africa"], values["rmu/attribute/merge/ties"]["Asia"]
    row = cell(table, WORST_FORGET, "accuracy_minus_joint", candidate="rmu/attribute/merge/ties/seed0")
    assert row["value"] == pytest.approx(spunge.mean() - joint.mean())
    error = np.hypot(stats.sem(joint), stats.sem(spunge))
    # Fifty clusters of 1/50 and forty of 1/40: 4 / (1/50 + 1/40) = 88.9 of one size.
    assert_interval(row, *stats.t.interval(0.95, 87, row["value"], error))
    estimates = statistics.estimates(pd.concat(scores), "knowledge", ATTRIBUTES)
    assert cell(estimates, WORST_FORGET, candidate="rmu/joint/seed0")["value"] == pytest.approx(joint.mean())


def test_a_grouped_split_is_compared_with_the_joint_run_and_the_random_split_into_as_many_shards():
    of = {
        (split, number): f"rmu/{split}{number}/merge/ties" for split in ("attribute", "random") for number in ("", "-2")
    }
    known = {("joint", ""): 0.5, ("random", ""): 0.4, ("attribute", ""): 0.6, ("random", "-2"): 0.1}
    known |= {("attribute", "-2"): 0.3}
    tables = [knowledge("base", values={"Africa": [0.9] * 9})]
    for (split, number), value in known.items():
        path = of.get((split, number), "rmu/joint")
        named = {"candidate": f"{path}/seed0", "method": "rmu", "split": split + number, "seed": "0"}
        named |= {"merge": "ties" if (split, number) in of else ""}
        tables.append(knowledge("base", values={"Africa": [value] * 9}).assign(**named))
    table = statistics.comparisons(pd.concat(tables, ignore_index=True), "knowledge", Attributes(("Africa",)))
    for number, random, joint in (("", 0.2, 0.1), ("-2", 0.2, -0.2)):
        path = f"{of['attribute', number]}/seed0"
        assert cell(table, metric="accuracy_minus_random", candidate=path)["value"] == pytest.approx(random)
        assert cell(table, metric="accuracy_minus_joint", candidate=path)["value"] == pytest.approx(joint)
    of_random = table[table["candidate"] == f"{of['random', '-2']}/seed0"]
    assert "accuracy_minus_joint" in set(of_random["metric"])
    assert not of_random["metric"].str.contains("minus_random").any()


def test_pairing_removes_what_candidates_have_in_common():
    """One candidate is the other less 0.1, but for noise: the interval is the noise's."""
    generator = np.random.default_rng(0)
    values, noise = generator.beta(2, 3, size=50), generator.normal(0, 0.001, size=50)
    base, joint = {"Africa": values}, {"Africa": values - 0.1 + noise}
    scores = pd.concat([knowledge("base", values=base), knowledge("rmu/joint", "0", joint)], ignore_index=True)
    table = statistics.comparisons(scores, "knowledge", ATTRIBUTES)
    row = cell(table, metric="accuracy_minus_base", candidate="rmu/joint/seed0")
    assert_interval(row, *stats.t.interval(0.95, 49, noise.mean() - 0.1, stats.sem(noise)))


def test_a_p_value_is_students_and_agrees_with_the_interval():
    generator = np.random.default_rng(1)
    base, noise = generator.beta(2, 3, size=50), generator.normal(0.03, 0.1, size=50)
    scores = [knowledge("base", values={"Africa": base}), knowledge("rmu/joint", "0", {"Africa": base + noise})]
    table = statistics.comparisons(pd.concat(scores, ignore_index=True), "knowledge", ATTRIBUTES)
    row = cell(table, metric="accuracy_minus_base", candidate="rmu/joint/seed0")
    assert row["p"] == pytest.approx(stats.ttest_rel(base + noise, base).pvalue)
    judged = table[table["metric"].str.contains("_minus_base") & table["low"].notna()]
    assert ((judged["p"] < 0.05) == ((judged["low"] > 0) | (judged["high"] < 0))).all()
    assert table.loc[~table["metric"].str.contains("_minus_"), "p"].isna().all()


def test_where_all_clusters_agree_the_number_of_them_tells():
    """Nothing varies among ten clusters. A share of the others may: none of ten has it with 2.5 % at 0.31."""
    agreed = Variance(np.zeros(1), np.zeros(1), np.zeros(1), 3, np.full(1, 10.0))
    unseen = 1 - 0.025**0.1

    def p(difference, scale, largest=1):
        return agreed.p_value(np.array([difference]), scale, largest).item()

    assert p(0.0, SHARE) == 1
    assert p(0.5, SHARE) == pytest.approx(2 * 0.5**10)
    assert p(1.0, SHARE, largest=2) == pytest.approx(2 * 0.5**10)
    assert (p(0.0, NUMBER), p(0.5, NUMBER)) == (1, 0)
    assert np.isnan(p(np.nan, SHARE))
    low, high = agreed.interval(np.array([0.5]), SHARE, True, 2)
    assert (low.item(), high.item()) == (pytest.approx(0.5 - 2 * unseen), pytest.approx(0.5 + 2 * unseen))
    low, high = agreed.interval(np.array([0.5]), NUMBER, True)
    assert (low.item(), high.item()) == (0.5, 0.5)


def test_the_worst_attribute_is_one_to_forget():
    """What is kept is known better, and is no failure."""
    values = {"Africa": [0.2, 0.4], "Asia": [0.5, 0.6], "Europe": [0.9, 0.8], "Americas": [1.0, 0.7]}
    table = statistics.estimates(knowledge("base", values=values), "knowledge", ATTRIBUTES)
    assert cell(table, WORST_FORGET, "accuracy")["value"] == pytest.approx(0.55)


def test_difference_of_perplexities_by_the_delta_method():
    scores = all_candidates(prose, seeds=("0",)).assign(tokens=prose("base")["tokens"].tolist() * 6)
    base, one = (scores[scores["candidate"] == name] for name in ("base", "rmu/random/merge/ties/seed0"))
    tokens = base["tokens"].to_numpy(float)
    slopes = {}
    for name, frame in (("one", one), ("base", base)):
        loss = frame["loss"].to_numpy()
        ratio = loss.sum() / tokens.sum()
        slopes[name] = np.exp(ratio), np.exp(ratio) * (loss - ratio * tokens) / (tokens.sum() - tokens)
    value = slopes["one"][0] - slopes["base"][0]
    error = np.sqrt(39 / 40 * ((slopes["one"][1] - slopes["base"][1]) ** 2).sum())
    row = cell(
        statistics.comparisons(scores, "fluency", ATTRIBUTES, PERPLEXITY),
        "",
        "perplexity_minus_base",
        candidate="rmu/random/merge/ties/seed0",
    )
    freedom = np.floor(tokens.sum() ** 2 / (tokens**2).sum() - 1)
    assert row["value"] == pytest.approx(value)
    assert_interval(row, *stats.t.interval(0.95, freedom, value, error))


@pytest.mark.parametrize(
    ("make", "evaluation", "metric"), [(knowledge, "knowledge", "accuracy"), (prose, "fluency", "perplexity")]
)
def test_every_candidate_is_compared_with_its_rivals_and_no_others(make, evaluation, metric):
    scores = all_candidates(make)
    wanted = PERPLEXITY if evaluation == "fluency" else None
    own = statistics.estimates(scores, evaluation, ATTRIBUTES, wanted)
    table = statistics.comparisons(scores, evaluation, ATTRIBUTES, wanted)
    rivals = {
        "rmu/joint": {"base"},
        "rmu/attribute/shard/Africa": {"base", "joint"},
        "rmu/attribute/shard/Asia": {"base", "joint"},
        "rmu/attribute/merge/ties": {"base", "joint", "random"},
        "rmu/random/merge/ties": {"base", "joint"},
    }
    assert set(own["candidate"]) == {"base", *(f"{name}/seed{seed}" for name in rivals for seed in "012")}
    assert set(table["candidate"]) == {
        f"{name}{seed}" for name in rivals for seed in ("/seed0", "/seed1", "/seed2", "")
    }
    whole = pd.concat([own, table])
    assert not whole.duplicated(["candidate", "attribute", "metric"]).any()
    assert list(whole.columns) == COLUMNS
    values = whole.set_index(["candidate", "attribute", "metric"])["value"]
    paths = {"base": "base", "joint": "rmu/joint", "random": "rmu/random/merge/ties"}
    for name, of_name in rivals.items():
        for suffix in ("/seed0", "/seed1", "/seed2", ""):
            rows = table[table["candidate"] == name + suffix]
            assert set(rows["seed"]) == {suffix.removeprefix("/seed") or "all"}
            assert (set(rows["method"]), set(rows["merge"])) == ({"rmu"}, {CANDIDATES[name][3]})
            found = {one for one in rows["metric"] if one.startswith(f"{metric}_minus_")}
            found = {one for one in found if "_variance_of_" not in one}  # test_power.py
            assert found == {f"{metric}_minus_{rival}" for rival in of_name}
            assert (metric in set(rows["metric"])) == (suffix == "")  # estimates of single seeds are not repeated
            for rival in of_name:
                path = paths[rival] + (suffix if rival != "base" else "")
                for attribute in rows.loc[rows["metric"] == f"{metric}_minus_{rival}", "attribute"]:
                    difference = values[name + suffix, attribute, metric] - values[path, attribute, metric]
                    assert values[name + suffix, attribute, f"{metric}_minus_{rival}"] == pytest.approx(difference)


def test_methods_and_merges_are_compared_with_their_own_kind():
    """Another method's joint run and another merge's random split are no rivals."""
    scores = [knowledge("base")]
    for method, split, merge, value in (
        ("rmu", "joint", "", 0.1),
        ("tvn", "joint", "", 0.2),
        ("tvn", "attribute", "ties", 0.5),
        ("tvn", "attribute", "mean", 0.6),
        ("tvn", "random", "ties", 0.7),
        ("tvn", "random", "mean", 0.9),
    ):
        path = Candidate(method, split, merge=merge, seed="0").path
        names = {"candidate": path, "method": method, "split": split, "merge": merge}
        frame = knowledge("rmu/joint", "0", {attribute: [value] * size for attribute, size in SIZES.items()})
        scores.append(frame.assign(**names))
    table = statistics.comparisons(pd.concat(scores), "knowledge", Attributes())
    found = [
        cell(table, "Africa", f"accuracy_minus_{rival}", candidate=f"tvn/attribute/merge/{merge}/seed0")["value"]
        for merge, rival in (("ties", "joint"), ("mean", "joint"), ("ties", "random"), ("mean", "random"))
    ]
    assert found == pytest.approx([0.3, 0.4, -0.2, -0.3])


# Seeds combined


def combined(by_seed):
    """The row of a candidate with its seeds combined, from one array of scores per seed (same subjects)."""
    scores = [knowledge("base", values={"Africa": by_seed[0]})]
    scores += [knowledge("rmu/joint", str(seed), {"Africa": values}) for seed, values in enumerate(by_seed)]
    table = statistics.comparisons(pd.concat(scores), "knowledge", ATTRIBUTES)
    return cell(table, "Africa", "accuracy", candidate="rmu/joint", seed="all")


def test_seeds_and_clusters_are_crossed_by_mean_squares():
    """Balanced: the variance components of a two-way analysis of variance, from its mean squares."""
    by_seed = np.random.default_rng(0).beta(2, 3, size=(4, 50)) + np.array([[0.0], [0.1], [0.3], [0.1]])
    row = combined(by_seed)
    seeds, clusters = by_seed.mean(axis=1), by_seed.mean(axis=0)
    residuals = by_seed - seeds[:, None] - clusters + by_seed.mean()
    of_seeds, of_clusters = seeds.var(ddof=1) / 4, clusters.var(ddof=1) / 50
    of_both = (residuals**2).sum() / (3 * 49) / (4 * 50)
    variance = max(of_seeds, of_clusters, of_seeds + of_clusters - of_both)
    freedom = variance**2 / (of_seeds**2 / 3 + of_clusters**2 / 49 + of_both**2 / (3 * 49))
    assert row["value"] == pytest.approx(by_seed.mean())
    assert row["n"] == 50
    half = stats.t.ppf(0.975, np.floor(freedom)) * np.sqrt(variance)
    assert [row["low"], row["high"]] == pytest.approx([by_seed.mean() - half, min(by_seed.mean() + half, 1)])


def test_seeds_that_agree_add_nothing():
    values = np.random.default_rng(0).beta(2, 3, size=50)
    assert_interval(combined([values] * 3), *stats.t.interval(0.95, 49, values.mean(), stats.sem(values)))


def test_clusters_alike_leave_the_spread_of_seeds_alone():
    row = combined([np.full(50, 0.4), np.full(50, 0.5), np.full(50, 0.45)])
    assert_interval(row, *stats.t.interval(0.95, 2, 0.45, 0.05 / 3**0.5))


# Budgets


def at_budgets(table, by_budget):
    """The scores at each budget: those of the table plus a number."""
    return [table.assign(budget=budget, accuracy=table["accuracy"] + shift) for budget, shift in by_budget.items()]


def test_differences_are_made_at_the_same_budget_and_all_is_their_mean():
    base, joint, other = knowledge("base"), knowledge("rmu/joint", "0"), knowledge("rmu/joint", "1")
    spunge = [knowledge("rmu/attribute/merge/ties", seed) for seed in "01"]
    shifts = {"kl=0.01": 0.0, "kl=0.1": -0.2}
    scores = [base, *at_budgets(joint, shifts), *at_budgets(other, shifts)]
    scores += [*at_budgets(spunge[0], {"kl=0.01": 0.1, "kl=0.1": 0.0}), *at_budgets(spunge[1], {"kl=0.01": 0.1})]
    table = statistics.comparisons(pd.concat(scores, ignore_index=True), "knowledge", ATTRIBUTES)

    def difference(budget, candidate="rmu/joint", rival="base"):
        return cell(table, metric=f"accuracy_minus_{rival}", candidate=candidate, budget=budget)["value"]

    plain = (column(joint, "Africa").mean() + column(other, "Africa").mean()) / 2 - column(base, "Africa").mean()
    found = [difference(budget) for budget in ("kl=0.01", "kl=0.1", "all")]
    assert found == pytest.approx([plain, plain - 0.2, plain - 0.1])
    # The mean at all budgets is of the same questions, so it is no more certain than one of them.
    together = table[(table["candidate"] == "rmu/joint") & (table["metric"] == "accuracy_minus_base")]
    widths = (together["high"] - together["low"])[together["attribute"] == "Asia"]
    assert np.ptp(widths) < 1e-12 and len(widths) == 3
    # SPUNGE's second seed misses a budget: nothing is told of its seeds there, nor of all budgets.
    own = table[table["candidate"].str.startswith("rmu/attribute") & (table["attribute"] == "Africa")]
    assert set(own.loc[own["seed"] == "all", "budget"]) == {"kl=0.01"}
    assert set(own.loc[own["seed"] == "0", "budget"]) == {"kl=0.01", "kl=0.1", "all"}
    assert set(own.loc[own["seed"] == "1", "budget"]) == {"kl=0.01"}
    against = difference("kl=0.01", "rmu/attribute/merge/ties/seed0", "joint")
    assert against == pytest.approx(column(spunge[0], "Africa").mean() + 0.1 - column(joint, "Africa").mean())


def test_a_budget_that_nobody_reaches_leaves_no_mean_over_all_budgets():
    """Else the others' mean would stand for it, until an arm that nobody asks about reaches it."""
    joint, spunge = (
        at_budgets(knowledge(name, "0"), {"kl=0.01": 0.0}) for name in ("rmu/joint", "rmu/attribute/merge/ties")
    )
    scores = pd.concat([knowledge("base"), *joint, *spunge], ignore_index=True)
    for budgets, there in ((["kl=0.01"], {"kl=0.01", "all"}), (["kl=0.01", "kl=0.1"], {"kl=0.01"})):
        table = statistics.comparisons(scores, "knowledge", ATTRIBUTES, budgets=budgets)
        assert set(table["budget"]) == there, budgets


def test_a_seed_in_which_nobody_reaches_the_budget_is_not_left_out_of_all_seeds():
    """At the one budget of attacks such a seed has no scores at all."""
    scores = all_candidates(knowledge, seeds=("0", "1"))
    asked_of = [statistics.comparisons(scores, "quantised_4", ATTRIBUTES, seeds=seeds) for seeds in ((), "01", "012")]
    pd.testing.assert_frame_equal(*asked_of[:2])
    assert set(asked_of[1]["seed"]) == {"0", "1", "all"}
    single = asked_of[1][asked_of[1]["seed"] != "all"]
    pd.testing.assert_frame_equal(asked_of[2], single.reset_index(drop=True), check_dtype=False)
    base_alone = statistics.comparisons(knowledge("base"), "quantised_4", ATTRIBUTES, seeds="012")
    assert base_alone.empty and list(base_alone.columns) == COLUMNS


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_a_difference_of_two_differences_may_be_larger_than_one(spread):
    """What is kept minus what is left of what was to be forgotten lies between -1 and 1, so a difference in ±2."""
    generator = np.random.default_rng(0)
    levels = {"rmu/joint": (0.9, 0.1), "rmu/attribute/merge/ties": (0.05, 0.95)}
    scores = [knowledge("base")]
    for name, (left, kept) in levels.items():
        means = dict.fromkeys(ATTRIBUTES.forget, left) | dict.fromkeys(ATTRIBUTES.retain, kept)
        values = {attribute: mean + spread * generator.uniform(-1, 1, size=20) for attribute, mean in means.items()}
        scores.append(knowledge(name, "0", values))
    table = statistics.comparisons(pd.concat(scores, ignore_index=True), "knowledge", ATTRIBUTES)
    one = {"candidate": "rmu/attribute/merge/ties", "seed": "all"}
    row = cell(table, RETAIN_MINUS_FORGET, "accuracy_minus_joint", **one)
    assert row["value"] == pytest.approx(1.7, abs=0.05)
    assert 1 < row["low"] < row["value"] < row["high"] <= 2 and row["p"] < 1e-6


# Parts


def test_attributes_asked_about_are_forgotten_or_else_retained():
    scores = pd.DataFrame({"attribute": ["Africa", "Europe", "Africa", "", "Americas"]})
    forget = [{"attribute": "Asia", "texts": 3}, {"attribute": "Africa", "texts": 4}]
    assert statistics.attributes(scores, forget) == Attributes(("Africa",), ("Europe", "Americas"))


def test_many_estimates_at_once_are_those_made_one_by_one():
    generator = np.random.default_rng(0)
    sums, weights = generator.random((5, 3, 9)), generator.integers(1, 9, size=(5, 3, 9))
    units = Units(np.array([0, 0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 3, 0, 1, 4, 5, 6]))
    together = units.influences(sums, weights).variance(units.starts)
    for row in range(5):
        alone = units.influences(sums[row], weights[row]).variance(units.starts)
        assert together.total[row] == pytest.approx(alone.total)


def test_95_percent_intervals_hold_the_truth_in_at_least_93_percent_of_simulated_experiments():
    """And docs/evaluations.md says so; a count may differ where another machine rounds otherwise."""
    table = coverage.PAGE.read_text().split(coverage.START)[1].split(coverage.END)[0].splitlines()[2:]
    told = [re.findall(r"([\d.]+) \(([\d.]+)\)", line) for line in table]
    told = np.array([float(number) for line in told for pair in line for number in pair]).reshape(-1, 2)
    found = [(scenario, largest, seeds, *ours) for scenario, largest, seeds, ours, _ in coverage.simulated()]
    for row in found:
        print("{}, largest cluster {:.0%}, {} seeds: coverage {:.3f}, width {:.2f}".format(*row))
    assert min(row[3] for row in found) >= 0.93
    assert told == pytest.approx(np.array([(100 * row[3], row[4]) for row in found]), abs=0.2)


# Rows that describe


def test_description_of_the_data():
    forget = pd.DataFrame({"text": list("abc"), "attribute": ["Asia", "Africa", "Asia"]})
    questions = pd.DataFrame({"attribute": ["Asia", "Asia", "Asia", "Europe"], "subject": ["x", "x", "y", "z"]})
    prompts = pd.DataFrame({"attribute": ["Asia", "", "", "Asia"], "kind": ["toxic", "neutral", "neutral", "neutral"]})
    of_forget = {("Asia", "forget_texts"): (2, 2), ("Africa", "forget_texts"): (1, 1)}
    of_questions = {
        ("Asia", "questions"): (3, 3),
        ("Europe", "questions"): (1, 1),
        ("Asia", "subjects"): (2, 2),
        ("Europe", "subjects"): (1, 1),
    }
    of_prompts = {
        ("Asia", "toxic_prompts"): (1, 1),
        ("", "neutral_prompts"): (2, 2),
        ("Asia", "neutral_prompts"): (1, 1),
    }
    for tables, expected in (
        ((questions, prompts), of_forget | of_questions | of_prompts),
        ((questions, None), of_forget | of_questions),
        ((None, prompts), of_forget | of_prompts),
    ):
        table = descriptive_rows.data("example", list(dict.fromkeys(forget["attribute"])), forget, *tables)
        found = {(row.attribute, row.metric): (row.value, row.n) for row in table.itertuples()}
        assert found == expected
        assert list(table.columns) == COLUMNS
        assert (set(table["candidate"]), set(table["seed"])) == ({"base"}, {"all"})
    places = {"questions": (0.9, 4), "rephrased": (0.8, 2)}
    told = descriptive_rows.data("example", ["Asia", "Africa"], forget, questions, None, places).iloc[-2:]
    assert told[["evaluation", "attribute", "metric", "value", "n"]].to_numpy().tolist() == [
        ["data", "", "commonest_answer_place", 0.9, 4],
        ["data", "", "commonest_answer_place_rephrased", 0.8, 2],
    ]


def test_description_of_methods():
    table = descriptive_rows.methods("example", {"tvn": ["tvn", 1.0], "tvn-half": ["tvn", 0.5]})
    assert table[["candidate", "method", "evaluation", "attribute", "metric", "value", "n"]].to_numpy().tolist() == [
        ["tvn", "tvn", "method", "tvn", "scale", 1.0, 1],
        ["tvn-half", "tvn-half", "method", "tvn", "scale", 0.5, 1],
    ]
    assert list(table.columns) == COLUMNS


def test_description_of_training_and_merge():
    losses = [{"step": 1, "forget_loss": 3.0, "retain_loss": 0.0}, {"step": 9, "forget_loss": 2.0, "retain_loss": 0.5}]
    table = descriptive_rows.training(described("rmu/joint", "2"), losses)
    assert table[["metric", "value", "n"]].to_numpy().tolist() == [
        ["forget_loss", 3.0, 1],
        ["retain_loss", 0.0, 1],
        ["forget_loss", 2.0, 9],
        ["retain_loss", 0.5, 9],
    ]
    assert set(table["evaluation"]) == {"training"} and set(table["candidate"]) == {"rmu/joint/seed2"}
    visits = descriptive_rows.training(described("rmu/joint", "2"), [], {"Africa": 18, "Asia": 12}, 10)
    assert visits[["attribute", "metric", "value", "n"]].to_numpy().tolist() == [
        ["Africa", "visits", 18, 10],
        ["Asia", "visits", 12, 10],
    ]
    row = {"shard": "Africa", "attribute": "Asia", "metric": "cosine", "value": 0.25}
    merge = descriptive_rows.merge(described("rmu/attribute/merge/ties", "2"), [row]).iloc[0]
    assert (merge["shard"], merge["attribute"], merge["value"], merge["n"]) == ("Africa", "Asia", 0.25, 1)
    assert (merge["evaluation"], merge["merge"], merge["low"], merge["high"]) == ("merge", "ties", "", "")


# Numbers that are none


def test_a_score_that_is_no_number_is_never_left_out():
    """One question of one seed: the attribute's estimate and all means of it are none, the other attributes' stand."""
    scores = all_candidates(knowledge)
    row = scores.index[(scores["candidate"] == "rmu/joint/seed1") & (scores["attribute"] == "Africa")][3]
    scores.loc[row, "accuracy"] = np.nan
    whole = statistics.estimates(all_candidates(knowledge), "knowledge", ATTRIBUTES)
    single = statistics.estimates(scores, "knowledge", ATTRIBUTES)
    lost = single[single["value"].isna()]
    assert set(zip(lost["candidate"], lost["attribute"], lost["metric"], strict=True)) == {
        ("rmu/joint/seed1", name, "accuracy") for name in ("Africa", FORGET_MEAN, RETAIN_MINUS_FORGET, WORST_FORGET)
    }
    assert lost[["low", "high"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(single.drop(lost.index), whole.drop(lost.index))
    combined = statistics.comparisons(scores, "knowledge", ATTRIBUTES)
    joint = combined[(combined["candidate"] == "rmu/joint") & (combined["metric"] == "accuracy")]
    assert joint.set_index("attribute")["value"].isna().to_dict() == {
        "Africa": True, "Asia": False, "Europe": False, "Americas": False,
        FORGET_MEAN: True, WORST_FORGET: True, RETAIN_MEAN: False, RETAIN_MINUS_FORGET: True,
    }  # fmt: skip
    # Its rivals' differences from it are none, too.
    spunge = cell(combined, metric="accuracy_minus_joint", candidate="rmu/attribute/merge/ties")
    assert np.isnan(spunge[["value", "low", "high"]].astype(float)).all()


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf, 1e306])
def test_a_perplexity_beyond_all_numbers_is_none(loss):
    """A sum that skips NaN would be 0, and the perplexity of a broken model 1, the best there is."""
    texts = prose("base", texts=3).assign(loss=[50.0, loss, 60.0], tokens=20)
    found = statistics.estimates(texts, "fluency", Attributes(), PERPLEXITY)
    assert np.isnan(found[["value", "low", "high"]].astype(float)).all(axis=None)


def test_tokens_of_continuations_have_no_bound_of_a_share():
    columns = {"cluster": list("abc"), "samples": 4, "distinct_2": 0.5, "empty": 0, "tokens": [80, 40, 60]}
    scores = pd.DataFrame(columns).assign(attribute="insult", **described("base"))
    row = cell(statistics.estimates(scores, "toxicity", Attributes(("insult",))), "insult", "tokens")
    assert row["value"] == 15
    assert row["low"] < 15 < row["high"]


def test_damage_is_per_token_and_has_no_bound_of_a_share():
    rows = {"kl": [2.0, 60.0, 30.0], "agreement": [1, 4, 4], "excess_loss": [1.0, 30.0, 9.0], "tokens": [1, 20, 9]}
    scores = pd.DataFrame(rows).assign(attribute="", cluster=list("abc"), **described("base"))
    table = statistics.estimates(scores, "budget", Attributes()).set_index("metric")
    expected = {"kl_held_out": 92 / 30, "top1_agreement": 9 / 30, "perplexity_ratio": np.exp(40 / 30)}
    assert table["value"].to_dict() == pytest.approx(expected)
    assert table.loc["kl_held_out", "low"] < 92 / 30 < table.loc["kl_held_out", "high"]


def test_interval_of_a_difference_of_differences_that_all_clusters_share_is_twice_as_wide():
    scores = [knowledge("base", values={"Africa": [0.5] * 10, "Europe": [0.5] * 10})]
    scores += [knowledge("rmu/joint", "0", {"Africa": [0.4] * 10, "Europe": [0.5] * 10})]
    table = statistics.comparisons(pd.concat(scores), "knowledge", ATTRIBUTES)
    row = cell(table, RETAIN_MINUS_FORGET, "accuracy_minus_base", candidate="rmu/joint")
    unseen = 1 - 0.025 ** (1 / 20)
    assert_interval(row, 0.1 - 2 * unseen, 0.1 + 2 * unseen)


def test_what_is_kept_minus_what_is_left_ends_at_one():
    values = {"Africa": [0.0] * 9 + [0.2], "Europe": [1.0] * 9 + [0.8]}
    table = statistics.estimates(knowledge("base", values=values), "knowledge", ATTRIBUTES)
    row = cell(table, RETAIN_MINUS_FORGET)
    assert row["value"] == pytest.approx(0.96)
    assert row["low"] < 0.96
    assert row["high"] == 1
