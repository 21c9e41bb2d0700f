import warnings
from functools import partial
from importlib import import_module
from itertools import combinations

import numpy
import pytest
import toxicity_example
from evaluations_example import example as capitals
from matplotlib.text import Text
from toxicity_example import PERPLEXITY, example, perplexity, remaining

from spunge.report import families
from spunge.report.figures import style

FIGURES = ("toxicity_radar", "toxicity_tradeoff", "toxicity_overview")
THIRTEEN = tuple(f"a group with a long name {number}" for number in range(13))
ONE_SEED = {"seeds": ("0",)}
TVN = {"tvn": toxicity_example.FAMILIES["tvn"]}
RMU = {"rmu": {"rmu": 1.0}}


def changed(table, where, numbers):
    """Return the table with other values in some rows (given as a query)."""
    rows = table.query(where).index
    table.loc[rows, ["value", "low", "high"]] = numbers
    return table


one_seed = partial(example, **ONE_SEED)
PERPLEXITY_OF = "method == '{}' and metric == 'perplexity'"
TABLES = {
    "the whole example": example,
    "two groups": partial(one_seed, groups=("insult", "threat")),
    "thirteen groups": partial(one_seed, groups=THIRTEEN),
    "single shards": partial(one_seed, shards=True),
    "one family": partial(one_seed, families=TVN, merges=("ties",)),
    "one λ": partial(one_seed, families=RMU),
    "three families": partial(one_seed, families={**TVN, "rmu": {"rmu": 1.0, "rmu-half": 0.5}}),
    "no questions, neutral prompts of no group": partial(one_seed, retain=(), neutral_groups=False),
    "three classifiers": partial(one_seed, classifiers=("profanity_check", "word_list", "mine")),
    "four classifiers": partial(
        one_seed, classifiers=("profanity_check", "word_list", "tox_block", "tox_block_by_kind")
    ),
    "odd names": partial(one_seed, groups=("$a_b & c%$", "Côte d'Ivoire", "_NA", "None")),
    "no merge": partial(one_seed, merges=()),
    "no toxicity left": lambda: changed(one_seed(), "metric.str.contains('toxic_share')", [0.0, 0.0, 0.0]),
    "no perplexity": lambda: one_seed().query("evaluation != 'fluency'"),
    "a perplexity that is none, an infinite one": lambda: changed(
        changed(one_seed(), PERPLEXITY_OF.format("tvn"), [numpy.nan] * 3),
        PERPLEXITY_OF.format("tvn-half"),
        [numpy.inf] * 3,
    ),
    "another experiment": capitals,
    "no rows at all": lambda: one_seed().iloc[:0],
    "only the base model": lambda: one_seed().query("candidate == 'base'"),
}


@pytest.fixture(scope="module", params=TABLES)
def table(request):
    return TABLES[request.param]()


def draw(name, table):
    return import_module(f"spunge.report.figures.{name}").draw(table)


def texts(figure):
    return {text.get_text() for text in figure.findobj(Text)}


def shown(figure):
    """Return the texts that are drawn, each with the box it takes up."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {
                label
                for label, place in zip(axis.get_ticklabels(which="both"), axis.get_ticklocs(minor=False), strict=False)
                if not low <= place <= high
            }
        if not axes.axison:
            hidden |= set(axes.findobj(Text)) - set(axes.get_legend().findobj(Text) if axes.get_legend() else ())
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent().padded(-1)) for text in found if text not in hidden]


def points(axes):
    """Return colour → the places of single markers."""
    found = {}
    for line in axes.lines:
        if line.get_marker() not in ("", "None", "x") and len(line.get_xdata()) == 1:
            found.setdefault(line.get_color(), []).append((float(line.get_xdata()[0]), float(line.get_ydata()[0])))
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_from_every_table_and_no_text_covers_another(name, table):
    with warnings.catch_warnings(), style.style():
        warnings.simplefilter("error")
        figure = draw(name, table)
        boxes = shown(figure)
    assert boxes
    width, height = figure.get_size_inches()
    assert width <= style.PAGE
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1, text
        assert box.x1 <= width * figure.dpi + 1 and box.y1 <= height * figure.dpi + 1, text
    clashes = [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
    assert not clashes


@pytest.mark.parametrize("name", FIGURES)
def test_without_toxicity_there_is_a_sentence(name):
    assert any("measured no toxicity" in text for text in texts(draw(name, capitals())))


def test_families_are_shown_at_their_whole_task_vectors():
    assert families.reference_methods(example()) == {"tvn": "tvn", "rmu": "rmu"}
    table = example(families={"tvn": {"tvn": 0.25, "tvn-half": 0.5}})
    assert families.reference_methods(table) == {"tvn": "tvn-half"}
    assert families.reference_methods(capitals(methods=("rmu", "npo"))) == {"rmu": "rmu", "npo": "npo"}
    assert families.display_names(example()) == {
        "tvn": "TVN, λ = 1",
        "tvn-half": "TVN, λ = 0.5",
        "tvn-quarter": "TVN, λ = 0.25",
        "rmu": "RMU",
    }


def test_radar_has_a_panel_per_family():
    figure = draw("toxicity_radar", example())
    assert [axes.get_title() for axes in figure.axes[:2]] == ["TVN, λ = 1", "RMU"]
    tvn, rmu = ([list(line.get_ydata()) for line in axes.lines] for axes in figure.axes[:2])
    base = [0.10, 0.24, 0.16, 0.30, 0.10]  # closed
    assert tvn[0] == rmu[0] == pytest.approx(base)
    assert len(tvn) == len(rmu) == 1 + 1 + 2 * 2
    # base, joint, random TIES and mean, attribute TIES and mean
    assert tvn[4] == pytest.approx([0.25 * share for share in base])
    assert rmu[4] == pytest.approx([0.70 * share for share in base])


def test_radar_shows_the_interval_of_every_group():
    figure = draw("toxicity_radar", example(merges=("ties",)))
    (band,) = figure.axes[0].collections
    edges = band.get_paths()[0].vertices
    for angle, share in zip((0, numpy.pi / 2), (0.10, 0.24), strict=True):
        bounds = edges[numpy.isclose(edges[:, 0], angle), 1]
        assert bounds.min() == pytest.approx(0.85 * 0.25 * share) and bounds.max() == pytest.approx(1.15 * 0.25 * share)


def test_radar_dots_the_lines_of_broken_models_and_says_so():
    figure = draw("toxicity_radar", example())
    for axes in figure.axes[:2]:
        assert [line.get_linestyle() for line in axes.lines] == ["--", ":", "-", "-", "-", "-"]
    assert style.BROKEN in texts(figure)
    whole = example(families=TVN, merges=("ties",), **ONE_SEED).query("method != 'tvn' or evaluation != 'fluency'")
    assert style.BROKEN not in texts(draw("toxicity_radar", whole))


def test_radar_of_two_groups_says_why_there_is_none():
    table = example(groups=("insult", "threat"), **ONE_SEED)
    assert any("at least three groups" in text for text in texts(draw("toxicity_radar", table)))


def test_tradeoff_lines_run_from_the_base_model_through_every_scale():
    tvn, rmu = draw("toxicity_tradeoff", example()).axes
    assert [axes.get_title(loc="right") for axes in (tvn, rmu)] == ["TVN", "RMU"]
    lines = [numpy.array(line.get_xydata()) for line in tvn.lines if len(line.get_xdata()) == 4]
    expected = [
        [(PERPLEXITY, 0.2), *((perplexity("tvn", *key, λ), 0.2 * remaining("tvn", *key, λ)) for λ in (0.25, 0.5, 1.0))]
        for key in (
            ("joint", ""),
            ("random", "ties"),
            ("random", "linear"),
            ("attribute", "ties"),
            ("attribute", "linear"),
        )
    ]
    assert len(lines) == len(expected)
    for line, numbers in zip(lines, expected, strict=True):
        assert line == pytest.approx(numpy.array(numbers))
    assert not [line for line in rmu.lines if len(line.get_xdata()) == 4], "a single λ has no line"
    assert sum(map(len, points(rmu).values())) == 1 + 5
    assert tvn.get_xscale() == "log"


def test_tradeoff_draws_the_intervals_of_the_table():
    table = example()
    axes = draw("toxicity_tradeoff", table).axes[0]
    own = table[
        (table["candidate"] == "tvn-half/attribute/merge/ties") & (table["attribute"].isin(["", "forget mean"]))
    ]
    numbers = own.set_index(["evaluation", "metric"])
    x, y = (numbers.loc[name] for name in (("fluency", "perplexity"), ("toxicity", "toxic_share_profanity_check")))
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines]
    assert ((x["low"], x["high"]), (y["value"], y["value"])) in lines
    assert ((x["value"], x["value"]), (y["low"], y["high"])) in lines


def test_tradeoff_names_the_scales_and_crosses_broken_models():
    tvn, rmu = draw("toxicity_tradeoff", example(merges=("ties",))).axes
    named = [text.get_text() for text in tvn.texts]
    assert sorted(named) == ["0.25"] * 3 + ["0.5"] * 3 + ["1"] * 3
    for axes, place in ((tvn, (104.0, 0.08)), (rmu, (43.2, 0.16))):
        (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
        assert tuple(cross.get_xydata()[0]) == pytest.approx(place)


def test_tradeoff_leaves_far_points_out_and_says_so():
    table = example(merges=("ties",), **ONE_SEED)
    table = changed(table, "candidate == 'tvn/joint' and metric == 'perplexity'", [3e10, 1e10, 5e10])
    axes = draw("toxicity_tradeoff", table).axes[0]
    assert axes.get_xlabel().endswith("1 point beyond the panel, up to 3.0e+10 \u2192")
    assert axes.get_xlim()[1] < 100


def test_overview_shows_every_measure_of_every_candidate():
    table = example()
    figure = draw("toxicity_overview", table)
    combined = table[(table["seed"] == "all") & (table["shard"] == "")]
    measures = (
        ("toxicity", "toxic_share_profanity_check", "forget mean"),
        ("toxicity", "toxic_share_word_list", "forget mean"),
        ("toxicity_neutral", "toxic_share_profanity_check", "forget mean"),
        ("toxicity", "distinct_2", "forget mean"),
        ("fluency", "perplexity", ""),
    )
    assert len(figure.axes) == len(measures)
    for axes, (evaluation, metric, attribute) in zip(figure.axes, measures, strict=True):
        rows = combined[(combined["evaluation"] == evaluation) & (combined["metric"] == metric)]
        rows = rows[rows["attribute"] == attribute]
        dots = sorted(x for own in points(axes).values() for x, _ in own)
        assert len(dots) == 1 + 4 * 5
        assert dots == pytest.approx(sorted(rows["value"]))
    assert {"TVN, λ = 0.25", "RMU", "base model", "random split, mean"} <= texts(figure)


def test_overview_marks_broken_models_and_perplexities_beyond_the_panel():
    table = changed(example(), "candidate == 'tvn/joint' and metric == 'perplexity'", [3e10, 1e10, 5e10])
    figure = draw("toxicity_overview", table)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names.count("joint (broken)") == 2
    assert sum("broken" in name for name in names) == len(toxicity_example.BROKEN)
    assert "3e+10 \u2192" in texts(figure)
    assert [len([line for line in axes.lines if line.get_marker() == "x"]) for axes in figure.axes] == [2, 2, 2, 2, 1]


def test_overview_takes_neutral_prompts_of_no_group():
    axes = draw("toxicity_overview", example(neutral_groups=False, **ONE_SEED)).axes[2]
    assert axes.get_xlabel().endswith("neutral prompts")
    assert max(x for own in points(axes).values() for x, _ in own) == pytest.approx(0.02)


def test_a_family_is_shown_at_the_factor_nearest_to_one_and_named_by_another():
    table = example(families={"tvn": {"tvn": 1.0, "tvn-double": 2.0}})
    assert families.reference_methods(table) == {"tvn": "tvn"}
    assert families.display_names(example(families={"tvn": {"tvn": 0.5}})) == {"tvn": "TVN, λ = 0.5"}
