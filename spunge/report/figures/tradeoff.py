"""What was forgotten against what was kept: the one figure that shows the whole trade."""

import math

import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from spunge.report.figures import style
from spunge.report.results_table import (
    FORGET_MEAN,
    RETAIN_MEAN,
    asked_by,
    broken_reasons,
    candidates,
    display_name,
    estimate,
    measured,
    methods,
    seeds,
)

WHEN = {"toxicity": False}
CAPTION = """\
Mean accuracy on the attributes to keep (vertical) over mean accuracy on the attributes to forget (horizontal); of open
questions, mean ROUGE-L recall. The aim is the upper left: forgets, keeps the rest. Large markers are seeds combined
with 95 % intervals in both directions, small faint ones are single seeds, and the dashed line is what the base model
knew of the rest. Crosses mark broken models; those without a place in the panel are named below it. SPUNGE succeeds
where its marker lies left of or above those of the other ways to split; overlapping bars don't settle this, since
differences are paired: the findings page has their own intervals. With more than four single shards, these share one
colour and go without bars.
"""

MOST_SHARDS = 4  # more single shards share one colour and go without intervals, which would cover all else
AREA = {"base": 110, "attribute": 50, "joint": 44, "balanced": 44, "sequential": 44, "random": 40}
AREA |= {"attribute_shard": 26, "random_shard": 26}


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Plot mean accuracy on the retain attributes over that on the forget attributes, one panel per method.

    Large markers with 95 % bars are seeds combined, small faint ones are single seeds. Crosses mark broken models;
    those without a place are told of under the panel.
    """
    asked = asked_by(evaluations)
    accuracy = measured(evaluations, asked.evaluation, asked.metric)
    compared = candidates(evaluations)
    panels = methods(evaluations)
    if not compared or not panels:
        return style.message("This experiment measured no accuracy of an unlearned model.")
    with style.style():
        height, width = style.panels(len(panels))
        figure = Figure(figsize=(style.COLUMN * width, 3.1 * height + 0.6), layout="constrained")
        whole_grid = figure.subplots(height, width, squeeze=False, sharex=True, sharey=True)
        grid = whole_grid.flat[: len(panels)]
        for axes in whole_grid.flat[len(panels) :]:
            axes.set_axis_off()
        legend, broken_paths = {}, broken_reasons(evaluations, compared)
        for method, axes in zip(panels, grid, strict=True):
            shown = [candidate for candidate in compared if candidate.method in ("", method)]
            single_shards = [candidate for candidate in shown if candidate.kind in ("attribute_shard", "random_shard")]
            lost = {}
            for candidate in shown:
                many = candidate in single_shards and len(single_shards) > MOST_SHARDS
                colour = single_shards[0].colour if many else candidate.colour
                front = 4 + (candidate.kind == "attribute")
                for seed in [] if many else seeds(evaluations, candidate):
                    forget = estimate(accuracy, candidate, FORGET_MEAN, seed)
                    retain = estimate(accuracy, candidate, RETAIN_MEAN, seed)
                    axes.scatter(
                        forget.value,
                        retain.value,
                        9,
                        colour,
                        marker=candidate.marker,
                        alpha=0.4,
                        linewidths=0,
                        zorder=3,
                    )
                forget = estimate(accuracy, candidate, FORGET_MEAN)
                retain = estimate(accuracy, candidate, RETAIN_MEAN)
                line = {"color": colour, "linewidth": 0.9, "alpha": 0.7, "zorder": 2}
                if not many:
                    style.horizontal_interval(axes, retain.value, forget, **line)
                    style.vertical_interval(axes, forget.value, retain, **line)
                points = axes.scatter(
                    forget.value,
                    retain.value,
                    AREA[candidate.kind],
                    colour,
                    marker=candidate.marker,
                    edgecolors="white",
                    linewidths=0.7,
                    zorder=front,
                )
                legend.setdefault("one attribute alone" if many else candidate.name, points)
                if style.lost(forget) or style.lost(retain):
                    lost[candidate.name] = broken_paths.get(candidate.path, "not a number")
                elif candidate.path in broken_paths:
                    axes.plot(forget.value, retain.value, **style.CROSS)
                if candidate.kind == "base" and math.isfinite(retain.value):
                    axes.axhline(retain.value, **style.DASHED | {"linewidth": 0.6})
            axes.grid(True)
            axes.margins(0.08)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # 2.5 % would need a decimal
                axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_xlabel(f"mean {asked.name}, forget attributes" + style.not_drawn(lost))
            # The corner is named above the frame, where no marker can ever lie.
            axes.set_title("↖ forgets, keeps the rest", loc="left", color="#555555", style="italic")
            if len(panels) > 1:
                axes.set_title(display_name(method), loc="right", weight="bold")
        for axes in whole_grid[:, 0]:
            axes.set_ylabel(f"mean {asked.name}, retain attributes")
        if broken_paths:
            legend[style.BROKEN] = style.cross()
        # Two panels side by side have no room for four columns of long names.
        columns = 2 if len(panels) == 1 else 3 if width == 2 and len(legend) > 8 else 4
        style.legend_below(figure, legend, ncols=columns, handletextpad=0.3)
    return figure
