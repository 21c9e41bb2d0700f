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
perplexity too, and differences are paired: percentile bootstraps, clusters crossed with seeds (Owen 2007, "The
pigeonhole bootstrap").
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from spunge.core.tidy import CANDIDATE_COLUMNS, COLUMNS, FORGET_MEAN, RETAIN_MEAN, RETAIN_MINUS_FORGET
from spunge.evaluation.intervals import EXPONENTIAL
from spunge.evaluation.statistics import PERPLEXITY, TOXICITY, Attributes, Metric, metrics
from spunge.experiment.records import BASE, Candidate

EVALUATION = "equal_fluency"
RESAMPLES, SEED = 5000, 0  # of the bootstrap
MARGIN = 1.001  # less than this, and a perplexity is called the base model's: no λ could be told from another by it

# Per (attribute, metric) the estimate followed by its resamples, and the number of scores of one seed.
Replicates = dict[tuple[str, str], tuple[np.ndarray, int]]


def rows(
    scores: Mapping[str, pd.DataFrame],
    families: Mapping[str, tuple[str, float]],
    attributes: Attributes,
    ratio: float,
) -> pd.DataFrame:
    """Return the rows of evaluations.csv (COLUMNS) for every family with at least two factors λ above 0.

    scores: the score tables `toxicity` and `fluency` of all candidates, as `comparisons` takes them. families: of
    each method its (family, λ). ratio: the perplexity to compare at, relative to the base model's, above 1. Candidates
    are named by their family, `{family}/attribute/merge/{merge}`; no single shards. A split takes part with the λ at
    which it was evaluated, if there are two.
    """
    wanted = {"fluency": PERPLEXITY, "toxicity": metrics(scores["toxicity"])}
    base = {
        name: replicates([table[table["method"] == ""]], wanted[name], attributes) for name, table in scores.items()
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
            evaluation_rows += _of_family(scores, wanted, base, family, ascending, attributes, np.log(ratio))
    return pd.DataFrame(evaluation_rows, columns=COLUMNS)


def _of_family(
    scores: Mapping[str, pd.DataFrame],
    wanted: Mapping[str, Mapping[str, Metric]],
    base: Mapping[str, Replicates],
    family: str,
    methods: Sequence[str],
    attributes: Attributes,
    reference: float,
) -> list[dict]:
    """Return the rows of one family; `methods` along ascending λ, `reference` a logarithm."""
    fluency, toxicity = {}, {}
    for (split, merge), points in _points(scores, wanted, methods, attributes).items():
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
    names = [name for name in base["toxicity"] if name[1].startswith(TOXICITY)]
    by_candidate = {
        key: {
            name: (along(_stack(toxicity[key], base["toxicity"], name), *place), base["toxicity"][name][1])
            for name in names
        }
        for key, place in places.items()
    }
    of_base = {name: base["toxicity"][name] for name in names}
    experiment, texts = scores["fluency"]["experiment"].iloc[0], base["fluency"]["", "perplexity"][1]
    result = []
    for key, of_candidate in by_candidate.items():
        described = {"experiment": experiment, "candidate": key.path, "method": family, "split": key.split}
        described |= {"shard": "", "merge": key.merge, "seed": key.seed, "budget": ""}
        result.append(
            {**described, "evaluation": EVALUATION, "attribute": "", "metric": "perplexity_ratio"}
            | {"value": np.exp(reference), "low": np.nan, "high": np.nan, "n": texts}
        )
        for estimated in (of_candidate, differences(key, of_base, by_candidate)):
            result += tidy(described, EVALUATION, estimated)
    return result


def _points(
    scores: Mapping[str, pd.DataFrame],
    wanted: Mapping[str, Mapping[str, Metric]],
    methods: Sequence[str],
    attributes: Attributes,
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
                points[name].append(replicates(by_seed, wanted[name], attributes))
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


def replicates(by_seed: Sequence[pd.DataFrame], wanted: Mapping[str, Metric], attributes: Attributes) -> Replicates:
    """Return the Replicates of one candidate, whose scores come as a table for each seed, all of the same subjects."""
    columns = list(
        dict.fromkeys(name for metric in wanted.values() for name in (metric.total, metric.weight or "rows"))
    )
    seed_counts = resample_counts(len(by_seed), "seeds")
    sums = [table.assign(rows=1.0).groupby(["attribute", "cluster"])[columns].sum(skipna=False) for table in by_seed]
    result = {}
    for attribute in by_seed[0]["attribute"].unique():
        of_attribute = [table.loc[attribute] for table in sums]
        clusters = of_attribute[0].index
        values = np.stack([table.loc[clusters].to_numpy(float) for table in of_attribute])
        cluster_counts = resample_counts(len(clusters), f"clusters of {attribute}")
        drawn = dict(zip(columns, resampled_sums(values, cluster_counts, seed_counts).T, strict=True))
        n = int((by_seed[0]["attribute"] == attribute).sum())
        for name, metric in wanted.items():
            ratio = drawn[metric.total] / drawn[metric.weight or "rows"]
            with np.errstate(over="ignore"):  # an overflowing perplexity becomes NaN
                values = np.exp(ratio) if metric.scale == EXPONENTIAL else ratio
            result[attribute, name] = np.where(np.isfinite(ratio) & np.isfinite(values), values, np.nan), n
    return {**result, **_means(result, wanted, attributes)}


def _means(result: Replicates, wanted: Iterable[str], attributes: Attributes) -> Replicates:
    means = {}
    for name in wanted:
        for label, names in ((FORGET_MEAN, attributes.forget), (RETAIN_MEAN, attributes.retain)):
            present = [result[attribute, name] for attribute in names if (attribute, name) in result]
            if present:
                means[label, name] = np.mean([values for values, _ in present], axis=0), sum(n for _, n in present)
        if (FORGET_MEAN, name) in means and (RETAIN_MEAN, name) in means:
            (forget, forget_n), (retain, retain_n) = means[FORGET_MEAN, name], means[RETAIN_MEAN, name]
            means[RETAIN_MINUS_FORGET, name] = retain - forget, forget_n + retain_n
    return means


def resampled_sums(values: np.ndarray, cluster_counts: np.ndarray, seed_counts: np.ndarray) -> np.ndarray:
    """Return the sums over seeds and clusters for every resample, shape (resamples, columns).

    `values` has shape (seeds, clusters, columns); `cluster_counts` (resamples, clusters) and `seed_counts`
    (resamples, seeds) say how often each was drawn.
    """
    seeds, clusters, columns = values.shape
    by_seed = cluster_counts.astype(float) @ values.transpose(1, 0, 2).reshape(clusters, seeds * columns)
    return np.einsum("rk,rkc->rc", seed_counts.astype(float), by_seed.reshape(-1, seeds, columns))


@cache
def resample_counts(size: int, name: str) -> np.ndarray:
    """Return how often each of `size` units is drawn, shape (RESAMPLES + 1, size), read-only.

    The first row is all ones: the estimate. Each other row draws `size` times with replacement. `name` makes the draws
    of different attributes independent.
    """
    generator = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    drawn = generator.multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
    # Every candidate needs the same draws, so they are kept, in the smallest integers that hold them.
    counts = np.vstack([np.ones(size, dtype=drawn.dtype), drawn]).astype(np.min_scalar_type(size))
    counts.flags.writeable = False
    return counts


def differences(candidate: Candidate, base: Replicates, by_candidate: Mapping[Candidate, Replicates]) -> Replicates:
    """Return a candidate's replicates minus those of its rivals, resample by resample, as `{metric}_minus_{rival}`.

    `base`: the base model's replicates; `found`: those of the candidate and of all others.
    """
    known = {BASE: base, **by_candidate}
    return {
        (attribute, f"{metric}_minus_{name}"): (values - known[rival][attribute, metric][0], n)
        for name, rival in candidate.rivals.items()
        if rival in known
        for (attribute, metric), (values, n) in by_candidate[candidate].items()
    }


def tidy(candidate: Mapping[str, str], evaluation: str, replicates: Replicates) -> list[dict]:
    """Turn replicates into rows of evaluations.csv: the first is the estimate, the others give its 95 % interval."""
    described = {column: candidate[column] for column in CANDIDATE_COLUMNS}
    rows = []
    for (attribute, metric), (values, n) in replicates.items():
        low, high = np.percentile(values[1:], [2.5, 97.5])
        rows.append(
            {**described, "evaluation": evaluation, "attribute": attribute, "metric": metric}
            | {"value": values[0], "low": low, "high": high, "n": n}
        )
    return rows
