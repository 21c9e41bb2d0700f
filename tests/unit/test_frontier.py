"""What stands at budgets: one table seen at each, the figure of all, and the summary's columns."""

import math

import pandas
import pytest
import toxicity_example
from evaluations_example import example, without_budget

from spunge.report import comparisons, results_table, summary
from spunge.report.figures import frontier

BUDGETS = ("kl=0.01", "kl=0.03", "kl=0.1")
SPUNGE = "rmu/attribute/merge/ties"


@pytest.fixture(scope="module")
def table():
    return example(budgets=BUDGETS)


def accuracy(table, path, attribute="forget mean"):
    return results_table.measured(table, "knowledge", "accuracy").loc[(path, "all", attribute), "value"]


def test_a_table_at_a_budget_has_its_candidates_and_the_base_model(table):
    assert results_table.budgets(table) == list(BUDGETS)
    for budget, expected in zip(BUDGETS, (0.3066, 0.2566, 0.2066), strict=True):
        seen = results_table.at_budget(table, budget)
        # The prototype's .2566 in the middle; by the example 5 points from each budget to the next.
        assert accuracy(seen, SPUNGE) == pytest.approx(expected, abs=1e-3)
        assert accuracy(seen, "base") == pytest.approx(0.8)
        assert (seen["evaluation"] == "training").any() and (seen["evaluation"] == "merge").any()
    assert accuracy(results_table.headline(table), SPUNGE) == pytest.approx(0.2566, abs=1e-3)
    assert results_table.at_budget(table, "").query("method != ''")["evaluation"].isin(["training", "merge"]).all()
    plain = example()
    assert results_table.headline(plain).equals(plain)


def test_budgets_are_in_their_order_whatever_the_tables(table):
    """A first model that doesn't reach the smallest budget has rows at the others alone."""
    table = pandas.concat([table[table["budget"] != "kl=0.01"], table[table["budget"] == "kl=0.01"]])
    others = table[table["budget"] == "kl=0.1"]
    labels = ("kept=0.05", "perplexity=1.2", "kl=1e-05", "perplexity=1.05")
    mixed = pandas.concat([*(others.assign(budget=label) for label in labels), table])
    assert results_table.budgets(table) == list(BUDGETS)
    assert results_table.budgets(mixed) == ["kl=1e-05", *BUDGETS, "perplexity=1.05", "perplexity=1.2", "kept=0.05"]
    assert list(comparisons.comparisons(table))[1:4] == list(BUDGETS)


@pytest.mark.parametrize("name", ["ROUGE-L recall", "accuracy"])
def test_labels_stand_beside_their_panels(table, name, monkeypatch):
    monkeypatch.setattr(
        frontier, "axis_label", lambda measure: comparisons.axis_label(measure).replace("accuracy", name)
    )
    figure = frontier.draw(table)
    figure.draw_without_rendering()
    for axes in figure.axes:
        label, panel = axes.yaxis.label.get_window_extent(), axes.get_window_extent()
        assert label.y1 <= figure.bbox.y1 and label.height < 1.15 * panel.height
    above, below = (axes.yaxis.label.get_window_extent() for axes in figure.axes)
    assert not above.overlaps(below)


def test_one_budget_shows_its_intervals_as_lines(table):
    above, _ = frontier.draw(table[table["budget"].isin(["", "kl=0.03"])]).axes
    drawn = [
        tuple(segment[:, 1])
        for lines in above.collections
        if hasattr(lines, "get_segments")
        for segment in lines.get_segments()
    ]
    rows = results_table.measured(results_table.at_budget(table, "kl=0.03"), "knowledge", "accuracy")
    expected = rows.loc[(SPUNGE, "all", "forget mean"), ["low", "high"]].astype(float)
    assert any(segment == pytest.approx(tuple(expected)) for segment in drawn) and len(drawn) == 3


def test_the_figure_has_a_line_for_each_split_through_its_budgets(table):
    above, below = frontier.draw(table).axes
    lines = {line.get_color(): line for line in above.lines if len(line.get_xdata()) == len(BUDGETS)}
    assert len(lines) == 3
    spunge = lines[results_table.COLOURS["attribute"].lower()]
    assert list(spunge.get_xdata()) == [0.01, 0.03, 0.1]
    assert spunge.get_ydata() == pytest.approx([0.3066, 0.2566, 0.2066], abs=1e-3)
    assert above.get_xscale() == "log" and "\u2193" in above.get_ylabel() and "\u2191" in below.get_ylabel()


def test_every_split_has_a_line_of_its_own_colour_and_marker():
    above, _ = frontier.draw(example(budgets=BUDGETS, ordered=("balanced", "sequential"))).axes
    lines = [line for line in above.lines if len(line.get_xdata()) == len(BUDGETS)]
    assert len(lines) == len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 5


def test_a_line_ends_where_its_model_does_not_reach_the_budget(table):
    missed = table["candidate"].str.startswith(SPUNGE) & (table["budget"] == "kl=0.1")
    above, _ = frontier.draw(table[~missed]).axes
    (spunge,) = (line for line in above.lines if line.get_color() == results_table.COLOURS["attribute"].lower())
    assert list(map(str, spunge.get_ydata()))[-1] == "nan" and len(spunge.get_ydata()) == 3


def test_an_arm_that_reaches_too_few_budgets_keeps_its_line_and_its_row(table):
    table = without_budget(table, SPUNGE, "kl=0.1")
    above, _ = frontier.draw(table).axes
    (spunge,) = (line for line in above.lines if line.get_color() == results_table.COLOURS["attribute"].lower())
    assert spunge.get_ydata() == pytest.approx([0.3066, 0.2566, math.nan], abs=1e-3, nan_ok=True)
    line = summary.table(table).set_index("candidate").loc[SPUNGE]
    at_each = [line[f"accuracy: forget mean at {budget}"] for budget in BUDGETS]
    assert at_each == pytest.approx([0.3066, 0.2566, math.nan], abs=1e-3, nan_ok=True)
    assert math.isnan(line["accuracy: forget mean"])
    assert "attribute split, TIES (SPUNGE)" in summary.markdown(table)


def toxic_at_budgets():
    table = toxicity_example.example(families={"rmu": {"rmu": 1.0}}, merges=("ties",), benign=True)
    rows = table[table["evaluation"].isin(["toxicity", "knowledge", "fluency", "benign"]) & (table["method"] != "")]
    return pandas.concat([table, *(rows.assign(budget=budget) for budget in ("kl=0.01", "kl=0.1", "all"))])


def test_harmless_texts_have_a_row_of_their_own():
    toxic, kept, benign = frontier.draw(toxic_at_budgets()).axes
    assert [axes.get_ylabel()[-1] for axes in (toxic, kept, benign)] == ["\u2193", "\u2191", "\u2193"]
    lines = [line for line in benign.lines if len(line.get_xdata()) == 2]
    spunge = next(line for line in lines if line.get_color() == results_table.COLOURS["attribute"].lower())
    assert list(spunge.get_ydata()) == pytest.approx([2 * 1.02 * 40] * 2)


def test_benchmarks_at_one_budget_leave_the_line_to_questions_at_all():
    table = toxic_at_budgets()
    asked = table[(table["evaluation"] == "knowledge") & (table["budget"] != "kl=0.1")]
    both = pandas.concat([table, asked.assign(evaluation="benchmarks", value=0.5)])
    assert comparisons.accuracies_kept(both)[-1].evaluation == "benchmarks"
    of_questions, of_both = (
        [list(line.get_ydata()) for line in frontier.draw(rows).axes[1].lines] for rows in (table, both)
    )
    assert of_both == of_questions


def test_without_budgets_the_figure_says_so():
    figure = frontier.draw(example())
    assert "no damage budget" in figure.texts[0].get_text()


def test_the_summary_has_a_column_for_each_budget(table):
    line = summary.table(table).set_index("candidate").loc[SPUNGE]
    at_each = [line[f"accuracy: forget mean at {budget}"] for budget in BUDGETS]
    assert at_each == pytest.approx([0.3066, 0.2566, 0.2066], abs=1e-3)
    assert line["accuracy: forget mean"] == pytest.approx(0.2566, abs=1e-3)
    assert "kl=0.03" in summary.markdown(table)
