"""The answer that `make demo` ends with."""

import pandas
import pytest
import toxicity_example
from evaluations_example import example, without_budget

from spunge.report import answer
from spunge.report.comparisons import comparisons

SPUNGE = "attribute split, TIES (SPUNGE)"


def sentences(table):
    return answer.sentences(next(iter(comparisons(table).values())))


def test_each_split_has_a_sentence_with_its_differences_from_all_rivals():
    table = example(methods=("rmu", "npo"), budgets=("kl=0.01", "kl=0.1"))
    told, other = sentences(table)
    assert told.startswith(f"RMU: {SPUNGE}, forget mean accuracy at equal damage: ")
    assert other.startswith("NPO: ")
    rows = table[(table["seed"] == "all") & (table["budget"] == "all") & (table["attribute"] == "forget mean")]
    for rival, name in (("joint", "the joint run"), ("random", "the random split")):
        row = rows[(rows["candidate"] == "rmu/attribute/merge/ties") & (rows["metric"] == f"accuracy_minus_{rival}")]
        (value,) = row["value"]
        assert f"{name} ({value * 100:+.1f} [".replace("-", "\u2212") in told


@pytest.mark.parametrize(
    ("difference", "p", "said"),
    [
        ((-0.1, -0.15, -0.05), 0.001, "better than the joint run"),
        ((0.1, 0.05, 0.15), 0.001, "worse than the joint run"),
        ((0.1, -0.05, 0.25), 0.2, "not shown to differ from the joint run"),
        ((None, None, None), None, "not compared with the joint run"),
    ],
)
def test_the_verdict_is_that_of_the_findings(difference, p, said):
    table = example(budgets=("kl=0.01",))
    rows = (table["candidate"] == "rmu/attribute/merge/ties") & (table["metric"] == "accuracy_minus_joint")
    rows &= (table["seed"] == "all") & (table["attribute"] == "forget mean")
    table.loc[rows, ["value", "low", "high", "p"]] = [*difference, p]
    (told,) = sentences(table)
    assert said in told and told.endswith(".")


@pytest.mark.parametrize("missed", [["kl=0.1"], ["kl=0.01", "kl=0.1"]])
def test_a_split_that_misses_a_budget_is_told(missed):
    """Of the one that misses all of them nothing was asked."""
    table = example(methods=("rmu", "npo"), budgets=("kl=0.01", "kl=0.1"))
    told, other = sentences(without_budget(table, "npo/attribute/merge/ties", *missed))
    assert told.startswith(f"RMU: {SPUNGE}, forget mean accuracy at equal damage: ")
    assert other == (
        f"NPO: {SPUNGE}: a seed didn't reach every budget, so at equal damage it is not compared; smaller budgets "
        "would do."
    )


def test_a_difference_without_an_interval_stands_alone():
    table = example(seeds=("0",))
    rows = (table["candidate"] == "rmu/attribute/merge/ties") & (table["metric"] == "accuracy_minus_joint")
    rows &= (table["seed"] == "all") & (table["attribute"] == "forget mean")
    table.loc[rows, ["value", "low", "high"]] = [-0.1, None, None]
    (told,) = sentences(table)
    assert "the joint run (\u221210.0)" in told and "nan" not in told


def test_a_difference_as_trained_is_no_verdict():
    table = example()
    rows = (table["candidate"] == "rmu/attribute/merge/ties") & (table["metric"] == "accuracy_minus_joint")
    rows &= (table["seed"] == "all") & (table["attribute"] == "forget mean")
    table.loc[rows, ["value", "low", "high"]] = [-0.1, -0.15, -0.05]
    (told,) = sentences(table)
    assert "as trained: lower than the joint run (\u221210.0 [\u221215.0, \u22125.0])" in told


def test_a_broken_rival_is_named():
    told = " ".join(sentences(toxicity_example.example()))
    assert "not compared with a broken model: the joint run" in told


def test_the_table_has_a_value_for_each_model_and_measure_without_intervals():
    table = answer.table(example(budgets=("kl=0.01", "kl=0.1")))
    assert table.loc["base model", "forget mean \u2193"] == "80.0"
    assert not table.map(lambda cell: "[" in cell).any(axis=None)
    text = answer.text(example())
    assert text.count("\n") > 6 and SPUNGE in text.splitlines()[-1]


def test_nothing_measured_is_no_error():
    assert answer.text(pandas.DataFrame(columns=example().columns))
