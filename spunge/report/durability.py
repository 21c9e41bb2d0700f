"""What the findings page says beside its answer: does unlearning last, and does the number of shards matter?"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas

from spunge.experiment import records
from spunge.report import summary
from spunge.report.results_table import (
    AS_TRAINED,
    BEFORE,
    FORGET_MEAN,
    MISSING,
    RETAIN_MINUS_FORGET,
    SOURCES,
    Candidate,
    asked_by,
    broken_at,
    broken_reasons,
    budgets_of,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    headline,
    measured,
    rivals,
)
from spunge.report.verdict import BROKEN, HIGHER, LOWER, NOT_MEASURED, RIVAL_BROKEN, direction
from spunge.report.wording import sentence

ATTACKS = {
    BEFORE: "nothing: the same questions, as unlearned",
    "rephrased": "nothing, but asked in other words",
    "open_ended": "nothing, but to write the answer",
    "quantised_8": "weights rounded to 8 bits",
    "quantised_4": "weights rounded to 4 bits",
    "ablated": "a direction taken out of its states",
}


def after_attacks(evaluations: pandas.DataFrame) -> list[dict]:
    """Return a line for each method, merge and attack, `as_unlearned` first; none where nothing was attacked.

    A line has the mean accuracy on the forget attributes of base, attribute split and its rivals, and which way
    the attribute split differs from these: lower where less came back, however much was forgotten before. Nothing is
    corrected for the number of lines, so none is better. A number that is not finite reads `broken`, and a broken model
    is compared with nothing.
    """
    attacks = [name for name in evaluations["evaluation"].unique() if attack(name)]
    lines, against = [], rivals(evaluations)
    compared = candidates(evaluations, BEFORE)
    reasons = broken_reasons(evaluations, compared)
    attacked = {name: candidates(evaluations, name) for name in attacks}
    for candidate in compared:
        if candidate.kind != "attribute":
            continue
        broken_verdicts = _broken_verdicts(reasons, candidate, compared, against)
        for name in sorted(attacks, key=lambda name: list(ATTACKS).index(name) if name in ATTACKS else len(ATTACKS)):
            rows = measured(evaluations, name, "accuracy")
            line = {"name": _name(candidate), "attack": attack(name), "before": name == BEFORE}
            kinds = ("base", *against, "attribute")
            line |= {kind: _cell(rows, attacked[name], candidate, kind, FORGET_MEAN) for kind in kinds}
            lines.append(line | _against(evaluations, candidate, (name, "accuracy", FORGET_MEAN), broken_verdicts))
    return lines


def sum_up(lines: Sequence[dict]) -> list[str]:
    """Say for each method and merge after how many attacks the attribute split is shown lower or higher."""
    texts = []
    for name in dict.fromkeys(line["name"] for line in lines):
        attacked = [line for line in lines if line["name"] == name and not line["before"]]
        counted = []
        for rival in [key.removesuffix("_kind") for key in lines[0] if key.endswith("_kind")]:
            kinds = Counter(line[f"{rival}_kind"] for line in attacked)
            counted.append({"rival": rival} | {kind: kinds[kind] for kind in (LOWER, HIGHER, "open", "broken")})
        if attacked:
            texts.append(sentence("attacks", {"name": name, "attacks": len(attacked), "rivals": counted}))
    return texts


def by_number_of_shards(whole: pandas.DataFrame) -> list[dict]:
    """Return a line for each method, merge and number of shards; none where no method has several numbers of them.

    Numbers are those of the answer: means over the budgets, if there are any.
    """
    evaluations, (source, metric, _) = headline(whole), asked_by(whole)
    compared = candidates(evaluations, grouped=True)
    several = {(candidate.method, candidate.merge) for candidate in compared if candidate.groups}
    at = budgets_of(whole, source) or [AS_TRAINED]
    rows, reasons = measured(evaluations, source, metric), broken_at(whole, at, compared)
    lines, against = [], rivals(evaluations)
    for candidate in compared:
        if candidate.kind == "attribute" and (candidate.method, candidate.merge) in several:
            line = {"name": _name(candidate), "number": candidate.groups or len(forget_attributes(evaluations))}
            alike = [other for other in compared if not other.merge or other.groups == candidate.groups]
            kinds = ("base", *against, "attribute")
            line |= {kind: _cell(rows, alike, candidate, kind, RETAIN_MINUS_FORGET) for kind in kinds}
            broken_verdicts = _broken_verdicts(reasons, candidate, alike, against)
            measure = source, metric, RETAIN_MINUS_FORGET
            lines.append(line | _against(evaluations, candidate, measure, broken_verdicts))
    return sorted(lines, key=lambda line: (line["name"], line["number"]))


def number_of_verdicts(lines: Sequence[dict]) -> int:
    """Return how many differences the lines of this module judge."""
    return sum(line[key] != NOT_MEASURED for line in lines for key in line if key.endswith("_verdict"))


def attack(name: str) -> str:
    """Return what people call an evaluation of durability, or "" if it is none."""
    if relearned := re.fullmatch(r"relearned_(\w+)_(\d+)", name):
        return f"{relearned[2]} texts relearned, of {SOURCES[relearned[1]]}"
    return ATTACKS.get(name, "")


def _name(candidate: Candidate) -> str:
    return f"{display_name(candidate.method)}, {display_name(candidate.merge)}"


def _counterpart(compared: Sequence[Candidate], candidate: Candidate, kind: str) -> Candidate | None:
    """Return the base model, or the candidate of a kind that this one is compared with."""
    record = records.Candidate.parse(candidate.path)
    wanted = (record.rivals | {"attribute": record})[kind].path
    return next((other for other in compared if other.path == wanted), None)


def _broken_verdicts(
    reasons: Mapping[str, str], candidate: Candidate, compared: Sequence[Candidate], against: Sequence[str]
) -> dict[str, str]:
    """Return for each rival the verdict that a broken model forces, this one or the rival; "" if neither is broken."""
    if candidate.path in reasons:
        return dict.fromkeys(against, BROKEN)
    others = {rival: _counterpart(compared, candidate, rival) for rival in against}
    return {rival: RIVAL_BROKEN if other and other.path in reasons else "" for rival, other in others.items()}


def _cell(
    rows: pandas.DataFrame, compared: Sequence[Candidate], candidate: Candidate, kind: str, attribute: str
) -> str:
    """Write the value and interval of the base model, or of the candidate of a kind that this one is compared with."""
    other = _counterpart(compared, candidate, kind)
    return summary.text(estimate(rows, other, attribute), True, False) if other else "–"


def _against(
    evaluations: pandas.DataFrame,
    candidate: Candidate,
    measure: tuple[str, str, str],
    broken_verdicts: Mapping[str, str],
) -> dict:
    """Return the differences by a measure (evaluation, metric, attribute) from each rival, and which way they point."""
    line, (evaluation, metric, attribute) = {}, measure
    for rival, broken_verdict in broken_verdicts.items():
        difference = estimate(measured(evaluations, evaluation, f"{metric}_minus_{rival}"), candidate, attribute)
        if not broken_verdict and difference is not MISSING and not math.isfinite(difference.value):
            own = estimate(measured(evaluations, evaluation, metric), candidate, attribute)
            broken_verdict = RIVAL_BROKEN if math.isfinite(own.value) else BROKEN
        judged = direction(difference, broken_verdict)
        line |= {f"minus_{rival}": summary.text(difference, True, True), f"{rival}_verdict": judged}
        line[f"{rival}_kind"] = judged if judged in (LOWER, HIGHER) else "broken" if broken_verdict else "open"
    return line
