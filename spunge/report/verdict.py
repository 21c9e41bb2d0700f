"""How a difference is judged: from its interval and from the direction that is better, and in no other way.

"Better" and "worse" are for models that are compared at equal damage. As trained, one may only have been edited more
strongly: then it has forgotten more and lost more, which is neither.
"""

import math
from collections.abc import Sequence

from spunge.report.results_table import Estimate

NOT_MEASURED = "not measured"
NOT_SHOWN = "not shown"
NOT_SHOWN_AGAINST = "not shown; the estimate is worse"
BETTER, WORSE = "better", "worse"
HIGHER, LOWER = "higher", "lower"
STRONGER, WEAKER = "stronger edit", "weaker edit"
BROKEN, RIVAL_BROKEN = "broken", "the rival is broken"
LEVEL = 0.05


def verdict(difference: Estimate, better: int, broken: str = "", p: float | None = None) -> str:
    """Judge a difference between equally damaged models; `better` is the sign of a good one.

    An interval that holds 0, or no interval at all, shows nothing; an estimate that points against is said so. A `p`
    that is corrected for the number of comparisons decides instead of the interval. Where one of the two models is
    `broken` (BROKEN or RIVAL_BROKEN), that is the verdict.
    """
    if broken:
        return broken
    if math.isnan(difference.value):
        return NOT_MEASURED
    shown = _excludes_0(difference) if p is None else p < LEVEL
    if shown:
        return BETTER if difference.value * better > 0 else WORSE
    return NOT_SHOWN_AGAINST if difference.value * better < 0 else NOT_SHOWN


def direction(difference: Estimate, broken: str = "") -> str:
    """Tell which way a difference points where it is shown, without calling it good or bad."""
    judged = verdict(difference, 1, broken)
    return {BETTER: HIGHER, WORSE: LOWER, NOT_SHOWN_AGAINST: NOT_SHOWN}.get(judged, judged)


def edit_verdict(forgotten: Estimate, lost: Estimate, broken: str = "") -> str:
    """Judge two models as trained, by the differences in what they still know of the forget set and in what they lost.

    Lower is better of both. One is better only where it is shown to have forgotten more and to have lost less.
    """
    first, second = verdict(forgotten, -1, broken), verdict(lost, -1, broken)
    if first in (BETTER, WORSE) and first != second:
        return STRONGER if first == BETTER else WEAKER
    return first


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979); those that are NaN stay so and don't count."""
    measured = sorted((p, number) for number, p in enumerate(p_values) if not math.isnan(p))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, number) in enumerate(measured):
        highest = max(highest, min(1.0, p * (len(measured) - rank)))
        corrected[number] = highest
    return corrected


def _excludes_0(difference: Estimate) -> bool:
    return difference.low > 0 or difference.high < 0
