"""What figures share: sizes, type, interval bars, broken models, radars, rows of dots, and how they are written."""

import logging
import math
import os
import textwrap
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import matplotlib
import numpy
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from spunge.core.files import whole_file
from spunge.experiment.splits import GROUPED, UNDIVIDED
from spunge.report.figures import fonts
from spunge.report.results_table import MISSING, Candidate, Estimate, display_name, estimate

COLUMN = 3.4  # inches: one column of a two-column paper
PAGE = 7.0
ROW = 0.17  # inches: one row of dots with its name
LABELS = 84  # characters below the panels of a page, side by side

MOST_ATTRIBUTES = 20  # more have no room for a bar, a spoke or a row each: figures then show their distribution
MOST_LARGE = 8  # spokes of a radar whose names are as large as other text

# How all figures mark a model that no longer writes language (`spunge.report.results_table.broken`), and what legends
# call it.
BROKEN = "broken: no longer writes language"
CROSS = {"color": "black", "marker": "x", "markersize": 4.5, "markeredgewidth": 0.9, "linestyle": "", "zorder": 6}
DASHED = {"color": "#999999", "linewidth": 0.7, "linestyle": (0, (4, 3)), "zorder": 1}  # the base model, or no change
BESIDE = {"start": -0.01, "ha": "left"}  # the word of `cross_out`, where a row has other candidates' dots
MOST_EXPLAINED = 3  # broken models without a place in a panel, each with its reason

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.hashsalt": "spunge",
    # Attributes are the user's words: a dollar sign in one must not start a formula.
    "text.parse_math": False,
}


def style() -> AbstractContextManager:
    """Return a context in which matplotlib draws as all figures here do."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE})


@contextmanager
def writing(texts: Iterable[str]) -> Iterator[str]:
    """Return a context in which figures are drawn with installed fonts too, where ours lacks characters of `texts`.

    It gives a sentence on the characters that no font has, which are drawn as boxes, or "". Without any that are
    lacking, nothing is looked for and all is drawn as ever.
    """
    house_font = STYLE["font.family"]
    lacking = fonts.lacking(house_font, texts)
    families, missing = fonts.fallbacks(lacking) if lacking else ([], set())
    sentence = ""
    if missing:
        scripts = ", ".join(fonts.scripts(missing))
        sentence = (
            f"{len(missing)} characters are drawn as boxes, since no installed font has them ({scripts}): install a"
            " font that does, such as Noto Sans of that script or Noto Emoji, and draw the figures again"
        )
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with warnings.catch_warnings():
        if lacking:
            # The sentence says it once; matplotlib would for each of them, and for each weight that a font lacks.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            log.setLevel(logging.ERROR)
            STYLE["font.family"] = [house_font, *families]
        try:
            yield sentence
        finally:
            STYLE["font.family"] = house_font
            log.setLevel(level)


def save(figure: Figure, pdf: str | os.PathLike, png: str | os.PathLike) -> None:
    """Write a figure as vector PDF and as PNG (300 dots per inch), without dates."""
    with style():  # tick labels come into being while the figure is written
        with whole_file(pdf) as path:
            figure.savefig(path, metadata={"CreationDate": None})
        with whole_file(png) as path:
            figure.savefig(path, dpi=300)


def message(text: str) -> Figure:
    """Return a figure that says in words why there is nothing to draw."""
    with style():
        figure = Figure(figsize=(COLUMN, 1.2))
        figure.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color="#555555")
    return figure


def panels(count: int) -> tuple[int, int]:
    """Return rows and columns for `count` panels of one column's width each: up to four stand side by side."""
    columns = count if count <= 4 else 3
    return math.ceil(count / columns), columns


def percent() -> FuncFormatter:
    """Return a formatter of shares as percent without the sign, with as many decimals as a tick needs."""
    return FuncFormatter(lambda share, _: f"{100 * share:g}".replace("-", "\u2212"))


def vertical_interval(axes: Axes, x: float, estimate: Estimate, **line) -> None:
    """Draw a 95 % interval over `x`; a missing or an infinite one leaves nothing.

    Not `errorbar`, which refuses an estimate outside its interval.
    """
    if math.isfinite(estimate.low + estimate.high):
        axes.plot([x, x], [estimate.low, estimate.high], marker="", **line)


def horizontal_interval(axes: Axes, y: float, estimate: Estimate, **line) -> None:
    """Draw a 95 % interval at the height `y`; a missing or an infinite one leaves nothing."""
    if math.isfinite(estimate.low + estimate.high):
        axes.plot([estimate.low, estimate.high], [y, y], marker="", **line)


def lost(estimate: Estimate) -> bool:
    """Return whether something was measured that is no finite number, as a broken model's may be."""
    return estimate is not MISSING and not math.isfinite(estimate.value)


def shown_broken(candidate: Candidate, estimate: Estimate, broken_paths: Collection[str]) -> bool:
    """Return whether an estimate is to be crossed out: its model is broken, or it was measured and is not finite."""
    return lost(estimate) or (estimate is not MISSING and candidate.path in broken_paths)


def name_with_state(name: str, candidate: Candidate, broken_paths: Collection[str]) -> str:
    """Return a candidate's name, and whether it is broken: whether its path is in `broken_paths`."""
    return f"{name} (broken)" if candidate.path in broken_paths else name


def cross() -> Line2D:
    """Return the cross of broken models for a legend, where BROKEN is its name."""
    return Line2D([], [], **CROSS)


def legend_below(figure: Figure, legend: Mapping[str, object], **look) -> None:
    """Draw one legend for all panels, below them: name → what it stands for."""
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", **look)


def cross_out(axes: Axes, x: float, y: float, colour: str, start: float = 0.02, **text) -> None:
    """Cross out the point of a broken model; where one of its numbers is not finite, a word at the edge says so.

    start: where the word stands along the other axis, as a share of the panel. text: how, beside the usual.
    """
    if math.isfinite(x + y):
        axes.plot(x, y, **CROSS)
        return
    look = {"color": colour, "fontsize": 5.5, "zorder": 6}
    if math.isfinite(x):
        at, look["transform"] = (x, start), axes.get_xaxis_transform()
        look |= {"rotation": 90, "ha": "center", "va": "bottom"}
    else:
        at, look["transform"] = (1 - start, y), axes.get_yaxis_transform()
        look |= {"ha": "right", "va": "center"}
    axes.text(*at, "broken", **look | text)


def not_drawn(reasons: Mapping[str, str], width: int = 46) -> str:
    """Return lines below a panel's label that tell of the broken models without a place in it; "" without any.

    reasons: name → why it is broken.
    """
    if not reasons:
        return ""
    shown = [f"{name}: {reason}" for name, reason in reasons.items()][:MOST_EXPLAINED]
    if len(reasons) > len(shown):
        shown.append(f"and {len(reasons) - len(shown)} more")
    return "\n" + textwrap.fill(f"broken, not drawn: {'; '.join(shown)}", width)


def reference(of_base: float, values: Iterable[float]) -> float:
    """Return the value that a panel's limit is a multiple of: the base model's or, where it has none, the lowest."""
    if math.isfinite(of_base):
        return of_base
    return min((value for value in values if math.isfinite(value)), default=math.nan)


class Spokes(NamedTuple):
    """One line of a radar: a candidate's values, one per spoke, and why it is broken: such a line is dotted.

    intervals: of each spoke the lower and the upper bound, drawn as a band; none where it is empty.
    """

    candidate: Candidate
    values: Sequence[float]
    broken: str = ""
    intervals: Sequence[tuple[float, float]] = ()


def radar(
    panels: Sequence[tuple[str, Sequence[Spokes]]], attributes: Sequence[str], shaded: int, grid: tuple[int, int]
) -> Figure:
    """Draw shares as radars, one panel per title and lines, one spoke per attribute.

    The first `shaded` spokes stand on grey. grid: rows and columns of panels, each of one column's width at most.
    More than MOST_ATTRIBUTES are sorted curves instead, the shaded ones to the left and the others to the right.
    """
    if len(attributes) > MOST_ATTRIBUTES:
        return _sorted_curves(panels, attributes, shaded, grid)
    step = 2 * numpy.pi / len(attributes)
    angles = step * numpy.arange(len(attributes))
    height, width = grid
    values = [value for _, lines in panels for line in lines for value in line.values]
    values += [high for _, lines in panels for line in lines for _, high in line.intervals]
    top = max([*filter(math.isfinite, values), 0.01])
    names = [textwrap.fill(attribute, 16, break_long_words=False) for attribute in attributes]
    with style():
        figure = Figure(figsize=(COLUMN * width, 2.8 * height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08)  # names of one panel's spokes must not run into the next one's
        whole_grid = figure.subplots(height, width, squeeze=False, subplot_kw={"projection": "polar"})
        free = whole_grid.flat[len(panels) :]
        for axes in free:
            axes.set_axis_off()
        legend = {}
        for (title, lines), axes in zip(panels, whole_grid.flat, strict=False):
            for candidate, values, reason, intervals in lines:
                finite = _finite(values)
                size = 6 if candidate.kind == "base" else 3.5
                look = _line(candidate) | {"marker": candidate.marker, "markersize": size, "markeredgewidth": 0}
                legend.setdefault(candidate.name, Line2D([], [], **look))
                look |= {"linestyle": ":"} if reason else {}
                around = [*angles, angles[0]]
                axes.plot(around, [*finite, finite[0]], **look)
                if intervals:
                    low, high = ([*bounds, bounds[0]] for bounds in map(_finite, zip(*intervals, strict=True)))
                    axes.fill_between(around, low, high, color=candidate.colour, alpha=0.13, linewidth=0)
            axes.set_xlabel(_without_values(lines).lstrip())
            axes.set_theta_zero_location("N")
            axes.set_theta_direction(-1)
            axes.bar(angles[:shaded], 1.05 * top, step, color="#000000", alpha=0.06, linewidth=0, zorder=0)
            rings = MaxNLocator(4, prune="lower").tick_values(0, top)
            axes.set_yticks(rings, [""] * len(rings))
            for ring in rings[rings < 1.05 * top]:
                plate = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4}
                text = {"ha": "center", "va": "center", "fontsize": 6, "color": "#666666", "zorder": 5}
                decimals = 0 if numpy.allclose(rings * 100, (rings * 100).round()) else 1
                axes.text(step / 2, ring, f"{ring:.{decimals}%}", bbox=plate, **text)
            axes.set_ylim(0, 1.05 * top)
            axes.spines["polar"].set_color("#cccccc")
            axes.set_xticks(angles, names)
            for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
                side = numpy.sin(angle)
                label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
                if len(angles) > MOST_LARGE:
                    label.set_fontsize(6)
            if len(panels) > 1:
                axes.set_title(title, weight="bold")
        legend |= _dotted(panels)
        if len(free):
            free[0].legend(legend.values(), legend.keys(), loc="center")
        else:
            columns = 3 if width > 1 else 2 if len(legend) <= 4 else 1
            legend_below(figure, legend, ncols=columns)
            figure.set_figheight(2.8 * height + 0.3 + 0.15 * math.ceil(len(legend) / columns))
    return figure


def _line(candidate: Candidate) -> dict[str, object]:
    """Return how a candidate's line looks: thick for SPUNGE, dashed for the base model."""
    width = 1.8 if candidate.kind == "attribute" else 1.1
    return {"color": candidate.colour, "linewidth": width, "linestyle": "--" if candidate.kind == "base" else "-"}


def _dotted(panels: Sequence[tuple[str, Sequence[Spokes]]]) -> dict[str, Line2D]:
    """Return a legend's entry for the lines of broken models, if there are any."""
    dotted = any(line.broken for _, lines in panels for line in lines)
    return {BROKEN: Line2D([], [], color="#333333", linestyle=":", linewidth=1.1)} if dotted else {}


def _finite(values: Iterable[float]) -> list[float]:
    """Return the values with NaN for each that is infinite."""
    return [value if math.isfinite(value) else math.nan for value in values]


def _without_values(lines: Sequence[Spokes]) -> str:
    """Tell of the broken models that have no line."""
    return not_drawn(
        {
            line.candidate.name: line.broken
            for line in lines
            if line.broken and not any(map(math.isfinite, line.values))
        },
        44,
    )


def boxes(axes: Axes, rows: Sequence[Sequence[float]], colours: Sequence[str], places: Sequence[float]) -> None:
    """Draw at each place a box for the quartiles of a row, a line for its median, and whiskers to its ends."""
    look = {"linewidth": 0.8}
    drawn = axes.boxplot(
        [[value for value in row if math.isfinite(value)] for row in rows],
        positions=places,
        orientation="horizontal",
        whis=(0, 100),
        widths=0.6,
        patch_artist=True,
        manage_ticks=False,
        medianprops={"color": "black", "linewidth": 1.2},
        boxprops=look,
        whiskerprops=look,
        capprops=look,
    )
    for box, colour in zip(drawn["boxes"], colours, strict=True):
        box.set_facecolor((colour, 0.7))  # so that the median stays visible
    rows_of_marks(axes)


def rows_of_marks(axes: Axes) -> None:
    """Give a panel whose rows have names a grid over its values alone."""
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)


def extreme(values: Sequence[float], names: Sequence[str], highest: bool) -> str:
    """Return the name of the highest or the lowest value, shortened, with the value in percent; "" without any."""
    known = [(value, name) for value, name in zip(values, names, strict=True) if math.isfinite(value)]
    if not known:
        return ""
    value, name = (max if highest else min)(known, key=lambda pair: pair[0])
    return f"{textwrap.shorten(name, 24, placeholder='…') or name[:24]}: {value:.0%}"


def _sorted_curves(
    panels: Sequence[tuple[str, Sequence[Spokes]]], attributes: Sequence[str], shaded: int, grid: tuple[int, int]
) -> Figure:
    """Draw each line of a radar with its values in descending order, and name the worst of SPUNGE's first line."""
    sections = [("to forget", slice(0, shaded), True), ("to keep", slice(shaded, None), False)]
    sections = (
        [section for section in sections if attributes[section[1]]] if shaded else [("to forget", slice(None), True)]
    )
    height, width = (len(panels), len(sections)) if len(sections) > 1 else grid
    with style():
        figure = Figure(figsize=(COLUMN * width, 2.4 * height), layout="constrained")
        whole_grid = figure.subplots(height, width, squeeze=False, sharey=True)
        shown = [(title, lines, section) for title, lines in panels for section in sections]
        legend = {}
        for axes in whole_grid.flat[len(shown) :]:
            axes.set_axis_off()
        for (title, lines, (sort, selection, highest)), axes in zip(shown, whole_grid.flat, strict=False):
            names = attributes[selection]
            for candidate, values, reason, _ in lines:
                curve = sorted((value for value in values[selection] if math.isfinite(value)), reverse=True)
                look = _line(candidate)
                legend.setdefault(candidate.name, Line2D([], [], **look))
                axes.plot(range(1, len(curve) + 1), curve, **look | ({"linestyle": ":"} if reason else {}))
            note = f"{len(names)} attributes {sort}, each line sorted by itself"
            first = next((line for line in lines if line.candidate.kind == "attribute"), None)
            if first and (worst := extreme(first.values[selection], names, highest)):
                note += f"\n{'highest' if highest else 'lowest'} of {first.candidate.name}:\n{worst}"
            axes.set_xlabel(note + _without_values(lines))
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.grid(True, axis="y")
            if len(panels) > 1:
                axes.set_title(title, weight="bold")
        legend |= _dotted(panels)
        columns = 3 if width > 2 else width
        legend_below(figure, legend, ncols=columns)
        figure.set_figheight(2.4 * height + 0.3 + 0.15 * math.ceil(len(legend) / columns))
    return figure


class Column(NamedTuple):
    """One panel of dots: the rows it shows (as `measured` gives them), for which attribute, and how.

    percent: shares, shown in percent. limit: how many times the base model's value (or the lowest, where that is none)
    leaves the panel; its number then stands at an arrow. width: relative to the other panels.
    """

    rows: pandas.DataFrame
    attribute: str
    label: str
    percent: bool = False
    limit: float = math.inf
    width: float = 1.0


def rows_by_method(
    candidates: Iterable[Candidate], headings: Mapping[str, str]
) -> list[tuple[str, list[tuple[str, Candidate]]]]:
    """Return the groups of `dots`: undivided runs and merges of each method of `headings` that has any."""
    names = {split: split for split in UNDIVIDED} | {split: f"{split} split, {{merge}}" for split in GROUPED}
    groups = {
        method: [candidate for candidate in candidates if candidate.method == method and candidate.kind in names]
        for method in headings
    }
    return [
        (
            headings[method],
            [(names[candidate.kind].format(merge=display_name(candidate.merge)), candidate) for candidate in rows],
        )
        for method, rows in groups.items()
        if rows
    ]


def dots(
    groups: Sequence[tuple[str, Sequence[tuple[str, Candidate]]]],
    columns: Sequence[Column],
    base: Candidate | None,
    broken_paths: Mapping[str, str],
) -> Figure:
    """Draw one row per named candidate and one panel per column: a dot with its 95 % interval.

    groups: heading (or "") and its rows, from above. The dashed lines are the base model. Candidates of `broken_paths`
    (`broken_reasons`) are named so, and their dots crossed.
    """
    rows: list[tuple[float, str, Candidate]] = []
    headings: list[tuple[float, str]] = []
    place = 0.0
    for heading, named in groups:
        if heading:
            headings.append((place, heading))
            place += 1
        rows += [(place + number, name, candidate) for number, (name, candidate) in enumerate(named)]
        place += len(named) + 0.5
    with style():
        figure = Figure(figsize=(PAGE, 0.9 + ROW * place), layout="constrained")
        panels = figure.subplots(
            1, len(columns), sharey=True, squeeze=False, width_ratios=[column.width for column in columns]
        )[0]
        for axes, column in zip(panels, columns, strict=True):
            of_base = estimate(column.rows, base, column.attribute).value if base else math.nan
            if math.isfinite(of_base):
                axes.axvline(of_base, **DASHED)
            estimates = [estimate(column.rows, candidate, column.attribute) for _, _, candidate in rows]
            usual = reference(of_base, (estimated.value for estimated in estimates))
            limit = column.limit * usual if usual > 0 else math.inf
            for (y, _, candidate), estimated in zip(rows, estimates, strict=True):
                if limit < estimated.value:
                    text = f"{estimated.value:.3g} \u2192" if estimated.value < 1e6 else f"{estimated.value:.0e} \u2192"
                    at = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 6.5}
                    axes.text(0.98, y, text, **at)
                    continue
                seen = estimated._replace(high=min(estimated.high, limit))
                horizontal_interval(axes, y, seen, color=candidate.colour, linewidth=1.1, zorder=2)
                look = {"color": candidate.colour, "marker": candidate.marker, "markersize": 4, "zorder": 3}
                axes.plot(estimated.value, y, clip_on=False, **look)  # whole at the panel's edge, too
                if shown_broken(candidate, estimated, broken_paths):
                    cross_out(axes, estimated.value, y, candidate.colour)
            if any(estimated.value <= limit < estimated.high for estimated in estimates):
                axes.set_xlim(right=limit)
            rows_of_marks(axes)
            axes.xaxis.set_major_locator(MaxNLocator(5 if len(columns) > 2 else 8, steps=[1, 2, 5, 10]))
            if column.percent:
                axes.xaxis.set_major_formatter(percent())
            lines = column.label.splitlines()
            axes.set_xlabel("\n".join(textwrap.fill(line, LABELS // len(columns)) for line in lines))
        names = [name_with_state(name, candidate, broken_paths) for _, name, candidate in rows]
        panels[0].set_yticks([y for y, _, _ in rows], names)
        panels[0].set_ylim(place - 0.4, -0.8)
        for y, heading in headings:
            plate = {"facecolor": "white", "linewidth": 0, "pad": 1}
            at = {"transform": panels[0].get_yaxis_transform(), "weight": "bold", "va": "center", "bbox": plate}
            panels[0].text(0.01, y, heading, **at)
    return figure
