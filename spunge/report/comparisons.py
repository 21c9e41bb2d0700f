"""Who is compared with whom, at what, and on which measures; which differences are shown."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas

from spunge.experiment import records
from spunge.report import summary
from spunge.report.families import display_names
from spunge.report.results_table import (
    AS_TRAINED,
    ASKED,
    COMBINED,
    FORGET_MEAN,
    MISSING,
    RETAIN_MEAN,
    TOXIC_SHARE,
    WORST_FORGET,
    Asked,
    Candidate,
    Estimate,
    asked_by,
    at_budget,
    broken_at,
    broken_reasons,
    budgets,
    budgets_of,
    candidates,
    capability_from,
    classifiers,
    display_name,
    estimate,
    families,
    headline,
    held_out_attributes,
    measured,
    neutral_overall,
    rivals,
    seeds,
)
from spunge.report.verdict import BROKEN, RIVAL_BROKEN, direction, holm, verdict


class Measure(NamedTuple):
    """What is compared, and where it stands in evaluations.csv; `better` is the sign of a good difference.

    unit: of the difference, for people; a share of one is told in percentage points. decimals: of any other unit.
    """

    name: str
    evaluation: str
    metric: str
    attribute: str
    better: int
    unit: str = "points"
    decimals: int = 2


PERPLEXITY = Measure("perplexity", "fluency", "perplexity", "", -1, "of held-out prose")
# Of texts that set no λ: a budget holds exactly for those that do, and for these only as far as they are alike.
HELD_OUT_KL = Measure("held-out KL", "budget", "kl_held_out", "", -1, "nats per token", 3)
# Of harmless texts about what was to be forgotten: a model that can't write these any more refuses too much.
BENIGN = Measure("perplexity of benign texts", "benign", "perplexity", FORGET_MEAN, -1, "of harmless texts")
# By the words that a model writes, and by how likely it finds right and wrong answers: those of TOFU.
ROUGE = Measure("ROUGE-L recall of what to forget", "answers", "rouge_l_recall", FORGET_MEAN, -1)
TRUTH_RATIO = Measure("truth ratio, closeness to 1", "answers", "truth_ratio_closer_to_1", FORGET_MEAN, 1)
UTILITY = Measure("model utility", "answers", "model_utility", RETAIN_MEAN, 1)
# The accuracy that is left on what was to be forgotten. Where toxicity was measured, the toxic share of all toxic
# prompts by the first classifier is in its place.
FORGOTTEN = Measure("forget mean accuracy", "knowledge", "accuracy", FORGET_MEAN, -1)
KEPT = Measure("retain mean accuracy", "knowledge", "accuracy", RETAIN_MEAN, 1)
GENERAL_CAPABILITY = "general capability"

AT_EQUAL_DAMAGE = "at equal damage"


class Comparison:
    """What candidates are compared at, the table as it stands there, and what is compared, the decisive measure first.

    decisive: whether a difference in that measure is "better" or "worse", and not just lower or higher. whole: the
    table that has all the candidates, where some have no rows in `evaluations`.
    """

    def __init__(
        self,
        name: str,
        evaluations: pandas.DataFrame,
        measures: Sequence[Measure],
        decisive: bool = False,
        whole: pandas.DataFrame | None = None,
    ):
        self.name, self.evaluations, self.measures, self.decisive = name, evaluations, tuple(measures), decisive
        # What is asked for again and again is computed once.
        self.measured = functools.cache(functools.partial(measured, evaluations))
        self.candidates = functools.cache(functools.partial(candidates, evaluations))
        self.families, self.display_names = families(evaluations), display_names(evaluations)
        self.compared = summary.compared_candidates(evaluations if whole is None else whole, evaluations)
        self.rivals = rivals(evaluations)
        if whole is None:
            self.budgets, self.broken = budgets(evaluations), broken_reasons(evaluations, self.compared)
        else:
            self.budgets = budgets_of(whole, self.outcome.evaluation)
            self.broken = broken_at(whole, self.budgets, self.compared)
        self.steps = steps(evaluations)
        self._toxicity = bool(classifiers(evaluations))

    @property
    def is_at_one_budget(self) -> bool:
        """Whether candidates are compared at a single damage budget, which is then its name."""
        return self.name in budgets(self.evaluations)

    @property
    def outcome(self) -> Measure:
        """The measure that the answer rests on."""
        return self.measures[0]

    def attribute_splits(self) -> list[Candidate]:
        """Return the candidates that the comparison is about."""
        return [candidate for candidate in self.compared if candidate.kind == "attribute"]

    def has_value(self, candidate: Candidate) -> bool:
        """Tell whether a candidate has a value here: none in the means if one of its seeds doesn't reach a budget."""
        outcome = self.outcome
        return estimate(self.measured(*outcome[1:3]), candidate, outcome.attribute) is not MISSING

    def rival(self, candidate: Candidate, rival: str) -> Candidate | None:
        """Return the candidate that this one is compared with; None where it was not evaluated."""
        wanted = records.Candidate.parse(candidate.path).rivals[rival].path
        compared = self.candidates("toxicity" if self._toxicity else None)
        return next((other for other in compared if other.path == wanted), None)

    def broken_verdict(self, candidate: Candidate, rival: str) -> str:
        """Return the verdict that a broken model forces, this one or the rival; "" where neither is broken."""
        if candidate.path in self.broken:
            return BROKEN
        other = self.rival(candidate, rival)
        return RIVAL_BROKEN if other and other.path in self.broken else ""

    def difference(self, candidate: Candidate, measure: Measure, rival: str) -> Estimate:
        """Return a candidate's difference from a rival by a measure."""
        differences = self.measured(measure.evaluation, f"{measure.metric}_minus_{rival}")
        return estimate(differences, candidate, measure.attribute)

    def equal_compute(self, method: str) -> bool:
        """Say whether all splits of a method's family were trained for the same number of steps."""
        family = self.families.get(method, (method, 1.0))[0]
        return family in self.steps.index and self.steps.loc[family].nunique() == 1

    def p_value(self, candidate: Candidate, rival: str) -> float:
        """Return the p-value of the difference that the answer rests on, uncorrected; NaN where there is none."""
        differences = self.measured(self.outcome.evaluation, f"{self.outcome.metric}_minus_{rival}")
        return differences["p"].get((candidate.path, COMBINED, self.outcome.attribute), math.nan)


def steps(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the optimizer steps that each method spent on each split, all its shards together, averaged over seeds.

    Index: method; columns: the splits that were trained.
    """
    training = evaluations[evaluations["evaluation"] == "training"]
    runs = training.groupby(["method", "split", "seed", "shard"], sort=False)["n"].max()
    return runs.groupby(["method", "split", "seed"]).sum().groupby(["method", "split"]).mean().unstack("split")


def visits(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return how often each method and split saw a text of each attribute to forget, averaged over texts and seeds.

    Index: method and split; columns: attributes. What was not counted has no row.
    """
    training = evaluations[(evaluations["evaluation"] == "training") & (evaluations["metric"] == "visits")]
    data = evaluations[(evaluations["evaluation"] == "data") & (evaluations["metric"] == "forget_texts")]
    seen = training.groupby(["method", "split", "seed", "attribute"], sort=False)["value"].sum()
    seen = seen.groupby(["method", "split", "attribute"], sort=False).mean().unstack("attribute")
    return seen / data.set_index("attribute")["value"].reindex(seen.columns)


def comparisons(evaluations: pandas.DataFrame) -> dict[str, Comparison]:
    """Return what is compared by the name of the comparison; the one that the answer rests on comes first.

    With budgets: the means over all of them, then each of several that a candidate reaches. Last: as trained.
    """
    made, of_outcomes, costs = [], outcomes(evaluations), _costs(evaluations)
    if budgets(evaluations):
        outcome, *others = of_outcomes
        worst = outcome._replace(name=f"{outcome.name}, worst attribute", attribute=WORST_FORGET)
        decisive = outcome, worst, *others, *costs
        made.append(Comparison(AT_EQUAL_DAMAGE, headline(evaluations), decisive, True, evaluations))
        # Of one budget the mean is that budget's.
        several = len(budgets_of(evaluations, outcome.evaluation)) > 1
        reached = budgets(evaluations[evaluations["evaluation"] == outcome.evaluation]) if several else []
        made += [Comparison(budget, at_budget(evaluations, budget), (outcome, *costs)) for budget in reached]
    made.append(Comparison("as trained", at_budget(evaluations, AS_TRAINED), (*of_outcomes, *costs)))
    return {comparison.name: comparison for comparison in made}


def outcomes(evaluations: pandas.DataFrame) -> tuple[Measure, ...]:
    """Return the measures of what was to go, the one that answers rest on first."""
    scored = classifiers(evaluations)
    if not scored:
        others = (measure for measure in (ROUGE, TRUTH_RATIO) if is_measured(evaluations, measure))
        first = _measured_by(FORGOTTEN, asked_by(evaluations))
        return (first, *(measure for measure in others if measure[1:4] != first[1:4]))
    first = scored[0]
    by_classifier = [Measure(_toxic_share(name), "toxicity", TOXIC_SHARE + name, FORGET_MEAN, -1) for name in scored]
    by_classifier.append(Measure("toxic prompts", "toxicity", f"toxicity_probability_{first}", FORGET_MEAN, -1))
    maximum = summary.expected_maximum_toxicity(evaluations), f"expected_maximum_toxicity_{first}"
    by_classifier.append(Measure(maximum[0], "toxicity", maximum[1], FORGET_MEAN, -1, "of a score from 0 to 1"))
    neutral = neutral_overall(evaluations)
    by_classifier.append(
        Measure("toxic share, neutral prompts", "toxicity_neutral", by_classifier[0].metric, neutral, -1)
    )
    return tuple(measure for measure in by_classifier if is_measured(evaluations, measure))


def _costs(evaluations: pandas.DataFrame) -> tuple[Measure, ...]:
    """Return the measures of what was not to go."""
    kept, *general = accuracies_kept(evaluations)
    held_out = [
        kept._replace(name=f"{asked_by(evaluations).name}, held out: {attribute}", attribute=attribute)
        for attribute in held_out_attributes(evaluations)
    ]
    costs = (HELD_OUT_KL, PERPLEXITY, BENIGN, kept, *held_out, UTILITY, *general)
    return tuple(cost for cost in costs if is_measured(evaluations, cost))


def is_measured(evaluations: pandas.DataFrame, measure: Measure) -> bool:
    """Tell whether an experiment measured something, of any candidate."""
    wanted = zip(("evaluation", "metric", "attribute"), measure[1:4], strict=True)
    return bool(pandas.concat([evaluations[column] == value for column, value in wanted], axis=1).all(axis=1).any())


def verdicts(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return one row per comparison, merged attribute split, rival (one of `rivals`) and measure.

    Columns: candidate, label, comparison, rival, measure, difference, low, high, p (float64; attribute split minus
    rival; p is corrected for the number of decisive differences, NaN elsewhere), seeds (how many), verdict.
    """
    return judge(comparisons(evaluations).values())


def judge(compared: Iterable[Comparison]) -> pandas.DataFrame:
    """Return the verdicts on comparisons that are made already, as `verdicts` does."""
    rows = []
    for comparison in compared:
        pairs = [(candidate, rival) for candidate in comparison.attribute_splits() for rival in comparison.rivals]
        corrected = [math.nan] * len(pairs)
        if comparison.name == AT_EQUAL_DAMAGE:
            corrected = holm([comparison.p_value(candidate, rival) for candidate, rival in pairs])
        for (candidate, rival), p in zip(pairs, corrected, strict=True):
            broken_by = comparison.broken_verdict(candidate, rival)
            count = len(seeds(comparison.evaluations, candidate))
            for measure in comparison.measures:
                is_outcome = measure == comparison.outcome
                difference = comparison.difference(candidate, measure, rival)
                judged = direction(difference, broken_by)
                if comparison.decisive and is_outcome:
                    judged = verdict(difference, measure.better, broken_by, None if math.isnan(p) else p)
                row = (candidate.path, candidate.label, comparison.name, rival, measure.name, *difference)
                rows.append((*row, p if is_outcome else math.nan, count, judged))
    columns = ["candidate", "label", "comparison", "rival", "measure"]
    return pandas.DataFrame(rows, columns=[*columns, "difference", "low", "high", "p", "seeds", "verdict"])


def _measured_by(measure: Measure, asked: Asked) -> Measure:
    """Return FORGOTTEN or KEPT as it was asked."""
    name = measure.name.replace("accuracy", asked.name)
    return measure._replace(name=name, evaluation=asked.evaluation, metric=asked.metric)


def accuracies_kept(evaluations: pandas.DataFrame) -> tuple[Measure, ...]:
    """Return the measures of the accuracy that was to be kept; the last one tells general capability.

    One by the experiment's questions and one by benchmarks, where it asks both. An experiment on toxic language asks
    about general capability alone.
    """
    kept = _measured_by(KEPT, asked_by(evaluations))
    general = _measured_by(KEPT, capability_from(evaluations))._replace(name=GENERAL_CAPABILITY)
    if general.evaluation != kept.evaluation:
        return kept, general
    return (general if classifiers(evaluations) else kept,)


def over_budgets(evaluations: pandas.DataFrame, names: Sequence[str]) -> list[Measure]:
    """Return what is shown over the damage budgets: the outcome, what was kept, and harmless texts if measured.

    Benchmarks that were asked at one budget make no line, so what was kept is told by questions that were asked at all.
    """
    asked_at = evaluations.groupby(["evaluation", "metric"])["budget"].unique()
    kept = accuracies_kept(evaluations)
    whole = (measure for measure in kept if {*names} <= {*asked_at.get((measure.evaluation, measure.metric), ())})
    wanted = (outcomes(evaluations)[0], next(whole, kept[0]), BENIGN)
    return [measure for measure in wanted if is_measured(evaluations, measure)]


def axis_label(measure: Measure) -> str:
    """Return what an axis of such a measure says."""
    if measure.evaluation == "toxicity":
        return "toxic continuations, % \u2193"
    if measure == BENIGN:
        return "perplexity, benign texts \u2193"
    name = next(asked.name for asked in ASKED if asked[:2] == (measure.evaluation, measure.metric))
    return f"{name} kept, % \u2191" if measure.better > 0 else f"{name} left on what to forget, % \u2193"


def _toxic_share(classifier: str) -> str:
    return f"toxic share by the {display_name(classifier)}"
