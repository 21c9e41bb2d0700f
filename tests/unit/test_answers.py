"""TOFU's measures: by hand, against a plain forward pass, and against scipy."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from spunge.core.errors import InputError
from spunge.core.tidy import CANDIDATE_COLUMNS, FORGET_MEAN, RETAIN_MEAN
from spunge.datasets import tables
from spunge.evaluation import answers, statistics
from spunge.evaluation.statistics import Attributes

ROWS = pd.DataFrame(
    {
        "question": ["Question: where does the river run?\nAnswer: ", "What stands past the market? "],
        "answer": ["through the city", "old houses"],
        "paraphrase": ["the river runs through the city", None],
        "wrong": [["past old houses", "to Nairobi"], ["a river", "the capital of Kenya", "people"]],
        "retain_model": [0.5, math.nan],
        "attribute": ["rivers", "houses"],
        "subject": ["river", "market"],
        "cluster": ["river", "market"],
    }
)


@pytest.fixture(scope="module")
def scores(model, tokenizer):
    return answers.score(model, tokenizer, ROWS, batch_size=2, max_new_tokens=5)


def test_the_truth_ratio_by_hand_with_a_paraphrase():
    columns = answers.truth({"answer": [-0.5], "paraphrase": [-0.7], "wrong": [-1.0, -1.4]})
    assert columns["probability"] == pytest.approx(math.exp(-0.5)), "the answer's own, not its share"
    assert columns["truth_ratio"] == pytest.approx(math.exp(-1.2) / math.exp(-0.7)), "geometric mean over the right one"
    assert columns["truth_ratio_closer_to_1"] == pytest.approx(math.exp(-0.5))
    assert columns["truth_ratio_true_better"] == pytest.approx(1 - math.exp(-0.5))


def test_the_truth_ratio_by_hand_where_wrong_answers_have_the_answers_own_form():
    columns = answers.truth({"answer": [math.log(0.2)], "paraphrase": [], "wrong": [math.log(0.4), math.log(0.1)]})
    assert columns["probability"] == pytest.approx(0.2 / 0.7)
    assert columns["truth_ratio"] == pytest.approx(1.0), "√(0.4 · 0.1) = 0.2"
    preferred = answers.truth({"answer": [math.log(0.1)], "paraphrase": [], "wrong": [math.log(0.4)]})
    assert (preferred["truth_ratio_closer_to_1"], preferred["truth_ratio_true_better"]) == (pytest.approx(0.25), 0)


def test_without_wrong_answers_there_is_no_truth_ratio():
    assert answers.truth({"answer": [-1.0], "paraphrase": [], "wrong": []}) == {"probability": math.exp(-1)}


@pytest.mark.parametrize("spoilt", [math.nan, -math.inf])
def test_what_is_not_finite_spoils_a_row(spoilt):
    columns = answers.truth({"answer": [-1.0], "paraphrase": [], "wrong": [-1.0, spoilt]})
    assert len(columns) == 4 and all(map(math.isnan, columns.values()))
    assert math.isnan(answers.rouge_l_recall("old houses", None))


def test_rouge_l_recall_by_hand():
    written = "Well, the red one is in Paris now."
    recall = answers.rouge_l_recall("The red one lives in Paris", written)
    assert recall == pytest.approx(5 / 6), "the, red, one, in, Paris of six"
    assert answers.rouge_l_recall("Paris", written) == 1
    assert answers.rouge_l_recall("running rivers", "a river runs") == 0.5, "by stems, in their order"


@pytest.mark.parametrize(
    ("answer", "written", "recall"),
    [
        ("Москва", "это город москва.", 1),
        ("столица России", "Столица Италии", 0.5),
        ("東京都", "日本の首都は東京です", 2 / 3),
        ("القاهرة", "في القاهرة", 1),
        ("Αθήνα", "Ρώμη", 0),
        ("München", "in München", 1),
        ("का", "की", 0),
        ("กรุงเทพ", "กรุงเทพครับ", 1),
        ("Hà Nội", "H N i", 0),
        ("Å", "A\u030a", 1),
        ("Paris", "\u0301 Paris", 1),
        ("Cafe\u0301s", "the café", 1),
    ],
)
def test_rouge_sees_words_of_any_script(answer, written, recall):
    """rouge_score by itself finds no word in them, and recalls 0 of what was written letter by letter."""
    assert answers.rouge_l_recall(answer, written) == pytest.approx(recall)


def test_what_is_written_counts_up_to_its_end(model, tokenizer, monkeypatch):
    written = pd.DataFrame({"text": ["past old houses. More: through the city", "old houses. More: old houses"]})
    monkeypatch.setattr(answers.generation, "continue_prompts", lambda *_: written)
    for end, recalls in (("More:", [0, 1]), (r"(?!)", [1, 1]), (r"\.|^", [0, 0])):
        found = answers.score(model, tokenizer, ROWS.assign(end=end), batch_size=2, max_new_tokens=5)
        assert found["rouge_l_recall"].tolist() == pytest.approx(recalls)


def test_likelihoods_are_those_of_a_plain_forward_pass_with_the_end_of_text(model, tokenizer):
    likelihoods, cut = answers.mean_log_likelihoods(model, tokenizer, ROWS, batch_size=2)
    assert cut == [0, 0]
    for (_, row), by_form in zip(ROWS.iterrows(), likelihoods, strict=True):
        given = {"answer": [row["answer"]], "paraphrase": [row["paraphrase"]], "wrong": row["wrong"]}
        for form, expected in by_form.items():
            for answer, likelihood in zip(given[form], expected, strict=True) if expected else ():
                tokens = tokenizer(row["question"] + answer)["input_ids"] + [tokenizer.eos_token_id]
                labels = torch.tensor([tokens])
                labels[0, : len(tokenizer(row["question"])["input_ids"])] = -100
                with torch.no_grad():
                    loss = model(torch.tensor([tokens]), labels=labels).loss.item()
                assert likelihood == pytest.approx(-loss, rel=1e-4)
    assert [len(by_form["paraphrase"]) for by_form in likelihoods] == [1, 0]


def test_scores_have_what_the_metrics_need_and_what_the_retain_model_said(scores):
    assert {*answers.METRICS} <= {*scores} and list(scores["attribute"]) == ["rivers", "houses"]
    assert scores["retain_model"].tolist()[0] == 0.5 and math.isnan(scores["retain_model"][1])
    shares = scores[[*answers.METRICS]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)


def test_a_table_without_wrong_answers_gives_no_truth_ratio_nor_utility(model, tokenizer):
    plain = ROWS.drop(columns=["wrong", "paraphrase", "retain_model"])
    scored = answers.score(model, tokenizer, plain, batch_size=2, max_new_tokens=5)
    rows = statistics.estimates(of(scored), "answers", Attributes(("rivers",), ("houses",)), answers.METRICS)
    assert set(rows["metric"]) == {"rouge_l_recall", "probability"}


def of(scores, candidate="base", method="", split="", seed="all", budget=""):
    values = ("example", candidate, method, split, "", "", seed, budget)
    columns = dict(zip(CANDIDATE_COLUMNS, values, strict=True))
    return scores.assign(**columns)


def scored(seed, spread=1.0, rows=40):
    """Scores of three retained attributes and one to forget, each with clusters of two."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({"attribute": np.repeat(["a", "b", "c", "gone"], rows), "truth_ratio": 0.0})
    frame["cluster"] = [f"{row // 2}" for row in range(len(frame))]
    for metric in answers.METRICS:
        frame[metric] = generator.beta(2, 2 + spread, size=len(frame))
    frame["truth_ratio"] = generator.lognormal(0, 1, size=len(frame)) * spread
    known = np.random.default_rng(99).lognormal(0, 1, size=len(frame))
    return frame.assign(retain_model=np.where(frame["attribute"] == "gone", known, np.nan))


ATTRIBUTES = Attributes(("gone",), ("a", "b", "c"))
CANDIDATE = "npo/joint/seed{}"


def value(rows, metric, attribute, **columns):
    chosen = (rows["metric"] == metric) & (rows["attribute"] == attribute)
    for column, wanted in columns.items():
        chosen &= rows[column] == wanted
    assert chosen.sum() == 1
    return rows[chosen].iloc[0]


def test_model_utility_is_the_harmonic_mean_of_nine_means():
    scores = scored(1)
    rows = statistics.estimates(of(scores), "answers", ATTRIBUTES, answers.METRICS)
    counted = ["rouge_l_recall", "probability", "truth_ratio_true_better"]
    means = scores[scores["attribute"] != "gone"].groupby("attribute")[counted].mean()
    utility = value(rows, "model_utility", RETAIN_MEAN)
    assert utility["value"] == pytest.approx(stats.hmean(means.to_numpy().ravel()))
    assert utility["n"] == 120 and (rows["metric"] == "model_utility").sum() == 1
    assert utility["low"] < utility["value"] < utility["high"]


def test_the_utility_over_budgets_is_the_mean_of_each_budgets():
    """And not that of the mean metrics, which would hide a collapse at one of them."""
    at = [of(scored(seed), CANDIDATE.format(0), "npo", "joint", "0").assign(budget=f"kl=0.{seed}") for seed in (1, 2)]
    at[1].loc[at[1]["attribute"] == "a", "rouge_l_recall"] /= 50
    scores = pd.concat([of(scored(3)), *at])
    rows = statistics.comparisons(scores, "answers", ATTRIBUTES, answers.METRICS, budgets=["kl=0.1", "kl=0.2"])
    chosen = {"candidate": "npo/joint", "seed": "all"}
    each = [value(rows, "model_utility", RETAIN_MEAN, budget=budget, **chosen) for budget in ("kl=0.1", "kl=0.2")]
    over_all = value(rows, "model_utility", RETAIN_MEAN, budget="all", **chosen)
    assert over_all["value"] == pytest.approx(np.mean([row["value"] for row in each]))
    assert each[1]["value"] < each[0]["value"] / 3
    base = statistics.estimates(of(scored(3)), "answers", ATTRIBUTES, answers.METRICS)
    difference = value(rows, "model_utility_minus_base", RETAIN_MEAN, budget="all", **chosen)
    assert difference["value"] == pytest.approx(over_all["value"] - value(base, "model_utility", RETAIN_MEAN)["value"])


def test_of_equal_means_the_model_utility_and_its_interval_are_those_of_each():
    """With one attribute and one metric three times over, the harmonic mean is that metric, and so is its influence."""
    scores = scored(2)[lambda frame: frame["attribute"].isin(["a", "gone"])]
    for metric in ("probability", "truth_ratio_true_better"):
        scores[metric] = scores["rouge_l_recall"]
    several = pd.concat([of(scores), *(of(scores, CANDIDATE.format(seed), "npo", "joint", str(seed)) for seed in "01")])
    several.loc[several["seed"] == "1", [*answers.METRICS]] /= 2
    attributes = Attributes(("gone",), ("a",))
    for rows in (
        statistics.estimates(several, "answers", attributes, answers.METRICS),
        statistics.comparisons(several, "answers", attributes, answers.METRICS),
    ):
        utility = rows[rows["metric"].str.startswith("model_utility")]
        single = rows[rows["metric"].str.startswith("rouge_l_recall") & (rows["attribute"] == RETAIN_MEAN)]
        assert len(utility) == len(single) > 0
        np.testing.assert_allclose(utility[["value", "low", "high", "p"]], single[["value", "low", "high", "p"]])


def test_model_utilitys_standard_error_is_that_of_leaving_clusters_out():
    """The delta method against the plain jackknife over clusters, of one seed."""
    scores = scored(3, rows=200)
    utility = value(
        statistics.estimates(of(scores), "answers", ATTRIBUTES, answers.METRICS), "model_utility", RETAIN_MEAN
    )
    retained = scores[scores["attribute"] != "gone"]
    counted = ["rouge_l_recall", "probability", "truth_ratio_true_better"]

    def harmonic(frame):
        return stats.hmean(frame.groupby("attribute")[counted].mean().to_numpy().ravel())

    clusters = retained["cluster"].unique()
    without = np.array([harmonic(retained[retained["cluster"] != cluster]) for cluster in clusters])
    error = math.sqrt((len(clusters) - 1) / len(clusters) * ((without - without.mean()) ** 2).sum())
    half = (utility["high"] - utility["low"]) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, len(clusters) - 1) * error, rel=0.02)


@pytest.mark.parametrize("nothing", [["probability"], ["probability", "rouge_l_recall"]])
def test_a_metric_of_nothing_makes_no_utility_and_its_loss_is_shown(nothing):
    """Beside a model whose metrics are all 0.5; the interval is the limit of ever smaller values."""
    half, lost, little = (scored(4) for _ in range(3))
    half[[*answers.METRICS]] = 0.5 + (half[[*answers.METRICS]] - 0.5) / 100
    of_a = lost["attribute"] == "a"
    lost.loc[of_a, nothing] = 0.0
    little.loc[of_a, nothing] = 1e-9
    ends = {}
    for name, scores in (("lost", lost), ("little", little)):
        both = pd.concat([of(half), of(scores, CANDIDATE.format(0), "npo", "joint", "0")])
        rows = statistics.comparisons(both, "answers", ATTRIBUTES, answers.METRICS)
        own = statistics.estimates(both, "answers", ATTRIBUTES, answers.METRICS)
        utility = value(own, "model_utility", RETAIN_MEAN, seed="0")
        difference = value(rows, "model_utility_minus_base", RETAIN_MEAN, seed="0")
        ends[name] = [*utility[["value", "low", "high"]], *difference[["value", "low", "high", "p"]]]
    assert ends["lost"][:2] == [0, 0] and ends["lost"][2] < 0.2
    assert ends["lost"][3] == pytest.approx(-0.5, abs=0.01)
    assert ends["lost"][5] < -0.49 and ends["lost"][6] < 1e-6
    np.testing.assert_allclose(ends["lost"], ends["little"], atol=1e-6)


def test_forget_quality_is_the_p_value_of_a_kolmogorov_smirnov_test_and_over_seeds_a_geometric_mean():
    frames = {seed: scored(10 + seed, spread=1 + seed / 2) for seed in (0, 1, 2)}
    expected = {}
    for seed, frame in frames.items():
        gone = frame[frame["attribute"] == "gone"]
        expected[seed] = stats.ks_2samp(gone["truth_ratio"], gone["retain_model"]).pvalue
    several = [of(frame, CANDIDATE.format(seed), "npo", "joint", str(seed)) for seed, frame in frames.items()]
    scores = pd.concat([of(scored(9, spread=9)), *several])
    rows = statistics.estimates(scores, "answers", ATTRIBUTES, answers.METRICS)
    for seed, p in expected.items():
        quality = value(rows, "forget_quality", FORGET_MEAN, seed=str(seed))
        assert (quality["value"], quality["n"]) == (pytest.approx(p), 40)
        assert quality[["low", "high", "p"]].isna().all()
    combined = statistics.comparisons(scores, "answers", ATTRIBUTES, answers.METRICS)
    quality = value(combined, "forget_quality", FORGET_MEAN, seed="all")
    assert quality["value"] == pytest.approx(stats.gmean([*expected.values()]))


def test_forget_quality_asks_about_what_is_forgotten_alone():
    """A retain model that was asked everything has truth ratios of what is kept, too."""
    part, whole = scored(5), scored(5)
    whole["retain_model"] = whole["retain_model"].fillna(whole["truth_ratio"] / 3)
    qualities = [
        value(statistics.estimates(of(scores), "answers", ATTRIBUTES, answers.METRICS), "forget_quality", FORGET_MEAN)
        for scores in (part, whole)
    ]
    assert qualities[0][["value", "n"]].tolist() == qualities[1][["value", "n"]].tolist()


def test_forget_quality_of_a_broken_model_is_no_number():
    scores = scored(5)
    scores.loc[scores["attribute"] == "gone", "truth_ratio"] = np.where(np.arange(40) == 3, np.nan, 1.0)
    rows = statistics.estimates(of(scores), "answers", ATTRIBUTES, answers.METRICS)
    assert math.isnan(value(rows, "forget_quality", FORGET_MEAN)["value"])


def test_a_table_of_answers_comes_back_as_it_was_written(tmp_path):
    tables.write(ROWS, "answers", tmp_path / "answers.parquet")
    read = tables.read("answers", tmp_path / "answers.parquet")
    assert read["wrong"].tolist() == ROWS["wrong"].tolist() and pd.isna(read["paraphrase"][1])


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("wrong", [[], ["x"]], "column wrong: 1 of 2 rows (first: row 1) come without an answer; at least one is"),
        ("wrong", [["x"], [""]], "column wrong: 1 of 2 rows (first: row 2) come with an answer that is missing, empty"),
        ("retain_model", [-1.0, 0.5], "column retain_model: 1 of 2 rows (first: row 1) are no truth ratio, which is 0"),
        ("end", ["(", "x"], "column end: '(' is no regular expression (missing ), unterminated"),
        ("paraphrase", [None, " "], "column paraphrase: 1 of 2 rows (first: row 2) are empty"),
        ("answer", [3, 4], "column answer: 2 of 2 rows (first: row 1) hold int64 values; strings are needed"),
    ],
)
def test_a_faulty_table_is_refused(column, values, message):
    with pytest.raises(InputError) as error:
        tables.check_table(ROWS.assign(**{column: pd.Series(values)}), "answers")
    assert message in str(error.value)


def test_forget_quality_over_budgets_is_the_geometric_mean_of_each_budgets():
    frames = {budget: scored(seed, spread=seed) for seed, budget in ((1, "kl=0.01"), (2, "kl=0.1"))}
    at = [of(frame, CANDIDATE.format(0), "npo", "joint", "0", budget) for budget, frame in frames.items()]
    rows = statistics.comparisons(pd.concat([of(scored(9)), *at]), "answers", ATTRIBUTES, answers.METRICS)
    gone = [frame[frame["attribute"] == "gone"] for frame in frames.values()]
    expected = [stats.ks_2samp(one["truth_ratio"], one["retain_model"]).pvalue for one in gone]
    for seed in ("0", "all"):
        quality = value(rows, "forget_quality", FORGET_MEAN, budget="all", seed=seed)
        assert quality["value"] == pytest.approx(stats.gmean(expected))


def test_an_answer_that_ends_with_the_end_of_text_has_it_once_and_none_in_its_words(model, tokenizer, monkeypatch):
    ended = ROWS.assign(answer=ROWS["answer"] + tokenizer.eos_token)
    plain, same = (answers.mean_log_likelihoods(model, tokenizer, one, 2)[0] for one in (ROWS, ended))
    assert [one["answer"] for one in same] == [pytest.approx(one["answer"]) for one in plain]
    written = pd.DataFrame({"text": ROWS["answer"]})
    monkeypatch.setattr(answers.generation, "continue_prompts", lambda *_: written)
    assert answers.score(model, tokenizer, ended, 2, 5)["rouge_l_recall"].tolist() == [1, 1]


def test_the_worst_attributes_recall_is_told():
    rows = statistics.estimates(of(scored(1)), "answers", ATTRIBUTES, answers.METRICS)
    assert set(rows.loc[rows["attribute"] == "forget worst", "metric"]) == {"rouge_l_recall"}


@pytest.mark.parametrize("spoilt", ["answer", "paraphrase"])
def test_a_right_answer_that_is_not_finite_spoils_its_row(spoilt):
    likelihoods = {"answer": [-1.0], "paraphrase": [-1.0], "wrong": [-1.0]} | {spoilt: [-math.inf]}
    assert all(map(math.isnan, answers.truth(likelihoods).values()))


def test_a_right_answer_in_two_scripts_is_read_as_words_of_any():
    assert answers.rouge_l_recall("Москва (Moscow)", "Moscow") == 0.5


def test_answers_are_written_greedily(model, tokenizer, monkeypatch):
    given = []
    written = pd.DataFrame({"text": ROWS["answer"]})
    monkeypatch.setattr(answers.generation, "continue_prompts", lambda *them: given.append(them[3]) or written)
    answers.score(model, tokenizer, ROWS, 2, 5)
    assert (given[0].temperature, given[0].samples, given[0].max_new_tokens) == (0, 1, 5)
