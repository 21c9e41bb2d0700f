"""Loss curves of every unlearning run."""

import math
import textwrap

import numpy
import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from spunge.experiment.splits import UNDIVIDED
from spunge.report.figures import style
from spunge.report.results_table import broken_reasons, candidates, display_name, measured, methods

WHEN = {}
CAPTION = """\
Losses of every unlearning run over its optimizer steps, one column per split: the forget loss drives forgetting, the
retain loss is what keeps the rest in place. Thin lines are single seeds, thick ones their mean; the columns have step
axes of their own, since a run on all texts takes as many steps as all shards of a split together. A forget loss that
falls and levels off while the retain loss stays small is a run that worked; a retain loss that climbs, or seeds far
apart, warns of a fragile one. No intervals are meant here. A line ends where a loss is no number or has run away
(10,000 times what is usual), and a cross marks the end of a run whose loss or model is broken. With more than 20 shards
the line is the median over shards and seeds, and the band reaches from the lowest to the highest.
"""

LOSSES = {"forget_loss": "forget loss", "retain_loss": "retain loss"}
KINDS = {split: split for split in UNDIVIDED} | {"attribute_shard": "attribute shards", "random_shard": "random shards"}
LINES = ("-", "--", ":", "-.")
MOST_NAMED = 4
LOGARITHMIC = 30, 1e6  # ratios of the largest to the smallest loss; beyond, the smallest is 0 but for rounding
BEYOND = 1e4  # a loss this many times the first ones and the median has run away


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw every loss that a method recorded in a row of its own, over optimizer steps, one column per split.

    Thin lines are single seeds, thick ones their mean; of more shards than have room, median and range over shards and
    seeds are drawn. Methods that take another one's runs have none. A line ends where its loss has run away or is no
    number, and a cross stands at the end of such a run, and of one whose model is broken.
    """
    runs = candidates(evaluations, "training")
    if not runs:
        return style.message("This experiment recorded no training losses.")
    losses = {metric: _until_broken(measured(evaluations, "training", metric)) for metric in LOSSES}
    broken_paths = broken_reasons(evaluations, runs)
    kinds = [kind for kind in KINDS if any(run.kind == kind for run in runs)]
    trained = [method for method in methods(evaluations) if any(run.method == method for run in runs)]
    rows = [(method, metric) for method in trained for metric in LOSSES if (losses[metric]["method"] == method).any()]
    several = len(trained) > 1
    legend, crossed = {}, False
    with style.style():
        figure = Figure(figsize=(style.PAGE, 0.4 + 1.6 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(kinds), squeeze=False, sharey="row", sharex=False if several else "col")
        for (method, metric), line_of_axes in zip(rows, grid, strict=True):
            for kind, axes in zip(kinds, line_of_axes, strict=True):
                shown_runs = [run for run in runs if (run.method, run.kind) == (method, kind)]
                if len(shown_runs) > style.MOST_ATTRIBUTES:
                    paths = [run.path for run in shown_runs]
                    curves = losses[metric][losses[metric].index.isin(paths, level="candidate")]
                    ended = {*curves[curves["value"].isna()].index.unique("candidate"), *broken_paths}.intersection(
                        paths
                    )
                    if ended:
                        _note(axes, f"{len(ended)} of {len(shown_runs)} broken")
                    shown = {
                        "data": curves.reset_index(),
                        "x": "n",
                        "y": "value",
                        "ax": axes,
                        "color": shown_runs[0].colour,
                    }
                    seaborn.lineplot(**shown, estimator="median", errorbar=("pi", 100), linewidth=1.4)
                    axes.grid(True)
                    continue
                lost = []
                for number, run in enumerate(shown_runs):
                    if run.path not in losses[metric].index:
                        continue
                    curves = losses[metric].loc[run.path].reset_index()
                    look = {"color": run.colour, "linestyle": LINES[number % len(LINES)]}
                    shown = {"x": "n", "y": "value", "ax": axes, "legend": False, **look}
                    ended = curves["value"].isna()
                    broken = ended.any() or run.path in broken_paths
                    # A mean without the seed that broke would tell of the others alone.
                    whole = curves[~(curves["n"] >= curves["n"][ended].min())]
                    if whole.empty:
                        lost.append(run.shard or KINDS[kind])
                        continue
                    seaborn.lineplot(data=curves, **shown, units="seed", estimator=None, linewidth=0.6, alpha=0.5)
                    seaborn.lineplot(data=whole, **shown, errorbar=None, linewidth=1.4)
                    if 1 < len(shown_runs) <= MOST_NAMED:
                        legend.setdefault(run.shard, axes.lines[-1])
                    if broken:
                        style.cross_out(axes, *axes.lines[-1].get_xydata()[-1], run.colour)
                        crossed = True
                if lost:
                    _note(axes, textwrap.fill(f"broken, not drawn: {textwrap.shorten(', '.join(lost), 80)}", 34))
                axes.grid(True)
            values = losses[metric]["value"][losses[metric]["method"] == method]
            least, most = LOGARITHMIC
            if len(values) and values.min() > 0 and least < values.max() / values.min() < most:
                line_of_axes[0].set_yscale("log")
                line_of_axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 3)))
                line_of_axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                line_of_axes[0].yaxis.set_minor_formatter(NullFormatter())
            for axes in line_of_axes:
                axes.set(xlabel="", ylabel="")
            line_of_axes[0].set_ylabel(f"{display_name(method)}: {LOSSES[metric]}" if several else LOSSES[metric])
        for kind, axes in zip(kinds, grid[0], strict=True):
            of_one = max(sum((run.method, run.kind) == (method, kind) for run in runs) for method in trained)
            if of_one > style.MOST_ATTRIBUTES:
                axes.set_title(f"{KINDS[kind]} ({of_one}): median, range")
                continue
            axes.set_title(KINDS[kind] if of_one <= MOST_NAMED else f"{KINDS[kind]} ({of_one})")
        for axes in grid[-1]:
            axes.set_xlabel("optimizer steps")
        if crossed:  # first, so that each kind of shards has a column of the legend
            legend = {style.BROKEN: style.cross()} | legend
        if legend:
            style.legend_below(figure, legend, ncols=2)
            figure.set_figheight(figure.get_figheight() + 0.1 + 0.15 * math.ceil(len(legend) / 2))
    return figure


def _until_broken(losses: pandas.DataFrame) -> pandas.DataFrame:
    """Return the losses with NaN from the step on at which a run's is no finite number or has run away."""
    rows = losses.reset_index()
    by_run, by_method = [rows["candidate"], rows["seed"]], rows["method"]
    size = rows["value"].abs()
    size = size.where(size < numpy.finfo("float32").max)
    first = size.where(rows["n"] == rows["n"].groupby(by_run).transform("min"))
    usual = numpy.fmax(size.groupby(by_method).transform("median"), first.groupby(by_method).transform("max"))
    broken = ~(size <= (BEYOND * usual).where(usual > 0, math.inf))
    since = rows["n"].where(broken).groupby(by_run).transform("min")
    return rows.assign(value=rows["value"].where(~(rows["n"] >= since))).set_index(losses.index.names)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=6, color="#555555")
