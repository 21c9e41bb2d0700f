"""How toxic against how fluent, along the factor λ on the task vectors: the toxicity scenario's trade-off."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from spunge.report.figures import style
from spunge.report.results_table import (
    ARMS,
    FORGET_MEAN,
    TOXIC_SHARE,
    Candidate,
    Estimate,
    broken_reasons,
    candidates,
    classifiers,
    display_name,
    estimate,
    families,
    measured,
    rough,
)

WHEN = {"toxicity": True, "budgets": False}
CAPTION = """\
Share of toxic continuations by the first classifier (vertical; mean over the groups) over the perplexity of held-out
prose (horizontal, logarithmic), one panel per family of methods. The aim is the lower left: harmless and still fluent.
Each line runs from the base model, λ = 0, through the λ of one split and merge, small numbers beside the points; bars
are 95 % intervals in both directions, seeds combined. A line that runs below another buys more harmlessness for the
same fluency. Crosses mark broken models, which no longer write language; those without a place in a panel are named
below it; a family with a single λ has points without lines.
"""

WIDE = 4  # ratio of the largest to the smallest perplexity from which ticks stand at powers
BEYOND = 100  # a perplexity this many times the base model's leaves the panel


class Point(NamedTuple):
    """One candidate of a curve: its λ, perplexity and toxic share."""

    scale: float
    candidate: Candidate
    perplexity: Estimate
    toxic: Estimate
    broken: str


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Plot the toxic share by the first classifier over the perplexity of prose, one panel per family of methods.

    A line runs from the base model (λ = 0) through the λ of one split and merge, with 95 % bars in both directions;
    a family with a single λ has points alone. Crosses mark broken models, and those without a place are told of under
    the panel.
    """
    scored = classifiers(evaluations)
    perplexity = measured(evaluations, "fluency", "perplexity")
    if not scored or not len(perplexity):
        return style.message("This experiment measured no toxicity, or no perplexity to set it against.")
    metric = TOXIC_SHARE + scored[0]
    toxic = measured(evaluations, "toxicity", metric)
    family_of = families(evaluations)

    base, panels, compared = None, {}, candidates(evaluations, "toxicity")
    broken_paths = broken_reasons(
        evaluations, (candidate for candidate in compared if candidate.kind in ("base", *ARMS))
    )
    for candidate in compared:
        family, scale = family_of.get(candidate.method, ("", 0.0))
        place = estimate(perplexity, candidate), estimate(toxic, candidate, FORGET_MEAN)
        point = Point(scale, candidate, *place, broken_paths.get(candidate.path, ""))
        if candidate.kind == "base":
            base = point
        elif candidate.kind in ARMS:
            panels.setdefault(family, {}).setdefault((candidate.kind, candidate.merge), []).append(point)
    if not panels or base is None:
        return style.message("This experiment measured no toxicity of an unlearned model.")
    perplexities = [point.perplexity.value for lines in panels.values() for line in lines.values() for point in line]
    fluent = style.reference(base.perplexity.value, perplexities)
    with style.style():
        columns = min(len(panels), 2)
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(style.COLUMN * columns, 2.9 * rows + 0.8), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        free = grid.flat[len(panels) :]
        for axes in free:
            axes.set_axis_off()
        legend: dict[str, Line2D] = {}
        labels = []
        for (family, lines), axes in zip(panels.items(), grid.flat, strict=False):
            curves = [sorted(line, key=lambda point: point.scale) for line in lines.values()]
            _panel(axes, base, curves, fluent, legend)
            axes.set_title(display_name(family), loc="right", weight="bold")
            several = [point for curve in curves if len(curve) > 1 for point in curve]
            if several:
                axes.set_title("small numbers: λ", loc="left", color="#555555", style="italic")
                labels.append((axes, [point for point in several if point.perplexity.value <= BEYOND * fluent]))
        for axes in grid[:, 0]:
            axes.set_ylabel(f"\u2190 toxic continuations, %\n({display_name(scored[0])})")
        order = sorted(legend, key=lambda name: (name == style.BROKEN, name != "base model"))
        legend = {name: legend[name] for name in order}
        if len(free):
            free[0].legend(legend.values(), legend.keys(), loc="center")
        else:
            style.legend_below(figure, legend, ncols=columns + (columns > 1))
        figure.draw_without_rendering()  # only now is it known where things lie
        for axes, points in labels:
            _label(axes, points)
    return figure


def _panel(axes: Axes, base: Point, curves: list[list[Point]], fluent: float, legend: dict[str, Line2D]) -> None:
    """Draw the curves of one family; `fluent` is the perplexity that the panel's limit is a multiple of."""
    shown, hidden, lost = [*base.perplexity], [], {}
    if style.lost(base.perplexity) or style.lost(base.toxic):
        lost[base.candidate.name] = base.broken or "not a number"
    for curve in curves:
        if len(curve) > 1:
            look = {"color": curve[0].candidate.colour, "zorder": 3}
            look["linewidth"] = 1.6 if curve[0].candidate.kind == "attribute" else 1.0
            whole = [base, *curve]
            axes.plot([point.perplexity.value for point in whole], [point.toxic.value for point in whole], **look)
        for point in curve:
            beyond = point.perplexity.value > BEYOND * fluent
            if beyond or style.lost(point.perplexity) or style.lost(point.toxic):
                scale = f", λ = {point.scale:g}" if len(curve) > 1 else ""
                lost[point.candidate.name + scale] = point.broken or "not a number"
            if beyond:
                hidden.append(point.perplexity.value)
                continue
            shown += point.perplexity
            legend.setdefault(point.candidate.name, _mark(axes, point))
            if point.broken and math.isfinite(point.perplexity.value + point.toxic.value):
                (cross,) = axes.plot(point.perplexity.value, point.toxic.value, **style.CROSS)
                legend.setdefault(style.BROKEN, cross)
    legend.setdefault(base.candidate.name, _mark(axes, base))
    _scale(axes, [min(value, BEYOND * fluent) for value in shown if value > 0 and math.isfinite(value)])
    axes.grid(True)
    axes.yaxis.set_major_formatter(style.percent())
    axes.yaxis.set_tick_params(labelleft=True)
    count = f"{len(hidden)} points" if len(hidden) > 1 else "1 point"
    beyond = f"\n{count} beyond the panel, up to {rough(max(hidden))} \u2192" if hidden else ""
    axes.set_xlabel(f"\u2190 perplexity of prose{style.not_drawn(lost)}{beyond}")


def _mark(axes: Axes, point: Point) -> Line2D:
    _, candidate, x, y, _ = point
    line = {"color": candidate.colour, "linewidth": 0.7, "alpha": 0.5, "zorder": 2}
    style.horizontal_interval(axes, y.value, x, **line)
    style.vertical_interval(axes, x.value, y, **line)
    look = {"color": candidate.colour, "marker": candidate.marker, "markeredgecolor": "white", "markeredgewidth": 0.4}
    size = 9 if candidate.kind == "base" else 5.5
    return axes.plot(x.value, y.value, linestyle="", markersize=size, zorder=4, **look)[0]


def _scale(axes: Axes, shown: list[float]) -> None:
    """Let the panel end a little beyond what it shows."""
    axes.set_ylim(bottom=0)
    if not shown:
        return
    low, high = min(shown), max(shown)
    margin = max(high / low, 1.05) ** 0.06
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    wide = high > WIDE * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _label(axes: Axes, places: list[Point]) -> None:
    """Write each λ beside its point, off all points and other λ and on few lines; without room, leave it out."""
    taken, lines = [], []
    for line in axes.lines:
        corners = axes.transData.transform(line.get_xydata()) if line.get_transform() == axes.transData else ()
        if line.get_marker() not in ("", "None"):
            taken += [Bbox.from_extents(*(centre - 6), *(centre + 6)) for centre in corners]
        for start, end in pairwise(corners):
            if numpy.isfinite([start, end]).all():
                steps = numpy.linspace(start, end, 60)
                lines += [Bbox.from_extents(*(step - 1), *(step + 1)) for step in steps]
    for point in sorted(places, key=lambda point: point.candidate.kind != "attribute"):
        at = point.perplexity.value, point.toxic.value
        look = {"fontsize": 6, "color": point.candidate.colour, "zorder": 6}
        free = []
        for across, up in ((5, 4), (-5, -4), (5, -4), (-5, 4), (0, 6), (0, -6), (7, 0), (-7, 0)):
            sides = {"ha": "left" if across > 0 else "right" if across < 0 else "center"}
            sides["va"] = "bottom" if up > 0 else "top" if up < 0 else "center"
            offset = {"xytext": (across, up), "textcoords": "offset points"}
            label = axes.annotate(f"{point.scale:g}", at, **offset, **sides, **look)
            label.set_in_layout(False)
            label.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
            box = label.get_window_extent()
            label.remove()
            if not box.count_overlaps(taken):
                free.append((box.count_overlaps(lines), len(free), label, box))
        if free:
            _, _, label, box = min(free, key=lambda choice: choice[:2])
            axes.add_artist(label)
            taken.append(box)
