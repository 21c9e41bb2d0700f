"""A page to walk through the results: charts to point at, every number to filter and sort, two models' difference.

Made by Bokeh, which has charts, tables and their filters in one library, and whose JavaScript lies in its wheel: the
page loads nothing.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import jinja2
import numpy
import pandas
from bokeh.embed import components
from bokeh.layouts import column, row
from bokeh.models import (
    BooleanFilter,
    CDSView,
    ColumnDataSource,
    CustomJS,
    DataTable,
    Div,
    HoverTool,
    LayoutDOM,
    Legend,
    LegendItem,
    NumberFormatter,
    Select,
    Span,
    TableColumn,
    TextInput,
)
from bokeh.plotting import figure
from bokeh.resources import INLINE

from spunge.experiment import records
from spunge.experiment.records import parse_budget
from spunge.report.comparisons import Measure, axis_label, outcomes, over_budgets
from spunge.report.results_table import (
    ARMS,
    AS_TRAINED,
    COMBINED,
    COSTS,
    MINUS,
    Candidate,
    at_budget,
    base_model,
    broken_reasons,
    budgets,
    budgets_of,
    candidates,
    estimate,
    families,
    measured,
    without_seed,
)

ALL = " all"  # with a space before, since an attribute may be called all
BOKEH_MARKERS = {
    "joint": "square",
    "balanced": "plus",
    "sequential": "triangle",
    "random": "diamond",
    "attribute": "circle",
}
# Rows of these describe the experiment, not a model.
DESCRIPTIONS = ("data", "durability", "training", "merge", "edit", "tuning", "method", "task")
DESCRIPTIONS += ("classifier", "classifier_benign")
WIDE = {"sizing_mode": "stretch_width"}
WRAPPED = {"flex-wrap": "wrap"}  # what finds no room in a row goes to the next one
HEADINGS = {
    "model": "model",
    "rival": "minus",
    "budget": "budget",
    "evaluation": "evaluation",
    "attribute": "attribute",
    "metric": "metric",
    "note": "note",
    "value": "value",
    "low": "from (95 %)",
    "high": "to",
    "p": "p",
    "n": "n",
}
WIDTHS = {"model": 260, "rival": 260, "metric": 190, "budget": 160}  # of columns, in pixels
TEXTS = ("model", "rival", "budget", "evaluation", "attribute", "metric", "note")


def page(evaluations: pandas.DataFrame, template: str, script: str) -> str:
    """Return the page, which needs no network.

    template: a Jinja2 template (report/explore.html). script: the functions that its tables call (report/explore.js).
    """
    numbers, differences = tables(evaluations)
    models = list(dict.fromkeys([*numbers["model"], *differences["model"]]))
    parts = {
        "frontier": _frontier(evaluations),
        "numbers": _numbers(evaluations, numbers),
        "differences": _differences(evaluations, differences, models),
    }
    scripts, divs = components({name: part for name, part in parts.items() if part})
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        experiment=evaluations["experiment"].iloc[0] if len(evaluations) else "",
        resources=INLINE.render(),
        scripts=scripts,
        script=script,
        parts={"frontier": ""} | divs,
        sources=_sources(evaluations),
    )


def tables(evaluations: pandas.DataFrame) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Return every number of every model, seeds together, and every difference that was computed, for people.

    Columns of both: model, budget, evaluation, attribute, metric, value, low, high, n; of differences also rival, which
    was subtracted, and p. `note` says that a model is broken there, in a difference either one.
    """
    rows = evaluations[(evaluations["seed"] == COMBINED) & ~evaluations["evaluation"].isin(DESCRIPTIONS)]
    once = [name for name in rows["evaluation"].unique() if budgets_of(evaluations, name) != budgets(evaluations)]
    rows = rows[(rows["budget"] != COMBINED) | ~rows["evaluation"].isin(once)]  # these repeat the one budget's
    rows = rows.assign(candidate=without_seed(rows))
    of_base = rows["candidate"] == "base"
    # The base model is the same at each budget. The means over them come first, since answers rest on these.
    there = {*rows.loc[~of_base, "budget"]}
    at = [label for label in (COMBINED, AS_TRAINED, *budgets(evaluations)) if label in there] or [AS_TRAINED]
    known = candidates(evaluations, grouped=True)
    broken = {_budget(label): broken_reasons(at_budget(evaluations, label), known) for label in at}
    rows = pandas.concat([rows[(rows["budget"] == label) | of_base].assign(budget=_budget(label)) for label in at])
    pairs = zip(rows["budget"], rows["candidate"], strict=True)
    rows["note"] = [_note(broken[budget], path) for budget, path in pairs]
    names, first = _names(evaluations, rows["candidate"].unique()), outcomes(evaluations)[0].evaluation
    model = pandas.Categorical(rows["candidate"].map(names), list(names.values()))
    rows = rows.assign(model=model, last=rows["evaluation"] != first).sort_values(["model", "last"], kind="stable")
    rows["model"] = rows["model"].astype(str)
    metric, _, rival = (rows["metric"].str.partition(MINUS)[place] for place in range(3))
    numbers, differences = rows[rival == ""], rows.assign(metric=metric)[rival != ""]
    paths = {
        (path, name): other.path
        for path in differences["candidate"].unique()
        for name, other in records.Candidate.parse(path).rivals.items()
    }
    subtracted = [paths.get(pair) for pair in zip(differences["candidate"], rival[rival != ""], strict=True)]
    of_rival = [_note(broken[budget], path) for budget, path in zip(differences["budget"], subtracted, strict=True)]
    notes = [note or other for note, other in zip(differences["note"], of_rival, strict=True)]
    differences = differences.assign(rival=[names.get(path) for path in subtracted], note=notes)
    common = ["budget", "evaluation", "value", "low", "high", "attribute", "metric", "note"]
    differences = differences.dropna(subset="rival")
    return numbers[["model", *common, "n"]], differences[["model", "rival", *common, "p", "n"]]


def _note(broken: Mapping[str, str], path: str) -> str:
    """Return what is to be said of a model that writes no language any more: its numbers are no success."""
    return f"broken: {broken[path]}" if path in broken else ""


def _budget(label: str) -> str:
    return {AS_TRAINED: "as trained", COMBINED: "mean over the budgets"}.get(label, label)


def _names(evaluations: pandas.DataFrame, paths: Iterable[str]) -> dict[str, str]:
    """Return what people read for each candidate, in the order of tables; last, by path, those without accuracy."""
    labels = {candidate.path: candidate.label for candidate in candidates(evaluations, grouped=True)}
    there = dict.fromkeys(paths)
    return {path: labels[path] for path in labels if path in there} | {path: labels.get(path, path) for path in there}


# -- the frontier


def _frontier(evaluations: pandas.DataFrame) -> LayoutDOM | None:
    """Return one chart for each measure over the damage budget; None where no budget was set."""
    names = budgets(evaluations)
    compared = [candidate for candidate in candidates(evaluations) if candidate.kind in ARMS]
    if not names or not compared:
        return None
    cost, _ = parse_budget(names[0])
    names = [name for name in names if parse_budget(name)[0] == cost]
    charts, views = [], []
    for measure in over_budgets(evaluations, names):
        chart, shown = _chart(evaluations, measure, names, compared)
        chart.xaxis.axis_label = COSTS[cost]
        if charts:
            chart.x_range = charts[0].x_range
        charts.append(chart)
        views.append(shown)
    for shown, others in itertools.permutations(views, 2):
        for arm, renderers in shown.items():
            for renderer, other in zip(renderers, others[arm], strict=True):
                renderer.js_link("visible", other, "visible")
    chosen = {
        "method": list(dict.fromkeys(candidate.method for candidate in compared)),
        "merge": list(dict.fromkeys(candidate.merge for candidate in compared if candidate.merge)),
    }
    selects = {
        name: Select(name=f"frontier: {name}", title=name, value=values[0], options=[ALL, *values], width=220)
        for name, values in chosen.items()
        if len(values) > 1
    }
    choose = CustomJS(
        args={"selects": selects, "renderers": [one for shown in views for of_arm in shown.values() for one in of_arm]},
        code="explore.choose(selects, renderers)",
    )
    for select in selects.values():
        select.js_on_change("value", choose)
    wide = row(*charts, styles=WRAPPED, **WIDE)
    return column(row(*selects.values()), wide, **WIDE) if selects else wide


def _chart(
    evaluations: pandas.DataFrame, measure: Measure, names: Sequence[str], compared: Sequence[Candidate]
) -> tuple[figure, dict[str, list]]:
    """Return a chart with a line for each candidate, and each arm's marks: lines, intervals, points."""
    scale = 100 if measure.unit == "points" else 1
    places = [parse_budget(name)[1] for name in names]
    tables_at = {name: at_budget(evaluations, name) for name in names}
    chart = figure(
        x_axis_type="log", height=440, min_width=330, tools="pan,box_zoom,reset,save", toolbar_location="above", **WIDE
    )
    chart.toolbar.logo = None
    chart.yaxis.axis_label = axis_label(measure)
    chart.xaxis.ticker = places
    chart.xaxis.major_label_overrides = {place: f"{place:g}" for place in places}
    chart.xgrid.grid_line_color = chart.axis.minor_tick_line_color = None
    base = base_model(candidates(evaluations))
    if base:
        of_base = estimate(measured(evaluations, measure.evaluation, measure.metric), base, measure.attribute)
        if math.isfinite(of_base.value):
            chart.add_layout(Span(location=of_base.value * scale, dimension="width", line_dash="dashed"))
    arms = [arm for arm in ARMS if any(candidate.kind == arm for candidate in compared)]
    marks: dict[str, list] = {}
    for number, arm in enumerate(arms):
        of_arm = [candidate for candidate in compared if candidate.kind == arm]
        beside = 1.03 ** (number - (len(arms) - 1) / 2)  # so that the arms' intervals don't lie on one another
        rows, lines = _marks(of_arm, tables_at, measure, scale)
        rows["x"] = [place * beside for place in places] * len(of_arm)
        lines["xs"] = [[place * beside for place in places]] * len(of_arm)
        source, view = ColumnDataSource(rows), _view(rows, compared)
        whiskers = chart.segment("x", "low", "x", "high", source=source, view=view, color="colour", alpha=0.5)
        line = {"source": ColumnDataSource(lines), "view": _view(lines, compared), "color": "colour"}
        drawn = chart.multi_line("xs", "ys", line_width=1.5, **line)
        dots = chart.scatter("x", "y", size=8, marker=BOKEH_MARKERS[arm], source=source, view=view, color="colour")
        marks[arm] = [drawn, whiskers, dots]
    tips = [("model", "@model"), ("budget", "@budget"), ("value", "@y{0.0} [@low{0.0}, @high{0.0}]"), ("note", "@note")]
    chart.add_tools(HoverTool(renderers=[dots for _, _, dots in marks.values()], tooltips=tips))
    items = [LegendItem(label=ARMS[arm], renderers=of_arm) for arm, of_arm in marks.items()]
    chart.add_layout(Legend(items=items, click_policy="hide", label_text_font_size="9pt", ncols=2), "below")
    return chart, marks


def _marks(
    compared: Sequence[Candidate], tables_at: Mapping[str, pandas.DataFrame], measure: Measure, scale: int
) -> tuple[dict[str, list], dict[str, list]]:
    """Return candidates' points, one at each budget, and their lines, one each: column → values."""
    points, lines = [], []
    at_each = [
        (budget, measured(table, measure.evaluation, measure.metric), broken_reasons(table, compared))
        for budget, table in tables_at.items()
    ]
    for candidate in compared:
        facts = {"model": candidate.label, "method": candidate.method, "merge": candidate.merge}
        facts["colour"] = candidate.colour
        of_candidate = []
        for budget, rows, broken in at_each:
            value, low, high = (number * scale for number in estimate(rows, candidate, measure.attribute))
            note = _note(broken, candidate.path)
            of_candidate.append(facts | {"budget": budget, "y": value, "low": low, "high": high, "note": note})
        points += of_candidate
        lines.append(facts | {"ys": [point["y"] for point in of_candidate]})
    return pandas.DataFrame(points).to_dict("list"), pandas.DataFrame(lines).to_dict("list")


def _view(marks: Mapping[str, list], compared: Sequence[Candidate]) -> CDSView:
    """Return which marks are shown at first: those of the first method and merge."""
    method, merges = compared[0].method, [candidate.merge for candidate in compared if candidate.merge]
    pairs = zip(marks["method"], marks["merge"], strict=True)
    return CDSView(filter=BooleanFilter([pair[0] == method and pair[1] in ("", *merges[:1]) for pair in pairs]))


# -- tables


def _coded(rows: pandas.DataFrame) -> tuple[ColumnDataSource, dict[str, list[str]]]:
    """Return rows as numbers alone, and what the numbers of each column of texts stand for: a tenth of the size."""
    data, levels = {}, {}
    for name in rows:
        if name in TEXTS:
            coded = pandas.Categorical(rows[name], categories=rows[name].unique())
            data[name], levels[name] = coded.codes.astype(numpy.int32), list(coded.categories)
        else:
            data[name] = rows[name].to_numpy(numpy.float32)
    return ColumnDataSource(data), levels


def _table(name: str, rows: pandas.DataFrame, height: int) -> DataTable:
    """Return a table, whose headings sort it."""
    number = NumberFormatter(format="0.[0000]", nan_format="–", text_align="right")
    columns = [
        TableColumn(
            field=field,
            title=HEADINGS[field],
            width=WIDTHS.get(field, 120 if field in TEXTS else 85),
            **({} if field in TEXTS else {"formatter": number}),
        )
        for field in rows
    ]
    source = ColumnDataSource(rows.to_dict("list"))
    return DataTable(
        name=name, source=source, columns=columns, height=height, index_position=None, autosize_mode="none", **WIDE
    )


def _filters(
    table: str, rows: pandas.DataFrame, at_first: Mapping[str, str]
) -> tuple[dict[str, Select], numpy.ndarray]:
    """Return a list to choose from for each of these columns, and which rows pass what is chosen at first."""
    values = {name: [ALL, *rows[name].unique()] for name in at_first}
    chosen = {name: value if value in values[name] else ALL for name, value in at_first.items()}
    selects = {
        name: Select(name=f"{table}: {name}", title=HEADINGS[name], value=chosen[name], options=values[name], width=200)
        for name in at_first
    }
    passing = numpy.ones(len(rows), dtype=bool)
    for name, value in chosen.items():
        passing &= value == ALL or (rows[name] == value).to_numpy()
    return selects, passing


def _numbers(evaluations: pandas.DataFrame, numbers: pandas.DataFrame) -> LayoutDOM:
    """Return the table of all numbers with its filters; at first it has the outcome that the answer rests on."""
    outcome = outcomes(evaluations)[0]
    at_first = {"evaluation": outcome.evaluation, "attribute": outcome.attribute, "metric": outcome.metric}
    at_first["budget"] = _budget(COMBINED if budgets(evaluations) else AS_TRAINED)
    selects, passing = _filters("numbers", numbers, at_first)
    model = TextInput(name="numbers: model", title="model contains", width=200)
    raw, levels = _coded(numbers)
    table, note = _table("numbers", numbers[passing], 330), Div(text=f"{passing.sum()} numbers")
    arguments = {"raw": raw, "levels": levels, "selects": selects, "model": model, "table": table, "note": note}
    narrow = CustomJS(args=arguments, code="explore.narrow(raw, levels, selects, model, table, note)")
    for widget in (model, *selects.values()):
        widget.js_on_change("value", narrow)
    return column(row(model, *selects.values(), styles=WRAPPED), note, table, **WIDE)


def _differences(evaluations: pandas.DataFrame, differences: pandas.DataFrame, models: Sequence[str]) -> LayoutDOM:
    """Return two models to pick, and the table of the differences between them."""
    outcome, (first, second) = outcomes(evaluations)[0], _first_pair(differences, models)
    picked = {
        "first": Select(name="first", title="model", value=first, options=list(models), width=330),
        "second": Select(name="second", title="minus", value=second, options=list(models), width=330),
    }
    selects, passing = _filters("differences", differences, {"attribute": outcome.attribute, "metric": outcome.metric})
    passing &= ((differences["model"] == first) & (differences["rival"] == second)).to_numpy()
    raw, levels = _coded(differences)
    table, note = _table("differences", differences[passing].drop(columns=["model", "rival"]), 240), Div(text="")
    arguments = {"raw": raw, "levels": levels, "selects": selects, "table": table, "note": note} | picked
    pick = CustomJS(args=arguments, code="explore.pick(raw, levels, selects, first, second, table, note)")
    for select in (*picked.values(), *selects.values()):
        select.js_on_change("value", pick)
    return column(row(*picked.values(), *selects.values(), styles=WRAPPED), note, table, **WIDE)


def _first_pair(differences: pandas.DataFrame, models: Sequence[str]) -> tuple[str, str]:
    """Return which two models are picked at first: the last one, SPUNGE if it is there, and its first rival."""
    pairs = differences.loc[differences["rival"] != models[0], ["model", "rival"]] if models else differences
    if len(pairs):
        last = pairs[pairs["model"] == pairs["model"].iloc[-1]]
        return last["model"].iloc[0], last["rival"].iloc[0]
    return (models[-1], models[0]) if models else ("", "")


# -- where a model comes from


def _sources(evaluations: pandas.DataFrame) -> list[dict]:
    """Return of each candidate its name, and of each seed its path, its task vector and where its evaluations lie."""
    rows = evaluations[(evaluations["seed"] != COMBINED) & ~evaluations["evaluation"].isin(DESCRIPTIONS)]
    paths = [path for path in rows["candidate"].unique() if path != "base"]
    names, family = _names(evaluations, without_seed(rows).unique()), families(evaluations)
    found: dict[str, list[Mapping[str, str]]] = {}
    for path in paths:
        record = records.Candidate.parse(path)
        together = record.with_seed(records.ALL_SEEDS).path
        task_vector = record.source(family[record.method][0]).task_vector
        found.setdefault(names[together], []).append(
            {"path": path, "seed": record.seed, "task_vector": task_vector, "evaluations": f"evaluations/{path}"}
        )
    return [{"name": name, "seeds": found[name]} for name in names.values() if name in found]
