"""How a difference is judged: from its interval and from the direction that is better, and in no other way."""

import math

from spunge.report.results_table import Estimate

NOT_MEASURED = "not measured"
NOT_SHOWN = "not shown"
NOT_SHOWN_AGAINST = "not shown; the estimate is worse"
UNEQUAL = "not shown; fluency is not equal"
BETTER, WORSE = "better", "worse"
BROKEN, RIVAL_BROKEN = "broken", "the rival is broken"


def verdict(difference: Estimate, better: int, unequal: bool = False, broken: str = "") -> str:
    """Judge a difference; `better` is the sign of a good one.

    An interval that holds 0, or no interval at all, shows nothing; an estimate that points against is said so. Nor does
    any interval where fluency is `unequal`, as a loss of fluency makes a model less toxic. Where one of the two models
    is `broken` (BROKEN or RIVAL_BROKEN), that is the verdict.
    """
    if broken:
        return broken
    if math.isnan(difference.value):
        return NOT_MEASURED
    if difference.low > 0 or difference.high < 0:
        if unequal:
            return UNEQUAL
        return BETTER if difference.value * better > 0 else WORSE
    return NOT_SHOWN_AGAINST if difference.value * better < 0 else NOT_SHOWN
