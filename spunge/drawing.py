"""What all figures share: sizes, type, interval bars, and files whose bytes depend on the data alone."""

import math
import os
from contextlib import AbstractContextManager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spunge.evaluations import Estimate
from spunge.files import whole_file

COLUMN = 3.4  # inches: one column of a two-column paper
PAGE = 7.0

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


def vertical_interval(axes: Axes, x: float, estimate: Estimate, **line) -> None:
    """Draw a 95 % interval over `x`; a missing one leaves nothing.

    Not `errorbar`, which refuses an estimate outside its interval, as a percentile bootstrap can give.
    """
    axes.plot([x, x], [estimate.low, estimate.high], marker="", **line)


def horizontal_interval(axes: Axes, y: float, estimate: Estimate, **line) -> None:
    """Draw a 95 % interval at the height `y`; a missing one leaves nothing."""
    axes.plot([estimate.low, estimate.high], [y, y], marker="", **line)
