"""Accuracy attribute by attribute: grouped bars, forget attributes to the left, retain attributes to the right."""

import math
from collections.abc import Collection, Sequence

import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from spunge.report.figures import style
from spunge.report.results_table import (
    Candidate,
    asked_by,
    broken_reasons,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    measured,
    methods,
    retain_attributes,
)

WHEN = {"toxicity": False}
CAPTION = """\
Accuracy on the questions of each attribute, of open questions ROUGE-L recall; attributes to forget on the left,
attributes to keep on the right; each bar is one candidate, seeds combined. Thin black lines are 95 % intervals. Success
is low bars on the left, evenly over the attributes, and bars as high as the base model's on the right. Crosses mark
broken models, and the word “broken” stands where one has no number. With more than three single shards, these are left
out here and stand in the summary table. With more than 20 attributes a box for each candidate stands for all of them:
quartiles and median, whiskers from the lowest to the highest, and beside it the worst attribute's name; intervals are
then in evaluations.csv alone.
"""

MOST_SHARDS = 3  # with more single shards the bars would be too thin to read; the summary table has them all
GAP = 0.35  # between the two sorts of attributes, in widths of a group


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one group of bars per attribute, one bar per candidate with its 95 % interval, one row per method.

    Crosses mark broken models; the word stands where one has no bar. More attributes than have room are boxes, one per
    candidate, over all that is to forget and all that is to keep.
    """
    asked = asked_by(evaluations)
    accuracy = measured(evaluations, asked.evaluation, asked.metric)
    compared = candidates(evaluations)
    panels = methods(evaluations)
    if not compared or not panels:
        return style.message("This experiment measured no accuracy of an unlearned model.")
    forget, retain = forget_attributes(evaluations), retain_attributes(evaluations)
    groups = {method: _shown(compared, method) for method in panels}
    broken_paths = broken_reasons(
        evaluations, dict.fromkeys(candidate for shown in groups.values() for candidate in shown)
    )
    if len(forget) + len(retain) > style.MOST_ATTRIBUTES:
        return _distributions(accuracy, asked.name, groups, forget, retain, broken_paths)
    places = [*range(len(forget)), *(len(forget) + GAP + number for number in range(len(retain)))]
    with style.style():
        figure = Figure(figsize=(style.PAGE, 0.7 + 2.1 * len(panels)), layout="constrained")
        rows = figure.subplots(len(panels), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        legend = {}
        for (method, shown), axes in zip(groups.items(), rows, strict=True):
            width = 0.82 / len(shown)
            for number, candidate in enumerate(shown):
                estimates = [estimate(accuracy, candidate, attribute) for attribute in (*forget, *retain)]
                middles = [place + (number - (len(shown) - 1) / 2) * width for place in places]
                heights = [estimated.value if math.isfinite(estimated.value) else math.nan for estimated in estimates]
                bars = axes.bar(middles, heights, width * 0.9, color=candidate.colour)
                legend.setdefault(candidate.name, bars)
                for middle, estimated in zip(middles, estimates, strict=True):
                    style.vertical_interval(axes, middle, estimated, color="black", linewidth=0.7)
                    if style.shown_broken(candidate, estimated, broken_paths):
                        style.cross_out(axes, middle, estimated.value, candidate.colour)
            axes.grid(True, axis="y")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylabel(asked.name if len(panels) == 1 else f"{display_name(method)}: {asked.name}")
            axes.set_ylim(bottom=0)
            axes.set_xlim(places[0] - 0.55, places[-1] + 0.55)
            axes.axvline(len(forget) - 0.5 + GAP / 2, color="#777777", linewidth=0.7, linestyle=(0, (4, 3)))
        header = {"ha": "center", "va": "bottom", "color": "#555555", "style": "italic"}
        for name, group in (("to forget", places[: len(forget)]), ("to keep", places[len(forget) :])):
            if group:
                middle = (group[0] + group[-1]) / 2
                rows[0].text(middle, 1.01, name, transform=rows[0].get_xaxis_transform(), **header)
        crowded = sum(map(len, (*forget, *retain))) > 70
        turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        rows[-1].set_xticks(places, [*forget, *retain], **turned)
        for axes in rows:
            axes.tick_params(axis="x", length=0)
        if broken_paths:
            legend[style.BROKEN] = style.cross()
        style.legend_below(figure, legend, ncols=4 if len(legend) in (4, 7, 8) else 3, handlelength=1)
    return figure


def _shown(compared: Sequence[Candidate], method: str) -> list[Candidate]:
    shown = [candidate for candidate in compared if candidate.method in ("", method)]
    if sum(candidate.kind in ("attribute_shard", "random_shard") for candidate in shown) > MOST_SHARDS:
        shown = [candidate for candidate in shown if candidate.kind not in ("attribute_shard", "random_shard")]
    return shown


def _distributions(
    accuracy: pandas.DataFrame,
    measure: str,
    panels: dict[str, list[Candidate]],
    forget: list[str],
    retain: list[str],
    broken_paths: Collection[str],
) -> Figure:
    """Draw one box per candidate over the attributes of each sort, and name the worst attribute beside it.

    `measure` is what people call `accuracy`. Candidates whose path is in `broken_paths` are named broken.
    """
    sorts = [("to forget", forget, "highest", True), ("to keep", retain, "lowest", False)]
    sorts = [sort for sort in sorts if sort[1]]
    heights = [0.35 + style.ROW * len(shown) for shown in panels.values()]
    with style.style():
        figure = Figure(figsize=(style.PAGE, sum(heights) + 0.6), layout="constrained")
        grid = figure.subplots(len(panels), len(sorts), squeeze=False, sharex=True, sharey="row", height_ratios=heights)
        for (method, shown), row in zip(panels.items(), grid, strict=True):
            places = range(len(shown))
            for (_, attributes, _, highest), axes in zip(sorts, row, strict=True):
                values = [[estimate(accuracy, candidate, name).value for name in attributes] for candidate in shown]
                style.boxes(axes, values, [candidate.colour for candidate in shown], places)
                for place, candidate, accuracies in zip(places, shown, values, strict=True):
                    at = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 6}
                    worst = style.extreme(accuracies, attributes, highest) or (
                        "broken" if candidate.path in broken_paths else ""
                    )
                    axes.text(1.02, place, worst, **at)
                axes.set_xlim(0, 1)
                axes.xaxis.set_major_formatter(PercentFormatter(1.0))
            names = [style.name_with_state(candidate.name, candidate, broken_paths) for candidate in shown]
            row[0].set_yticks(places, names)
            row[0].set_ylim(len(shown) - 0.4, -0.6)
            if len(panels) > 1:
                row[0].set_title(display_name(method), loc="left", weight="bold")
        for (sort, attributes, end, _), axes in zip(sorts, grid[-1], strict=True):
            axes.set_xlabel(f"{measure} on {len(attributes)} attributes {sort}\n(beside: the {end})")
    return figure
