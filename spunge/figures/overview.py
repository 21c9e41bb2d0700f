"""Every method and merge on one page: what was kept minus what was forgotten, and what it cost in fluency."""

import math

import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from spunge import drawing
from spunge.evaluations import (
    RETAIN_MINUS_FORGET,
    Candidate,
    accuracy_from,
    candidates,
    estimate,
    measured,
    methods,
    written,
)

ROW = 0.17  # inches per candidate
NAMES = {"joint": "joint", "random": "random split, {merge}", "attribute": "attribute split, {merge}"}
BROKEN = 10  # a perplexity this many times the base model's leaves the panel


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one row per joint and merged candidate: retain minus forget accuracy, and perplexity, with 95 % intervals.

    The dashed lines are the base model; arrows stand for a perplexity beyond the panel, with its number.
    """
    accuracy = measured(evaluations, accuracy_from(evaluations), "accuracy")
    perplexity = measured(evaluations, "fluency", "perplexity")
    every = candidates(evaluations)
    found = {
        method: [one for one in every if one.method == method and one.kind in NAMES] for method in methods(evaluations)
    }
    rows: list[tuple[float, Candidate]] = []
    headings: list[tuple[float, str]] = []
    place = 0.0
    for method, own in found.items():
        if not own:
            continue
        headings.append((place, written(method)))
        rows += [(place + number + 1, one) for number, one in enumerate(own)]
        place += len(own) + 1.5
    if not rows:
        return drawing.message("This experiment measured nothing of a joint run or a merge.")
    base = next((one for one in every if one.kind == "base"), None)
    with drawing.style():
        figure = Figure(figsize=(drawing.PAGE, 0.9 + ROW * place), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1])
        fluent = estimate(perplexity, base).value if base else math.nan
        limit = BROKEN * fluent if fluent > 0 else math.inf
        for axes, measure, attribute in ((left, accuracy, RETAIN_MINUS_FORGET), (right, perplexity, "")):
            if base is not None and not math.isnan(of_base := estimate(measure, base, attribute).value):
                axes.axvline(of_base, color="#999999", linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
            for y, one in rows:
                found_one = estimate(measure, one, attribute)
                if axes is right and found_one.value > limit:
                    text = f"{found_one.value:.3g} \u2192" if found_one.value < 1e6 else f"{found_one.value:.0e} \u2192"
                    axes.text(
                        0.98, y, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=6.5
                    )
                    continue
                drawing.horizontal_interval(axes, y, found_one, color=one.colour, linewidth=1.1, zorder=2)
                axes.plot(found_one.value, y, color=one.colour, marker=one.marker, markersize=4, zorder=3)
            axes.grid(True, axis="x")
            axes.tick_params(axis="y", length=0)
        left.set_yticks([y for y, _ in rows], [NAMES[one.kind].format(merge=written(one.merge)) for _, one in rows])
        left.set_ylim(place - 0.4, -0.8)
        for y, name in headings:
            plate = {"facecolor": "white", "linewidth": 0, "pad": 1}
            left.text(0.01, y, name, transform=left.get_yaxis_transform(), weight="bold", va="center", bbox=plate)
        left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        left.set_xlabel("retain minus forget accuracy, points \u2192")
        right.set_xlabel("\u2190 perplexity")
    return figure
