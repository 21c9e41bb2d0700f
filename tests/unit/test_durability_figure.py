import warnings
from functools import partial

import pytest
from durability_example import BACK, CHANCE, attacked
from evaluations_example import example

from spunge.report.figures import durability, style

RELEARNED = tuple(name for name in BACK if name.startswith("relearned"))
ODD = {"forget": ("$a_b & c%$", "_NA"), "retain": ("NA", "None")}
TABLES = {
    "every attack": attacked,
    "three methods, two merges": partial(attacked, methods=("rmu", "npo", "mine"), merges=("ties", "dare")),
    "relearning alone": partial(attacked, RELEARNED),
    "one source of texts": partial(attacked, ("relearned_unrelated_10",), chance=False),
    "no relearning": partial(attacked, ("quantised_4", "open_ended")),
    "one attack, one seed": partial(attacked, ("ablated",), seeds=("0",)),
    "nothing kept": partial(attacked, forget=("Africa",), retain=(), seeds=("0",)),
    "no merge": partial(attacked, merges=()),
    "odd names": partial(attacked, **ODD),
    "only the base model": lambda: attacked().query("candidate == 'base'"),
}


def texts(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


@pytest.mark.parametrize("table", TABLES)
def test_draws_from_every_table(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = durability.draw(TABLES[table]())
        with style.style():
            figure.draw_without_rendering()
    assert texts(figure) - {""}


def values(table, evaluation, candidate):
    """The combined mean over the forget attributes."""
    rows = table.query(f"evaluation == '{evaluation}' and candidate == '{candidate}' and attribute == 'forget mean'")
    return rows.loc[(rows["metric"] == "accuracy") & (rows["seed"] == "all"), "value"].item()


def test_curves_run_from_no_texts_to_many():
    table = attacked()
    axes = durability.draw(table).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "50"]
    curves = [list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 3]
    attacks = ["as_unlearned", "relearned_forget_10", "relearned_forget_50"]
    expected = [
        [values(table, name, candidate) for name in attacks]
        for candidate in ("base", "rmu/joint", "rmu/random/merge/ties", "rmu/attribute/merge/ties")
    ]
    assert curves == [pytest.approx(one) for one in expected]
    assert expected[3][0] < expected[3][1] < expected[3][2]


def test_dots_are_the_other_attacks_from_above():
    table = attacked()
    axes = durability.draw(table).axes[3]
    names = ["as unlearned", "8 bits", "4 bits", "rephrased", "direction ablated", "open-ended"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    attacks = ["as_unlearned", "quantised_8", "quantised_4", "rephrased", "ablated", "open_ended"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx(
        [values(table, name, "rmu/attribute/merge/ties") for name in attacks]
    )
    assert [round(line.get_ydata()[0]) for line in dots] == list(range(6))
    [chance] = [line for line in axes.lines if list(line.get_xdata()) == [CHANCE, CHANCE]]
    assert list(chance.get_ydata()) == [-0.5, 4.5], "an open-ended question can't be guessed"


def test_chance_is_drawn_only_where_it_is_known():
    assert "guessing" in texts(durability.draw(attacked()))
    assert "guessing" not in texts(durability.draw(TABLES["one source of texts"]()))


def test_one_row_per_method_and_merge():
    figure = durability.draw(TABLES["three methods, two merges"]())
    assert len(figure.axes) == 6 * 4
    titles = [axes.get_title(loc="left") for axes in figure.axes[::4]]
    assert titles[:3] == ["RMU, TIES", "RMU, DARE", "NPO, TIES"]
    assert [axes.get_title(loc="left") for axes in durability.draw(attacked(merges=())).axes[::4]] == ["RMU"]


def test_broken_models_are_crossed():
    table = attacked()
    rows = (table["candidate"] == "rmu/joint") & (table["metric"] == "perplexity")
    table.loc[rows, ["value", "low", "high"]] = [3e11, 1e11, 5e11]
    figure = durability.draw(table)
    assert style.BROKEN in texts(figure)
    assert sum(line.get_marker() == "x" for line in figure.axes[3].lines) == 6


def test_without_attacks_it_says_so():
    assert "This experiment measured no durability of an unlearned model." in texts(durability.draw(example()))
