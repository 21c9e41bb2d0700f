"""How many seeds and questions it would take to show a difference of the size that was seen.

A difference between two candidates, averaged over seeds and subjects (countries, say), has the variance

    seeds / S + subjects / k + both / (S · k)

for S seeds and k times the subjects that were asked: random effects of the seeds, of the subjects and of their
interaction. A difference d is shown with 80 % power, at 95 % confidence, where its standard error is at most |d| / 2.8
(as in Miller 2024, "Adding error bars to evals", arXiv 2411.00640). The estimates rest on few seeds and are rough.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas

from spunge.report.results_table import FIXED_SEEDS, Candidate, Estimate, estimate, measured, rough, seeds

QUANTILES = 1.959964 + 0.841621  # of the standard normal: 97.5 % for the interval, 80 % for the power
INTERVAL = 2 * 1.959964  # a 95 % interval's width in standard errors


class Components(NamedTuple):
    """What one seed, the subjects that were asked, and their interaction add to the variance of a difference."""

    seeds: float
    subjects: float
    both: float

    def variance(self, seeds: float, subjects: float = 1.0) -> float:
        """Return the variance with so many seeds and `subjects` times the subjects that were asked."""
        return self.seeds / seeds + self.subjects / subjects + self.both / (seeds * subjects)


def components(differences: Sequence[float], errors: Sequence[float], fixed_error: float) -> Components:
    """Estimate the components from the difference of each seed and its standard error over subjects.

    There are at least two seeds. `fixed_error` is the standard error of the mean over these very seeds. No component is
    below 0.
    """
    count = len(differences)
    within = sum(error**2 for error in errors) / count
    mean = sum(differences) / count
    between = sum((difference - mean) ** 2 for difference in differences) / (count - 1)
    both = min(max((within - fixed_error**2) * count / (count - 1), 0.0), within)
    return Components(max(between - both, 0.0), within - both, both)


def seeds_needed(difference: float, variances: Components, subjects: float = 1.0) -> float:
    """Return how many seeds it takes to show the difference; infinite where the subjects' own spread is too large."""
    room = (abs(difference) / QUANTILES) ** 2 - variances.subjects / subjects
    needed = variances.seeds + variances.both / subjects
    return max(math.ceil(needed / room), 1) if room > 0 else math.inf


def subjects_needed(difference: float, variances: Components, seeds: int) -> float:
    """Return how many times the subjects it takes with so many seeds; infinite where the seeds differ too much."""
    room = (abs(difference) / QUANTILES) ** 2 - variances.seeds / seeds
    return (variances.subjects + variances.both / seeds) / room if room > 0 else math.inf


def both_needed(difference: float, variances: Components, seeds: int) -> float:
    """Return the one factor by which both the seeds and the subjects would have to grow."""
    room = (abs(difference) / QUANTILES) ** 2
    alone, together = variances.seeds / seeds + variances.subjects, variances.both / seeds
    return (alone + math.sqrt(alone**2 + 4 * room * together)) / (2 * room)


def factor_needed(difference: float, error: float) -> float:
    """Return the factor by which all data would have to grow, given today's standard error alone."""
    return (QUANTILES * error / difference) ** 2


def standard_error(low: float, high: float) -> float:
    """Return the standard error that a 95 % interval stands for."""
    return (high - low) / INTERVAL


def needed(evaluations: pandas.DataFrame, candidate: Candidate, measure: Sequence[str], rival: str) -> dict | None:
    """Return what it would take to show a candidate's difference from a rival; None where there is no finite one.

    measure: the evaluation, metric and attribute that are compared. shown: whether the difference is shown already.
    seeds: how many there are, 0 where too little is known to tell seeds from subjects. As texts, empty where no number
    would do: more_seeds, the seeds needed with the same subjects; more_units, the factor on the subjects with the same
    seeds; both, the factor on seeds and subjects together.
    """
    evaluation, metric, attribute = measure
    rows = measured(evaluations, evaluation, f"{metric}_minus_{rival}")
    combined = estimate(rows, candidate, attribute)
    if not (abs(combined.value) > 0 and math.isfinite(combined.high - combined.low)):
        return None
    if combined.low > 0 or combined.high < 0:
        return {"shown": True}
    fixed = estimate(measured(evaluations, evaluation, f"{metric}_minus_{rival}{FIXED_SEEDS}"), candidate, attribute)
    by_seed = [estimate(rows, candidate, attribute, seed) for seed in seeds(evaluations, candidate)]
    if len(by_seed) < 2 or not math.isfinite(fixed.high - fixed.low):
        return {"shown": False, "seeds": 0, "both": rough(factor_needed(combined.value, _error(combined)))}
    variances = components(
        [estimated.value for estimated in by_seed], [_error(estimated) for estimated in by_seed], _error(fixed)
    )
    more_seeds = seeds_needed(combined.value, variances)
    more_units = subjects_needed(combined.value, variances, len(by_seed))
    return {
        "shown": False,
        "seeds": len(by_seed),
        "more_seeds": f"{more_seeds:g}" if math.isfinite(more_seeds) else "",
        "more_units": rough(more_units) if math.isfinite(more_units) else "",
        "both": rough(both_needed(combined.value, variances, len(by_seed))),
    }


def _error(estimated: Estimate) -> float:
    return standard_error(estimated.low, estimated.high)
