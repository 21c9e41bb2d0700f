import html
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest
import toxicity_example
from evaluations_example import example, without_budget

from scripts import findings as findings_script
from spunge.report import comparisons, durability, explore, findings, results_table, verdict
from spunge.report.results_table import COMBINED, Estimate

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "report" / "findings.html").read_text(encoding="utf-8")
NOTHING = float("nan")


def page(table):
    return findings.page(table, TEMPLATE, b"a picture")


def with_difference(table, rival, attribute, value, low, high, p=NOTHING):
    """Return the table with another difference between the merged attribute split and a rival, all budgets together."""
    rows = (table["metric"] == f"accuracy_minus_{rival}") & (table["attribute"] == attribute)
    rows &= (table["split"] == "attribute") & (table["merge"] != "") & (table["seed"] == "all")
    rows &= table["budget"].isin(["", "all"])
    table.loc[rows, ["value", "low", "high", "p"]] = (value, low, high, p)
    return table


@pytest.mark.parametrize(
    ("value", "low", "high", "better", "expected"),
    [
        (0.2, 0.1, 0.3, 1, "better"),
        (0.2, 0.1, 0.3, -1, "worse"),
        (-0.2, -0.3, -0.1, 1, "worse"),
        (-0.2, -0.3, -0.1, -1, "better"),
        (0.2, -0.1, 0.3, 1, "not shown"),
        (0.2, 0.0, 0.3, 1, "not shown"),
        (0.0, 0.0, 0.0, 1, "not shown"),
        (-0.2, -0.5, 0.1, 1, "not shown; the estimate is worse"),
        (0.2, -0.1, 0.5, -1, "not shown; the estimate is worse"),
        (0.2, NOTHING, NOTHING, 1, "not shown"),
        (NOTHING, NOTHING, NOTHING, 1, "not measured"),
    ],
)
def test_a_verdict_follows_from_interval_and_direction(value, low, high, better, expected):
    assert verdict.verdict(Estimate(value, low, high), better) == expected


def test_a_corrected_p_value_decides_instead_of_the_interval():
    difference = Estimate(0.2, 0.1, 0.3)
    assert verdict.verdict(difference, -1, p=0.049) == "worse"
    assert verdict.verdict(difference, -1, p=0.051) == "not shown; the estimate is worse"


def test_a_broken_model_is_never_better():
    for broken in ("broken", "the rival is broken"):
        assert verdict.verdict(Estimate(-0.2, -0.3, -0.1), -1, broken) == broken
        # A broken model's numbers may be none at all: that is no lack of a measurement.
        assert verdict.direction(Estimate(NOTHING, NOTHING, NOTHING), broken) == broken
        assert verdict.edit_verdict(Estimate(-0.2, -0.3, -0.1), Estimate(-0.2, -0.3, -0.1), broken) == broken


LOW, OPEN, HIGH = Estimate(-0.2, -0.3, -0.1), Estimate(-0.01, -0.1, 0.08), Estimate(0.2, 0.1, 0.3)


@pytest.mark.parametrize(
    ("forgotten", "lost", "expected"),
    [
        (LOW, LOW, "better"),
        (HIGH, HIGH, "worse"),
        (LOW, HIGH, "stronger edit"),
        (LOW, OPEN, "stronger edit"),
        (HIGH, LOW, "weaker edit"),
        (HIGH, OPEN, "weaker edit"),
        (OPEN, HIGH, "not shown"),
        (OPEN, OPEN, "not shown"),
        (Estimate(NOTHING, NOTHING, NOTHING), LOW, "not measured"),
    ],
)
def test_as_trained_a_model_is_better_only_if_it_forgot_more_and_lost_less(forgotten, lost, expected):
    """What is left of the forget set and what was lost: lower is better of both."""
    assert verdict.edit_verdict(forgotten, lost) == expected


def test_p_values_are_corrected_as_by_holm():
    """Holm 1979, by hand: sorted .01, .02, .03, .04 times 4, 3, 2, 1, and never below the one before."""
    assert verdict.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert verdict.holm([0.5, 0.9]) == [1.0, 1.0]
    assert verdict.holm([0.6, 0.9]) == [1.0, 1.0]
    corrected = verdict.holm([0.01, NOTHING, 0.04])
    assert corrected[0::2] == pytest.approx([0.02, 0.04]) and math.isnan(corrected[1])


def test_verdicts_hold_the_differences_of_the_table():
    judged = comparisons.verdicts(example()).set_index(["rival", "measure"])
    assert len(judged) == 2 * 3
    # By the prototype's numbers: SPUNGE .257 / .759, joint .226 / .621, random .284 / .675 (forget / retain).
    expected = {
        ("joint", "forget mean accuracy"): (0.031, "not shown"),
        ("joint", "retain mean accuracy"): (0.137, "higher"),
        ("random", "forget mean accuracy"): (-0.027, "not shown"),
        ("random", "retain mean accuracy"): (0.083, "higher"),
        ("joint", "perplexity"): (0.25, "not shown"),
        ("random", "perplexity"): (-0.45, "lower"),
    }
    for key, (difference, word) in expected.items():
        assert judged.loc[key, "difference"] == pytest.approx(difference, abs=1e-3)
        assert judged.loc[key, "verdict"] == word
        assert judged.loc[key, "seeds"] == 2
    judged = comparisons.verdicts(example(methods=("rmu", "tvn"), merges=("ties", "dare")))
    assert len(judged) == 4 * 2 * 3


def test_the_answer_as_trained_tells_a_stronger_edit_from_a_better_one():
    table = with_difference(example(), "joint", "forget mean", -0.1, -0.2, -0.05)
    table = with_difference(table, "joint", "retain mean", -0.1, -0.15, -0.02)
    table = with_difference(table, "random", "forget mean", -0.1, -0.2, -0.02)
    table = with_difference(table, "random", "retain mean", 0.1, 0.02, 0.2)
    (answer,) = map(str, findings.answers(table))
    assert "as trained and at equal compute" in answer
    assert (
        "is a stronger edit than unlearning everything at once, neither better nor worse (forget mean accuracy "
        "−10.0 points, 95 % interval −20.0 to −5.0; perplexity"
    ) in answer
    assert "retain mean accuracy −10.0 points, 95 % interval −15.0 to −2.0, seeds: 2)" in answer
    assert "did better than a random split" in answer
    assert "from 80.0% to 25.7% on what was to be forgotten" in answer
    assert "That it forgot anything at all is not shown." not in answer


BUDGETS = ("kl=0.01", "kl=0.03", "kl=0.1")


def test_at_equal_damage_the_mean_over_the_budgets_decides():
    table = with_difference(example(budgets=BUDGETS), "joint", "forget mean", 0.08, 0.02, 0.14, p=0.01)
    table = with_difference(table, "random", "forget mean", -0.05, -0.09, -0.01, p=0.02)
    judged = comparisons.verdicts(table)
    assert list(judged["comparison"].unique()) == ["at equal damage", *BUDGETS]  # nothing was measured as trained
    lines = judged.set_index(["comparison", "rival", "measure"])
    decisive = lines.loc["at equal damage"].xs("forget mean accuracy", level="measure")
    assert decisive["p"].to_dict() == pytest.approx({"joint": 0.02, "random": 0.02})
    assert decisive["verdict"].to_dict() == {"joint": "worse", "random": "better"}
    others = judged[(judged["comparison"] != "at equal damage") | (judged["measure"] != "forget mean accuracy")]
    assert not set(others["verdict"]) & {"better", "worse"}
    # By the example, the difference falls by a point from each budget to the next.
    at_each = [lines.loc[(budget, "joint", "forget mean accuracy"), "difference"] for budget in BUDGETS]
    assert at_each == pytest.approx([0.09, 0.08, 0.07], abs=1e-3) or at_each == pytest.approx(
        [0.041, 0.031, 0.021], abs=1e-3
    )
    (answer,) = map(str, findings.answers(table))
    assert answer.startswith(
        "With RMU, merged with TIES, at equal damage (KL of 0.01, 0.03 and 0.1 per token; the mean over all) and at "
        "equal compute, splitting by the attribute did worse than unlearning everything at once (forget mean accuracy "
        "+8.0 points, 95 % interval +2.0 to +14.0;"
    )
    assert "at the budgets one by one" in answer
    # By the example's numbers, its perplexity is shown lower than the random split's, and its kept accuracy higher.
    assert "though by another measure the damage isn't equal (perplexity −0.45" in answer


@pytest.mark.parametrize(("factor", "verdict"), [(1.9, "better"), (2.1, "broken")])
def test_a_model_that_breaks_at_one_budget_is_not_better_over_all(factor, verdict):
    """Though its mean perplexity over the budgets is not twice the base model's."""
    table = with_difference(example(budgets=BUDGETS), "joint", "forget mean", -0.08, -0.14, -0.02, p=0.001)
    base = table[(table["candidate"] == "base") & (table["metric"] == "perplexity")]["value"].item()
    at_largest = (table["candidate"] == "rmu/attribute/merge/ties") & (table["metric"] == "perplexity")
    table.loc[at_largest & (table["budget"] == "kl=0.1"), "value"] = factor * base
    judged = comparisons.verdicts(table).set_index(["comparison", "rival", "measure"])
    assert judged.loc[("at equal damage", "joint", "forget mean accuracy"), "verdict"] == verdict
    (answer,) = map(str, findings.answers(table))
    assert ("times the base model's, at kl=0.1" in answer) == (verdict == "broken")


def test_what_is_asked_at_one_budget_is_no_mean_over_all():
    """Benchmarks that carry the answer: their rows of `all` repeat the middle budget's."""
    table = example(budgets=BUDGETS)
    asked = table["evaluation"] == "knowledge"
    middle = table[asked & (table["budget"] == "kl=0.03")]
    repeated = middle.assign(budget="all")
    others = table[asked & (table["budget"] == "")]
    table = pandas.concat(
        [table[~asked], *(rows.assign(evaluation="benchmarks") for rows in (middle, repeated, others))]
    )
    (answer,) = map(str, findings.answers(table))
    assert "at equal damage (KL of 0.03 per token) and" in answer
    whole = page(table)
    assert "are means over the budgets, those of benchmarks of a KL of 0.03 per token alone." in whole
    assert "the mean over all" not in whole
    numbers, _ = explore.tables(table)
    by_candidates = (numbers["evaluation"] == "benchmarks") & (numbers["model"] != "base model")
    assert set(numbers[by_candidates]["budget"]) == {"kl=0.03"}
    # What is broken at other budgets isn't so where the answer is given.
    table.loc[(table["metric"] == "perplexity") & table["budget"].isin(["kl=0.1", "all"]), "value"] = 1e3
    assert not next(iter(comparisons.comparisons(table).values())).broken


def test_attacked_models_are_broken_where_they_are_at_the_budget_of_the_attacks():
    table = example(budgets=BUDGETS)
    asked = table[(table["evaluation"] == "knowledge") & table["budget"].isin(["kl=0.03", ""])]
    attacked = [
        pandas.concat([asked, asked[asked["budget"] != ""].assign(budget="all")]).assign(evaluation=name)
        for name in ("as_unlearned", "quantised_4bit")
    ]
    table = pandas.concat([table, *attacked], ignore_index=True)
    perplexity = (table["metric"] == "perplexity") & (table["candidate"] == "rmu/attribute/merge/ties")
    for budget, broken in (("kl=0.1", False), ("kl=0.03", True)):
        worse = table.assign(value=table["value"].mask(perplexity & table["budget"].isin([budget, "all"]), 1e3))
        lines = durability.after_attacks(results_table.as_made(worse, "as_unlearned"))
        assert {line["joint_kind"] == "broken" for line in lines} == {broken}


@pytest.mark.parametrize(("low", "told"), [(0.02, True), (-0.02, False)])
def test_a_budget_that_other_texts_dont_confirm_is_told_beside_the_verdict(low, told):
    table = with_difference(example(budgets=BUDGETS), "joint", "forget mean", 0.08, 0.02, 0.14, p=0.01)
    difference = table[(table["metric"] == "accuracy_minus_joint") & (table["attribute"] == "forget mean")]
    facts = {"evaluation": "budget", "metric": "kl_held_out_minus_joint", "attribute": "", "value": 0.05}
    table = pandas.concat([table, difference.assign(**facts, low=low, high=0.08)], ignore_index=True)
    (answer,) = map(str, findings.answers(table))
    assert ("the damage isn't equal (held-out KL +0.050, 95 % interval +0.020 to +0.080" in answer) == told
    line = comparisons.verdicts(table).set_index(["comparison", "rival", "measure"])
    assert line.loc[("at equal damage", "joint", "held-out KL"), "verdict"] == ("higher" if told else "not shown")


def test_a_budget_that_one_text_carries_is_told():
    table = example(budgets=BUDGETS)
    rows = table[(table["evaluation"] == "budget") & (table["metric"] == "scale")]
    shares = rows["budget"].map(dict(zip(BUDGETS, (0.5, 0.3, 0.2), strict=True)))
    assert findings.carried_by_one(table) == []
    table = pandas.concat([table, rows.assign(metric="largest_share", value=shares)], ignore_index=True)
    by_accuracy = table.assign(budget=table["budget"].str.replace("kl=", "kept="))
    assert findings.carried_by_one(by_accuracy) == [], "questions set λ there, and no text"
    (told,) = findings.carried_by_one(table)
    assert told.startswith(
        "The one text with most of it has 50.0% of the KL that sets λ at a KL of 0.01 per token, 30.0% of the KL that "
        "sets λ at a KL of 0.03 per token (means over all models, and not always of the same text): other texts would"
    )
    assert told in page(table)
    larger = dict(zip(BUDGETS, ("kl=2", "kl=10", "kl=3"), strict=True))
    (told,) = findings.carried_by_one(table.assign(budget=table["budget"].replace(larger)))
    assert told.index("KL of 2 per") < told.index("KL of 10 per"), "by size, not by their letters"


def test_one_of_many_comparisons_is_not_shown_by_its_own_interval_alone():
    table = with_difference(example(budgets=BUDGETS), "joint", "forget mean", 0.08, 0.02, 0.14, p=0.04)
    table = with_difference(table, "random", "forget mean", -0.01, -0.05, 0.03, p=0.6)
    judged = comparisons.verdicts(table)
    judged = judged[(judged["comparison"] == "at equal damage") & (judged["measure"] == "forget mean accuracy")]
    assert judged.set_index("rival").loc["joint", ["p", "verdict"]].to_list() == [
        pytest.approx(0.08),
        "not shown; the estimate is worse",
    ]
    against_joint, _ = findings.power_notes(next(iter(comparisons.comparisons(table).values())))
    assert against_joint.endswith("+14.0): its own interval excludes 0, which isn't enough for so many pairs.")
    corrected = with_difference(table, "joint", "forget mean", 0.08, 0.02, 0.14, p=0.01)
    against_joint, _ = findings.power_notes(next(iter(comparisons.comparisons(corrected).values())))
    assert against_joint.endswith("is shown with what was measured.")


def test_the_page_at_equal_damage_says_what_it_rests_on():
    text = page(example(budgets=BUDGETS))
    assert_well_formed(text)
    assert "a KL of 0.01, 0.03 and 0.1 per token" in text
    assert "Holm" in text and "KL of 0.03 per token" in text
    assert "No line here says" not in text and "No line here says" in page(example())
    assert "the same damage to neutral text" in text
    lost = " ".join(page(example(budgets=("kept=0.05",))).split())
    assert "it does the same damage: a loss of 0.05 in accuracy on what is kept, validation part" in lost


def test_a_budget_that_was_not_reached_is_told():
    table = example(budgets=BUDGETS)
    missed = (table["evaluation"] == "budget") & (table["metric"] == "reached") & (table["budget"] == "kl=0.1")
    missed &= table["candidate"].str.startswith("rmu/attribute/merge/ties/")
    (told,) = findings.unreached(table.assign(value=table["value"].mask(missed, 0.0)))
    assert told == (
        "attribute split, TIES (SPUNGE) didn't reach a KL of 0.1 per token at any λ that was tried (seeds: 0, 1), so "
        "it is not compared there."
    )
    assert findings.unreached(table) == []


def test_an_attribute_split_that_reaches_too_few_budgets_is_no_missing_one():
    table = without_budget(example(budgets=BUDGETS), "rmu/attribute/merge/ties", "kl=0.1")
    (answer,) = map(str, findings.answers(table))
    assert answer == (
        "With RMU, merged with TIES, a seed of the attribute split didn't reach every budget (KL of 0.01, 0.03 and 0.1 "
        "per token), so at equal damage it is not compared; smaller budgets would do."
    )
    text = html.unescape(page(table))
    assert_well_formed(text)
    assert answer in text and "merged no attribute split" not in text
    assert "attribute split, TIES (SPUNGE) didn't reach a KL of 0.1 per token" in text
    judged = comparisons.verdicts(table).set_index(["comparison", "rival", "measure"])["verdict"]
    assert judged["at equal damage", "joint", "forget mean accuracy"] == "not measured"
    assert judged["kl=0.03", "joint", "perplexity"] == "not shown"


def test_where_no_model_reaches_a_budget_none_is_compared():
    table = example(budgets=BUDGETS)
    at_largest = table["budget"].isin(["kl=0.1", "all"]) & (table["metric"] != "reached")
    table = table[~at_largest].assign(value=table["value"].mask(table["budget"] == "kl=0.1", 0.0))
    (answer,) = map(str, findings.answers(table))
    assert "didn't reach every budget (KL of 0.01, 0.03 and 0.1 per token)" in answer and "unknown" not in answer
    assert "joint (all at once) didn't reach a KL of 0.1 per token" in page(table).replace("&#39;", "'")


def test_one_seed_that_misses_a_budget_leaves_no_means_to_compare():
    path = "rmu/attribute/merge/ties"
    table = example(budgets=BUDGETS)
    table = table[~((table["candidate"] == path) & table["budget"].isin(["kl=0.1", "all"]))]
    assert f"{path}/seed0" in set(table.loc[table["budget"] == "all", "candidate"])
    (answer,) = map(str, findings.answers(table))
    assert "a seed of the attribute split didn't reach every budget" in answer and "unknown" not in answer


def test_an_attribute_split_that_reaches_no_budget_is_no_missing_one():
    text = page(without_budget(example(budgets=BUDGETS), "rmu/attribute/merge/ties", *BUDGETS))
    assert_well_formed(text)
    assert "merged no attribute split" not in text
    assert "a seed of the attribute split didn&#39;t reach every budget (KL of 0.01, 0.03 and 0.1 per token)" in text
    assert "attribute split, TIES (SPUNGE) didn&#39;t reach a KL of 0.1 per token" in text


def test_of_one_budget_every_comparison_is_made_once():
    table = example(budgets=("kl=0.03",))
    made = comparisons.verdicts(table)
    assert set(made["comparison"]) == {"at equal damage"}
    assert not made.duplicated(["candidate", "rival", "measure"]).any()
    assert "kl=0.03" in set(comparisons.verdicts(example(budgets=("kl=0.03", "kl=0.1")))["comparison"])


def test_seeds_are_counted_where_no_model_reaches_all_budgets():
    table = example(budgets=BUDGETS)
    unreached = table[~((table["budget"] == "all") & (table["seed"] == "0"))]
    unreached = unreached[~((unreached["budget"] == "all") & (unreached["seed"] == "all"))]
    assert f"Seeds: {len(set(table['seed']) - {'all'})}." in page(table)
    assert f"Seeds: {len(set(table['seed']) - {'all'})}." in page(unreached)


def test_an_answer_without_forgetting_says_so():
    (answer,) = map(str, findings.answers(with_difference(example(), "base", "forget mean", -0.02, -0.06, 0.02)))
    assert answer.endswith("That it forgot anything at all is not shown.")


def test_a_rival_that_was_not_run_is_said_to_be_missing():
    table = example().query("split != 'random'")
    table = table[~table["metric"].str.endswith("_minus_random")]
    assert set(comparisons.verdicts(table).query("rival == 'random'")["verdict"]) == {"not measured"}
    assert "was not compared with a random split" in str(findings.answers(table)[0])
    assert "3 comparisons are shown" in page(table)


def test_steps_are_summed_over_shards_and_compared():
    table = example()
    assert comparisons.steps(table).loc["rmu"].to_dict() == {"attribute": 120, "joint": 120, "random": 120}
    assert "trained for the same number of steps" in page(table)
    short = table[~((table["evaluation"] == "training") & (table["split"] == "joint") & (table["n"] > 60))]
    assert "These are not equal" in page(short)
    assert "were not recorded" in page(table[table["evaluation"] != "training"])


ORDERED = ("balanced", "sequential")


def test_every_split_that_was_run_is_a_rival_with_a_sentence():
    table = example(ordered=ORDERED, budgets=("kl=0.01", "kl=0.1"))
    for rival, p in (("joint", 0.001), ("balanced", 0.02), ("sequential", 0.01), ("random", 0.5)):
        table = with_difference(table, rival, "forget mean", -0.1, -0.15, -0.05, p)
    decided = comparisons.verdicts(table).query("comparison == 'at equal damage' and measure == 'forget mean accuracy'")
    assert list(decided["rival"]) == ["joint", "balanced", "sequential", "random"]
    assert list(decided["p"]) == pytest.approx([0.004, 0.04, 0.03, 0.5]), "by Holm: 4, 2, 3 and 1 times the given ones"
    (answer,) = findings.answers(table)
    named = ("everything at once (", "with every attribute in each batch (", "one after another (", "same sizes (")
    for rival, against in zip(named, answer.against, strict=True):
        assert rival in against
    text = page(table)
    assert_well_formed(text)
    assert all(f"<li>{against}</li>" in html.unescape(text) for against in answer.against)
    assert "<dt>Balanced</dt>" in text and "<dt>Sequential</dt>" in text
    assert "<dt>Balanced</dt>" not in page(example())
    fewer = page(table[table["split"] != "random"])
    assert "<dt>Random split" in text and "<dt>Random split" not in fewer and "<dt>Joint</dt>" in fewer
    table_of_toxicity = toxicity_example.example()
    toxic = page(table_of_toxicity[table_of_toxicity["evaluation"] != "knowledge"])
    unreached = page(table[~((table["split"] == "attribute") & table["evaluation"].isin(["knowledge", "fluency"]))])
    arms = ("Joint", "Random split (control)", "Attribute split (SPUNGE)")
    assert all(f"<dt>{arm}</dt>" in shown for arm in arms for shown in (toxic, unreached))
    alone = table["candidate"].str.contains("/shard/")
    assert "<dt>Only one attribute</dt>" in text and "<dt>Only one attribute</dt>" not in page(table[~alone])


def with_visits(table, counts):
    """The table and how many texts of each attribute the runs of each split had, by split and attribute."""
    shard = table[(table["evaluation"] == "training") & (table["metric"] == "forget_loss")].drop_duplicates(
        ["candidate", "seed"]
    )
    rows = [
        shard[shard["split"] == split].assign(metric="visits", attribute=attribute, value=count)
        for split, of_attributes in counts.items()
        for attribute, count in of_attributes.items()
    ]
    return pandas.concat([table, *rows], ignore_index=True)


def test_visits_of_a_text_are_told_for_every_split():
    """336 texts of each attribute; the random split has two shards, each with as many rows."""
    counts = {"joint": {"Africa": 336, "Asia": 336}, "balanced": {"Africa": 168, "Asia": 504}}
    counts |= {"random": {"Africa": 420, "Asia": 84}, "sequential": {"Africa": 13, "Asia": 13}}
    table = with_visits(example(ordered=("balanced", "sequential")), counts)
    seen = comparisons.visits(table)
    assert seen.loc[("rmu", "joint")].to_dict() == {"Africa": 1.0, "Asia": 1.0}
    assert seen.loc[("rmu", "random")].to_dict() == {"Africa": 2.5, "Asia": 0.5}
    cells = re.findall(
        r"<tr><td>RMU</td><td class=\"text\">(\w+)</td><td>(\d+)</td><td class=\"text\">(.*)</td>", page(table)
    )
    assert ("joint", "120", "1.0") in cells
    assert ("balanced", "120", "Africa 0.5, Asia 1.5") in cells
    assert ("sequential", "120", "0.04") in cells
    assert ("attribute", "120", "not known") in cells


def test_the_page_is_self_contained_and_escaped():
    table = example(forget=("<script>alert(1)</script>", "Asia"))
    text = page(table)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:)|url\(|@import""", text.replace('src="data:', ""))
    assert "data:image/png;base64,YSBwaWN0dXJl" in text


def assert_well_formed(text):
    class Tags(HTMLParser):
        open_tags = ()

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img", "br"):
                self.open_tags = (*self.open_tags, tag)

        def handle_endtag(self, tag):
            assert self.open_tags[-1] == tag
            self.open_tags = self.open_tags[:-1]

    tags = Tags()
    tags.feed(text)
    assert tags.open_tags == ()


def test_the_page_is_well_formed_and_says_what_it_rests_on():
    text = page(example(seeds=("0",)))
    assert_well_formed(text)
    assert "This rests on one seed" in text
    assert "6 comparisons are shown" in text
    assert "over seeds and over clusters of questions" in text


@pytest.mark.parametrize("table", [example(merges=()), example().iloc[:0], example().query("candidate == 'base'")])
def test_a_page_without_an_answer_says_so(table):
    text = page(table)
    assert "does not answer the question" in text
    assert "There is nothing to judge" in text


def test_script_writes_the_page(tmp_path):
    example().to_csv(tmp_path / "evaluations.csv", index=False)
    (tmp_path / "tradeoff.png").write_bytes(b"a picture")
    arguments = ["--evaluations", str(tmp_path / "evaluations.csv"), "--figure", str(tmp_path / "tradeoff.png")]
    arguments += ["--template", str(ROOT / "report" / "findings.html"), "--html", str(tmp_path / "findings.html")]
    assert findings_script.main(arguments) == 0
    assert (tmp_path / "findings.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


# Where toxicity was measured


def toxic(**options):
    families = {"tvn": {"tvn": 1.0, "tvn-half": 0.5}, "rmu": {"rmu": 1.0}}
    return toxicity_example.example(**{"families": families, "merges": ("ties",)} | options)


def changed(table, path, evaluation, metric, estimate):
    """Return the table with another difference of a candidate, seeds combined, in the attribute that stands for all."""
    rows = (table["candidate"] == path) & (table["evaluation"] == evaluation) & (table["metric"] == metric)
    rows &= (table["seed"] == COMBINED) & table["attribute"].isin(["", "forget mean", "retain mean"])
    assert rows.sum() == 1
    table.loc[rows, ["value", "low", "high"]] = estimate
    return table


SHARE = "toxic_share_profanity_check"


def test_toxicity_as_trained_is_told_without_a_verdict():
    judged = comparisons.verdicts(toxic()).set_index(["comparison", "candidate", "rival", "measure"])
    assert set(judged.index.unique("comparison")) == {"as trained"}
    assert list(judged.index.unique("measure")) == [
        "toxic share by the profanity check",
        "toxic share by the word list",
        "toxic prompts",
        "expected maximum of 25",
        "toxic share, neutral prompts",
        "perplexity",
        "general capability",
    ]
    assert len(judged) == 3 * 2 * 7
    decisive = "toxic share by the profanity check"
    # By the example: 5.0 of the split at λ = 1, 7.2 of the random one, which is less fluent (76 against 64).
    as_trained = judged.sort_index().loc["as trained", "tvn/attribute/merge/ties"]
    assert as_trained.loc["random", decisive]["difference"] == pytest.approx(0.050 - 0.072)
    assert as_trained.loc["random", decisive]["verdict"] == "lower"
    assert as_trained.loc["random", "perplexity"]["verdict"] == "lower"
    assert set(as_trained.loc["joint", "verdict"]) == {"the rival is broken"}


def test_what_tells_general_capability_is_said_beside_the_prompts():
    table = toxic()
    by_questions = "The questions about what is to be kept measure general capability."
    assert by_questions in page(table)
    asked = table[table["evaluation"] == "knowledge"].assign(evaluation="benchmarks")
    both = page(pandas.concat([table, asked], ignore_index=True))
    assert "Benchmarks measure general capability" in both and by_questions not in both


def test_a_single_factor_is_answered_as_trained_with_the_perplexity_beside():
    def answer(perplexity):
        table = changed(toxic(), "rmu/attribute/merge/ties", "toxicity", f"{SHARE}_minus_random", (-0.03, -0.05, -0.01))
        table = changed(table, "rmu/attribute/merge/ties", "fluency", "perplexity_minus_random", perplexity)
        return str(findings.answers(table)[2])

    equal, stronger, better = (
        answer(perplexity) for perplexity in ((-1.2, -5.4, 3.0), (4.2, 3.0, 5.4), (-4.2, -5.4, -3))
    )
    assert equal.startswith("With RMU, merged with TIES, as trained and at equal compute, splitting by the attribute")
    random = "a random split into shards of the same sizes"
    share, perplexity = "toxic share −3.0 points, 95 % interval −5.0 to −1.0", "95 % interval −5.40 to"
    unclear = f"is a stronger edit than {random}, neither better nor worse ({share}; perplexity"
    assert f"{unclear} −1.20, {perplexity} +3.00" in equal
    assert f"{unclear} +4.20, 95 % interval +3.00 to +5.40" in stronger
    assert f"did better than {random} ({share}; perplexity −4.20, {perplexity} −3.00" in better
    assert "did better" not in equal + stronger
    assert "No loss of general capability is shown (−2.0 points" in equal


def test_toxicity_at_equal_damage_is_answered_there():
    table = toxic(families={"rmu": {"rmu": 1.0}})
    at_each = [table, *(measured_at(table, budget) for budget in ("kl=0.01", "kl=0.1", "all"))]
    table = pandas.concat(at_each, ignore_index=True)
    (answer,) = map(str, findings.answers(table))
    assert answer.startswith(
        "With RMU, merged with TIES, at equal damage (KL of 0.01 and 0.1 per token; the mean over all)"
    )
    judged = comparisons.verdicts(table)
    assert list(judged["comparison"].unique()) == ["at equal damage", "kl=0.01", "kl=0.1", "as trained"]
    assert not judged.duplicated(["comparison", "candidate", "rival", "measure"]).any()
    text = page(table)
    assert_well_formed(text)
    assert "toxic share by the profanity check, worst attribute" in text
    assert "at the same λ" not in text and "at the same λ" in page(toxic())


def test_what_is_lost_of_harmless_texts_is_a_cost():
    table = toxic(families={"rmu": {"rmu": 1.0}}, benign=True)
    table = pandas.concat([table, *(measured_at(table, budget) for budget in ("kl=0.01", "all"))], ignore_index=True)
    (answer,) = map(str, findings.answers(table))
    assert "benign" not in answer, "1.02 against 1.05 times 80, within the interval"
    lost = (table["metric"] == "perplexity_minus_random") & (table["evaluation"] == "benign") & (table["seed"] == "all")
    assert set(table.loc[lost & (table["split"] == "attribute"), "value"].round(2)) == {-2.40}
    table.loc[lost, ["low", "high"]] = -3.0, -1.0
    (answer,) = map(str, findings.answers(table))
    assert (
        "by another measure the damage isn't equal (perplexity of benign texts −2.40, 95 % interval −3.00 to −1.00"
        in answer
    )
    judged = comparisons.verdicts(table).set_index(["comparison", "rival", "measure"])["verdict"]
    assert judged["at equal damage", "random", "perplexity of benign texts"] == "lower"
    assert "where a model refuses too much" in page(table)
    assert "where a model refuses too much" not in page(table[table["evaluation"] != "benign"])


def test_the_page_tells_what_classifiers_make_of_the_experiments_own_texts():
    table = toxic()
    made = {("", 0.51): 0.4, ("threat", 0.49): 0.3, ("insult", 0.66): 0.2, ("profanity", 0.55): 0.1}
    base = table[table["evaluation"] == "data"].iloc[[0]]
    rows = [
        base.assign(evaluation="classifier_benign", attribute=attribute, metric=f"{metric}_word_list", value=value)
        for (attribute, area), share in made.items()
        for metric, value in (("auc", area), ("missed", share), ("false_alarms", share / 2))
    ]
    told = pandas.concat([table, *rows], ignore_index=True)
    (judge,) = findings.judges_of_data(told)
    assert judge["attributes"] == "0.49 (threat) to 0.66 (insult)" and judge["auc"].startswith("0.51")
    assert (judge["missed"], judge["false_alarms"]) == ("40.0%", "20.0%")
    text = page(told)
    assert_well_formed(text)
    assert "0.49 (threat) to 0.66 (insult)" in text and "can’t be relied on for texts like them" in text
    assert findings.judges_of_data(table) == []


def measured_at(table, budget):
    """Return what was measured of a table's candidates, as if at a budget; the worst group as the mean of all."""
    evaluations = ["knowledge", "fluency", "benign", "toxicity", "toxicity_neutral"]
    rows = table[(table["method"] != "") & table["evaluation"].isin(evaluations)].assign(budget=budget)
    return pandas.concat([rows, rows[rows["attribute"] == "forget mean"].assign(attribute="forget worst")])


def test_without_budgets_a_family_is_answered_factor_by_factor():
    answers = findings.answers(toxic(seeds=("0",)))
    assert [answer.begins.split(", as trained")[0] for answer in answers] == [
        "With TVN, λ = 1, merged with TIES",
        "With TVN, λ = 0.5, merged with TIES",
        "With RMU, merged with TIES",
    ]


def test_toxicity_that_did_not_fall_is_said_so():
    path = "tvn/attribute/merge/ties"
    table = changed(toxic(seeds=("0",)), path, "toxicity", f"{SHARE}_minus_base", (-0.02, -0.05, 0.01))
    assert "That it became less toxic at all is not shown." in str(findings.answers(table)[0])


def test_a_rival_of_toxicity_that_was_not_run_is_said_to_be_missing():
    table = toxic(seeds=("0",))
    table = table[(table["split"] != "random") & ~table["metric"].str.endswith("_minus_random")]
    assert all("was not compared with a random split" in answer for answer in map(str, findings.answers(table)))


def test_toxicity_at_unequal_compute_is_not_said_to_be_at_equal():
    table = toxic(seeds=("0",))
    short = table[~((table["evaluation"] == "training") & (table["split"] == "joint") & (table["n"] > 60))]
    assert not any("equal compute" in answer for answer in map(str, findings.answers(short)))
    assert "These are not equal" in page(short)


def test_the_page_of_toxicity_asks_and_limits_in_its_own_words():
    text = page(toxic())
    assert_well_formed(text)
    assert "is to write less toxic text" in text and "is to forget some of what it knows" not in text
    assert "<th>toxic prompts</th><th>neutral prompts</th><th>questions</th>" in text
    assert '<tr><td>threat</td>\n<td class="text">forget</td>\n<td>70</td><td>30</td><td>30</td><td>–</td>' in text
    assert "(profanity check, word list)" in text
    assert "Continuations are sampled" in text and "Multiple-choice accuracy" not in text
    assert "Share of toxic continuations over the perplexity" in text
    assert "42 comparisons are shown" in text
    alone = page(toxic(families={"rmu": {"rmu": 1.0}}, retain=(), neutral_groups=False, seeds=("0",)))
    assert_well_formed(alone)
    assert "<th>questions</th>" not in alone and "General capability" not in alone
    assert '<tr><td>of no attribute</td>\n<td class="text">–</td>\n<td>–</td><td>–</td><td>120</td>' in alone


@pytest.mark.parametrize("rows", ["merge == ''", "candidate == 'base'"])
def test_a_page_of_toxicity_without_an_answer_says_so(rows):
    text = page(toxic(seeds=("0",)).query(rows))
    assert_well_formed(text)
    assert "does not answer the question" in text
    assert "There is nothing to judge" in text


def test_answers_that_stand_mostly_in_one_place_are_told():
    table = example()
    row = table[table["evaluation"] == "data"].iloc[0].to_dict() | {"attribute": "", "value": 0.875, "n": 40}
    one_sided = [row | {"metric": f"commonest_answer_place{suffix}"} for suffix in ("", "_rephrased")]
    told = page(pandas.concat([table, pandas.DataFrame(one_sided)], ignore_index=True))
    sentence = "87.5% of the right answers to the {} stand at one place among the choices: a model that always takes"
    for asked in ("questions", "rephrased questions"):
        assert sentence.format(asked) in told and sentence.format(asked) not in page(table)
    assert "of no attribute" not in told
