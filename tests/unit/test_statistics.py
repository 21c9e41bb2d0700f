"""Estimates and intervals against scipy's bootstrap, closed forms and plain loops."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spunge.evaluation import descriptive_rows, statistics
from spunge.evaluation.statistics import DIFFERENCE, FORGET_MEAN, PERPLEXITY, RETAIN_MEAN, Resampling
from spunge.experiment.records import Candidate

RESAMPLES = 20_000
SIZES = {"Africa": 50, "Asia": 40, "Europe": 30, "Americas": 20}
RESAMPLING = Resampling(RESAMPLES, 0, forget=("Africa", "Asia"), retain=("Europe", "Americas"))
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
    values = ("example", name, method, split, shard, merge, seed)
    return dict(zip(statistics.CANDIDATE_COLUMNS, values, strict=True))


def knowledge(candidate, seed="all", values=None, per_subject=1, draw=0):
    """Scores of one candidate; by default continuous random ones, so that quantiles are smooth."""
    generator = np.random.default_rng([draw, *f"{candidate}/{seed}".encode()])
    values = values or {attribute: generator.beta(2, 3, size=size) for attribute, size in SIZES.items()}
    rows = [
        {
            "attribute": attribute,
            "subject": f"{attribute} {row // per_subject}",
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
        {"attribute": "", "subject": [str(row) for row in range(texts)], "loss": loss, "tokens": tokens}
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


def scipys(samples, statistic, **options):
    """scipy's percentile bootstrap: (low, high, standard error)."""
    generator = np.random.default_rng(1)
    found = stats.bootstrap(
        samples, statistic, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=generator, **options
    )
    return found.confidence_interval.low, found.confidence_interval.high, found.standard_error


def assert_agrees(row, low, high, error):
    # With 20,000 resamples a 2.5 % quantile has a standard error of 0.02 of the statistic's own; two of them differ.
    assert row["low"] == pytest.approx(low, abs=0.1 * error)
    assert row["high"] == pytest.approx(high, abs=0.1 * error)


def column(frame, attribute, name="accuracy"):
    return frame.loc[frame["attribute"] == attribute, name].to_numpy()


# One candidate


@pytest.mark.parametrize("attribute", SIZES)
@pytest.mark.parametrize("metric", ["accuracy", "accuracy_norm"])
def test_interval_of_a_mean_equals_scipys(attribute, metric):
    scores = knowledge("base")
    row = cell(statistics.estimates(scores, "knowledge", RESAMPLING), attribute, metric)
    values = column(scores, attribute, metric)
    assert row["value"] == pytest.approx(values.mean())
    assert row["n"] == SIZES[attribute]
    assert_agrees(row, *scipys((values,), np.mean))


def test_interval_of_zeros_and_ones_is_binomial():
    values = {"Africa": [1.0] * 14 + [0.0] * 36}
    row = cell(statistics.estimates(knowledge("base", values=values), "knowledge", RESAMPLING))
    assert row["value"] == pytest.approx(0.28)
    assert row["low"] == pytest.approx(stats.binom.ppf(0.025, 50, 0.28) / 50, abs=0.011)
    assert row["high"] == pytest.approx(stats.binom.ppf(0.975, 50, 0.28) / 50, abs=0.011)


def test_perplexity_is_exp_of_loss_over_tokens_and_its_interval_scipys():
    scores = prose("base")
    table = statistics.estimates(scores, "fluency", RESAMPLING, PERPLEXITY)
    assert len(table) == 1
    row = cell(table, "", "perplexity")
    assert row["value"] == pytest.approx(np.exp(scores["loss"].sum() / scores["tokens"].sum()))
    assert row["n"] == 40

    def perplexity(loss, tokens, axis):
        return np.exp(loss.sum(axis=axis) / tokens.sum(axis=axis))

    assert_agrees(row, *scipys((scores["loss"].to_numpy(), scores["tokens"].to_numpy()), perplexity, paired=True))


def test_means_over_attributes_are_unweighted_and_their_intervals_scipys():
    scores = knowledge("base")
    table = statistics.estimates(scores, "knowledge", RESAMPLING)
    africa, asia, europe, americas = (column(scores, attribute) for attribute in SIZES)

    def of_two(first, second, axis):
        return (first.mean(axis=axis) + second.mean(axis=axis)) / 2

    def difference(first, second, third, fourth, axis):
        return of_two(third, fourth, axis) - of_two(first, second, axis)

    for attribute, samples, statistic in (
        (FORGET_MEAN, (africa, asia), of_two),
        (RETAIN_MEAN, (europe, americas), of_two),
        (DIFFERENCE, (africa, asia, europe, americas), difference),
    ):
        row = cell(table, attribute)
        assert row["value"] == pytest.approx(statistic(*samples, axis=0))
        assert row["n"] == sum(map(len, samples))
        assert_agrees(row, *scipys(samples, statistic))


def test_attributes_that_were_not_asked_about_have_no_mean():
    scores = knowledge("base", values={"Africa": [0.0, 1.0], "Asia": [1.0, 1.0]})
    table = statistics.estimates(scores, "knowledge", RESAMPLING)
    assert set(table["attribute"]) == {"Africa", "Asia", FORGET_MEAN}
    assert cell(table, FORGET_MEAN)["value"] == 0.75


def test_subjects_are_resampled_and_not_their_questions():
    """Two questions a subject that are answered alike are one observation: the interval is √2 as wide."""
    once = np.random.default_rng(0).beta(2, 3, size=60)
    twice = {"Africa": np.repeat(once, 2)}
    by_subject, by_row = (
        cell(statistics.estimates(knowledge("base", values=twice, per_subject=size), "knowledge", RESAMPLING))
        for size in (2, 1)
    )
    assert [by_subject["value"], by_row["value"]] == pytest.approx([once.mean()] * 2)
    assert by_subject["n"] == by_row["n"] == 120
    ratio = (by_subject["high"] - by_subject["low"]) / (by_row["high"] - by_row["low"])
    assert ratio == pytest.approx(2**0.5, rel=0.05)
    assert_agrees(by_subject, *scipys((once,), np.mean))


def test_subjects_with_more_questions_weigh_more():
    rows = [("a", 1.0), ("a", 1.0), ("a", 0.0), ("b", 0.0)]
    scores = pd.DataFrame(rows, columns=["subject", "accuracy"]).assign(attribute="Africa", accuracy_norm=0.0)
    row = cell(statistics.estimates(scores.assign(**described("base")), "knowledge", RESAMPLING))
    assert row["value"] == 0.5
    # Two subjects drawn: a quarter of the time both a (2/3), half of it one of each (1/2), a quarter both b (0).
    assert (row["low"], row["high"]) == (0, pytest.approx(2 / 3))


def test_same_input_gives_the_same_table_in_any_order_of_rows():
    scores = all_candidates(knowledge)
    shuffled = scores.sample(frac=1, random_state=0)
    few = Resampling(500, 3, RESAMPLING.forget, RESAMPLING.retain)
    for compute in (statistics.estimates, statistics.comparisons):
        first = compute(scores, "knowledge", few)
        pd.testing.assert_frame_equal(first, compute(scores, "knowledge", few))
        keys = ["candidate", "attribute", "metric"]
        first, second = (
            one.sort_values(keys, ignore_index=True) for one in (first, compute(shuffled, "knowledge", few))
        )
        pd.testing.assert_frame_equal(first, second)
    other = statistics.estimates(scores, "knowledge", Resampling(500, 4, RESAMPLING.forget, RESAMPLING.retain))
    assert (other["value"] == statistics.estimates(scores, "knowledge", few)["value"]).all()
    assert (other["low"] != statistics.estimates(scores, "knowledge", few)["low"]).any()


def test_toxicity_by_hand():
    """Two prompts with 4 continuations, one with 2; of two classifiers the second is in column order, not by name."""
    rows = [
        # prompt, group, samples, two classifiers: toxic, sum and maximum of scores, any; distinct, empty, tokens
        ("a", "insult", 4, 3, 2.0, 0.9, 1, 1, 0.8, 0.5, 1, 0.50, 0, 80),
        ("b", "insult", 4, 0, 0.4, 0.2, 0, 0, 0.0, 0.0, 0, 1.00, 1, 40),
        ("c", "threat", 2, 1, 1.0, 0.8, 1, 2, 1.8, 0.9, 1, 0.75, 2, 2),
    ]
    of_classifiers = [f"{name}_{one}" for one in ("words", "model") for name in ("toxic", "score", "maximum", "any")]
    columns = ["subject", "attribute", "samples", *of_classifiers, "distinct_2", "empty", "tokens"]
    scores = pd.DataFrame(rows, columns=columns).assign(**described("base"))
    table = statistics.estimates(scores, "toxicity", Resampling(200, 0, forget=("insult", "threat")))
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
    assert cell(table, "insult", "toxic_share_words")["low"] == 0  # twice the prompt without toxic continuations
    assert set(table["evaluation"]) == {"toxicity"}
    neutral = statistics.estimates(scores.assign(attribute=""), "toxicity_neutral", Resampling(200, 0))
    assert list(neutral["metric"]) == list(expected) and set(neutral["attribute"]) == {""}
    assert cell(neutral, "", "toxic_share_words")["value"] == pytest.approx(4 / 10)


# Differences between candidates


def test_paired_difference_equals_scipys():
    scores = all_candidates(knowledge, seeds=("0",))
    table = statistics.comparisons(scores, "knowledge", RESAMPLING)
    one, joint = (scores[scores["candidate"] == f"rmu/{name}/seed0"] for name in ("attribute/merge/ties", "joint"))

    def difference(first, second, axis):
        return first.mean(axis=axis) - second.mean(axis=axis)

    row = cell(table, "Asia", "accuracy_minus_joint", candidate="rmu/attribute/merge/ties/seed0")
    samples = column(one, "Asia"), column(joint, "Asia")
    assert row["value"] == pytest.approx(difference(*samples, axis=0))
    assert_agrees(row, *scipys(samples, difference, paired=True))


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
    table = statistics.comparisons(pd.concat(tables, ignore_index=True), "knowledge", Resampling(100, 0, ("Africa",)))
    for number, random, joint in (("", 0.2, 0.1), ("-2", 0.2, -0.2)):
        path = f"{of['attribute', number]}/seed0"
        assert cell(table, metric="accuracy_minus_random", candidate=path)["value"] == pytest.approx(random)
        assert cell(table, metric="accuracy_minus_joint", candidate=path)["value"] == pytest.approx(joint)
    of_random = table[table["candidate"] == f"{of['random', '-2']}/seed0"]
    assert "accuracy_minus_joint" in set(of_random["metric"])
    assert not of_random["metric"].str.contains("minus_random").any()


def test_pairing_removes_what_candidates_have_in_common():
    """Where one candidate is the other less 0.1, the difference has no spread at all."""
    values = {"Africa": np.random.default_rng(0).beta(2, 3, size=50)}
    shifted = {"Africa": values["Africa"] - 0.1}
    scores = pd.concat([knowledge("base", values=values), knowledge("rmu/joint", "0", shifted)], ignore_index=True)
    row = cell(
        statistics.comparisons(scores, "knowledge", RESAMPLING),
        metric="accuracy_minus_base",
        candidate="rmu/joint/seed0",
    )
    assert [row["low"], row["value"], row["high"]] == pytest.approx([-0.1] * 3)


def test_paired_difference_of_perplexities_equals_scipys():
    scores = all_candidates(prose, seeds=("0",)).assign(tokens=prose("base")["tokens"].tolist() * 6)
    base, one = (scores[scores["candidate"] == name] for name in ("base", "rmu/random/merge/ties/seed0"))

    def difference(loss, other, tokens, axis):
        total = tokens.sum(axis=axis)
        return np.exp(loss.sum(axis=axis) / total) - np.exp(other.sum(axis=axis) / total)

    samples = tuple(frame.to_numpy(float) for frame in (one["loss"], base["loss"], one["tokens"]))
    table = statistics.comparisons(scores, "fluency", RESAMPLING, PERPLEXITY)
    row = cell(table, "", "perplexity_minus_base", candidate="rmu/random/merge/ties/seed0")
    assert row["value"] == pytest.approx(difference(*samples, axis=0))
    assert_agrees(row, *scipys(samples, difference, paired=True))


@pytest.mark.parametrize(
    ("make", "evaluation", "metric"), [(knowledge, "knowledge", "accuracy"), (prose, "fluency", "perplexity")]
)
def test_every_candidate_is_compared_with_its_rivals_and_no_others(make, evaluation, metric):
    scores = all_candidates(make)
    few = Resampling(200, 0, RESAMPLING.forget, RESAMPLING.retain)
    metrics = PERPLEXITY if evaluation == "fluency" else None
    own = statistics.estimates(scores, evaluation, few, metrics)
    table = statistics.comparisons(scores, evaluation, few, metrics)
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
    assert list(whole.columns) == statistics.COLUMNS
    values = whole.set_index(["candidate", "attribute", "metric"])["value"]
    paths = {"base": "base", "joint": "rmu/joint", "random": "rmu/random/merge/ties"}
    for name, of_name in rivals.items():
        for suffix in ("/seed0", "/seed1", "/seed2", ""):
            rows = table[table["candidate"] == name + suffix]
            assert set(rows["seed"]) == {suffix.removeprefix("/seed") or "all"}
            assert (set(rows["method"]), set(rows["merge"])) == ({"rmu"}, {CANDIDATES[name][3]})
            found = {one for one in rows["metric"] if one.startswith(f"{metric}_minus_")}
            found = {one for one in found if not one.endswith("_fixed_seeds")}  # test_power.py
            assert found == {f"{metric}_minus_{rival}" for rival in of_name}
            assert (metric in set(rows["metric"])) == (suffix == "")  # estimates of single seeds are not repeated
            for rival in of_name:
                path = paths[rival] + (suffix if rival != "base" else "")
                for attribute in rows["attribute"].unique():
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
    table = statistics.comparisons(pd.concat(scores), "knowledge", Resampling(100, 0))
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
    table = statistics.comparisons(pd.concat(scores), "knowledge", RESAMPLING)
    return cell(table, "Africa", "accuracy", candidate="rmu/joint", seed="all")


def test_combined_seeds_by_a_plain_double_bootstrap():
    by_seed = np.random.default_rng(0).beta(2, 3, size=(3, 50)) + np.array([[0.0], [0.1], [0.3]])
    row = combined(by_seed)
    generator = np.random.default_rng(5)
    means = [
        by_seed[generator.integers(0, 3, size=3)][:, generator.integers(0, 50, size=50)].mean()
        for _ in range(RESAMPLES)
    ]
    assert row["value"] == pytest.approx(by_seed.mean())
    assert row["n"] == 50
    assert_agrees(row, *np.percentile(means, [2.5, 97.5]), np.std(means))


def test_seeds_that_disagree_widen_the_interval():
    subjects = np.random.default_rng(0).beta(2, 3, size=50)
    agreeing, disagreeing = combined([subjects] * 3), combined([subjects - 0.2, subjects, subjects + 0.2])
    assert agreeing["value"] == pytest.approx(disagreeing["value"])
    assert_agrees(agreeing, *scipys((subjects,), np.mean))  # seeds that agree add nothing
    assert disagreeing["high"] - disagreeing["low"] > 1.5 * (agreeing["high"] - agreeing["low"])


def test_subjects_alike_leave_the_spread_of_seeds_alone():
    """Three draws out of three seeds are all the lowest one time in 27, more often than 2.5 %: so it is the limit."""
    row = combined([np.full(50, 0.1), np.full(50, 0.3), np.full(50, 0.8)])
    assert [row["low"], row["value"], row["high"]] == pytest.approx([0.1, 0.4, 0.8])


# Parts


def test_resample_counts_draw_as_many_as_there_are():
    counts = statistics.resample_counts(30, 1000, 0, "a")
    assert counts.shape == (1001, 30)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 30).all()
    assert counts[1:].var() == pytest.approx(1 - 1 / 30, rel=0.05)  # multinomial with one expected draw each
    assert (counts == statistics.resample_counts(30, 1000, 0, "a")).all()
    for other in (statistics.resample_counts(30, 1000, 0, "b"), statistics.resample_counts(30, 1000, 1, "a")):
        correlation = np.corrcoef(counts[1:].ravel(), other[1:].ravel())[0, 1]
        assert abs(correlation) < 0.03


def test_resampled_sums_by_hand():
    # Two seeds, two subjects, two columns; the second resample draws the first subject and the second seed twice.
    values = np.array([[[1.0, 1.0], [2.0, 1.0]], [[3.0, 2.0], [4.0, 4.0]]])
    found = statistics.resampled_sums(values, np.array([[1, 1], [2, 0]]), np.array([[1, 1], [0, 2]]))
    assert found.tolist() == [[10, 8], [2 * 2 * 3, 2 * 2 * 2]]


def test_resampling_takes_attributes_asked_about_and_counts_the_rest_as_retained():
    scores = pd.DataFrame({"attribute": ["Africa", "Europe", "Africa", "", "Americas"]})
    forget = [{"attribute": "Asia", "texts": 3}, {"attribute": "Africa", "texts": 4}]
    found = statistics.resampling(scores, forget, {"resamples": 100, "seed": 5})
    assert found == Resampling(100, 5, forget=("Africa",), retain=("Europe", "Americas"))


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
        assert list(table.columns) == statistics.COLUMNS
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
    assert list(table.columns) == statistics.COLUMNS


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
    resampling = Resampling(100, 0, forget=("Africa", "Asia"), retain=("Europe", "Americas"))
    whole = statistics.estimates(all_candidates(knowledge), "knowledge", resampling)
    single = statistics.estimates(scores, "knowledge", resampling)
    lost = single[single["value"].isna()]
    assert set(zip(lost["candidate"], lost["attribute"], lost["metric"], strict=True)) == {
        ("rmu/joint/seed1", name, "accuracy") for name in ("Africa", FORGET_MEAN, DIFFERENCE)
    }
    assert lost[["low", "high"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(single.drop(lost.index), whole.drop(lost.index))
    combined = statistics.comparisons(scores, "knowledge", resampling)
    joint = combined[(combined["candidate"] == "rmu/joint") & (combined["metric"] == "accuracy")]
    assert joint.set_index("attribute")["value"].isna().to_dict() == {
        "Africa": True, "Asia": False, "Europe": False, "Americas": False,
        FORGET_MEAN: True, RETAIN_MEAN: False, DIFFERENCE: True,
    }  # fmt: skip
    # Its rivals' differences from it are none, too.
    spunge = cell(combined, metric="accuracy_minus_joint", candidate="rmu/attribute/merge/ties")
    assert np.isnan(spunge[["value", "low", "high"]].astype(float)).all()


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf, 1e306])
def test_a_perplexity_beyond_all_numbers_is_none(loss):
    """A sum that skips NaN would be 0, and the perplexity of a broken model 1, the best there is."""
    texts = prose("base", texts=3).assign(loss=[50.0, loss, 60.0], tokens=20)
    found = statistics.estimates(texts, "fluency", Resampling(100, 0), PERPLEXITY)
    assert np.isnan(found[["value", "low", "high"]].astype(float)).all(axis=None)
