"""What the findings page says beside its answer: does unlearning last, and does the number of shards matter?"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas

from spunge.experiment import records
from spunge.report import summary
from spunge.report.results_table import (
    BEFORE,
    FORGET_MEAN,
    MISSING,
    RETAIN_MINUS_FORGET,
    SOURCES,
    Candidate,
    Estimate,
    accuracy_from,
    broken,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    measured,
)
from spunge.report.verdict import BETTER, BROKEN, RIVAL_BROKEN, WORSE, verdict
from spunge.report.wording import sentence

ATTACKS = {
    BEFORE: "nothing: the same questions, as unlearned",
    "rephrased": "nothing, but asked in other words",
    "open_ended": "nothing, but to write the answer",
    "quantised_8": "weights rounded to 8 bits",
    "quantised_4": "weights rounded to 4 bits",
    "ablated": "a direction taken out of its states",
}
RIVALS = ("joint", "random")


def lasting(evaluations: pandas.DataFrame) -> list[dict]:
    """Return a line for each method, merge and attack, `as_unlearned` first; none where nothing was attacked.

    A line has the mean accuracy on the forget attributes of base, joint, random and attribute, and the verdicts on the
    attribute split against its rivals: better where less came back, whatever it had forgotten before. A number that is
    not finite reads `broken`, and a broken model is never better, nor is another one better than it.
    """
    there = [name for name in evaluations["evaluation"].unique() if attack(name)]
    lines = []
    found = candidates(evaluations, BEFORE)
    for one in found:
        if one.kind != "attribute":
            continue
        ruined = _ruined(evaluations, one, found)
        for name in sorted(there, key=lambda name: list(ATTACKS).index(name) if name in ATTACKS else len(ATTACKS)):
            rows = measured(evaluations, name, "accuracy")
            line = {"name": _name(one), "attack": attack(name), "before": name == BEFORE}
            line |= {kind: _cell(rows, candidates(evaluations, name), one, kind, FORGET_MEAN) for kind in _KINDS}
            lines.append(line | _against(evaluations, one, name, FORGET_MEAN, -1, ruined))
    return lines


def sum_up(lines: Sequence[dict]) -> list[str]:
    """Say for each method and merge after how many attacks the attribute split is shown better or worse."""
    texts = []
    for name in dict.fromkeys(line["name"] for line in lines):
        attacked = [line for line in lines if line["name"] == name and not line["before"]]
        rivals = []
        for rival in RIVALS:
            kinds = Counter(line[f"{rival}_kind"] for line in attacked)
            rivals.append({"rival": rival} | {kind: kinds[kind] for kind in (BETTER, WORSE, "open", "broken")})
        if attacked:
            texts.append(sentence("attacks", {"name": name, "attacks": len(attacked), "rivals": rivals}))
    return texts


def of_numbers_of_shards(evaluations: pandas.DataFrame) -> list[dict]:
    """Return a line for each method, merge and number of shards; none where no method has several numbers of them."""
    source = accuracy_from(evaluations)
    every = candidates(evaluations, grouped=True)
    several = {(one.method, one.merge) for one in every if one.groups}
    rows = measured(evaluations, source, "accuracy")
    lines = []
    for one in every:
        if one.kind == "attribute" and (one.method, one.merge) in several:
            line = {"name": _name(one), "number": one.groups or len(forget_attributes(evaluations))}
            alike = [other for other in every if other.kind in ("base", "joint") or other.groups == one.groups]
            line |= {kind: _cell(rows, alike, one, kind, RETAIN_MINUS_FORGET) for kind in _KINDS}
            ruined = _ruined(evaluations, one, alike)
            lines.append(line | _against(evaluations, one, source, RETAIN_MINUS_FORGET, 1, ruined))
    return sorted(lines, key=lambda line: (line["name"], line["number"]))


_KINDS = ("base", "joint", "random", "attribute")


def attack(name: str) -> str:
    """Return what people call an evaluation of durability, or "" if it is none."""
    if relearned := re.fullmatch(r"relearned_(\w+)_(\d+)", name):
        return f"{relearned[2]} texts relearned, of {SOURCES[relearned[1]]}"
    return ATTACKS.get(name, "")


def _name(one: Candidate) -> str:
    return f"{display_name(one.method)}, {display_name(one.merge)}"


def _other(found: Sequence[Candidate], one: Candidate, kind: str) -> Candidate | None:
    """Return the base model, or the candidate of a kind that `one` is compared with."""
    candidate = records.Candidate.parse(one.path)
    wanted = (candidate.rivals | {"attribute": candidate})[kind].path
    return next((other for other in found if other.path == wanted), None)


def _ruined(evaluations: pandas.DataFrame, one: Candidate, found: Sequence[Candidate]) -> dict[str, str]:
    """Return for each rival what its verdicts are because `one` or the rival is broken, or ""."""
    if broken(evaluations, one):
        return dict.fromkeys(RIVALS, BROKEN)
    others = {rival: _other(found, one, rival) for rival in RIVALS}
    return {rival: RIVAL_BROKEN if other and broken(evaluations, other) else "" for rival, other in others.items()}


def _cell(rows: pandas.DataFrame, found: Sequence[Candidate], one: Candidate, kind: str, attribute: str) -> str:
    """Write the value and interval of the base model, or of the candidate of a kind that `one` is compared with."""
    other = _other(found, one, kind)
    return _written(estimate(rows, other, attribute)) if other else "–"


def _against(
    evaluations: pandas.DataFrame,
    one: Candidate,
    evaluation: str,
    attribute: str,
    better: int,
    ruined: Mapping[str, str],
) -> dict:
    line = {}
    for rival in RIVALS:
        difference = estimate(measured(evaluations, evaluation, f"accuracy_minus_{rival}"), one, attribute)
        state = ruined[rival]
        if not state and difference is not MISSING and not math.isfinite(difference.value):
            own = estimate(measured(evaluations, evaluation, "accuracy"), one, attribute)
            state = RIVAL_BROKEN if math.isfinite(own.value) else BROKEN
        judged = state or verdict(difference, better)
        line |= {f"minus_{rival}": _written(difference, True), f"{rival}_verdict": judged}
        line[f"{rival}_kind"] = judged if judged in (BETTER, WORSE) else "broken" if state else "open"
    return line


def _written(found: Estimate, difference: bool = False) -> str:
    if found is MISSING:
        return "–"
    if not math.isfinite(found.value):
        return "broken"
    value, low, high = (summary.number(number, percent=True, difference=difference) for number in found)
    return f"{value} [{low},\u00a0{high}]"
