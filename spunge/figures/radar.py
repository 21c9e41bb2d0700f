"""Accuracy by attribute as a radar, the picture of the SPUNGE paper."""

import numpy
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spunge import drawing
from spunge.evaluations import (
    candidates,
    estimate,
    forget_attributes,
    measured,
    methods,
    retain_attributes,
    written,
)


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one spoke per attribute and one line per base, joint and merged candidate, one panel per method.

    The spokes of the forget attributes stand on grey.
    """
    accuracy = measured(evaluations, "knowledge", "accuracy")
    found = [candidate for candidate in candidates(evaluations) if candidate.kind not in ("shard", "part")]
    panels = methods(evaluations)
    forget = forget_attributes(evaluations)
    attributes = [*forget, *retain_attributes(evaluations)]
    if not found or not panels:
        return drawing.message("This experiment measured no accuracy of an unlearned model.")
    if len(attributes) < 3:
        return drawing.message("A radar needs at least three attributes; see the bars instead.")
    step = 2 * numpy.pi / len(attributes)
    angles = step * numpy.arange(len(attributes))
    with drawing.style():
        height, width = drawing.panels(len(panels))
        figure = Figure(figsize=(drawing.COLUMN * width, 3.0 * height + 0.6), layout="constrained")
        whole_grid = figure.subplots(height, width, squeeze=False, subplot_kw={"projection": "polar"})
        grid = whole_grid.flat[: len(panels)]
        for axes in whole_grid.flat[len(panels) :]:
            axes.set_axis_off()
        legend = {}
        top = numpy.nanmax(
            [estimate(accuracy, candidate, attribute).value for candidate in found for attribute in attributes]
        )
        for method, axes in zip(panels, grid, strict=True):
            for candidate in found:
                if candidate.method not in ("", method):
                    continue
                values = [estimate(accuracy, candidate, attribute).value for attribute in attributes]
                (line,) = axes.plot(
                    [*angles, angles[0]],
                    [*values, values[0]],
                    color=candidate.colour,
                    marker=candidate.marker,
                    markersize=6 if candidate.kind == "base" else 3.5,
                    linewidth=1.8 if candidate.kind == "attribute" else 1.1,
                    linestyle="--" if candidate.kind == "base" else "-",
                    markeredgewidth=0,
                )
                legend.setdefault(candidate.name, line)
            axes.set_theta_zero_location("N")
            axes.set_theta_direction(-1)
            axes.bar(angles[: len(forget)], 1.05 * top, step, color="#000000", alpha=0.06, linewidth=0, zorder=0)
            rings = MaxNLocator(4, prune="lower").tick_values(0, top)
            axes.set_yticks(rings, [""] * len(rings))
            for ring in rings[rings < 1.05 * top]:
                plate = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
                text = {"ha": "center", "va": "center", "fontsize": 6, "color": "#666666", "zorder": 1.5}
                axes.text(step / 2, ring, f"{ring:.0%}", bbox=plate, **text)
            axes.set_ylim(0, 1.05 * top)
            axes.spines["polar"].set_color("#cccccc")
            axes.set_xticks(angles, attributes)
            for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
                side = numpy.sin(angle)
                label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
            if len(panels) > 1:
                axes.set_title(written(method), weight="bold")
        figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=2 if len(panels) == 1 else 3)
    return figure
