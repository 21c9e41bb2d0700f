"""What unlearning did to each of lm-eval's tasks: the change from the base model, task by task."""

import math
from collections.abc import Collection, Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spunge.report.families import display_names, reference_methods
from spunge.report.figures import style
from spunge.report.results_table import (
    ARMS,
    Candidate,
    base_model,
    broken_reasons,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    measured,
    tasks,
    tasks_at_chance,
)

WHEN = {"benchmarks": True}
EVALUATION = "benchmarks"
CAPTION = """\
The change in accuracy from the base model, task by task (lm-evaluation-harness), for each way to split the texts to
forget, seeds combined; lines are 95 % intervals over questions and seeds. One panel per family of methods and merge,
at the middle damage budget or, where none is set, at λ = 1 or the λ nearest to it. Numbers at the names are the base
model's accuracies in percent, “chance” marks where it isn't shown to do better than by guessing. Crosses mark broken
models, and the word “broken” stands where one has no number. On grey, in bold: what is to be forgotten, where a fall
is wanted, and the subjects of a group that lie next to it, which a method harms first where it forgets too widely. Of
the other subjects those are shown that changed most for any model here: being picked for it, part of their change is
chance, all the more as most have a few hundred questions or fewer.
"""

# The subjects next to a hazardous domain, by the task that asks about the domain; the choice is this project's.
BIOLOGY = (
    "mmlu_virology",
    "mmlu_college_biology",
    "mmlu_high_school_biology",
    "mmlu_medical_genetics",
    "mmlu_anatomy",
)
NEIGHBOURS = {
    "wmdp_bio": BIOLOGY,
    "wmdp_bio_robust": BIOLOGY,
    "wmdp_cyber": ("mmlu_computer_security", "mmlu_college_computer_science"),
    "wmdp_chem": ("mmlu_college_chemistry", "mmlu_high_school_chemistry"),
}
MOST_CHANGED = 6  # further subtasks of a group
ROW = 0.21  # inches: a dot with its interval for each way to split


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one row per task with the change in accuracy from the base model, one panel per family of methods and merge.

    Dots with 95 % intervals: undivided runs, random and attribute split (both merged), a family at λ = 1 or its λ
    nearest to 1. Crosses mark broken models; the word stands where one has no dot.
    Groups also show the neighbours of what is forgotten (NEIGHBOURS) and the subtasks that changed most. Numbers at the
    names are the base model's accuracies.
    """
    change = measured(evaluations, "benchmarks", "accuracy_minus_base")
    accuracy = measured(evaluations, "benchmarks", "accuracy")
    compared, names = candidates(evaluations, "benchmarks"), display_names(evaluations)
    panels = []
    for method in reference_methods(evaluations).values():
        of_method = [candidate for candidate in compared if candidate.method == method and candidate.kind in ARMS]
        for merge in dict.fromkeys(candidate.merge for candidate in of_method if candidate.merge) or [""]:
            title = f"{names[method]}, {display_name(merge)}" if merge else names[method]
            if shown := [candidate for candidate in of_method if candidate.merge in ("", merge)]:
                panels.append((title, shown))
    if not panels:
        return style.message("This experiment asked no benchmark of an unlearned model.")
    base = base_model(compared)
    everyone = list(dict.fromkeys(candidate for _, shown in panels for candidate in shown))
    groups, broken_paths = sections(evaluations, change, everyone), broken_reasons(evaluations, everyone)

    guessed = tasks_at_chance(evaluations)
    rows, headings, place = [], [], 0.0
    for heading, shown_tasks, standing_out in groups:
        headings.append((place, heading))
        for name, attribute in shown_tasks:
            place += 1
            value = estimate(accuracy, base, attribute).value if base else math.nan
            name = f"{name} (chance)" if attribute in guessed else name
            label = f"{name}  {100 * value:.0f}" if math.isfinite(value) else name
            rows.append((place, label, attribute, standing_out))
        place += 1.4
    with style.style():
        down, across = style.panels(len(panels))
        width = style.PAGE if across > 1 else 0.75 * style.PAGE
        figure = Figure(figsize=(width, 0.5 + (0.7 + ROW * place) * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        legend: dict[str, Line2D] = {}
        for (title, shown), axes in zip(panels, grid.flat, strict=False):
            _panel(axes, shown, rows, change, broken_paths, legend)
            axes.set_title(title, loc="right", weight="bold")
            axes.set_xlabel("change in accuracy\nfrom base, points")
        first = grid[0, 0]
        first.set_yticks([y for y, *_ in rows], [label for _, label, *_ in rows])
        first.set_ylim(place - 0.7, -0.9)
        for axes in grid[:, 0]:
            for label, (*_, standing_out) in zip(axes.get_yticklabels(), rows, strict=True):
                label.set_fontweight("bold" if standing_out else "normal")
            for y, heading in headings:
                at = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
                axes.text(-0.02, y, heading, color="#555555", style="italic", **at)
        order = [name for name in ARMS.values() if name in legend]
        if broken_paths:
            order.append(style.BROKEN)
            legend[style.BROKEN] = style.cross()
        columns = 2 if across == 1 and len(order) > 3 else 3 if len(order) > 4 else len(order)
        style.legend_below(figure, {name: legend[name] for name in order}, ncols=columns)
    return figure


def sections(
    evaluations: pandas.DataFrame, change: pandas.DataFrame, shown: Sequence[Candidate]
) -> list[tuple[str, list[tuple[str, str]], bool]]:
    """Return the sections of rows: (heading, its rows' (name for people, attribute), whether they stand out)."""
    asked = tasks(evaluations)
    forget = [attribute for attribute in forget_attributes(evaluations) if attribute in asked]
    whole = [attribute for attribute, task in asked.items() if not task.group and attribute not in forget]
    # An attribute's name may not say which task asks about it.
    named_forget = [
        (attribute if asked[attribute].name == attribute else f"{attribute} ({asked[attribute].name})", attribute)
        for attribute in forget
    ]
    groups = [("to forget", named_forget, True)] if forget else []
    groups.append(("to keep", [(attribute, attribute) for attribute in whole], False))
    near = [name for attribute in forget for name in NEIGHBOURS.get(asked[attribute].name, ())]
    for group in dict.fromkeys(task.group for task in asked.values() if task.group):
        subtasks = [attribute for attribute, task in asked.items() if task.group == group]

        def largest(attribute: str) -> float:
            changes = [abs(estimate(change, candidate, attribute).value) for candidate in shown]
            return max((value for value in changes if math.isfinite(value)), default=0)

        def readable(attributes: Sequence[str], group: str = group) -> list[tuple[str, str]]:
            return [(attribute.removeprefix(f"{group}_").replace("_", " "), attribute) for attribute in attributes]

        neighbours = [subtask for subtask in near if subtask in subtasks]
        others = sorted((subtask for subtask in subtasks if subtask not in near), key=largest, reverse=True)[
            :MOST_CHANGED
        ]
        if neighbours:
            groups.append((f"{group}: next to what is forgotten", readable(neighbours), True))
        groups.append((f"{group}: changed most" + (" of the others" if neighbours else ""), readable(others), False))
    return groups


def _panel(
    axes: Axes,
    shown: Sequence[Candidate],
    rows: Sequence[tuple],
    change: pandas.DataFrame,
    broken_paths: Collection[str],
    legend: dict[str, Line2D],
) -> None:
    axes.axvline(0, **style.DASHED)
    for y, _, attribute, standing_out in rows:
        if standing_out:
            axes.axhspan(y - 0.5, y + 0.5, color="#000000", alpha=0.05, linewidth=0, zorder=0)
        for number, candidate in enumerate(shown):
            estimated = estimate(change, candidate, attribute)
            at = y + 0.72 / max(len(shown), 3) * (number - (len(shown) - 1) / 2)
            style.horizontal_interval(axes, at, estimated, color=candidate.colour, linewidth=0.9, zorder=2)
            look = {
                "color": candidate.colour,
                "marker": candidate.marker,
                "markersize": 3.2,
                "linestyle": "",
                "markeredgewidth": 0,
            }
            (dot,) = axes.plot(estimated.value, at, zorder=3, **look)
            if style.shown_broken(candidate, estimated, broken_paths):
                style.cross_out(axes, estimated.value, at, candidate.colour, **style.BESIDE)
            legend.setdefault(ARMS[candidate.kind], dot)
    style.rows_of_marks(axes)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(style.percent())
    axes.xaxis.set_tick_params(labelbottom=True)
