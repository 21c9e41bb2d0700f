"""How many seeds and questions it would take to show a difference of the size that was seen.

A difference between two candidates, averaged over seeds and clusters (countries, say), has the variance

    seeds / S + clusters / k + both / (S · k)

for S seeds and k times the clusters that were asked: random effects of the seeds, of the clusters and of their
interaction, as spunge/evaluation/intervals.py estimates them. A difference d is shown with 80 % power, at 95 %
confidence, where its standard error is at most |d| / (t + 0.84) (as in Miller 2024, "Adding error bars to evals", arXiv
2411.00640). There t is 1.96, but here that of the interval that was measured, which few seeds make larger; more seeds
would make it smaller, so what comes out is at most a little too many. Where by that t no number of seeds would do, 1.96
tells how many it takes at least. The estimates rest on few seeds and are rough.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas

from spunge.core.tidy import VARIANCE_OF_BOTH, VARIANCE_OF_CLUSTERS, VARIANCE_OF_SEEDS
from spunge.report.results_table import Candidate, Estimate, estimate, measured, rough, seeds

NORMAL, POWER = 1.959964, 0.841621  # quantiles of the standard normal: 97.5 % for the interval, 80 % for the power


class Components(NamedTuple):
    """What one seed, the clusters that were asked, and their interaction add to the variance of a difference."""

    seeds: float
    clusters: float
    both: float

    def variance(self, seeds: float, clusters: float = 1.0) -> float:
        """Return the variance with so many seeds and `clusters` times the clusters that were asked."""
        return self.seeds / seeds + self.clusters / clusters + self.both / (seeds * clusters)


def seeds_needed(difference: float, variances: Components, t: float = NORMAL) -> float:
    """Return how many seeds it takes to show the difference; infinite where the clusters' own spread is too large."""
    room = (abs(difference) / (t + POWER)) ** 2 - variances.clusters
    return max(math.ceil((variances.seeds + variances.both) / room), 1) if room > 0 else math.inf


def clusters_needed(difference: float, variances: Components, seeds: int, t: float = NORMAL) -> float:
    """Return how many times the clusters it takes with so many seeds; infinite where the seeds differ too much."""
    room = (abs(difference) / (t + POWER)) ** 2 - variances.seeds / seeds
    return (variances.clusters + variances.both / seeds) / room if room > 0 else math.inf


def both_needed(difference: float, variances: Components, seeds: int, t: float = NORMAL) -> float:
    """Return the one factor by which both the seeds and the clusters would have to grow."""
    room = (abs(difference) / (t + POWER)) ** 2
    alone, together = variances.seeds / seeds + variances.clusters, variances.both / seeds
    return (alone + math.sqrt(alone**2 + 4 * room * together)) / (2 * room)


def needed(evaluations: pandas.DataFrame, candidate: Candidate, measure: Sequence[str], rival: str) -> dict | None:
    """Return what it would take to show a candidate's difference from a rival; None where there is no finite one.

    measure: the evaluation, metric and attribute that are compared. shown: whether the interval excludes 0 already.
    seeds: how many there are, 0 where too little is known to tell what they and clusters add. As texts, empty where no
    number would do: more_seeds, the seeds needed with the same clusters, "about" or "at least" so many; more_units, the
    factor on the clusters with the same seeds; both, the factor on seeds and clusters together.
    """
    evaluation, metric, attribute = measure

    def combined(suffix: str = "") -> Estimate:
        return estimate(measured(evaluations, evaluation, f"{metric}_minus_{rival}{suffix}"), candidate, attribute)

    difference = combined()
    if not (abs(difference.value) > 0 and math.isfinite(difference.high - difference.low)):
        return None
    if difference.low > 0 or difference.high < 0:
        return {"shown": True}
    number = len(seeds(evaluations, candidate))
    variances = Components(
        *(combined(part).value for part in (VARIANCE_OF_SEEDS, VARIANCE_OF_CLUSTERS, VARIANCE_OF_BOTH))
    )
    half_width = (difference.high - difference.low) / 2
    # Where all clusters differ alike, their variance is 0 but for rounding, and the interval is not made of it.
    if not variances.variance(number) > (half_width / 1e6) ** 2:
        factor = (NORMAL + POWER) * half_width / NORMAL / difference.value
        return {"shown": False, "seeds": 0, "both": rough(factor**2)}
    t = max(half_width / math.sqrt(variances.variance(number)), NORMAL)
    about, at_least = seeds_needed(difference.value, variances, t), seeds_needed(difference.value, variances)
    least = f"at least {at_least:g}" if math.isfinite(at_least) else ""
    more_units = clusters_needed(difference.value, variances, number, t)
    return {
        "shown": False,
        "seeds": number,
        "more_seeds": f"about {about:g}" if math.isfinite(about) else least,
        "more_units": rough(more_units) if math.isfinite(more_units) else "",
        "both": rough(both_needed(difference.value, variances, number, t)),
    }
