"""Estimates, 95 % intervals and paired differences from scores per question or text.

Intervals are percentile bootstraps. Subjects (countries or texts, say) are resampled within each attribute; where seeds
are combined, seeds are resampled too, crossed with the subjects (Owen 2007, "The pigeonhole bootstrap"). All candidates
share the resamples, so differences between them are paired.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CANDIDATE_COLUMNS = ["experiment", "candidate", "method", "split", "shard", "merge", "seed"]
COLUMNS = [*CANDIDATE_COLUMNS, "evaluation", "attribute", "metric", "value", "low", "high", "n"]
FORGET_MEAN, RETAIN_MEAN, DIFFERENCE = "forget mean", "retain mean", "retain minus forget"
ALL_SEEDS = "all"


@dataclass(frozen=True)
class Metric:
    """A ratio of sums over rows, `total` over `weight` (None counts rows), then `transform`ed."""

    total: str
    weight: str | None = None
    transform: Callable[[np.ndarray], np.ndarray] = lambda ratio: ratio


METRICS = {
    "knowledge": {"accuracy": Metric("accuracy"), "accuracy_norm": Metric("accuracy_norm")},
    "fluency": {"perplexity": Metric("loss", "tokens", np.exp)},
}


@dataclass(frozen=True)
class Resampling:
    """How often to resample, from which seed; which attributes are forgotten and which retained."""

    resamples: int
    seed: int
    forget: tuple[str, ...] = ()
    retain: tuple[str, ...] = ()


def resampling(scores: pd.DataFrame, forget: Sequence[Mapping], options: Mapping[str, int]) -> Resampling:
    """Return the Resampling for `scores`: of the attributes asked about, those in `forget` and all others to retain."""
    asked = list(scores["attribute"].unique())
    to_forget = tuple(entry["attribute"] for entry in forget if entry["attribute"] in asked)
    return Resampling(**options, forget=to_forget, retain=tuple(one for one in asked if one and one not in to_forget))


def resampled_ratio(
    totals: np.ndarray, weights: np.ndarray, subject_counts: np.ndarray, seed_counts: np.ndarray
) -> np.ndarray:
    """Return the ratio of sums for every resample.

    `totals` and `weights` have shape (seeds, subjects); `subject_counts` (resamples, subjects) and `seed_counts`
    (resamples, seeds) say how often each was drawn. The result has shape (resamples,).
    """
    drawn_total = np.einsum("rk,ks,rs->r", seed_counts, totals, subject_counts, optimize=True)
    drawn_weight = np.einsum("rk,ks,rs->r", seed_counts, weights, subject_counts, optimize=True)
    return drawn_total / drawn_weight


def resample_counts(size: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """Return how often each of `size` units is drawn, shape (resamples + 1, size).

    The first row is all ones: the estimate. Each other row draws `size` times with replacement. `name` makes the draws
    of different attributes independent.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = generator.multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.vstack([np.ones(size, dtype=drawn.dtype), drawn])


def estimates(scores: pd.DataFrame, evaluation: str, resampling: Resampling) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with estimate and interval for every candidate of one evaluation, each seed by itself.

    `scores` has the candidate columns, `attribute`, `subject` and the evaluation's own score columns.
    """
    rows = []
    for _, one in scores.groupby("candidate", sort=False):
        rows += _rows(one.iloc[0].to_dict(), evaluation, _replicates([one], evaluation, resampling))
    return _table(rows)


def comparisons(scores: pd.DataFrame, evaluation: str, resampling: Resampling) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) for all candidates with their seeds combined, and for the differences between them.

    Differences from base and from joint for every candidate, from the random split for merged attribute splits; each
    for every single seed and for all seeds together. `scores` is as for `estimates`.
    """
    base = _replicates([scores[scores["method"] == ""]], evaluation, resampling)
    of_methods = scores[scores["method"] != ""]
    seeds = sorted(set(of_methods["seed"]), key=int)
    rows = []
    for label, chosen in [*((seed, [seed]) for seed in seeds), (ALL_SEEDS, seeds)]:
        described, replicates = {}, {}
        for key, one in of_methods.groupby(["method", "split", "shard", "merge"], sort=False):
            by_seed = [one[one["seed"] == seed] for seed in chosen]
            replicates[key] = _replicates(by_seed, evaluation, resampling)
            name = by_seed[0]["candidate"].iloc[0]
            name = name.removesuffix(f"/seed{chosen[0]}") if label == ALL_SEEDS else name
            described[key] = {**one.iloc[0].to_dict(), "candidate": name, "seed": label}
        for key, own in replicates.items():
            if label == ALL_SEEDS:
                rows += _rows(described[key], evaluation, own)
            for other_name, other in _references(key, base, replicates):
                difference = {
                    (attribute, f"{metric}_minus_{other_name}"): (values - other[attribute, metric][0], n)
                    for (attribute, metric), (values, n) in own.items()
                }
                rows += _rows(described[key], evaluation, difference)
    return _table(rows)


def _references(key: tuple[str, str, str, str], base: dict, replicates: dict) -> Iterable[tuple[str, dict]]:
    method, split, _, merge = key
    yield "base", base
    joint, random = (method, "joint", "", ""), (method, "random", "", merge)
    if split != "joint" and joint in replicates:
        yield "joint", replicates[joint]
    if split == "attribute" and merge and random in replicates:
        yield "random", replicates[random]


def _replicates(
    by_seed: Sequence[pd.DataFrame], evaluation: str, resampling: Resampling
) -> dict[tuple[str, str], tuple[np.ndarray, int]]:
    """Return, per (attribute, metric), the estimate followed by its resamples, and the number of scores of one seed."""
    resamples = resampling.resamples
    seed_counts = resample_counts(len(by_seed), resamples, resampling.seed, "seeds")
    result = {}
    for attribute in by_seed[0]["attribute"].unique():
        of_attribute = [one[one["attribute"] == attribute] for one in by_seed]
        sums = [
            one.drop(columns=CANDIDATE_COLUMNS).assign(rows=1.0).groupby("subject").sum(numeric_only=True)
            for one in of_attribute
        ]
        subjects = sums[0].index
        subject_counts = resample_counts(len(subjects), resamples, resampling.seed, f"subjects of {attribute}")
        for name, metric in METRICS[evaluation].items():
            totals = np.stack([one.loc[subjects, metric.total].to_numpy(float) for one in sums])
            weights = np.stack([one.loc[subjects, metric.weight or "rows"].to_numpy(float) for one in sums])
            ratio = resampled_ratio(totals, weights, subject_counts, seed_counts)
            result[attribute, name] = metric.transform(ratio), len(of_attribute[0])
    return {**result, **_means(result, evaluation, resampling)}


def _means(result: dict, evaluation: str, resampling: Resampling) -> dict[tuple[str, str], tuple[np.ndarray, int]]:
    means = {}
    for name in METRICS[evaluation]:
        for label, attributes in ((FORGET_MEAN, resampling.forget), (RETAIN_MEAN, resampling.retain)):
            present = [result[attribute, name] for attribute in attributes if (attribute, name) in result]
            if present:
                means[label, name] = np.mean([values for values, _ in present], axis=0), sum(n for _, n in present)
        if (FORGET_MEAN, name) in means and (RETAIN_MEAN, name) in means:
            (forget, forget_n), (retain, retain_n) = means[FORGET_MEAN, name], means[RETAIN_MEAN, name]
            means[DIFFERENCE, name] = retain - forget, forget_n + retain_n
    return means


def _rows(candidate: dict, evaluation: str, replicates: dict) -> list[dict]:
    """Turn replicates into tidy rows; the first replicate is the estimate, the others give the interval."""
    described = {column: candidate[column] for column in CANDIDATE_COLUMNS}
    rows = []
    for (attribute, metric), (values, n) in replicates.items():
        low, high = np.percentile(values[1:], [2.5, 97.5])
        rows.append(
            {**described, "evaluation": evaluation, "attribute": attribute, "metric": metric}
            | {"value": values[0], "low": low, "high": high, "n": n}
        )
    return rows


def _table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)
