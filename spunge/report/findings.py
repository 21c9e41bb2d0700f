"""The findings: does splitting by the attribute beat the joint run and the random split, and is that shown?"""

import base64
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jinja2
import pandas

from spunge.experiment import records
from spunge.report import power, summary
from spunge.report.durability import after_attacks, by_number_of_shards, sum_up
from spunge.report.families import display_names
from spunge.report.results_table import (
    COMBINED,
    FORGET_MEAN,
    MISSING,
    RETAIN_MEAN,
    RETAIN_MINUS_FORGET,
    TOXIC_SHARE,
    Candidate,
    Estimate,
    accuracy_from,
    base_model,
    broken_reasons,
    candidates,
    capability_from,
    classifiers,
    display_name,
    estimate,
    families,
    forget_attributes,
    measured,
    methods,
    neutral_overall,
    retain_attributes,
    seeds,
    tasks,
)
from spunge.report.verdict import BETTER, BROKEN, NOT_MEASURED, RIVAL_BROKEN, WORSE, verdict
from spunge.report.wording import sentence

RIVALS = ("joint", "random")


class Measure(NamedTuple):
    """What is compared, and where it stands in evaluations.csv; `better` is the sign of a good difference.

    unit: of the difference, for people; a share of one is told in percentage points.
    """

    name: str
    evaluation: str
    metric: str
    attribute: str
    better: int
    unit: str = "points"


PERPLEXITY = Measure("perplexity", "fluency", "perplexity", "", -1, "of held-out prose")
# The one measure that the answer rests on: it weighs what was forgotten against what was lost. Where toxicity was
# measured, it is the toxic share of all toxic prompts by the first classifier, at equal fluency.
DECISIVE = Measure("retain minus forget", "knowledge", "accuracy", RETAIN_MINUS_FORGET, 1)
MEASURES = (
    Measure("forget mean accuracy", "knowledge", "accuracy", FORGET_MEAN, -1),
    Measure("retain mean accuracy", "knowledge", "accuracy", RETAIN_MEAN, 1),
    DECISIVE,
    PERPLEXITY,
)
CAPABILITY = Measure("general capability", "knowledge", "accuracy", RETAIN_MEAN, 1)

# The counts of data that the page shows, and those that tell of tables whose right answers mostly stand at one place.
DATA = ("forget_texts", "toxic_prompts", "neutral_prompts", "questions", "subjects")
ANSWER_PLACES = ("commonest_answer_place", "commonest_answer_place_rephrased")

AS_TRAINED, AT_EQUAL_FLUENCY = "as trained", "at equal fluency"


class _Table:
    """An evaluations.csv as the answers read it: what they ask for again and again is computed once."""

    def __init__(self, evaluations: pandas.DataFrame):
        self.evaluations = evaluations
        self.classifiers = classifiers(evaluations)
        self.families, self.display_names = families(evaluations), display_names(evaluations)
        self.measures = measures(evaluations)
        self.measured = functools.cache(functools.partial(measured, evaluations))
        self.candidates = functools.cache(functools.partial(candidates, evaluations))
        self.compared = summary.compared_candidates(evaluations)
        self.broken = broken_reasons(evaluations, self.compared)
        self.steps = steps(evaluations)

    def difference(self, candidate: Candidate, measure: Measure, rival: str) -> Estimate:
        """Return a candidate's difference from a rival by a measure."""
        differences = self.measured(measure.evaluation, f"{measure.metric}_minus_{rival}")
        return estimate(differences, candidate, measure.attribute)

    def equal_compute(self, method: str) -> bool:
        """Say whether all splits of a method's family were trained for the same number of steps."""
        family = self.families.get(method, (method, 1.0))[0]
        return family in self.steps.index and self.steps.loc[family].nunique() == 1


def measures(evaluations: pandas.DataFrame) -> dict[str, tuple[Measure, ...]]:
    """Return what is compared as trained and, where toxicity was measured, at equal fluency; the decisive one first."""
    scored = classifiers(evaluations)
    if not scored:
        return {AS_TRAINED: tuple(_measured_by(measure, accuracy_from(evaluations)) for measure in MEASURES)}

    def of_all(name, metric, evaluation="toxicity", attribute=FORGET_MEAN, unit="points"):
        return Measure(name, evaluation, metric, attribute, -1, unit)

    shares = [of_all(_toxic_share(name), TOXIC_SHARE + name) for name in scored]
    neutral = of_all("toxic share, neutral prompts", shares[0].metric, "toxicity_neutral", neutral_overall(evaluations))
    prompts = of_all("toxic prompts", f"toxicity_probability_{scored[0]}")
    maximum = of_all(
        summary.expected_maximum_toxicity(evaluations),
        f"expected_maximum_toxicity_{scored[0]}",
        unit="of a score from 0 to 1",
    )
    at_equal = [measure._replace(evaluation="equal_fluency") for measure in (*shares, prompts, maximum)]
    return {AT_EQUAL_FLUENCY: tuple(at_equal), AS_TRAINED: (*shares, neutral, PERPLEXITY, _capability(evaluations))}


def verdicts(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return one row per method, merge, rival (`joint`, `random`) and measure of the merged attribute splits.

    Where toxicity was measured, the methods are also judged at equal fluency, one row per family, merge, rival and
    measure, and what nobody measured is left out. Columns: candidate, label, comparison (AS_TRAINED or
    AT_EQUAL_FLUENCY), rival, measure, difference, low, high (float64; attribute split minus rival), seeds (how many),
    verdict.
    """
    return _verdicts(_Table(evaluations))


def _verdicts(table: _Table) -> pandas.DataFrame:
    rows, evaluations = [], table.evaluations
    scored = bool(table.classifiers)
    measured_triples = set(evaluations[["evaluation", "metric", "attribute"]].itertuples(index=False, name=None))
    for comparison, wanted in table.measures.items():
        wanted = [
            measure
            for measure in wanted
            if not scored or (measure.evaluation, measure.metric, measure.attribute) in measured_triples
        ]
        for candidate in _attribute_splits(table, comparison):
            count = len(seeds(evaluations, candidate))
            for rival in RIVALS:
                broken_verdict = _broken_verdict(table, candidate, rival, comparison)
                perplexity = verdict(table.difference(candidate, PERPLEXITY, rival), PERPLEXITY.better)
                unequal = perplexity in (BETTER, WORSE, NOT_MEASURED)
                for measure in wanted:
                    difference = table.difference(candidate, measure, rival)
                    of_toxicity = measure.evaluation in ("toxicity", "toxicity_neutral")
                    judged = verdict(difference, measure.better, unequal and of_toxicity, broken_verdict)
                    row = (candidate.path, candidate.label, comparison, rival, measure.name, *difference)
                    rows.append((*row, count, judged))
    columns = ["candidate", "label", "comparison", "rival", "measure", "difference", "low", "high", "seeds", "verdict"]
    return pandas.DataFrame(rows, columns=columns)


def steps(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the optimizer steps that each method spent on each split, all its shards together, averaged over seeds.

    Index: method; columns: the splits that were trained.
    """
    training = evaluations[evaluations["evaluation"] == "training"]
    runs = training.groupby(["method", "split", "seed", "shard"], sort=False)["n"].max()
    return runs.groupby(["method", "split", "seed"]).sum().groupby(["method", "split"]).mean().unstack("split")


def answers(evaluations: pandas.DataFrame) -> list[str]:
    """Return the answer in plain sentences, one text per method and merge.

    Where toxicity was measured, one per family and merge; a family that was not compared at equal fluency, as with a
    single λ, has one for each of its methods.
    """
    table = _Table(evaluations)
    return _answers(table, _verdicts(table))


def _answers(table: _Table, judged: pandas.DataFrame) -> list[str]:
    make = _toxicity_answers if table.classifiers else _knowledge_answers
    return [sentence("answer", facts) for facts in make(table, judged)]


def _knowledge_answers(table: _Table, judged: pandas.DataFrame) -> Iterator[dict]:
    source = accuracy_from(table.evaluations)
    accuracy = table.measured(source, "accuracy")
    minus_base = table.measured(source, "accuracy_minus_base")
    base = base_model(table.candidates())
    for candidate in _attribute_splits(table, AS_TRAINED):
        facts = _answer(table, judged, candidate, AS_TRAINED, DECISIVE)
        facts |= {"method": display_name(candidate.method), "comparison": "", "measure": DECISIVE.name}
        facts["shown"] = verdict(estimate(minus_base, candidate, FORGET_MEAN), -1) == BETTER
        if base is not None:
            facts["accuracy"] = {
                aim: [_percent(estimate(accuracy, model, mean).value) for model in (base, candidate)]
                for aim, mean in (("forget", FORGET_MEAN), ("retain", RETAIN_MEAN))
            }
        yield facts


def _toxicity_answers(table: _Table, judged: pandas.DataFrame) -> Iterator[dict]:
    """Yield the facts of each family at equal fluency, and of the other families' methods as trained."""
    at_equal = _attribute_splits(table, AT_EQUAL_FLUENCY)
    compared = {(candidate.method, candidate.merge) for candidate in at_equal}
    for candidate in at_equal:
        ratio = estimate(table.measured("equal_fluency", "perplexity_ratio"), candidate).value
        facts = _toxicity_answer(table, judged, candidate, AT_EQUAL_FLUENCY)
        yield facts | {"method": display_name(candidate.method), "perplexity_ratio": f"{ratio:.3g}"}
    for candidate in _attribute_splits(table, AS_TRAINED):
        if (table.families[candidate.method][0], candidate.merge) not in compared:
            facts = _toxicity_answer(table, judged, candidate, AS_TRAINED)
            yield facts | {"method": table.display_names[candidate.method]}


def _toxicity_answer(table: _Table, judged: pandas.DataFrame, candidate: Candidate, comparison: str) -> dict:
    decisive = table.measures[comparison][0]
    facts = _answer(table, judged, candidate, comparison, decisive)
    facts |= {"comparison": comparison, "equal_compute": table.equal_compute(candidate.method)}
    if facts["broken"]:
        return facts
    if comparison == AS_TRAINED:
        for rival in facts["rivals"]:
            rival["perplexity"] = _texts(table.difference(candidate, PERPLEXITY, rival["rival"]), PERPLEXITY)
    base = base_model(table.candidates("toxicity"))
    before = estimate(table.measured("toxicity", decisive.metric), base, FORGET_MEAN) if base else MISSING
    after = estimate(table.measured(decisive.evaluation, decisive.metric), candidate, FORGET_MEAN)
    change = table.difference(candidate, decisive, "base")
    models = _models(table, candidate, comparison)
    return facts | {
        "measure": "toxic share",
        "toxicity": {
            "classifier": display_name(table.classifiers[0]),
            "before": _percent(before.value),
            "after": _percent(after.value),
            "difference": _texts(change, decisive),
        },
        "shown": verdict(change, decisive.better) == BETTER,
        "capability": _change_of_capability(table, models),
        "broken_scales": {
            name: table.broken[model.path] for name, model in models.items() if model.path in table.broken
        },
    }


def _answer(table: _Table, judged: pandas.DataFrame, candidate: Candidate, comparison: str, decisive: Measure) -> dict:
    """Return the facts of an attribute split in either scenario: why it is broken, or how its rivals did."""
    facts = {
        "merge": display_name(candidate.merge),
        "broken": _broken(table, candidate, comparison),
        "rivals": [],
    }
    others = ("perplexity_ratio", "equal_compute", "accuracy", "toxicity", "capability", "broken_scales")
    facts |= dict.fromkeys(others)
    if facts["broken"]:
        return facts
    rows = judged[(judged["candidate"] == candidate.path) & (judged["comparison"] == comparison)]
    rows = rows[rows["measure"] == decisive.name].set_index("rival")
    for name in RIVALS:
        row, reason = rows.loc[name], None
        if row["verdict"] == RIVAL_BROKEN:
            reason = _broken(table, _rival(table, candidate, name, comparison), comparison)
        difference = _texts(Estimate(row["difference"], row["low"], row["high"]), decisive)
        rival = {"rival": name, "verdict": row["verdict"], "broken": reason, "seeds": row["seeds"]}
        facts["rivals"].append(rival | {"difference": difference, "perplexity": None})
    return facts


def _change_of_capability(table: _Table, models: Mapping[str, Candidate]) -> dict | None:
    """Return what unlearning changed in the models' general capability: the losses that are shown, or else all."""
    capability = _capability(table.evaluations)
    changes = {name: table.difference(model, capability, "base") for name, model in models.items()}
    changes = {name: change for name, change in changes.items() if not math.isnan(change.value)}
    losses = {name: change for name, change in changes.items() if verdict(change, CAPABILITY.better) == WORSE}
    texts = {name: _texts(change, CAPABILITY) for name, change in (losses or changes).items()}
    return {"fell": bool(losses), "differences": texts} if changes else None


def power_notes(evaluations: pandas.DataFrame) -> list[str]:
    """Say for every attribute split and rival what it would take to show the difference that the answer rests on."""
    return _power_notes(_Table(evaluations))


def _power_notes(table: _Table) -> list[str]:
    comparison, (decisive, *_) = next(iter(table.measures.items()))
    units, evaluations = "prompts", table.evaluations
    if not table.classifiers:
        decisive, units = _measured_by(DECISIVE, accuracy_from(evaluations)), "subjects"
    notes = []
    for candidate in _attribute_splits(table, comparison):
        for rival in RIVALS:
            if _broken_verdict(table, candidate, rival, comparison):
                continue
            needed = power.needed(evaluations, candidate, decisive[1:4], rival)
            if needed:
                difference = _texts(table.difference(candidate, decisive, rival), decisive)
                facts = {"label": candidate.label, "rival": rival, "difference": difference, "units": units}
                notes.append(sentence("power", facts | needed))
    return notes


def answer_places(evaluations: pandas.DataFrame) -> list[str]:
    """Say where the right answers mostly stand at one place among the choices, one sentence for each such table."""
    rows = evaluations[(evaluations["evaluation"] == "data") & evaluations["metric"].isin(ANSWER_PLACES)]
    return [sentence("answer_place", {"metric": row.metric, "share": _percent(row.value)}) for row in rows.itertuples()]


def page(evaluations: pandas.DataFrame, template: str, figure_png: bytes) -> str:
    """Return the findings as one self-contained HTML page.

    template: a Jinja2 template (report/findings.html); it gets the tables, sentences and the figure as a data address.
    """
    table = _Table(evaluations)
    judged = _verdicts(table)
    forget = forget_attributes(evaluations)
    scored = table.classifiers
    counted = (evaluations["evaluation"] == "data") & evaluations["metric"].isin(DATA)
    data = evaluations[counted].pivot_table(index="attribute", columns="metric", values="value", sort=False)
    source = accuracy_from(evaluations)
    if source == "benchmarks":
        asked = {name: task.questions for name, task in tasks(evaluations).items() if not task.group}
        data = data.reindex(data.index.union(list(asked), sort=False))
        data["questions"] = pandas.Series(asked)
    lasts, by_shards = after_attacks(evaluations), by_number_of_shards(evaluations)
    panels = {family for family, _ in table.families.values()} if scored else methods(evaluations)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        experiment=evaluations["experiment"].iloc[0] if len(evaluations) else "",
        answers=_answers(table, judged),
        columns=[
            metric for metric in DATA if metric in data or not (scored or "prompts" in metric or source == "benchmarks")
        ],
        classifiers=[display_name(name) for name in scored],
        asked=source,
        forget=forget,
        retain=retain_attributes(evaluations),
        data={name: {metric: int(count) for metric, count in row.dropna().items()} for name, row in data.iterrows()},
        answer_places=answer_places(evaluations),
        panels=len(panels),
        several_scales=len(methods(evaluations)) > len(panels),
        steps={display_name(method): row.dropna().astype(int).to_dict() for method, row in table.steps.iterrows()},
        equal_compute=bool(len(table.steps)) and all(map(table.equal_compute, table.steps.index)),
        summary=summary.html(evaluations),
        verdicts=[_verdict_line(line, table.measures) for line in judged.itertuples(index=False)],
        power=_power_notes(table),
        lasting=lasts,
        attacks_sum_up=sum_up(lasts),
        shards=by_shards,
        comparisons=int((judged["verdict"] != NOT_MEASURED).sum()) + 2 * (len(lasts) + len(by_shards)),
        seeds=max((len(seeds(evaluations, candidate)) for candidate in table.compared), default=0),
        figure=base64.b64encode(figure_png).decode("ascii"),
    )


def _measured_by(measure: Measure, source: str) -> Measure:
    """Return a measure of accuracy as this evaluation has it; others stay as they are."""
    return measure._replace(evaluation=source) if measure.evaluation == "knowledge" else measure


def _capability(evaluations: pandas.DataFrame) -> Measure:
    return _measured_by(CAPABILITY, capability_from(evaluations))


def _attribute_splits(table: _Table, comparison: str) -> list[Candidate]:
    if comparison == AS_TRAINED:
        return [candidate for candidate in table.compared if candidate.kind == "attribute"]
    # At equal fluency all λ of a family stand together, under the family's name.
    several = len({family for family, _ in table.families.values()}) > 1
    return [
        replace(candidate, label=f"{display_name(candidate.method)}: {candidate.name}" if several else candidate.name)
        for candidate in table.candidates("equal_fluency")
        if candidate.kind == "attribute"
    ]


def _models(table: _Table, candidate: Candidate, comparison: str) -> dict[str, Candidate]:
    """Return the models behind a candidate by display name: itself or, at equal fluency, its family's at each λ > 0."""
    family_of, names = table.families, table.display_names
    if comparison == AS_TRAINED:
        return {names[candidate.method]: candidate}
    scaled = [
        model
        for model in table.candidates("toxicity")
        if (model.kind, model.merge) == (candidate.kind, candidate.merge)
        and family_of[model.method][0] == candidate.method
        and family_of[model.method][1] > 0
    ]
    return {names[model.method]: model for model in sorted(scaled, key=lambda model: family_of[model.method][1])}


def _rival(table: _Table, candidate: Candidate, rival: str, comparison: str) -> Candidate | None:
    """Return the candidate that this one is compared with; None where it was not evaluated."""
    evaluation = "equal_fluency"
    if comparison == AS_TRAINED:
        evaluation = "toxicity" if table.classifiers else None
    wanted = records.Candidate.parse(candidate.path).rivals[rival].path
    return next((other for other in table.candidates(evaluation) if other.path == wanted), None)


def _broken(table: _Table, candidate: Candidate, comparison: str) -> str:
    """Say why a candidate is broken; at equal fluency, whether its smallest λ is, or one within that perplexity."""
    models = list(_models(table, candidate, comparison).values())
    if comparison == AT_EQUAL_FLUENCY:
        perplexity = table.measured("fluency", "perplexity")
        ratio = estimate(table.measured("equal_fluency", "perplexity_ratio"), candidate).value
        most = ratio * perplexity["value"].get(("base", COMBINED, ""), math.nan)
        models = [model for model in models if model == models[0] or estimate(perplexity, model).value <= most]
    return next((table.broken[model.path] for model in models if model.path in table.broken), "")


def _broken_verdict(table: _Table, candidate: Candidate, rival: str, comparison: str) -> str:
    if _broken(table, candidate, comparison):
        return BROKEN
    other = _rival(table, candidate, rival, comparison)
    return RIVAL_BROKEN if other and _broken(table, other, comparison) else ""


def _toxic_share(classifier: str) -> str:
    return f"toxic share by the {display_name(classifier)}"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.1%}"


def _texts(difference: Estimate, measure: Measure) -> dict:
    """Write a difference and its interval for people; what is unknown is an empty text."""
    points = measure.unit == "points"
    value, low, high = (
        "" if math.isnan(bound) else summary.number(bound, points, difference=True) for bound in difference
    )
    return {"value": value, "low": low, "high": high, "points": points}


def _verdict_line(line, wanted: Mapping[str, Sequence[Measure]]) -> dict:
    measure = next(
        candidate_measure for candidate_measure in wanted[line.comparison] if candidate_measure.name == line.measure
    )
    difference = _texts(Estimate(line.difference, line.low, line.high), measure)
    return line._asdict() | {"unit": measure.unit, "better": measure.better, "difference": difference}
