"""What the merge did to the task vectors: how much it kept, where they disagreed, how alike they were."""

import numpy
import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from spunge import drawing
from spunge.evaluations import Candidate, candidates, measured, written

MOST_NUMBERED = 6  # more task vectors than this leave no room for the cosines as numbers
CELL = 0.27  # inches: a cosine of two decimals fits
DISAGREEMENT = "#7f7f7f"


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one row per merged candidate: kept shares and sign conflict as bars, cosines as a matrix.

    Bars and cells are means over seeds; dots are single seeds.
    """
    merged = candidates(evaluations, "merge")
    if not merged:
        return drawing.message("Nothing was merged in this experiment.")
    kept, conflict, cosine = (
        measured(evaluations, "merge", metric) for metric in ("kept_share", "sign_conflict", "cosine")
    )
    several = len({candidate.method for candidate in merged}) > 1
    heights, panels = [], []
    for candidate in merged:
        shares = {shard: list(rows["value"]) for shard, rows in _of(kept, candidate).groupby("shard", sort=False)}
        cosines = _matrix(_of(cosine, candidate))
        panels.append((candidate, shares, list(_of(conflict, candidate)["value"]), cosines))
        cell = CELL if len(cosines) <= MOST_NUMBERED else 0.17
        heights.append(0.75 + max(0.17 * len(shares), cell * len(cosines)))
    with drawing.style():
        figure = Figure(figsize=(drawing.PAGE, sum(heights) + 0.8), layout="constrained")
        grid = figure.subplots(len(merged), 2, squeeze=False, height_ratios=heights, width_ratios=[1.5, 1])
        images = []
        for (candidate, shares, conflicts, cosines), (bars, matrix) in zip(panels, grid, strict=True):
            _draw_shares(bars, shares, conflicts, candidate.colour)
            images.append(_draw_cosines(matrix, cosines))
            split = {"attribute": "attribute split", "random": "random split", "joint": "joint"}[candidate.kind]
            method = f"{written(candidate.method)}: " if several else ""
            bars.set_title(f"{method}{split}, {written(candidate.merge)}", loc="left", weight="bold")
        grid[-1, 0].set_xlabel("share of the entries")
        shown = [image for image in images if image is not None]
        if shown:
            figure.colorbar(
                shown[0], ax=list(grid[:, 1]), label="cosine of task vectors", location="bottom", shrink=0.8, aspect=25
            )
    return figure


def _of(rows: pandas.DataFrame, candidate: Candidate) -> pandas.DataFrame:
    own = rows.index.get_level_values("candidate") == candidate.path
    return rows[own].reset_index()


def _draw_shares(axes: Axes, shares: dict, conflicts: list, colour: str) -> None:
    bars = [(shard, values, colour) for shard, values in shares.items()]
    names = [f"kept of {shard}" for shard in shares]
    if conflicts:
        bars.append(("sign conflict", conflicts, DISAGREEMENT))
        names.append("signs in conflict")
    for place, (_, values, bar_colour) in enumerate(bars):
        axes.barh(place, numpy.mean(values), 0.7, color=bar_colour)
        axes.plot(values, [place] * len(values), ".", color="black", markersize=2.5, clip_on=False)
        axes.text(
            max(values) + 0.02, place, f"{numpy.mean(values):.0%}", va="center", ha="left", fontsize=7, clip_on=False
        )
    axes.set_yticks(range(len(bars)), names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(True, axis="x")


def _draw_cosines(axes: Axes, cosines: pandas.DataFrame) -> Collection | None:
    if cosines.empty:
        axes.set_axis_off()
        return None
    crowded = len(cosines) > MOST_NUMBERED
    seaborn.heatmap(
        cosines,
        ax=axes,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        annot=not crowded,
        fmt=".2f",
        annot_kws={"fontsize": 6.5},
        square=True,
        cbar=False,
    )
    turned = {"rotation": 90} if crowded else {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(axes.get_xticks(), axes.get_xticklabels(), **turned)
    axes.set_yticks(axes.get_yticks(), axes.get_yticklabels(), rotation=0)
    axes.tick_params(length=0)
    return axes.collections[0]


def _matrix(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Return the mean cosines as a symmetric matrix with ones on its diagonal, whichever half the rows tell."""
    names = list(dict.fromkeys([*rows["shard"], *rows["attribute"]]))
    matrix = pandas.DataFrame(numpy.eye(len(names)), index=names, columns=names)
    for (one, other), value in rows.groupby(["shard", "attribute"])["value"].mean().items():
        matrix.loc[one, other] = matrix.loc[other, one] = value
    return matrix
