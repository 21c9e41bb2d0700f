"""What the merge did to the task vectors: how much it kept, where they disagreed, how alike they were."""

import math

import numpy
import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from spunge.report.figures import style
from spunge.report.results_table import Candidate, broken_reasons, candidates, display_name, measured

WHEN = {}
CAPTION = """\
What the merge did to the shards' task vectors. Bars: the share of each task vector's entries that the trim kept and, in
grey, the share of the kept entries where shards disagree in sign; each is the mean over seeds, dots are single seeds.
Merges whose model is broken are named so; an empty cell is a cosine that is no number. The matrix holds the cosines
between the task vectors: near 1 the shards learned the same change, near 0 unrelated ones, below 0 opposing ones. There
is no success to read here, only why merging helped or hurt: little conflict means that each shard's change survives the
merge. With more than 20 shards boxes hold their shares and the cosines of all pairs (quartiles, median, whiskers from
the lowest to the highest), and each method and split has one matrix, the mean over merges and seeds.
"""

MOST_NUMBERED = 6  # more task vectors than this leave no room for the cosines as numbers
MATRICES = 4  # side by side
CELL = 0.27  # inches: a cosine of two decimals fits
DISAGREEMENT = "#7f7f7f"


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one row per merged candidate: kept shares and sign conflict as bars, cosines as a matrix.

    Bars and cells are means over seeds; dots are single seeds. Broken models are named so; a cell without a finite
    number stays empty. More task vectors than have room are boxes, and all merges of a method and split share one
    matrix without names.
    """
    merged = candidates(evaluations, "merge")
    if not merged:
        return style.message("Nothing was merged in this experiment.")
    kept, conflict, cosine = (
        measured(evaluations, "merge", metric) for metric in ("kept_share", "sign_conflict", "cosine")
    )
    several = len({candidate.method for candidate in merged}) > 1
    broken_paths = broken_reasons(evaluations, merged)
    names = {candidate: f"{_split(candidate, several)}, {display_name(candidate.merge)}" for candidate in merged}
    names = {candidate: style.name_with_state(name, candidate, broken_paths) for candidate, name in names.items()}
    heights, panels, most = [], [], 0
    for candidate in merged:
        shares = {shard: list(rows["value"]) for shard, rows in _of(kept, candidate).groupby("shard", sort=False)}
        cosines = _matrix(_of(cosine, candidate))
        panels.append((candidate, shares, list(_of(conflict, candidate)["value"]), cosines))
        most = max(most, len(shares), len(cosines))
        cell = CELL if len(cosines) <= MOST_NUMBERED else 0.17
        heights.append(0.75 + max(0.17 * len(shares), cell * len(cosines)))
    if most > style.MOST_ATTRIBUTES:
        return _draw_many(panels, names, most)
    with style.style():
        figure = Figure(figsize=(style.PAGE, sum(heights) + 0.8), layout="constrained")
        grid = figure.subplots(len(merged), 2, squeeze=False, height_ratios=heights, width_ratios=[1.5, 1])
        images = []
        for (candidate, shares, conflicts, cosines), (bars, matrix) in zip(panels, grid, strict=True):
            _draw_shares(bars, shares, conflicts, candidate.colour)
            images.append(_draw_cosines(matrix, cosines))
            bars.set_title(names[candidate], loc="left", weight="bold")
        grid[-1, 0].set_xlabel("share of the entries")
        shown = [image for image in images if image is not None]
        if shown:
            figure.colorbar(
                shown[0], ax=list(grid[:, 1]), label="cosine of task vectors", location="bottom", shrink=0.8, aspect=25
            )
    return figure


def _of(rows: pandas.DataFrame, candidate: Candidate) -> pandas.DataFrame:
    """Return a candidate's rows, with NaN for each value that is infinite."""
    selected = rows.loc[candidate.path : candidate.path].reset_index()
    return selected.assign(value=selected["value"].where(numpy.isfinite(selected["value"])))


def _split(candidate: Candidate, several: bool) -> str:
    split = {"attribute": "attribute split", "random": "random split", "joint": "joint"}[candidate.kind]
    return f"{display_name(candidate.method)}: {split}" if several else split


def _draw_many(panels: list, names: dict[Candidate, str], most: int) -> Figure:
    """Draw one row of boxes per candidate, over shards and pairs of them; below, a matrix per method and split."""
    several = len({candidate.method for candidate, *_ in panels}) > 1
    matrices: dict[str, list[pandas.DataFrame]] = {}
    kept, conflicts, pairs = [], [], []
    for candidate, shares, conflict, cosines in panels:
        kept.append([numpy.mean(values) for values in shares.values()])
        conflicts.append(numpy.mean(conflict) if conflict else numpy.nan)
        pairs.append(cosines.to_numpy()[numpy.triu_indices(len(cosines), 1)])
        if len(cosines):
            matrices.setdefault(_split(candidate, several), []).append(cosines)
    down, across = math.ceil(len(matrices) / MATRICES), min(len(matrices), MATRICES)
    heights = [0.9 + style.ROW * len(panels), *([0.7 + 2.2 * down] if matrices else [])]
    with style.style():
        figure = Figure(figsize=(style.PAGE, sum(heights)), layout="constrained")
        areas = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        shares, signs, alike = areas[0].subplots(1, 3, sharey=True)
        places, colours = range(len(panels)), [candidate.colour for candidate, *_ in panels]
        style.boxes(shares, kept, colours, places)
        style.boxes(alike, pairs, colours, places)
        signs.scatter(conflicts, places, 14, DISAGREEMENT)
        for axes, values in ((shares, kept), (signs, [conflict for _, _, conflict, _ in panels]), (alike, pairs)):
            for place, of_candidate in zip(places, values, strict=True):
                if len(of_candidate) and numpy.isnan(of_candidate).all():
                    style.cross_out(axes, math.nan, place, "black")
        style.rows_of_marks(signs)
        for axes in (shares, signs):
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        shares.set_xlabel(f"share kept, {most} shards")
        signs.set_xlabel("signs in conflict")
        alike.set_xlabel(f"cosines of {most * (most - 1) // 2} pairs")
        shares.set_yticks(places, [names[candidate] for candidate, *_ in panels])
        shares.set_ylim(len(panels) - 0.4, -0.6)
        if matrices:
            grid = areas[1].subplots(down, across, squeeze=False)
            for axes in grid.flat:
                axes.set_axis_off()
            for (name, of_split), axes in zip(matrices.items(), grid.flat, strict=False):
                mean = numpy.mean([cosines.to_numpy() for cosines in of_split], axis=0)
                image = axes.imshow(mean, cmap="RdBu_r", vmin=-1, vmax=1)
                axes.set_title(name.replace(": ", "\n"))
            label = f"cosine of task vectors, {most} shards in their order, all merges"
            areas[1].colorbar(image, ax=list(grid.flat), label=label, location="bottom", shrink=0.6, aspect=40)
    return figure


def _draw_shares(axes: Axes, shares: dict, conflicts: list, colour: str) -> None:
    bars = [(shard, values, colour) for shard, values in shares.items()]
    names = [f"kept of {shard}" for shard in shares]
    if conflicts:
        bars.append(("sign conflict", conflicts, DISAGREEMENT))
        names.append("signs in conflict")
    for place, (_, values, bar_colour) in enumerate(bars):
        mean = numpy.mean(values)
        axes.barh(place, mean, 0.7, color=bar_colour)
        axes.plot(values, [place] * len(values), ".", color="black", markersize=2.5, clip_on=False)
        text, end = ("broken", 0) if numpy.isnan(mean) else (f"{mean:.0%}", max(values))
        axes.text(end + 0.02, place, text, va="center", ha="left", fontsize=7, clip_on=False)
    axes.set_yticks(range(len(bars)), names)
    style.rows_of_marks(axes)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))


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
    """Return the mean cosines as a symmetric matrix with ones on its diagonal, whichever half the rows tell.

    A mean over a seed without a finite cosine is NaN.
    """
    names = list(dict.fromkeys([*rows["shard"], *rows["attribute"]]))
    means = rows.groupby(["shard", "attribute"])["value"].mean(skipna=False)
    matrix = means.unstack().reindex(index=names, columns=names)
    matrix = matrix.rename_axis(index=None, columns=None)  # else a heat map takes their names for labels
    return matrix.fillna(matrix.T).where(~numpy.eye(len(names), dtype=bool), 1.0)
