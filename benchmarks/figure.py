"""The figure of results.csv: how many times better than the reference, beside what was to be reached."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks import results
from spunge.report.figures import style

MET, MISSED, TARGET = "#3b76af", "#c96a3a", "#222222"


def draw(table: pd.DataFrame) -> Figure:
    """Draw one bar per row that has a target, on a logarithmic axis, with the target as a mark."""
    shown = [row for row in table.itertuples() if results.target(row) is not None]
    if not shown:
        return style.message("No benchmark with a target has been run.")
    machines = {row.machine for row in shown}
    with style.style():
        figure = Figure(figsize=(style.PAGE, 0.6 + 0.26 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for height, row in enumerate(reversed(shown)):
            target = results.target(row)
            axes.barh(height, row.ratio - 1, left=1, height=0.6, color=MET if row.ratio >= target else MISSED)
            axes.plot([target, target], [height - 0.42, height + 0.42], color=TARGET, linewidth=1.4)
            furthest = max(row.ratio, target, 1)
            axes.text(furthest * 1.06, height, f"{row.ratio:.3g}", va="center", fontsize=7)
        labels = [f"{row.name}: {row.metric}" for row in reversed(shown)]
        if len(machines) > 1:
            labels = [f"{label}\n{row.machine}" for label, row in zip(labels, reversed(shown), strict=True)]
        axes.set_yticks(range(len(shown)), labels)
        axes.set_xscale("log")
        axes.set_xlim(min(0.5, *(row.ratio * 0.8 for row in shown)), 2 * max(row.ratio for row in shown))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.axvline(1, color="#888888", linewidth=0.8)
        axes.set_xlabel("times better than the reference (the black mark is the target)")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        if len(machines) == 1:
            axes.set_title(f"{machines.pop()}", loc="left")
    return figure
