"""The findings: does splitting by the attribute beat the joint run and the random split, and is that shown?"""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2
import pandas

from spunge.experiment import splits
from spunge.experiment.records import parse_budget
from spunge.report import power, results_table, summary
from spunge.report.comparisons import (
    AT_EQUAL_DAMAGE,
    BENIGN,
    GENERAL_CAPABILITY,
    HELD_OUT_KL,
    PERPLEXITY,
    Comparison,
    Measure,
    accuracies_kept,
    comparisons,
    is_measured,
    judge,
    visits,
)
from spunge.report.durability import after_attacks, by_number_of_shards, number_of_verdicts, sum_up
from spunge.report.results_table import (
    BEFORE,
    FORGET_MEAN,
    RETAIN_MEAN,
    TOXIC_SHARE,
    Candidate,
    Estimate,
    asked_by,
    base_model,
    budgets,
    candidates,
    capability_from,
    classifiers,
    display_name,
    estimate,
    families,
    forget_attributes,
    held_out_attributes,
    methods,
    retain_attributes,
    seeds,
    tasks,
    tasks_at_chance,
)
from spunge.report.verdict import (
    BETTER,
    HIGHER,
    LOWER,
    NOT_MEASURED,
    NOT_SHOWN,
    RIVAL_BROKEN,
    WORSE,
    direction,
    edit_verdict,
    verdict,
)
from spunge.report.wording import sentence

# The counts of data that the page shows, and those that tell of tables whose right answers mostly stand at one place.
DATA = ("forget_texts", "toxic_prompts", "neutral_prompts", "questions", "subjects")
COSTS = {
    "kl": "KL of {} per token",
    "perplexity": "perplexity {} times the base model's",
    "kept": "loss of {} in accuracy on what is kept, validation part",
}
MOST_NAMED = 4  # attributes whose visits are told one by one
CARRIED = 0.25  # of the KL that sets λ: so much of it in one text is told
ANSWER_PLACES = ("commonest_answer_place", "commonest_answer_place_rephrased")


class Answer(NamedTuple):
    """What is found about one attribute split, as text: `against` says of each rival how the split did beside it."""

    begins: str
    against: Sequence[str]
    ends: str

    def __str__(self) -> str:
        return " ".join(filter(None, [self.begins, " It ".join(self.against), self.ends]))


def answers(evaluations: pandas.DataFrame) -> list[Answer]:
    """Return the answers, one per method and merge, by the first comparison that has it."""
    compared = comparisons(evaluations)
    return _answers(compared, judge(compared.values()))


def _answers(compared: Mapping[str, Comparison], judged: pandas.DataFrame) -> list[Answer]:
    found, answered = [], set()
    for comparison in compared.values():
        if comparison.is_at_one_budget:
            continue  # its numbers stand beside the mean over all budgets
        splits = comparison.attribute_splits()
        for candidate in splits:
            if (comparison.families.get(candidate.method, (candidate.method,))[0], candidate.merge) not in answered:
                found.append(_answer(compared, judged, candidate, comparison))
        answered |= {(one.method, one.merge) for one in splits if comparison.has_value(one)}
    return found


def _answer(
    compared: Mapping[str, Comparison], judged: pandas.DataFrame, candidate: Candidate, comparison: Comparison
) -> Answer:
    """Return the answer of an attribute split: why it is broken, or how its rivals did, what went and what it cost."""
    outcome = comparison.outcome
    toxicity = outcome.metric.startswith(TOXIC_SHARE)
    facts = {
        "method": comparison.display_names.get(candidate.method, display_name(candidate.method)),
        "merge": display_name(candidate.merge),
        "comparison": comparison.name,
        "budgets": budgets_in_words(comparison.budgets) if comparison.name == AT_EQUAL_DAMAGE else "",
        "several": len(comparison.budgets) > 1,
        "equal_compute": comparison.equal_compute(candidate.method),
        "measure": "toxic share" if toxicity else outcome.name,
        "broken": comparison.broken.get(candidate.path, ""),
        "accuracy": None,
        "toxicity": None,
        "capability": None,
    }
    if comparison.name == AT_EQUAL_DAMAGE and not comparison.has_value(candidate):
        return Answer(sentence("answer_unreached", facts), [], "")
    if facts["broken"]:
        return Answer(sentence("answer_begins", facts), [], "")
    facts["shown"] = verdict(comparison.difference(candidate, outcome, "base"), outcome.better) == BETTER
    base = base_model(comparison.candidates("toxicity" if toxicity else None))
    if toxicity:
        before = comparison.measured("toxicity", outcome.metric), base
        after = comparison.measured(outcome.evaluation, outcome.metric), candidate
        facts["toxicity"] = {
            "classifier": display_name(outcome.metric.removeprefix(TOXIC_SHARE)),
            "before": _percent(estimate(*before, FORGET_MEAN).value) if base else "",
            "after": _percent(estimate(*after, FORGET_MEAN).value),
            "difference": _texts(comparison.difference(candidate, outcome, "base"), outcome),
        }
    elif base:
        asked = asked_by(comparison.evaluations)
        accuracy = comparison.measured(asked.evaluation, asked.metric)
        facts["accuracy"] = {"name": asked.name} | {
            aim: [_percent(estimate(accuracy, model, mean).value) for model in (base, candidate)]
            for aim, mean in (("forget", FORGET_MEAN), ("retain", RETAIN_MEAN))
        }
    facts["capability"] = _change_of_capability(comparison, candidate)
    rivals = [_rival_facts(compared, judged, candidate, comparison, rival) for rival in comparison.rivals]
    against = [sentence("answer_against", rival | {"measure": facts["measure"]}) + "." for rival in rivals]
    return Answer(sentence("answer_begins", facts), against, sentence("answer_ends", facts))


def _rival_facts(
    compared: Mapping[str, Comparison],
    judged: pandas.DataFrame,
    candidate: Candidate,
    comparison: Comparison,
    rival: str,
) -> dict:
    """Return how a rival did: the verdict, the difference, and what it is that both cost beside."""
    evaluations, outcome = comparison.evaluations, comparison.outcome
    lines = judged[(judged["candidate"] == candidate.path) & (judged["rival"] == rival)]
    lines = lines.set_index(["comparison", "measure"])
    line = lines.loc[comparison.name, outcome.name]
    broken_by = comparison.broken_verdict(candidate, rival)
    judged_as = line["verdict"]
    if not comparison.decisive:
        lost = comparison.difference(candidate, PERPLEXITY, rival)
        if not classifiers(evaluations):
            kept = comparison.difference(candidate, accuracies_kept(evaluations)[0], rival)
            lost = Estimate(-kept.value, -kept.high, -kept.low)
        judged_as = edit_verdict(comparison.difference(candidate, outcome, rival), lost, broken_by)
    reason = None
    if judged_as == RIVAL_BROKEN:
        reason = comparison.broken[comparison.rival(candidate, rival).path]
    costs = []
    for measure in (HELD_OUT_KL, PERPLEXITY, BENIGN, *accuracies_kept(evaluations)):
        difference = comparison.difference(candidate, measure, rival)
        unequal = direction(difference) in (HIGHER, LOWER)
        if unequal if comparison.decisive else not math.isnan(difference.value):
            costs.append({"measure": measure.name, "difference": _texts(difference, measure)})
    at_each = [
        {"budget": name, "difference": _texts(other.difference(candidate, outcome, rival), outcome)}
        for name, other in compared.items()
        if comparison.name == AT_EQUAL_DAMAGE and len(comparison.budgets) > 1 and other.is_at_one_budget
    ]
    return {
        "rival": rival,
        "verdict": judged_as,
        "broken": reason,
        "seeds": line["seeds"],
        "difference": _texts(Estimate(line["difference"], line["low"], line["high"]), outcome),
        "costs": costs,
        "decisive": comparison.decisive,
        "at_each": at_each,
    }


def _change_of_capability(comparison: Comparison, candidate: Candidate) -> dict | None:
    """Return what unlearning changed in a model's general capability, where it was measured; is a loss shown?"""
    measure = accuracies_kept(comparison.evaluations)[-1]
    change = comparison.difference(candidate, measure, "base")
    if measure.name != GENERAL_CAPABILITY or math.isnan(change.value):
        return None
    return {"fell": verdict(change, measure.better) == WORSE, "difference": _texts(change, measure)}


def power_notes(comparison: Comparison) -> list[str]:
    """Say for every attribute split and rival what it would take to show the difference that the answer rests on."""
    outcome, judged = comparison.outcome, judge([comparison])
    verdicts = judged[judged["measure"] == outcome.name].set_index(["candidate", "rival"])["verdict"]
    units = "prompts" if classifiers(comparison.evaluations) else "clusters"
    notes = []
    for candidate in comparison.attribute_splits():
        for rival in comparison.rivals:
            if comparison.broken_verdict(candidate, rival):
                continue
            needed = power.needed(comparison.evaluations, candidate, outcome[1:4], rival)
            if needed:
                difference = _texts(comparison.difference(candidate, outcome, rival), outcome)
                facts = {"label": candidate.label, "rival": rival, "difference": difference, "units": units}
                facts["confirmed"] = not verdicts[candidate.path, rival].startswith(NOT_SHOWN)
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
    compared_at = comparisons(evaluations)
    judged = judge(compared_at.values())
    forget = forget_attributes(evaluations)
    scored = classifiers(evaluations)
    counted = (evaluations["evaluation"] == "data") & evaluations["metric"].isin(DATA)
    data = evaluations[counted].pivot_table(index="attribute", columns="metric", values="value", sort=False)
    source = asked_by(evaluations).evaluation
    if source == "benchmarks":
        asked = {name: task.questions for name, task in tasks(evaluations).items() if not task.group}
        data = data.reindex(data.index.union(list(asked), sort=False))
        data["questions"] = pandas.Series(asked)
    decisive = next(iter(compared_at.values()))
    trained = decisive.steps
    lasts, by_shards = after_attacks(results_table.as_made(evaluations, BEFORE)), by_number_of_shards(evaluations)
    panels = {family for family, _ in families(evaluations).values()} if scored else methods(evaluations)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        experiment=evaluations["experiment"].iloc[0] if len(evaluations) else "",
        answers=_answers(compared_at, judged),
        columns=[
            metric for metric in DATA if metric in data or not (scored or "prompts" in metric or source == "benchmarks")
        ],
        classifiers=[display_name(name) for name in scored],
        judges=judges(evaluations),
        judges_of_data=judges_of_data(evaluations),
        asked=source,
        asked_for=asked_by(evaluations).name,
        capability=capability_from(evaluations).evaluation,
        at_chance=tasks_at_chance(evaluations),
        budgets=budgets_in_words(budgets(evaluations)),
        several_budgets=len(decisive.budgets) > 1,
        at_one_budget=_at_one_budget(evaluations),
        unreached=unreached(evaluations),
        carried_by_one=carried_by_one(evaluations),
        benign=is_measured(evaluations, BENIGN),
        decisive=decisive.outcome.name,
        forget=forget,
        retain=retain_attributes(evaluations),
        held_out=held_out_attributes(evaluations),
        data={name: {metric: int(count) for metric, count in row.dropna().items()} for name, row in data.iterrows()},
        answer_places=answer_places(evaluations),
        panels=len(panels),
        several_scales=len(methods(evaluations)) > len(panels),
        tuning=tuning(evaluations),
        training=_training(evaluations, trained),
        equal_compute=bool(len(trained)) and all(map(decisive.equal_compute, trained.index)),
        summary=summary.html(evaluations),
        verdicts=[_verdict_line(line, compared_at) for line in judged.itertuples(index=False)],
        power=power_notes(decisive),
        lasting=lasts,
        rivals=decisive.rivals,
        attacks_sum_up=sum_up(lasts),
        attacked_at=budgets_in_words(budgets(evaluations[evaluations["evaluation"] == BEFORE])),
        shards=by_shards,
        kinds={*evaluations["split"].map(splits.kind)},
        single_shards=any(candidate.kind == "attribute_shard" for candidate in candidates(evaluations)),
        comparisons=int((judged["verdict"] != NOT_MEASURED).sum()) + number_of_verdicts(lasts + by_shards),
        seeds=max((len(seeds(evaluations, candidate)) for candidate in decisive.compared), default=0),
        figure=base64.b64encode(figure_png).decode("ascii"),
    )


def tuning(evaluations: pandas.DataFrame) -> list[dict]:
    """Return of each tuned arm: method, split, trials, steps of all of them, chosen options, and what was left."""
    arms, rows = [], evaluations[evaluations["evaluation"] == "tuning"]
    for (method, split), of_arm in rows.groupby(["method", "split"], sort=False):
        values = of_arm.set_index("metric")["value"]
        options = {name.removeprefix("option_"): value for name, value in values.items() if name.startswith("option_")}
        arms.append(
            {
                "method": display_name(method),
                "split": split,
                "trials": int(of_arm["n"].iloc[0]),
                "steps": int(values["steps"]),
                "options": {name: "" if math.isnan(value) else f"{value:g}" for name, value in options.items()},
                "scale": f"{values['scale']:.2f}",
                "validation": _percent(values["validation"]),
            }
        )
    return arms


def judges(evaluations: pandas.DataFrame) -> list[dict]:
    """Return of each kind of toxicity that classifiers were tried on: kind, texts, and AUC and missed by classifier."""
    rows = evaluations[evaluations["evaluation"] == "classifier"]
    kinds = []
    for kind, of_kind in rows.groupby("attribute", sort=False):
        found = of_kind.set_index("metric")
        estimates = {
            display_name(name): (_area(found.loc[f"auc_{name}"]), _percent(found.loc[f"missed_{name}", "value"]))
            for name in _judged(of_kind)
        }
        kinds.append({"kind": kind.replace("_", " "), "texts": int(of_kind["n"].iloc[0]), "estimates": estimates})
    return kinds


def judges_of_data(evaluations: pandas.DataFrame) -> list[dict]:
    """Return of each classifier what it made of the experiment's own texts, to forget and harmless.

    Keys: name, auc, missed and false_alarms of all texts, and of the attributes those with the lowest and highest auc.
    """
    rows = evaluations[evaluations["evaluation"] == "classifier_benign"]
    judged = []
    for name in _judged(rows):
        found = rows.set_index(["attribute", "metric"])
        areas = found.xs(f"auc_{name}", level="metric").drop(index="")["value"].sort_values()
        shares = {
            metric: _percent(found.loc[("", f"{metric}_{name}"), "value"]) for metric in ("missed", "false_alarms")
        }
        ends = [f"{area:.2f} ({attribute})" for attribute, area in (*areas.head(1).items(), *areas.tail(1).items())]
        area = _area(found.loc[("", f"auc_{name}")])
        judged.append({"name": display_name(name), "auc": area, **shares, "attributes": " to ".join(ends)})
    return judged


def _judged(rows: pandas.DataFrame) -> list[str]:
    """Return the classifiers that rows are about, in their order."""
    areas = [metric for metric in rows["metric"].unique() if metric.startswith("auc_")]
    return [metric.removeprefix("auc_") for metric in areas]


def _area(row: pandas.Series) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f},\u00a0{row['high']:.2f}]"


def _training(evaluations: pandas.DataFrame, steps: pandas.DataFrame) -> list[dict]:
    """Return a line for each method and split: its optimizer steps, and how often it saw a text, by attribute."""
    seen = visits(evaluations)
    return [
        {
            "method": display_name(method),
            "split": split,
            "steps": int(number),
            "visits": _visits(seen.loc[method, split].dropna()) if (method, split) in seen.index else "",
        }
        for method, row in steps.iterrows()
        for split, number in row.dropna().items()
    ]


def _visits(of_attributes: pandas.Series) -> str:
    """Write visits of a text: one number where all attributes have the same, and the range where they are many."""
    texts = {
        name: f"{number:.1f}" if number >= 1 else f"{number:.1g}"
        for name, number in of_attributes.sort_values().items()
    }
    lowest, *_, highest = [*texts.values()] * 2
    if lowest == highest:
        return lowest
    if len(texts) > MOST_NAMED:
        return f"{lowest} to {highest}"
    return ", ".join(f"{attribute} {texts[attribute]}" for attribute in of_attributes.index)


def budgets_in_words(names: Sequence[str]) -> str:
    """Write budgets for people: `kl=0.01`, `kl=0.1` become "KL of 0.01 and 0.1 per token"."""
    amounts: dict[str, list[str]] = {}
    for name in names:
        cost, amount = parse_budget(name)
        amounts.setdefault(cost, []).append(f"{amount:g}")
    words = []
    for cost, numbers in amounts.items():
        *first, last = numbers
        listed = f"{', '.join(first)} and {last}" if first else last
        words.append(COSTS[cost].format(listed))
    return "; ".join(words)


def _at_one_budget(evaluations: pandas.DataFrame) -> str:
    """Return the one budget of benchmarks, for people, where others are made at several; else an empty text."""
    at = results_table.budgets_of(evaluations, "benchmarks")
    asked = (evaluations["evaluation"] == "benchmarks").any()
    return budgets_in_words(at) if asked and at != budgets(evaluations) else ""


def unreached(evaluations: pandas.DataFrame) -> list[str]:
    """Say which models didn't reach a budget at any λ that was tried, one sentence for each budget and model."""
    rows = evaluations[(evaluations["evaluation"] == "budget") & (evaluations["metric"] == "reached")]
    rows = rows[rows["value"] == 0]
    names = {candidate.path: candidate.label for candidate in candidates(evaluations, "budget", grouped=True)}
    by_model = rows.assign(candidate=results_table.without_seed(rows)).groupby(["candidate", "budget"], sort=False)
    return [
        sentence("unreached", {"model": names.get(path, path), "budget": budgets_in_words([budget]), "seeds": list(of)})
        for (path, budget), of in by_model["seed"]
    ]


def carried_by_one(evaluations: pandas.DataFrame) -> list[str]:
    """Say at which budgets of KL one of the texts that set λ has more than CARRIED of it; nothing where at none."""
    rows = evaluations[(evaluations["evaluation"] == "budget") & (evaluations["metric"] == "largest_share")]
    rows = rows[rows["budget"].str.startswith("kl=")]
    shares = rows.groupby("budget")["value"].mean()
    carried = {budgets_in_words([name]): _percent(shares[name]) for name in budgets(rows) if shares[name] > CARRIED}
    return [sentence("carried_by_one", {"shares": carried})] if carried else []


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.1%}"


def _texts(difference: Estimate, measure: Measure) -> dict:
    """Write a difference and its interval for people; what is unknown is an empty text."""
    points = measure.unit == "points"
    value, low, high = (
        "" if math.isnan(bound) else summary.number(bound, points, difference=True, decimals=measure.decimals)
        for bound in difference
    )
    return {"value": value, "low": low, "high": high, "points": points}


def _verdict_line(line, compared: Mapping[str, Comparison]) -> dict:
    measure = next(measure for measure in compared[line.comparison].measures if measure.name == line.measure)
    difference = _texts(Estimate(line.difference, line.low, line.high), measure)
    comparison = compared[line.comparison]
    return line._asdict() | {
        "comparison": budgets_in_words([comparison.name]) if comparison.is_at_one_budget else comparison.name,
        "unit": measure.unit,
        "better": measure.better,
        "difference": difference,
        "p": "" if math.isnan(line.p) else f"{line.p:.2g}",
    }
