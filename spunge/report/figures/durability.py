"""Does it last? What comes back of the forget attributes after relearning, quantisation, other words and ablation."""

import math
import re
from collections.abc import Collection, Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spunge.experiment.splits import UNDIVIDED
from spunge.report.figures import style
from spunge.report.results_table import (
    ARMS,
    BEFORE,
    COLOURS,
    FORGET_MEAN,
    MARKERS,
    SOURCES,
    Candidate,
    Estimate,
    broken_reasons,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    measured,
    methods,
)

WHEN = {"durability": True}
EVALUATION = BEFORE
CAPTION = """\
What of the attributes to forget the models answer again when somebody tries to get it back, one row per method and
merge: mean accuracy on the forget attributes, lower is better. Left: after fine-tuning on a few texts, of the attribute
asked about, of another attribute that was forgotten too, or of unrelated prose; nothing that those texts tell is asked,
and 0 texts is the model as it was unlearned. Right: with weights rounded to 8 or 4 bits, asked in other words, with the
hidden states moved back along the direction in which unlearning moved them, and open-ended, where the model writes its
answer (there, guessing is hardly ever right). All on the same questions (rephrased: about the same subjects), all
models attacked in the same way; the base model is what they could come back to. Bars are 95 % intervals with the seeds
combined, the dotted line is guessing. Crosses mark broken models, and the word “broken” stands where one has no number.
Overlapping bars don't settle whether two splits differ, since differences are paired: evaluations.csv has those, as
accuracy_minus_joint and so on. An attack that brings nothing back shows only that this attack doesn't.
"""

# The open-ended questions come last: the others are multiple choice, where guessing is right now and then.
WAYS = {
    BEFORE: "as unlearned",
    "quantised_8": "8 bits",
    "quantised_4": "4 bits",
    "rephrased": "rephrased",
    "ablated": "direction ablated",
    "open_ended": "open-ended",
}
NAMES = {"base": "base model", **ARMS}
APART = 0.16  # between the candidates of one row of dots, in rows
BESIDE = 0.05  # between the candidates of one point of a curve, in points
CHANCE = {"color": "#777777", "linewidth": 0.8, "linestyle": ":"}


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw mean accuracy on the forget attributes after each attack, one row of panels per method and merge.

    Left, a panel per source of the texts: accuracy over the number of texts relearned, from 0, as unlearned. Right:
    after the other attacks. Bars are 95 % intervals with the seeds combined, dashed lines the base model after the
    same, dotted ones the accuracy of guessing. Crosses mark broken models; the word stands where one has no number.
    """
    compared = candidates(evaluations, BEFORE)
    accuracy = {
        name: measured(evaluations, name, "accuracy") for name in evaluations["evaluation"].unique() if _is_attack(name)
    }
    rows = [(method, merge) for method in methods(evaluations) for merge in _merges(compared, method)]
    if not rows:
        return style.message("This experiment measured no durability of an unlearned model.")
    numbers = sorted({int(match[2]) for match in map(_relearned, accuracy) if match})
    sources = [name for name in SOURCES if any(f"relearned_{name}_{number}" in accuracy for number in numbers)]
    ways = [name for name in WAYS if name in accuracy]
    dots = len(ways) > 1
    chance = _chance(evaluations)
    with style.style():
        width = style.PAGE if sources else style.COLUMN
        height = max(1.9 if sources else 0, 0.9 + 0.25 * len(ways) if dots else 0)
        figure = Figure(figsize=(width, height * len(rows) + 0.5), layout="constrained")
        whole_grid = figure.subplots(
            len(rows), len(sources) + dots, squeeze=False, width_ratios=[1] * len(sources) + [1.5] * dots
        )
        legend: dict[str, Line2D] = {}
        broken_paths = broken_reasons(
            evaluations,
            (candidate for candidate in compared if any(_belongs(candidate, method, merge) for method, merge in rows)),
        )
        for (method, merge), grid in zip(rows, whole_grid, strict=True):
            shown = [candidate for candidate in compared if _belongs(candidate, method, merge)]
            for source, axes in zip(sources, grid, strict=False):
                attacks = [BEFORE, *(f"relearned_{source}_{number}" for number in numbers)]
                _curves(axes, shown, attacks, accuracy, broken_paths)
                axes.set_xticks(range(len(numbers) + 1), ["0", *map(str, numbers)])
                axes.set_xlabel(f"texts relearned, of\n{SOURCES[source]}" if (method, merge) == rows[-1] else "")
                axes.set_ylim(0, 1)
                axes.yaxis.set_major_formatter(style.percent())
                axes.grid(True, axis="y")
                axes.axhline(chance, **CHANCE) if chance else None
            if sources:
                grid[0].set_ylabel("accuracy, forget attributes, %")
                for axes in grid[1 : len(sources)]:
                    axes.tick_params(labelleft=False)
            if dots:
                _dots(grid[-1], shown, ways, accuracy, broken_paths, chance)
                grid[-1].set_xlabel("accuracy, forget attributes, %" if (method, merge) == rows[-1] else "")
            grid[0].set_title(
                ", ".join(filter(None, (display_name(method), display_name(merge)))), loc="left", weight="bold"
            )
            for candidate in shown:
                look = {
                    "linestyle": "--" if candidate.kind == "base" else "-",
                    "marker": MARKERS[candidate.kind],
                    "markersize": 4,
                }
                legend.setdefault(
                    NAMES[candidate.kind], Line2D([], [], color=COLOURS[candidate.kind], linewidth=1.1, **look)
                )
        if broken_paths:
            legend[style.BROKEN] = style.cross()
        if chance:
            legend["guessing"] = Line2D([], [], **CHANCE)
        order = [*NAMES.values(), style.BROKEN, "guessing"]
        legend = dict(sorted(legend.items(), key=lambda entry: order.index(entry[0])))
        columns = 2 if not sources else 3 if broken_paths else 5
        style.legend_below(figure, legend, ncols=columns)
    return figure


def _curves(
    axes: Axes, shown: Sequence[Candidate], names: Sequence[str], accuracy: dict, broken_paths: Collection[str]
) -> None:
    """Draw one line per candidate over the attacks `names`, which stand at 0, 1 …"""
    words = [0] * len(names)  # that stand above each other
    for place, candidate in enumerate(shown):
        estimates = [_estimate(accuracy, name, candidate) for name in names]
        offset = BESIDE * (place - (len(shown) - 1) / 2)
        xs = [number + offset for number in range(len(estimates))]
        colour, front = COLOURS[candidate.kind], 3 + (candidate.kind == "attribute")
        for x, estimated in zip(xs, estimates, strict=True):
            style.vertical_interval(axes, x, estimated, color=colour, linewidth=0.9, alpha=0.7, zorder=2)
        look = {
            "marker": MARKERS[candidate.kind],
            "markersize": 5 if candidate.kind == "base" else 3.5,
            "markeredgewidth": 0,
        }
        look |= {"linestyle": "--" if candidate.kind == "base" else "-", "linewidth": 1.1, "zorder": front}
        axes.plot(xs, [estimated.value for estimated in estimates], color=colour, **look)
        for number, (x, estimated) in enumerate(zip(xs, estimates, strict=True)):
            if style.shown_broken(candidate, estimated, broken_paths):
                style.cross_out(axes, x, estimated.value, colour, start=0.02 + 0.25 * words[number])
                words[number] += style.lost(estimated)


def _dots(axes: Axes, shown, ways: Sequence[str], accuracy: dict, broken_paths: Collection[str], chance: float) -> None:
    """Draw one row per attack, and in it one dot with its interval per candidate."""
    for row, name in enumerate(ways):
        for place, candidate in enumerate(shown):
            estimated = _estimate(accuracy, name, candidate)
            y = row + APART * (place - (len(shown) - 1) / 2)
            style.horizontal_interval(axes, y, estimated, color=COLOURS[candidate.kind], linewidth=1.0, zorder=2)
            look = {
                "color": COLOURS[candidate.kind],
                "marker": MARKERS[candidate.kind],
                "zorder": 3,
                "markeredgewidth": 0,
            }
            axes.plot(estimated.value, y, markersize=5 if candidate.kind == "base" else 3.5, **look)
            if style.shown_broken(candidate, estimated, broken_paths):
                style.cross_out(axes, estimated.value, y, COLOURS[candidate.kind], **style.BESIDE)
    multiple_choice = len(ways) - ("open_ended" in ways)
    if chance:
        axes.plot([chance, chance], [-0.5, multiple_choice - 0.5], zorder=1, **CHANCE)
    axes.set_yticks(range(len(ways)), [WAYS[name] for name in ways])
    axes.set_ylim(len(ways) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(style.percent())
    style.rows_of_marks(axes)
    for row in range(1, len(ways)):
        axes.axhline(row - 0.5, color="#e4e4e4", linewidth=0.6, zorder=0)


def _merges(compared: Sequence[Candidate], method: str) -> list[str]:
    """Return the merges of a method, or [""] where it has joint runs alone."""
    merges = list(
        dict.fromkeys(candidate.merge for candidate in compared if candidate.method == method and candidate.merge)
    )
    return merges or ([""] if any(candidate.method == method for candidate in compared) else [])


def _belongs(candidate: Candidate, method: str, merge: str) -> bool:
    return candidate.kind == "base" or (
        candidate.method == method and (candidate.kind in UNDIVIDED or (merge and candidate.merge == merge))
    )


def _is_attack(name: str) -> bool:
    return name in WAYS or bool(_relearned(name))


def _relearned(name: str) -> re.Match | None:
    return re.fullmatch(r"relearned_(forget|other|unrelated)_(\d+)", name)


def _estimate(accuracy: dict[str, pandas.DataFrame], name: str, candidate: Candidate) -> Estimate:
    return estimate(accuracy[name], candidate, FORGET_MEAN)


def _chance(evaluations: pandas.DataFrame) -> float:
    """Return the accuracy of guessing on the forget attributes; 0 where the table has no such row."""
    rows = evaluations[(evaluations["evaluation"] == "durability") & (evaluations["metric"] == "chance")]
    mean = rows.loc[rows["attribute"].isin(forget_attributes(evaluations)), "value"].mean()
    return 0.0 if math.isnan(mean) else mean
