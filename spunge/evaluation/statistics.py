"""Estimates, 95 % intervals and paired differences from scores per question or text.

Intervals are percentile bootstraps. Subjects (countries or texts, say) are resampled within each attribute; where seeds
are combined, seeds are resampled too, crossed with the subjects (Owen 2007, "The pigeonhole bootstrap"). All candidates
share the resamples, so differences between them are paired.

A score that is not a number (a broken model's) makes every estimate that rests on it NaN: nothing is left out.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from spunge.experiment.records import ALL_SEEDS, BASE, Candidate

CANDIDATE_COLUMNS = ["experiment", "candidate", "method", "split", "shard", "merge", "seed"]
COLUMNS = [*CANDIDATE_COLUMNS, "evaluation", "attribute", "metric", "value", "low", "high", "n"]
FORGET_MEAN, RETAIN_MEAN, DIFFERENCE = "forget mean", "retain mean", "retain minus forget"
FIXED_SEEDS = "_fixed_seeds"  # a difference's metric, and its interval with these very seeds (spunge/report/power.py)

# Per (attribute, metric) the estimate followed by its resamples, and the number of scores of one seed.
Replicates = dict[tuple[str, str], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Metric:
    """A ratio of sums over rows, `total` over `weight` (None counts rows); e to its power where it is `exponential`."""

    total: str
    weight: str | None = None
    exponential: bool = False


PERPLEXITY = {"perplexity": Metric("loss", "tokens", exponential=True)}
ACCURACIES = ("accuracy", "accuracy_norm")
# Of each classifier; the last two are those of Gehman et al. 2020 ("RealToxicityPrompts").
TOXICITY = ("toxic_share", "mean_score", "expected_maximum_toxicity", "toxicity_probability")


def metrics(scores: pd.DataFrame) -> dict[str, Metric]:
    """Return the metrics of a score table by name, in their order, where its evaluation has no METRICS of its own.

    They are accuracies where questions were asked, else those of toxicity, by the classifiers in `scores`.

    A score table of toxicity has a row per prompt, with the sums over its `samples` continuations: for each classifier
    c `toxic_{c}` (how many are toxic) and `score_{c}` (0 … 1 each), then `maximum_{c}` (the highest score), `any_{c}`
    (0 or 1: is any toxic); `distinct_2` (of the prompt's continuations together), `empty` and `tokens`. The metric
    `samples` tells how many continuations a prompt has, over which a maximum grows.
    """
    if "accuracy" in scores:
        return {name: Metric(name) for name in ACCURACIES if name in scores}
    by_name = {}
    for classifier in [column.removeprefix("toxic_") for column in scores.columns if column.startswith("toxic_")]:
        of_classifier = {
            "toxic_share": Metric(f"toxic_{classifier}", "samples"),
            "mean_score": Metric(f"score_{classifier}", "samples"),
            "expected_maximum_toxicity": Metric(f"maximum_{classifier}"),
            "toxicity_probability": Metric(f"any_{classifier}"),
        }
        by_name |= {f"{name}_{classifier}": of_classifier[name] for name in TOXICITY}
    return by_name | {
        "distinct_2": Metric("distinct_2"),
        "empty_share": Metric("empty", "samples"),
        "tokens": Metric("tokens", "samples"),
        "samples": Metric("samples"),
    }


@dataclass(frozen=True)
class Resampling:
    """How often to resample, from which seed; which attributes are forgotten and which retained."""

    resamples: int
    seed: int
    forget: tuple[str, ...] = ()
    retain: tuple[str, ...] = ()


def resampling(scores: pd.DataFrame, forget: Sequence[Mapping], options: Mapping[str, int]) -> Resampling:
    """Return the Resampling for `scores`: of the attributes asked about, those in `forget` and all others to retain.

    What is `part_of` a group of tasks is neither, since the group's questions are the same.
    """
    whole = scores[scores["part_of"] == ""] if "part_of" in scores else scores
    asked = list(whole["attribute"].unique())
    to_forget = tuple(entry["attribute"] for entry in forget if entry["attribute"] in asked)
    return Resampling(
        **options,
        forget=to_forget,
        retain=tuple(attribute for attribute in asked if attribute and attribute not in to_forget),
    )


def resampled_sums(values: np.ndarray, subject_counts: np.ndarray, seed_counts: np.ndarray) -> np.ndarray:
    """Return the sums over seeds and subjects for every resample, shape (resamples, columns).

    `values` has shape (seeds, subjects, columns); `subject_counts` (resamples, subjects) and `seed_counts`
    (resamples, seeds) say how often each was drawn.
    """
    seeds, subjects, columns = values.shape
    by_seed = subject_counts.astype(float) @ values.transpose(1, 0, 2).reshape(subjects, seeds * columns)
    return np.einsum("rk,rkc->rc", seed_counts.astype(float), by_seed.reshape(-1, seeds, columns))


@cache
def resample_counts(size: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """Return how often each of `size` units is drawn, shape (resamples + 1, size), read-only.

    The first row is all ones: the estimate. Each other row draws `size` times with replacement. `name` makes the draws
    of different attributes independent.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn = generator.multinomial(size, np.full(size, 1 / size), size=resamples)
    # Every candidate needs the same draws, so they are kept, in the smallest integers that hold them.
    counts = np.vstack([np.ones(size, dtype=drawn.dtype), drawn]).astype(np.min_scalar_type(size))
    counts.flags.writeable = False
    return counts


def estimates(
    scores: pd.DataFrame, evaluation: str, resampling: Resampling, wanted: Mapping[str, Metric] | None = None
) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) with estimate and interval for every candidate of one evaluation, each seed by itself.

    `scores` has the candidate columns, `attribute`, `subject` and the evaluation's own score columns. `wanted` are its
    METRICS, without which those are taken that `metrics` finds.
    """
    wanted = wanted or metrics(scores)
    rows = []
    for _, table in scores.groupby("candidate", sort=False):
        rows += tidy(table.iloc[0].to_dict(), evaluation, replicates([table], wanted, resampling))
        rows += _cut(table, evaluation)
    return pd.DataFrame(rows, columns=COLUMNS)


def _cut(scores: pd.DataFrame, evaluation: str) -> list[dict]:
    """Return rows with the numbers of questions whose start was left out, for the attributes that have any."""
    if "cut" not in scores:
        return []
    described = scores[CANDIDATE_COLUMNS].iloc[0].to_dict()
    return [
        {
            **described,
            "evaluation": evaluation,
            "attribute": attribute,
            "metric": "cut",
            "value": cut.sum(),
            "n": len(cut),
        }
        for attribute, cut in scores.groupby("attribute", sort=False)["cut"]
        if cut.any()
    ]


def comparisons(
    scores: pd.DataFrame, evaluation: str, resampling: Resampling, wanted: Mapping[str, Metric] | None = None
) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) for all candidates with their seeds combined, and for the differences between them.

    Differences from base and from joint for every candidate, from the random split for merged attribute splits; each
    for every single seed and for all seeds together. For the means of merged attribute splits there is also, as
    `…_fixed_seeds`, the interval that resamples subjects alone. `scores` and `wanted` are as for `estimates`.
    """
    wanted = wanted or metrics(scores)
    base = replicates([scores[scores["method"] == ""]], wanted, resampling)
    of_methods = scores[scores["method"] != ""]
    seeds = sorted(set(of_methods["seed"]), key=int)
    rows = []
    for label, chosen in [*((seed, [seed]) for seed in seeds), (ALL_SEEDS, seeds)]:
        described, by_candidate, fixed = {}, {}, {}
        for _, table in of_methods.groupby(["method", "split", "shard", "merge"], sort=False):
            by_seed = [table[table["seed"] == seed] for seed in chosen]
            candidate = Candidate.parse(table["candidate"].iloc[0]).with_seed(label)
            by_candidate[candidate] = replicates(by_seed, wanted, resampling)
            if label == ALL_SEEDS and not candidate.shard:
                fixed[candidate] = replicates(by_seed, wanted, resampling, fixed_seeds=True)
            described[candidate] = {**table.iloc[0].to_dict(), "candidate": candidate.path, "seed": label}
        for candidate, of_candidate in by_candidate.items():
            if label == ALL_SEEDS:
                rows += tidy(described[candidate], evaluation, of_candidate)
            rows += tidy(described[candidate], evaluation, differences(candidate, base, by_candidate))
            if label == ALL_SEEDS and "random" in candidate.rivals:
                rows += tidy(described[candidate], evaluation, _fixed(differences(candidate, base, fixed)))
    return pd.DataFrame(rows, columns=COLUMNS)


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


def _fixed(differences: Replicates) -> Replicates:
    """Return the means' differences from joint and random under the names that say that the seeds were fixed."""
    means = (FORGET_MEAN, RETAIN_MEAN, DIFFERENCE)
    return {
        (attribute, metric + FIXED_SEEDS): replicates
        for (attribute, metric), replicates in differences.items()
        if attribute in means and not metric.endswith("_minus_base")
    }


def replicates(
    by_seed: Sequence[pd.DataFrame], wanted: Mapping[str, Metric], resampling: Resampling, fixed_seeds: bool = False
) -> Replicates:
    """Return the Replicates of one candidate, whose scores come as a table for each seed, all of the same subjects.

    They are those of the `wanted` metrics. With `fixed_seeds` every resample has every seed once.
    """
    resamples = resampling.resamples
    columns = list(
        dict.fromkeys(name for metric in wanted.values() for name in (metric.total, metric.weight or "rows"))
    )
    seed_counts = resample_counts(len(by_seed), resamples, resampling.seed, "seeds")
    if fixed_seeds:
        seed_counts = np.ones_like(seed_counts)
    sums = [table.assign(rows=1.0).groupby(["attribute", "subject"])[columns].sum(skipna=False) for table in by_seed]
    result = {}
    for attribute in by_seed[0]["attribute"].unique():
        of_attribute = [table.loc[attribute] for table in sums]
        subjects = of_attribute[0].index
        values = np.stack([table.loc[subjects].to_numpy(float) for table in of_attribute])
        subject_counts = resample_counts(len(subjects), resamples, resampling.seed, f"subjects of {attribute}")
        drawn = dict(zip(columns, resampled_sums(values, subject_counts, seed_counts).T, strict=True))
        n = int((by_seed[0]["attribute"] == attribute).sum())
        for name, metric in wanted.items():
            ratio = drawn[metric.total] / drawn[metric.weight or "rows"]
            with np.errstate(over="ignore"):  # an overflowing perplexity becomes NaN
                values = np.exp(ratio) if metric.exponential else ratio
            result[attribute, name] = np.where(np.isfinite(ratio) & np.isfinite(values), values, np.nan), n
    return {**result, **_means(result, wanted, resampling)}


def _means(result: Replicates, wanted: Iterable[str], resampling: Resampling) -> Replicates:
    means = {}
    for name in wanted:
        for label, attributes in ((FORGET_MEAN, resampling.forget), (RETAIN_MEAN, resampling.retain)):
            present = [result[attribute, name] for attribute in attributes if (attribute, name) in result]
            if present:
                means[label, name] = np.mean([values for values, _ in present], axis=0), sum(n for _, n in present)
        if (FORGET_MEAN, name) in means and (RETAIN_MEAN, name) in means:
            (forget, forget_n), (retain, retain_n) = means[FORGET_MEAN, name], means[RETAIN_MEAN, name]
            means[DIFFERENCE, name] = retain - forget, forget_n + retain_n
    return means


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
