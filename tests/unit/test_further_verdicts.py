"""The findings page beside its answer: attacks and numbers of shards, judged one by one."""

import math
import re

import pytest
from durability_example import BACK, attacked
from evaluations_example import example
from test_findings import assert_well_formed, page

from spunge.report import comparisons, durability

RIVALS = ("joint", "random")


def with_difference(table, evaluation, rival, low, high):
    rows = (table["evaluation"] == evaluation) & (table["metric"] == f"accuracy_minus_{rival}")
    rows &= (table["split"] == "attribute") & (table["merge"] != "") & (table["seed"] == "all")
    table.loc[rows & (table["attribute"] == "forget mean"), ["value", "low", "high"]] = ((low + high) / 2, low, high)
    return table


def test_every_attack_is_judged_against_both_rivals():
    table = with_difference(attacked(), "quantised_4", "joint", -0.2, -0.1)
    table = with_difference(table, "ablated", "joint", 0.1, 0.2)
    table = with_difference(table, "rephrased", "random", -0.2, 0.1)
    lines = {line["attack"]: line for line in durability.after_attacks(table)}
    assert len(lines) == len(BACK) + 1
    assert next(iter(lines)) == "nothing: the same questions, as unlearned"
    four = lines["weights rounded to 4 bits"]
    assert (four["joint_verdict"], four["minus_joint"]) == ("lower", "−15.0 [−20.0,\u00a0−10.0]")
    assert lines["a direction taken out of its states"]["joint_verdict"] == "higher"
    assert lines["nothing, but asked in other words"]["random_verdict"] == "not shown"
    # The prototype's .257 and four tenths of the way from there to .8.
    assert lines["10 texts relearned, of the same attribute"]["attribute"].startswith("47.4 [")
    assert lines["10 texts relearned, of the same attribute"]["base"].startswith("80.0 [")


def broken(table, candidate, number):
    rows = (table["candidate"] == candidate) & (table["metric"] == "perplexity")
    return table.assign(value=table["value"].mask(rows, number))


@pytest.mark.parametrize("number", [math.nan, 400.0])
def test_what_a_broken_model_forgot_is_no_success(number):
    table = with_difference(attacked(("ablated",)), "ablated", "joint", -0.2, -0.1)
    table = with_difference(table, "ablated", "random", -0.2, -0.1)
    line = durability.after_attacks(broken(table, "rmu/attribute/merge/ties", number))[1]
    assert [line[f"{rival}_{part}"] for rival in RIVALS for part in ("verdict", "kind")] == ["broken"] * 4
    lines = durability.after_attacks(broken(table, "rmu/joint", number))
    assert [lines[1][f"{rival}_verdict"] for rival in RIVALS] == ["the rival is broken", "lower"]
    (text,) = durability.sum_up(lines)
    assert "less after 0, more after 0, not shown to differ after 0, one of the two broken after 1;" in text


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_reads_broken(number):
    table = attacked(("ablated",), forget=("Africa", "Asia", "Oceania"), shards=(2,))
    rows = (table["evaluation"].isin(["ablated", "knowledge"])) & (table["candidate"] == "rmu/random/merge/ties")
    rows |= (table["evaluation"].isin(["ablated", "knowledge"])) & (table["metric"] == "accuracy_minus_random")
    table = table.assign(**{column: table[column].mask(rows, number) for column in ("value", "low", "high")})
    line = durability.after_attacks(table)[1]
    assert (line["random"], line["minus_random"], line["random_verdict"]) == ("broken", "broken", "the rival is broken")
    assert line["joint_verdict"] not in ("broken", "the rival is broken")
    line = durability.by_number_of_shards(table)[1]
    assert (line["random"], line["minus_random"], line["random_verdict"]) == ("broken", "broken", "the rival is broken")


def test_the_sum_counts_the_attacks_and_not_what_was_before():
    table = attacked(("quantised_8", "quantised_4", "ablated"))
    for evaluation, low, high in (("as_unlearned", 0.1, 0.2), ("quantised_8", -0.2, -0.1), ("quantised_4", -0.3, -0.1)):
        table = with_difference(table, evaluation, "joint", low, high)
    table = with_difference(table, "ablated", "joint", -0.1, 0.1)
    (text,) = durability.sum_up(durability.after_attacks(table))
    assert text.startswith("RMU, TIES, 3 attacks: ")
    assert "than the joint run: less after 2, more after 0, not shown to differ after 1;" in text


def test_numbers_of_shards_are_judged_by_what_was_kept_minus_forgotten():
    lines = durability.by_number_of_shards(example(forget=("Africa", "Asia", "Oceania"), shards=(2,)))
    assert [line["number"] for line in lines] == [2, 3]
    assert all(line["random"] != "–" and line["minus_random"] != "–" for line in lines)
    assert lines[0]["attribute"] != lines[1]["attribute"]


def test_numbers_of_shards_are_told_by_what_was_asked():
    options = {"forget": ("Africa", "Asia", "Oceania"), "shards": (2,)}
    by_accuracy, table = durability.by_number_of_shards(example(**options)), example(**options)
    table = table.assign(
        evaluation=table["evaluation"].replace("knowledge", "answers"),
        metric=table["metric"].str.replace("accuracy(?=$|_minus)", "rouge_l_recall", regex=True),
    )
    assert durability.by_number_of_shards(table) == by_accuracy
    assert all(line["minus_joint"] != "–" for line in by_accuracy)
    assert "Retain minus forget ROUGE-L recall in percentage points" in page(table)


def test_an_estimate_without_an_interval_stands_alone():
    table = with_difference(attacked(("ablated",)), "ablated", "joint", -0.2, -0.1)
    rows = (table["evaluation"] == "ablated") & (table["seed"] == "all")
    table = table.assign(**{column: table[column].mask(rows) for column in ("low", "high")})
    line = durability.after_attacks(table)[1]
    assert (line["minus_joint"], line["joint_verdict"]) == ("−15.0", "not shown")
    assert "nan" not in line["attribute"] and "[" not in line["attribute"]


def test_the_page_shows_both_and_counts_their_comparisons():
    table = attacked(forget=("Africa", "Asia", "Oceania"), shards=(2,))
    table = with_difference(table, "quantised_4", "joint", -0.2, -0.1)
    text = page(table)
    assert_well_formed(text)
    assert "Does it last?" in text and "The number of shards" in text
    cells = re.findall(r'<td class="text (\w+)">', text)
    assert {"lower", "higher"} <= set(cells) and not {"better", "worse"} & set(cells)
    # The page's own six, two for each attack and what was before, two for each number of shards.
    assert f"{6 + 2 * (len(BACK) + 1) + 2 * 2} comparisons are shown" in text
    plain = page(example())
    assert "Does it last?" not in plain and "The number of shards" not in plain


def test_splits_of_one_run_are_rivals_where_the_experiment_has_them():
    table = attacked(("ablated",), ordered=("balanced", "sequential"), forget=("Africa", "Asia", "Peru"), shards=(2,))
    line = durability.after_attacks(with_difference(table, "ablated", "sequential", -0.2, -0.1))[1]
    assert [line[f"{rival}_verdict"] for rival in ("balanced", "sequential")] == ["not shown", "lower"]
    assert "than the sequential run: less after 1," in durability.sum_up(durability.after_attacks(table))[0]
    assert all("balanced_verdict" in line for line in durability.by_number_of_shards(table))
    text = page(table)
    assert_well_formed(text)
    assert text.count("<th>minus sequential</th>") == 2
    # Each line is compared with all four: what was before and the attack, and two numbers of shards.
    own = (comparisons.verdicts(table)["verdict"] != "not measured").sum()
    assert own == 4 * 3 and f"{own + 4 * (2 + 2)} comparisons are shown" in text
