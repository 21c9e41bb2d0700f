"""The effect of the split against the number of shards, from the joint run to a shard for each attribute."""

import math
from collections.abc import Collection

import pandas
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spunge.report.figures import style
from spunge.report.results_table import (
    FORGET_MEAN,
    RETAIN_MEAN,
    RETAIN_MINUS_FORGET,
    Candidate,
    base_model,
    broken_reasons,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    measured,
    seeds,
)

WHEN = {"knowledge": True, "shards": True}
CAPTION = """\
What the split does against the number of shards, one row for each method and merge: 1 is the joint run, the largest
number has a shard for each attribute, those between group attributes that follow one another. The random splits have
the same numbers and sizes of shards, and all took the same number of steps. From the left: mean accuracy on the
attributes to keep minus that on those to forget, in points (higher is better), the two means themselves (dashed: the
base model), and the attribute split's first measure minus the random split's, paired by question and seed: where its
interval holds 0, no effect of splitting by the attribute is shown at that number. Bars are 95 % intervals with the
seeds combined, faint dots single seeds. Crosses mark broken models and differences from one; the word “broken” stands
where there is no number. With more than 20 attributes the numbers of shards stand equally far apart.
"""

ROW = 1.75  # inches
APART = 0.07  # shards: the two splits stand beside each other, and single seeds beside their interval
MEASURES = {
    RETAIN_MINUS_FORGET: "keep \u2212 forget, points \u2191",
    FORGET_MEAN: "to forget, % \u2193",
    RETAIN_MEAN: "to keep, % \u2191",
}
NAMES = {"joint": "joint run", "random": "random splits (control)", "attribute": "split by attribute (SPUNGE)"}
SIDES = {"joint": 0, "random": -1, "attribute": 1}


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw accuracy over the number of shards, one row per method and merge that has several numbers of them.

    Panels: retain minus forget, both means, and the attribute splits minus the random ones, paired; 95 % intervals with
    the seeds combined, faint dots for single seeds, dashed lines for the base model and for no difference. Crosses mark
    broken models, and differences from one; the word stands where they have no number.
    """
    accuracy = measured(evaluations, "knowledge", "accuracy")
    difference = measured(evaluations, "knowledge", "accuracy_minus_random")
    compared = candidates(evaluations, grouped=True)
    most = len(forget_attributes(evaluations))
    grid = list(dict.fromkeys((candidate.method, candidate.merge) for candidate in compared if candidate.groups))
    if not grid:
        return style.message("No method of this experiment was run with several numbers of shards.")
    base = base_model(compared)
    broken_paths = broken_reasons(evaluations, compared)
    merges = {merge for _, merge in grid}
    numbers = sorted({1, most, *(candidate.groups for candidate in compared if candidate.groups)})
    # Beside a large number the small ones would fall together: then all stand equally far apart.
    at = {number: rank if most > style.MOST_ATTRIBUTES else number for rank, number in enumerate(numbers)}
    with style.style():
        figure = Figure(figsize=(style.PAGE, 0.55 + ROW * len(grid)), layout="constrained")
        rows = figure.subplots(len(grid), len(MEASURES) + 1, squeeze=False, sharex=True, sharey="col")
        legend = {}
        for (method, merge), panels in zip(grid, rows, strict=True):
            of_panel = [
                candidate
                for candidate in compared
                if candidate.method == method and (candidate.kind == "joint" or candidate.merge == merge)
            ]
            lines = {kind: _by_number(of_panel, kind, most) for kind in SIDES}
            for axes, attribute in zip(panels, MEASURES, strict=False):
                if base:
                    of_base = estimate(accuracy, base, attribute)
                    name = "base model (broken)" if style.lost(of_base) else "base model"
                    height = of_base.value if math.isfinite(of_base.value) else math.nan
                    legend[name] = axes.axhline(height, **style.DASHED)
                for kind, by_number in lines.items():
                    if not by_number:
                        continue
                    line = {**lines["joint"], **by_number}  # every split starts from the joint run
                    places = [at[number] + APART * SIDES[candidate.kind] for number, candidate in line.items()]
                    values = [estimate(accuracy, candidate, attribute).value for candidate in line.values()]
                    axes.plot(places, values, color=list(line.values())[-1].colour, linewidth=1.2, zorder=2)
                    for number, candidate in by_number.items():
                        point = _point(
                            axes,
                            at[number],
                            candidate,
                            accuracy,
                            attribute,
                            seeds(evaluations, candidate),
                            broken_paths,
                        )
                        legend.setdefault(NAMES[kind], point)
            axes = panels[-1]
            axes.axhline(0, **style.DASHED)
            for number, candidate in lines["attribute"].items():
                rival = lines["random"].get(number)
                either = {candidate.path} if rival and rival.path in broken_paths else broken_paths
                _point(
                    axes, at[number], candidate, difference, RETAIN_MINUS_FORGET, seeds(evaluations, candidate), either
                )
            name = f"{display_name(method)}, {display_name(merge)}" if len(merges) > 1 else display_name(method)
            panels[0].set_ylabel(name, weight="bold")
        for axes, title in zip(rows[0], [*MEASURES.values(), "SPUNGE \u2212 random, points"], strict=True):
            axes.set_title(title)
        for axes in rows.flat:
            axes.grid(True, axis="y")
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(style.percent())
            axes.set_xticks(list(at.values()), [str(number) for number in at])
            axes.set_xlim(at[1] - 0.3, at[most] + 0.3)
        for axes in rows[-1]:
            axes.set_xlabel("number of shards")
        if broken_paths:
            legend[style.BROKEN] = style.cross()
        style.legend_below(figure, legend, ncols=min(len(legend), 4))
    return figure


def _by_number(candidates: list[Candidate], kind: str, most: int) -> dict[int, Candidate]:
    """Return the candidates of a kind by their number of shards, ascending."""
    numbers = {
        1 if kind == "joint" else candidate.groups or most: candidate
        for candidate in candidates
        if candidate.kind == kind
    }
    return dict(sorted(numbers.items()))


def _point(
    axes: Axes,
    place: int,
    candidate: Candidate,
    rows: pandas.DataFrame,
    attribute: str,
    single: list[str],
    broken_paths: Collection[str],
) -> PathCollection:
    """Draw a candidate's estimate and interval at its place, and its single seeds; return the marker."""
    side = SIDES[candidate.kind]
    estimated = estimate(rows, candidate, attribute)
    style.vertical_interval(axes, place + APART * side, estimated, color=candidate.colour, linewidth=1.1, zorder=2)
    faint = {"alpha": 0.45, "linewidths": 0, "zorder": 3, "marker": candidate.marker}
    for seed in single:
        value = estimate(rows, candidate, attribute, seed).value
        axes.scatter(place + APART * 2 * (side or 1), value, 8, candidate.colour, **faint)
    if style.shown_broken(candidate, estimated, broken_paths):
        words = {"ha": {-1: "right", 0: "center", 1: "left"}[side]}  # beside each other, as the points
        style.cross_out(axes, place + APART * side, estimated.value, candidate.colour, **words)
    look = {"marker": candidate.marker, "edgecolors": "white", "linewidths": 0.7, "zorder": 4}
    return axes.scatter(place + APART * side, estimated.value, 36, candidate.colour, **look)
