"""Toxicity at equal fluency: what each split reaches at the same perplexity, whatever its factor λ does.

A larger λ makes a model less toxic and less fluent, so a comparison at one λ mixes both, and a broken model wins it.
Here every split of a family (the methods that take one method's runs, each with its own λ) draws a curve: its
perplexity, relative to the base model's, and its toxicity, from the base model (λ = 0) along ascending λ. All are read
off at one reference, which perplexity alone decides.

- Reference: the configured ratio, or, where a split's curve does not get there, the ratio that all of them reach.
- Reading: on the first piece of the curve, between two neighbouring λ, that crosses the reference from below,
  linearly in the logarithm of the perplexity. All curves reach the reference at the estimate. A resample in which
  one doesn't prolongs its last piece, if that rises, by at most its own length; else it takes the end of the curve.
- A λ whose perplexity or toxicity is no number broke the model: the curve ends before it.
- A split that does not get above MARGIN times the base model's perplexity at any λ is nowhere as little fluent as the
  others, and gets no rows. Where that is so for every split, unlearning cost no fluency, and all are compared at their
  largest λ.

Every resample redraws prompts, texts and seeds, the same ones for all, so the interval holds the uncertainty of the
perplexity too, and differences are paired (see spunge/evaluation/statistics.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from spunge.evaluation import statistics
from spunge.evaluation.statistics import COLUMNS, PERPLEXITY, TOXICITY, Metric, Replicates, Resampling
from spunge.experiment.records import Candidate

EVALUATION = "equal_fluency"
MARGIN = 1.001  # less than this, and a perplexity is called the base model's: no λ could be told from another by it


def rows(
    scores: Mapping[str, pd.DataFrame],
    families: Mapping[str, tuple[str, float]],
    resampling: Resampling,
    ratio: float,
) -> pd.DataFrame:
    """Return the rows of evaluations.csv (COLUMNS) for every family with at least two factors λ above 0.

    scores: the score tables `toxicity` and `fluency` of all candidates, as for `statistics.comparisons`. families: of
    each method its (family, λ). ratio: the perplexity to compare at, relative to the base model's, above 1. Candidates
    are named by their family, `{family}/attribute/merge/{merge}`; no single shards. A split takes part with the λ at
    which it was evaluated, if there are two.
    """
    wanted = {"fluency": PERPLEXITY, "toxicity": statistics.metrics(scores["toxicity"])}
    base = {
        name: statistics.replicates([table[table["method"] == ""]], wanted[name], resampling)
        for name, table in scores.items()
    }
    evaluation_rows = []
    for family in dict.fromkeys(family for family, _ in families.values()):
        by_scale = {
            scale: method
            for method, (family_of_method, scale) in families.items()
            if family_of_method == family and scale > 0
        }
        if len(by_scale) > 1:
            ascending = [by_scale[scale] for scale in sorted(by_scale)]
            evaluation_rows += _of_family(scores, wanted, base, family, ascending, resampling, np.log(ratio))
    return pd.DataFrame(evaluation_rows, columns=COLUMNS)


def _of_family(
    scores: Mapping[str, pd.DataFrame],
    wanted: Mapping[str, Mapping[str, Metric]],
    base: Mapping[str, Replicates],
    family: str,
    methods: Sequence[str],
    resampling: Resampling,
    reference: float,
) -> list[dict]:
    """Return the rows of one family; `methods` along ascending λ, `reference` a logarithm."""
    fluency, toxicity = {}, {}
    for (split, merge), points in _points(scores, wanted, methods, resampling).items():
        if len(points["fluency"]) > 1:
            key = Candidate(family, split, merge=merge)
            log_perplexity = np.log(_stack(points["fluency"], base["fluency"], ("", "perplexity")))
            fluency[key] = log_perplexity - log_perplexity[0]
            toxicity[key] = points["toxicity"]
    reaches = {key: log_ratio[:, 0].max() for key, log_ratio in fluency.items()}
    leaving = {key: reach for key, reach in reaches.items() if reach > np.log(MARGIN)}
    if leaving:
        reference = min(reference, *leaving.values())
        places = {key: crossing(fluency[key], reference) for key in leaving}
    else:
        reference = max(reaches.values(), default=0.0)
        places = {key: (np.full(log_ratio.shape[1], len(log_ratio) - 1), 1.0) for key, log_ratio in fluency.items()}
    metrics = [name for name in base["toxicity"] if name[1].startswith(TOXICITY)]
    by_candidate = {
        key: {
            name: (along(_stack(toxicity[key], base["toxicity"], name), *place), base["toxicity"][name][1])
            for name in metrics
        }
        for key, place in places.items()
    }
    of_base = {name: base["toxicity"][name] for name in metrics}
    experiment, texts = scores["fluency"]["experiment"].iloc[0], base["fluency"]["", "perplexity"][1]
    result = []
    for key, of_candidate in by_candidate.items():
        described = {"experiment": experiment, "candidate": key.path, "method": family, "split": key.split}
        described |= {"shard": "", "merge": key.merge, "seed": key.seed}
        result.append(
            {**described, "evaluation": EVALUATION, "attribute": "", "metric": "perplexity_ratio"}
            | {"value": np.exp(reference), "low": np.nan, "high": np.nan, "n": texts}
        )
        for replicates in (of_candidate, statistics.differences(key, of_base, by_candidate)):
            result += statistics.tidy(described, EVALUATION, replicates)
    return result


def _points(
    scores: Mapping[str, pd.DataFrame],
    wanted: Mapping[str, Mapping[str, Metric]],
    methods: Sequence[str],
    resampling: Resampling,
) -> dict[tuple[str, str], dict[str, list[Replicates]]]:
    """Return, per (split, merge) and evaluation, the replicates of the methods that have it, in their order."""
    curves = {}
    for name, table in scores.items():
        of_family = table[table["method"].isin(methods) & (table["shard"] == "")]
        tables = dict(list(of_family.groupby(["method", "split", "merge"], sort=False)))
        for method in methods:
            for (_, split, merge), of_candidate in (
                (key, of_candidate) for key, of_candidate in tables.items() if key[0] == method
            ):
                by_seed = [of_seed for _, of_seed in of_candidate.groupby("seed")]
                points = curves.setdefault((split, merge), {evaluation: [] for evaluation in scores})
                points[name].append(statistics.replicates(by_seed, wanted[name], resampling))
    return {key: _whole(points) for key, points in curves.items()}


def _whole(points: Mapping[str, list[Replicates]]) -> dict[str, list[Replicates]]:
    """Return a curve's points, by evaluation, before the first one with an estimate that is no number."""
    pairs = zip(*points.values(), strict=True)
    broken = [any(np.isnan(values[0]) for replicates in pair for values, _ in replicates.values()) for pair in pairs]
    return {name: replicates_along[: [*broken, True].index(True)] for name, replicates_along in points.items()}


def _stack(points: Sequence[Replicates], base: Replicates, name: tuple[str, str]) -> np.ndarray:
    """Return the curve of one number from the base model on, shape (points, resamples)."""
    return np.stack([replicates[name][0] for replicates in (base, *points)])


def crossing(log_ratios: np.ndarray, reference: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where curves first get to a reference: the point that ends the piece, and the share of the piece.

    `log_ratios`, shape (points, curves), starts with the base model's 0; `reference` lies above 0. Both results have
    shape (curves,). The share is above 1 (2 at most) where the last piece must be prolonged, and 1, the end of the
    curve, where that would not help.
    """
    reached = log_ratios >= reference
    end = np.where(reached.any(axis=0), reached.argmax(axis=0), len(log_ratios) - 1)
    start, stop = (np.take_along_axis(log_ratios, point[None], axis=0)[0] for point in (end - 1, end))
    rising = stop > start
    share = np.divide(reference - start, stop - start, out=np.ones_like(start), where=rising)
    return end, np.minimum(share, 2)


def along(values: np.ndarray, end: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Return the curves' values (all between 0 and 1) at a place that `crossing` found; shape (curves,).

    `values` has shape (points, curves).
    """
    start, stop = (np.take_along_axis(values, point[None], axis=0)[0] for point in (end - 1, end))
    return np.clip(start + share * (stop - start), 0, 1)
