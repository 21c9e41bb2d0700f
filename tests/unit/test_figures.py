import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy
import pandas
import pytest
from durability_example import attacked
from evaluations_example import ACCURACY, example
from toxicity_example import example as toxic

from scripts import figure as figure_script
from spunge.core.errors import InputError
from spunge.experiment import configuration
from spunge.experiment.grid import known_figures
from spunge.report import figures, results_table, summary
from spunge.report.figures import style

FIGURES = figures.known()
ODD = ("../x", "$a_b & c%$", "Côte d'Ivoire", "_NA")
THIRTEEN = tuple(f"group_{number}" for number in range(13))
FIVE = ("rmu", "tvn", "gradient_ascent", "npo", "mine")
one_seed = partial(example, seeds=("0",))
TABLES = {
    "the default experiment": example,
    "one forget attribute and nothing kept": partial(one_seed, forget=("Africa",), retain=()),
    "thirteen attributes": partial(one_seed, forget=THIRTEEN, retain=("neutral",)),
    "five methods, three merges, one forget attribute": partial(
        one_seed, methods=FIVE, merges=("ties", "linear", "dare_ties"), forget=("Africa",)
    ),
    "two methods, two merges, three numbers of shards": partial(
        one_seed, methods=("rmu", "npo"), merges=("ties", "dare"), forget=("Africa", "Asia", "Oceania"), shards=(2,)
    ),
    "no merge": partial(one_seed, merges=()),
    "odd names": partial(one_seed, forget=ODD, retain=("NA", "None")),
    "no rows at all": lambda: example().iloc[:0],
    "only the base model": lambda: example().query("candidate == 'base'"),
}


def draw(name, table):
    return figures.load(name).draw(table)


def texts(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


@pytest.fixture(scope="module", params=TABLES)
def table(request):
    return TABLES[request.param]()


def test_what_a_plan_knows_of_figures_is_as_their_files_say():
    """Where this fails: python rules/generate.py."""
    modules = {name: figures.load(name) for name in FIGURES}
    listed = {name: {"when": module.WHEN, "caption": module.CAPTION} for name, module in modules.items()}
    assert known_figures() == listed
    evaluations = configuration.schema()["properties"]["evaluations"]["properties"]
    assert {name for module in modules.values() for name in module.WHEN} <= {*evaluations, "shards", "budgets"}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_from_every_table(name, table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw(name, table)
        with style.style():
            figure.draw_without_rendering()
    assert texts(figure) - {""}


def spoilt(table, candidate, number, metric=None, seeds=("all", "0", "1")):
    """Return the table with another value and interval in all rows of one candidate, or in those of one metric."""
    paths = [candidate, *(f"{candidate}/seed{seed}" for seed in seeds)]
    rows = table["candidate"].isin(paths) & table["seed"].isin(seeds)
    rows &= True if metric is None else table["metric"] == metric
    assert rows.any()
    return table.assign(**{column: table[column].mask(rows, number) for column in ("value", "low", "high")})


def as_benchmarks(table):
    asked = table[table["metric"] == "questions"]
    asked = asked.assign(evaluation="task", metric="questions_" + asked["attribute"], shard="")
    table = table[table["metric"] != "questions"]
    return pandas.concat([asked, table.replace({"evaluation": {"knowledge": "benchmarks"}})], ignore_index=True)


MANY = ("attributes of many", "radar of many", "merging of many")


def shown_by(name):
    """Return a table that has what a figure shows."""
    if name.startswith("toxicity"):
        return toxic(families={"rmu": {"rmu": 1.0}}, merges=("ties",), seeds=("0",))
    if name in MANY:
        return example(forget=tuple(f"group {number}" for number in range(21)), seeds=("0",))
    if name == "frontier":
        return example(budgets=("kl=0.01", "kl=0.1"))
    table = attacked(("relearned_forget_10", "ablated"), forget=("Africa", "Asia", "Oceania"), shards=(2,))
    return as_benchmarks(table) if name == "benchmarks" else table


@pytest.mark.parametrize("name", [*FIGURES, *MANY])
def test_a_model_without_numbers_is_shown_as_broken(name):
    with warnings.catch_warnings(), style.style():
        warnings.simplefilter("error")
        table = spoilt(spoilt(shown_by(name), "rmu/joint", numpy.nan), "rmu/attribute/merge/ties", numpy.inf)
        figure = draw(name.removesuffix(" of many"), table)
        figure.draw_without_rendering()
    assert any("broken" in text for text in texts(figure) - {style.BROKEN})
    for axes in figure.axes:
        assert numpy.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


@pytest.mark.parametrize("name", ["tradeoff", "attributes", "shards", "benchmarks", "durability"])
def test_a_model_that_no_longer_writes_language_is_crossed_out(name):
    figure = draw(name, spoilt(shown_by(name), "rmu/joint", 1e300, "perplexity"))
    assert style.BROKEN in texts(figure)
    assert any(line.get_marker() == "x" for axes in figure.axes for line in axes.lines)


def test_tradeoff_crosses_the_point_or_tells_why_there_is_none():
    table = spoilt(example(), "rmu/joint", 400.0, "perplexity")
    assert style.BROKEN not in texts(draw("tradeoff", example()))
    axes = draw("tradeoff", table).axes[0]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    means = [
        numpy.mean([numpy.mean(ACCURACY["joint"][name]) for name in names])
        for names in (("Africa", "Asia"), ("Americas", "Europe"))
    ]
    assert cross.get_xydata()[0] == pytest.approx(means)
    axes = draw("tradeoff", spoilt(table, "rmu/joint", numpy.nan, "accuracy")).axes[0]
    assert not [line for line in axes.lines if line.get_marker() == "x"]
    told = axes.get_xlabel().replace("\n", " ")
    assert "broken, not drawn: joint (all at once): " in told


def test_an_endless_interval_leaves_the_panel():
    table = example()
    rows = (table["candidate"] == "rmu/joint") & (table["metric"] == "perplexity")
    for high in (1e300, numpy.inf):
        table.loc[rows, "high"] = high
        assert draw("overview", table).axes[1].get_xlim()[1] <= 402


def test_without_the_base_models_perplexity_the_lowest_bounds_the_panel():
    table = spoilt(spoilt(example(), "base", numpy.nan, "perplexity"), "rmu/joint", 1e300, "perplexity")
    axes = draw("overview", table).axes[1]
    assert axes.get_xlim()[1] < 100
    assert "1e+300 \u2192" in texts(axes.figure)


@pytest.mark.parametrize("number", [numpy.nan, numpy.inf, 1e300])
def test_a_loss_that_runs_away_ends_its_curve_and_the_mean(number):
    table = example(forget=("Africa",))
    rows = (table["candidate"] == "rmu/joint/seed1") & (table["metric"] == "forget_loss") & (table["n"] >= 31)
    axes = draw("training", table.assign(value=table["value"].mask(rows, number))).axes[0]
    first, second, mean, cross = axes.lines
    assert max(first.get_xdata()) == 60
    assert max(second.get_xdata()) == max(mean.get_xdata()) == 28 == cross.get_xdata()[0]
    assert cross.get_marker() == "x"
    assert axes.get_ylim()[1] < 100


def test_runs_without_a_loss_are_named():
    table = example(seeds=("0",))
    table = table.assign(value=table["value"].mask(table["evaluation"] == "training"))
    with warnings.catch_warnings(), style.style():
        warnings.simplefilter("error")
        figure = draw("training", table)
        figure.draw_without_rendering()
    assert {"broken, not drawn: joint", "broken, not drawn: Africa, Asia"} <= texts(figure)


def test_a_cosine_that_is_no_number_is_none():
    table = spoilt(example(), "rmu/attribute/merge/ties", numpy.nan, "cosine", seeds=("0",))
    matrix = draw("merging", table).axes[3].collections[0].get_array()
    assert numpy.ma.getmaskarray(matrix).tolist() == [[False, True], [True, False]]


def test_tradeoff_plots_the_combined_means_and_the_single_seeds():
    axes = draw("tradeoff", example()).axes[0]
    points = {tuple(numpy.round(point, 6)) for artist in axes.collections for point in artist.get_offsets()}

    def mean(kind, attributes, seed):
        return numpy.mean([numpy.mean(ACCURACY[kind][attribute][seed]) for attribute in attributes])

    for seed in (0, 1, slice(None)):
        point = mean("attribute", ("Africa", "Asia"), seed), mean("attribute", ("Americas", "Europe"), seed)
        assert tuple(numpy.round(point, 6)) in points
    # 6 candidates with seeds combined, and 5 of them with two seeds each
    assert len(axes.collections) == 6 + 5 * 2


def test_tradeoff_draws_the_intervals_of_the_table():
    table = example()
    axes = draw("tradeoff", table).axes[0]
    rows = table[(table["candidate"] == "rmu/attribute/merge/ties") & (table["metric"] == "accuracy")].set_index(
        "attribute"
    )
    forget, retain = rows.loc["forget mean"], rows.loc["retain mean"]
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines]
    assert ((forget["low"], forget["high"]), (retain["value"], retain["value"])) in lines
    assert ((forget["value"], forget["value"]), (retain["low"], retain["high"])) in lines


def test_tradeoff_has_one_panel_per_method():
    figure = draw("tradeoff", example(methods=("rmu", "tvn")))
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["RMU", "TVN"]


def test_overview_has_one_point_per_joint_run_and_merge():
    table = example(methods=("rmu", "tvn"), merges=("ties", "linear"))
    left, right = draw("overview", table).axes
    combined = table[(table["seed"] == "all") & (table["method"] != "") & (table["shard"] == "")]
    compared = combined[(combined["split"] == "joint") | (combined["merge"] != "")]
    for axes, metric, attribute in ((left, "accuracy", "retain minus forget"), (right, "perplexity", "")):
        rows = compared[(compared["metric"] == metric) & (compared["attribute"] == attribute)]
        points = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() not in ("", "None"))
        assert len(points) == 2 * (1 + 2 * 2)
        assert points == pytest.approx(sorted(rows["value"]))
    assert {"RMU", "TVN", "joint", "attribute split, mean"} <= texts(left.figure)


def test_overview_says_how_broken_a_broken_model_is():
    table = example()
    broken = (table["candidate"] == "rmu/joint") & (table["metric"] == "perplexity")
    table.loc[broken, ["value", "low", "high"]] = [3e11, 1e11, 5e11]
    right = draw("overview", table).axes[1]
    assert "3e+11 \u2192" in texts(right.figure)
    assert right.get_xlim()[1] < 1000


def test_bars_are_the_accuracies_forget_attributes_first():
    axes = draw("attributes", example()).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Africa", "Asia", "Americas", "Europe"]
    spunge = axes.containers[-1]
    expected = [numpy.mean(ACCURACY["attribute"][name]) for name in ("Africa", "Asia", "Americas", "Europe")]
    assert [bar.get_height() for bar in spunge] == pytest.approx(expected)
    assert spunge[1].get_x() + 1 < spunge[2].get_x(), "forget and retain attributes stand apart"


def test_many_single_shards_are_left_out_of_the_bars():
    assert len(draw("attributes", example(forget=("Africa", "Asia"))).axes[0].containers) == 6
    assert len(draw("attributes", example(forget=THIRTEEN)).axes[0].containers) == 4


def test_radar_lines_are_closed_and_hold_the_accuracies():
    lines = draw("radar", example()).axes[0].lines
    assert len(lines) == 4
    base = [ACCURACY["base"][name][0] for name in ("Africa", "Asia", "Americas", "Europe", "Africa")]
    assert list(lines[0].get_ydata()) == pytest.approx(base)


def test_radar_of_two_attributes_says_why_there_is_none():
    assert any("at least three" in text for text in texts(draw("radar", example(forget=("A",), retain=("B",)))))


@pytest.mark.parametrize(("first", "scale"), [(0.0, "linear"), (1e-14, "linear"), (2e-6, "log"), (1.0, "linear")])
def test_training_has_numbers_at_every_axis(first, scale):
    """RMU's retain loss starts at 0 but for rounding."""
    table = example()
    rows = (table["metric"] == "retain_loss") & (table["n"] == table.loc[table["metric"] == "retain_loss", "n"].min())
    figure = draw("training", table.assign(value=table["value"].mask(rows, first)))
    figure.draw_without_rendering()
    axes = figure.axes[3]
    low, high = axes.get_ylim()
    numbers = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert len([number for number in numbers if number]) > 2
    assert axes.get_yscale() == scale


@pytest.mark.parametrize(("loss", "marks"), [(0.5, []), (numpy.nan, [style.BROKEN])])
def test_the_legend_of_training_names_every_shard_and_covers_no_panel(loss, marks):
    forget = ("Africa", "Asia", "Americas", "a name of thirty-three characters")
    table = one_seed(methods=("rmu", "npo"), forget=forget, retain=())
    rows = table["candidate"].str.startswith("npo/attribute/shard/Asia") & (table["n"] > 30)
    with style.style():
        figure = draw("training", table.assign(value=table["value"].mask(rows, loss)))
        figure.draw_without_rendering()
    assert not any(axes.get_legend() for axes in figure.axes)
    (legend,) = figure.legends
    names = [*marks, *forget, "part1", "part2", "part3", "part4"]
    assert [text.get_text() for text in legend.get_texts()] == names
    box = legend.get_window_extent()
    assert not [axes for axes in figure.axes if axes.get_tightbbox().overlaps(box)]
    assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) and figure.bbox.containsy(box.y0)


def test_training_draws_each_seed_and_the_mean():
    table = example(forget=("Africa",), seeds=("0", "1", "2"))
    axes = draw("training", table).axes[0]
    losses = table[(table["metric"] == "forget_loss") & (table["split"] == "joint")]
    assert len(axes.lines) == 3 + 1
    assert list(axes.lines[1].get_ydata()) == list(losses.loc[losses["seed"] == "1", "value"])
    assert list(axes.lines[3].get_ydata()) == pytest.approx(list(losses.groupby("n")["value"].mean()))


def test_merging_shows_the_diagnostics():
    figure = draw("merging", example())
    bars, matrix = next(
        (bars, matrix)
        for bars, matrix in zip(figure.axes[0::2], figure.axes[1::2], strict=False)
        if bars.get_title(loc="left") == "attribute split, TIES"
    )
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.5, 0.49, 0.34])
    assert matrix.collections[0].get_array().tolist() == [[1, 0.3], [0.3, 1]]


def test_merging_without_merges_says_so():
    assert "Nothing was merged in this experiment." in texts(draw("merging", example(merges=())))


def test_a_candidate_keeps_its_colour_in_every_figure():
    table = example()
    blue = results_table.candidates(table)[-1].colour
    assert draw("radar", table).axes[0].lines[-1].get_color() == blue
    assert draw("attributes", table).axes[0].containers[-1][0].get_facecolor()[:3] == pytest.approx(
        [int(blue[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    )


def test_script_writes_the_same_bytes_twice(tmp_path):
    example().to_csv(tmp_path / "evaluations.csv", index=False)
    for attempt in ("a", "b"):
        arguments = ["--figure", "tradeoff", "--evaluations", str(tmp_path / "evaluations.csv")]
        arguments += ["--pdf", str(tmp_path / f"{attempt}.pdf"), "--png", str(tmp_path / f"{attempt}.png")]
        assert figure_script.main(arguments) == 0
    for suffix, magic in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        first = (tmp_path / f"a.{suffix}").read_bytes()
        assert first.startswith(magic)
        assert first == (tmp_path / f"b.{suffix}").read_bytes()
    assert b"CreationDate" not in (tmp_path / "a.pdf").read_bytes()


def test_script_starts_without_importing_pandas_or_matplotlib():
    code = "import sys, scripts.figure; print([name for name in ('pandas', 'matplotlib') if name in sys.modules])"
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "[]"


def test_reading_keeps_text_as_text_and_numbers_as_numbers(tmp_path):
    example(forget=("NA", "None"), retain=("1", "")).to_csv(tmp_path / "evaluations.csv", index=False)
    table = results_table.read(tmp_path / "evaluations.csv")
    assert results_table.forget_attributes(table) == ["NA", "None"]
    assert results_table.retain_attributes(table) == ["1"]
    assert set(table["seed"]) == {"0", "1", "all"}
    assert not table[list(results_table.TEXT_COLUMNS)].isna().any(axis=None)
    assert table["low"].isna().any() and table["low"].dtype == float


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop(columns="seed"), "lacks the column seed"),
        (lambda table: table.astype({"value": str}).replace({"value": {"0.704": "high"}}), "cannot be read"),
        (lambda table: table.assign(experiment=[*["a"] * (len(table) - 1), "b"]), r"several experiments \(a, b\)"),
        (lambda table: table.iloc[[*range(len(table)), 0]], "rows twice, the first is candidate 'base'"),
        (lambda table: table.assign(budget="kl"), "'kl' is no budget: they read like kl=0.03, of kl, perplexity, kept"),
        (lambda table: table.assign(budget="loss=0.03"), "'loss=0.03' is no budget"),
    ],
)
def test_a_bad_table_is_told_in_one_sentence(tmp_path, spoil, message):
    spoil(example()).to_csv(tmp_path / "evaluations.csv", index=False)
    with pytest.raises(InputError, match=message):
        results_table.read(tmp_path / "evaluations.csv")


def test_a_missing_or_empty_table_is_told_in_one_sentence(tmp_path, capsys):
    (tmp_path / "empty.csv").touch()
    for name in ("none.csv", "empty.csv"):
        with pytest.raises(InputError, match=name):
            results_table.read(tmp_path / name)
    paths = ["--evaluations", str(tmp_path / "none.csv"), "--pdf", "x.pdf", "--png", "x.png"]
    assert figure_script.main(["--figure", "radar", *paths]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_an_attribute_is_one_line(tmp_path):
    example(forget=("two\nlines\r\n\tand\x07more", "Asia")).to_csv(tmp_path / "evaluations.csv", index=False)
    table = results_table.read(tmp_path / "evaluations.csv")
    assert results_table.forget_attributes(table) == ["two lines and more", "Asia"]
    assert "only two lines and more" in texts(draw("attributes", table))
    assert len({row.count("|") for row in summary.markdown(table).splitlines()}) == 1
    assert len(summary.markdown(example(forget=("a\nb",))).splitlines()) == 2 + 5


def test_candidates_are_ordered_and_named():
    labels = [candidate.label for candidate in results_table.candidates(example())]
    assert labels == [
        "base model",
        "joint (all at once)",
        "only Africa",
        "only Asia",
        "random split, TIES (control)",
        "attribute split, TIES (SPUNGE)",
    ]
    both = results_table.candidates(example(methods=("rmu", "tvn"), merges=("ties", "dare")))
    assert len({candidate.label for candidate in both}) == len(both) == 1 + 2 * 7
    assert both[-1].label == "TVN: attribute split, DARE (SPUNGE)"
    assert len({(candidate.method, candidate.colour) for candidate in both}) == len(both)


def test_shards_draws_every_number_of_shards_and_no_other_figure_shows_the_grouped_ones():
    forget = ("Africa", "Asia", "Oceania")
    table = example(forget=forget, shards=(2,))
    assert results_table.candidates(table) == results_table.candidates(example(forget=forget))
    grouped = [one for one in results_table.candidates(table, grouped=True) if one.groups]
    assert [(one.path, one.kind, one.groups) for one in grouped] == [
        ("rmu/random-2/merge/ties", "random", 2),
        ("rmu/attribute-2/merge/ties", "attribute", 2),
    ]
    figure = draw("shards", table)
    forgotten, differences = figure.axes[1], figure.axes[3]
    rows = table[(table["seed"] == "all") & (table["metric"] == "accuracy") & (table["attribute"] == "forget mean")]
    paths = ["rmu/joint", "rmu/attribute-2/merge/ties", "rmu/attribute/merge/ties"]
    known = list(numpy.round(rows.set_index("candidate").loc[paths, "value"], 6))
    lines = [list(numpy.round(line.get_ydata(), 6)) for line in forgotten.lines]
    assert known in lines
    rows = table[(table["seed"] == "all") & (table["metric"] == "accuracy_minus_random")]
    rows = rows[rows["attribute"] == "retain minus forget"].set_index("candidate")
    for number, path in ((2, "rmu/attribute-2/merge/ties"), (3, "rmu/attribute/merge/ties")):
        bars = [line for line in differences.lines if round(line.get_xdata()[0]) == number and line.get_ydata()[0] != 0]
        assert [list(bar.get_ydata()) for bar in bars] == [list(rows.loc[path, ["low", "high"]])]


def test_shards_says_so_where_there_is_only_one_number_of_them():
    assert "No method of this experiment was run with several numbers of shards." in texts(draw("shards", example()))
