"""What was forgotten, and what was kept, at each damage budget: one line for each way to split."""

import math
import textwrap
from collections.abc import Collection, Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from spunge.experiment.records import parse_budget
from spunge.report.comparisons import Measure, axis_label, over_budgets
from spunge.report.figures import style
from spunge.report.results_table import (
    ARMS,
    AS_TRAINED,
    COSTS,
    Candidate,
    at_budget,
    base_model,
    broken_reasons,
    budgets,
    candidates,
    display_name,
    estimate,
    measured,
    methods,
)

WHEN = {"budgets": True}
CAPTION = """\
What is left of what was to be forgotten (above) and what was kept (below), at equal damage: every edit is scaled until
the model is as far from the base model on neutral text as the budget says. The aim is a line that falls fast above and
stays high below; where one line lies under another at every budget, its way to split forgets more at the same price.
Bands, or lines at a single budget, are 95 % intervals with the seeds combined, dashed lines the base model. A line
ends where its model doesn't reach the budget. Where harmless texts about what was to be forgotten were measured, a
third row shows their perplexity: a line that rises there is a model that refuses too much. Overlapping bands don't
settle whether two differ, since differences are paired: the findings page has those.
"""
LINE = 38  # characters that the upper panel has room for beside it
EVERY_BUDGET = True  # other figures are of the means over the budgets, or of the one of their EVALUATION


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw the outcome over the budget, and under it what was kept; one column of panels per method.

    Bands are 95 % intervals with the seeds combined; dashed lines are the base model. A line ends where its model
    doesn't reach a budget. Crosses mark broken models.
    """
    names = budgets(evaluations)
    compared = [candidate for candidate in candidates(evaluations) if candidate.kind in ("base", *ARMS)]
    panels = methods(evaluations)
    if not names or len(compared) < 2:
        return style.message("This experiment set no damage budget, or no model reached one.")
    cost, _ = parse_budget(names[0])
    names = [name for name in names if parse_budget(name)[0] == cost]
    places = [parse_budget(name)[1] for name in names]
    tables = [at_budget(evaluations, name) for name in names]
    measures = over_budgets(evaluations, names)
    broken_paths = [broken_reasons(table, compared) for table in tables]
    with style.style():
        heights = [3, 2, 2][: len(measures)]
        size = max(style.COLUMN, 2.4 * len(panels) + 0.6), 0.9 * sum(heights)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            len(measures), len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=heights
        )
        legend = {}
        for method, column in zip(panels, grid.T, strict=True):
            shown = [candidate for candidate in compared if candidate.method == method]
            for axes, measure in zip(column, measures, strict=True):
                base = base_model(compared)
                if base:
                    rows = measured(at_budget(evaluations, AS_TRAINED), measure.evaluation, measure.metric)
                    of_base = estimate(rows, base, measure.attribute).value
                    legend["base model"] = axes.axhline(of_base if math.isfinite(of_base) else math.nan, **style.DASHED)
                for candidate in shown:
                    legend.setdefault(candidate.name, _line(axes, places, tables, broken_paths, candidate, measure))
                axes.grid(True)
                axes.set_xscale("log")
                if measure.unit == "points":
                    axes.yaxis.set_major_formatter(style.percent())
            if len(panels) > 1:
                column[0].set_title(display_name(method), weight="bold")
            column[-1].xaxis.set_major_locator(FixedLocator(places))
            column[-1].xaxis.set_minor_locator(NullLocator())
            column[-1].set_xticks(places, [f"{place:g}" for place in places])
            column[-1].set_xlabel(COSTS[cost])
        for axes, measure in zip(grid[:, 0], measures, strict=True):
            label = axis_label(measure)
            axes.set_ylabel(textwrap.fill(label, LINE if len(label) <= LINE else len(label) // 2 + 4))
        if any(broken_paths):
            legend[style.BROKEN] = style.cross()
        style.legend_below(figure, legend, ncols=2)
    return figure


def _line(
    axes: Axes,
    places: Sequence[float],
    tables: Sequence[pandas.DataFrame],
    broken_paths: Sequence[Collection[str]],
    candidate: Candidate,
    measure: Measure,
) -> Line2D:
    """Draw a candidate's line with its band through the budgets, and return it."""
    estimates = [
        estimate(measured(table, measure.evaluation, measure.metric), candidate, measure.attribute) for table in tables
    ]
    line = {"color": candidate.colour, "zorder": 4 if candidate.kind == "attribute" else 3}
    values, low, high = (
        [number if math.isfinite(number) else math.nan for number in numbers]
        for numbers in zip(*estimates, strict=True)
    )
    if len(places) == 1:  # a band has no width there
        axes.vlines(places, low, high, color=candidate.colour, linewidth=1)
    axes.fill_between(places, low, high, color=candidate.colour, alpha=0.12, linewidth=0)
    (drawn,) = axes.plot(places, values, marker=candidate.marker, markersize=4, linewidth=1.2, **line)
    for place, estimated, broken in zip(places, estimates, broken_paths, strict=True):
        if style.shown_broken(candidate, estimated, broken):
            style.cross_out(axes, place, estimated.value, candidate.colour)
    return drawn
