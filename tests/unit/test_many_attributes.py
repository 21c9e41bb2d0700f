"""Figures of experiments with more attributes than have room for a bar, a spoke or a row each."""

from functools import cache

import numpy
import pytest
import toxicity_example
from evaluations_example import example

from spunge.report.figures import attributes, merging, radar, shards, style, toxicity_radar, training

FORGET = tuple(f"group {number}" for number in range(30))
RETAIN = ("Americas", "Europe", "Oceania")


@pytest.fixture(scope="module")
def table():
    """Without single shards, of which there are as many as attributes; their training stays. No two cosines are one."""
    whole = example(forget=FORGET, retain=RETAIN, seeds=("0",), shards=(2,), methods=("rmu", "npo"))
    cosines = whole["metric"] == "cosine"
    whole.loc[cosines, "value"] = numpy.random.default_rng(0).uniform(-1, 1, cosines.sum())
    single = (whole["shard"] != "") & whole["evaluation"].isin(["knowledge", "fluency"])
    return whole[~single].reset_index(drop=True)


@pytest.fixture(scope="module")
def drawn(table):
    """Return what a figure's module draws from the table: once, for all tests that look at it."""
    return cache(lambda figure: figure.draw(table))


def accuracies(table, candidate, names):
    """Attribute → accuracy, seeds combined."""
    rows = table[(table["candidate"] == candidate) & (table["metric"] == "accuracy") & (table["seed"] == "all")]
    return rows[rows["evaluation"] == "knowledge"].set_index("attribute")["value"].loc[list(names)]


def texts(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def medians(axes):
    """The medians of the boxes from above: the lines that cross a box from bottom to top."""
    lines = [line for line in axes.lines if line.get_linewidth() == 1.2]
    return [float(line.get_xdata()[0]) for line in lines]


def whiskers(axes):
    """The ends of all whiskers."""
    return {round(float(x), 9) for line in axes.lines for x in line.get_xdata()}


def test_boxes_are_the_accuracies_and_the_worst_are_named(table, drawn):
    figure = drawn(attributes)
    forget, keep = figure.axes[:2]
    order = ("base", "rmu/joint", "rmu/random/merge/ties", "rmu/attribute/merge/ties")
    for axes, names, worst in ((forget, FORGET, "idxmax"), (keep, RETAIN, "idxmin")):
        own = [accuracies(table, candidate, names) for candidate in order]
        assert medians(axes) == pytest.approx([numpy.median(values) for values in own])
        assert {round(float(end), 9) for values in own for end in (min(values), max(values))} <= whiskers(axes)
        named = [f"{getattr(values, worst)()}: {values[getattr(values, worst)()]:.0%}" for values in own]
        assert [text.get_text() for text in axes.texts] == named
    assert any("30 attributes to forget" in text for text in texts(figure))
    assert any("3 attributes to keep" in text for text in texts(figure))


def test_up_to_twenty_attributes_have_bars_and_spokes():
    small = example(forget=FORGET[:17], retain=RETAIN, seeds=("0",))
    assert attributes.draw(small).axes[0].containers
    assert radar.draw(small).axes[0].name == "polar"


def test_a_radar_of_many_attributes_is_sorted_curves(table, drawn):
    figure = drawn(radar)
    for axes, names, highest in ((figure.axes[0], FORGET, True), (figure.axes[1], RETAIN, False)):
        own = accuracies(table, "rmu/attribute/merge/ties", names)
        assert list(axes.lines[-1].get_ydata()) == pytest.approx(sorted(own, reverse=True))
        assert len(axes.lines) == 4
        assert (own.idxmax() if highest else own.idxmin()) in axes.get_xlabel()
        assert f"{len(names)} attributes" in axes.get_xlabel()


def test_a_radar_of_many_groups_is_sorted_curves():
    toxic = toxicity_example.example(families={"rmu": {"rmu": 1.0}}, groups=FORGET, seeds=("0",), merges=("ties",))
    figure = toxicity_radar.draw(toxic)
    rows = toxic[(toxic["candidate"] == "base") & (toxic["metric"] == "toxic_share_profanity_check")]
    base = rows[(rows["evaluation"] == "toxicity") & rows["attribute"].isin(FORGET)]["value"]
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx(sorted(base, reverse=True))
    assert "30 attributes to forget" in figure.axes[0].get_xlabel()


def test_merging_summarises_shares_and_pairs(table, drawn):
    figure = drawn(merging)
    kept, signs, pairs, *matrices = figure.findobj(lambda artist: hasattr(artist, "get_xaxis"))
    merged = ("rmu/random/merge/ties", "rmu/attribute/merge/ties", "npo/random/merge/ties", "npo/attribute/merge/ties")
    for axes, metric in ((kept, "kept_share"), (pairs, "cosine")):
        own = [table[(table["metric"] == metric) & table["candidate"].str.startswith(path)]["value"] for path in merged]
        assert medians(axes) == pytest.approx([numpy.median(values) for values in own])
    assert [place[0] for place in signs.collections[0].get_offsets()] == pytest.approx([0.2, 0.34, 0.2, 0.34])
    of_npo = table[(table["metric"] == "cosine") & table["candidate"].str.startswith("npo/attribute")]
    row = of_npo[(of_npo["shard"] == "group 3") & (of_npo["attribute"] == "group 11")]["value"].item()
    drawn = matrices[3].images[0].get_array()
    assert drawn.shape == (30, 30)
    assert drawn[3, 11] == drawn[11, 3] == pytest.approx(row)
    assert {"cosines of 435 pairs", "share kept, 30 shards"} <= texts(figure)


def test_training_of_many_shards_is_their_median_and_range(table, drawn):
    figure = drawn(training)
    axes = figure.axes[1]
    rows = table[(table["metric"] == "forget_loss") & (table["method"] == "rmu") & (table["split"] == "attribute")]
    by_step = rows.groupby("n")["value"]
    [line] = axes.lines
    assert list(line.get_ydata()) == pytest.approx(list(by_step.median()))
    [band] = axes.collections
    first = band.get_paths()[0].vertices
    first = first[first[:, 0] == 1, 1]
    assert (min(first), max(first)) == pytest.approx((by_step.min()[1], by_step.max()[1]))
    assert "attribute shards (30): median, range" in texts(figure)


def test_many_numbers_of_shards_stand_equally_far_apart(drawn):
    axes = drawn(shards).axes[-1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "30"]
    assert list(axes.get_xticks()) == [0, 1, 2]


@pytest.mark.parametrize("figure", [attributes, merging, radar, training, shards])
def test_the_size_does_not_grow_with_the_attributes(figure, drawn):
    with style.style():
        drawn(figure).draw_without_rendering()
    assert drawn(figure).get_figheight() < 11
    assert drawn(figure).get_figwidth() <= style.PAGE
