"""The findings: does splitting by the attribute beat the joint run and the random split, and is that shown?"""

import base64
import math

import jinja2
import pandas

from spunge import summary
from spunge.evaluations import (
    FORGET_MEAN,
    RETAIN_MEAN,
    RETAIN_MINUS_FORGET,
    Candidate,
    Estimate,
    candidates,
    estimate,
    forget_attributes,
    measured,
    methods,
    retain_attributes,
    seeds,
    written,
)

RIVALS = {"joint": "joint", "random": "random split"}

# What is compared: its name, evaluation, metric, attribute and the sign of a difference that is better.
MEASURES = (
    ("forget mean accuracy", "knowledge", "accuracy", FORGET_MEAN, -1),
    ("retain mean accuracy", "knowledge", "accuracy", RETAIN_MEAN, 1),
    ("retain minus forget", "knowledge", "accuracy", RETAIN_MINUS_FORGET, 1),
    ("perplexity", "fluency", "perplexity", "", -1),
)
# The one measure that the answer rests on: it weighs what was forgotten against what was lost.
DECISIVE = "retain minus forget"

NOT_MEASURED = "not measured"
NOT_SHOWN = "not shown"
NOT_SHOWN_AGAINST = "not shown; the estimate is worse"
BETTER, WORSE = "better", "worse"


def verdict(difference: Estimate, better: int) -> str:
    """Judge a difference; `better` is the sign of a good one.

    An interval that holds 0, or no interval at all, shows nothing; an estimate that points against is said so.
    """
    if math.isnan(difference.value):
        return NOT_MEASURED
    if difference.low > 0 or difference.high < 0:
        return BETTER if difference.value * better > 0 else WORSE
    return NOT_SHOWN_AGAINST if difference.value * better < 0 else NOT_SHOWN


def verdicts(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return one row per method, merge, rival (`joint`, `random`) and measure of the merged attribute splits.

    Columns: candidate, label, rival, measure, difference, low, high (float64; attribute split minus rival), seeds
    (how many), verdict.
    """
    rows = []
    for candidate in _attribute_splits(evaluations):
        count = len(seeds(evaluations, candidate))
        for rival in RIVALS:
            for measure, evaluation, metric, attribute, better in MEASURES:
                found = measured(evaluations, evaluation, f"{metric}_minus_{rival}")
                difference = estimate(found, candidate, attribute)
                judged = verdict(difference, better)
                rows.append((candidate.path, candidate.label, rival, measure, *difference, count, judged))
    columns = ["candidate", "label", "rival", "measure", "difference", "low", "high", "seeds", "verdict"]
    return pandas.DataFrame(rows, columns=columns)


def steps(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the optimizer steps that each method spent on each split, all its shards together, averaged over seeds.

    Index: method; columns: the splits that were trained.
    """
    training = evaluations[evaluations["evaluation"] == "training"]
    runs = training.groupby(["method", "split", "seed", "shard"], sort=False)["n"].max()
    return runs.groupby(["method", "split", "seed"]).sum().groupby(["method", "split"]).mean().unstack("split")


def answers(evaluations: pandas.DataFrame) -> list[str]:
    """Return the answer in plain sentences, one text per method and merge."""
    judged = verdicts(evaluations)
    accuracy = measured(evaluations, "knowledge", "accuracy")
    minus_base = measured(evaluations, "knowledge", "accuracy_minus_base")
    base = next((candidate for candidate in candidates(evaluations) if candidate.kind == "base"), None)
    texts = []
    for candidate in _attribute_splits(evaluations):
        own = judged[(judged["candidate"] == candidate.path) & (judged["measure"] == DECISIVE)].set_index("rival")
        against_joint = _clause(own.loc["joint"], "unlearning everything at once")
        against_random = _clause(own.loc["random"], "a random split into shards of the same sizes")
        name = f"{written(candidate.method)}, merged with {written(candidate.merge)}"
        text = f"With {name}, splitting by the attribute {against_joint}, and {against_random}."
        if base is not None:
            forget, retain = (
                " to ".join(_percent(estimate(accuracy, each, mean).value) for each in (base, candidate))
                for mean in (FORGET_MEAN, RETAIN_MEAN)
            )
            text += f" Mean accuracy went from {forget} on what was to be forgotten, "
            text += f"and from {retain} on what was to be kept."
        if verdict(estimate(minus_base, candidate, FORGET_MEAN), -1) != BETTER:
            text += " That it forgot anything at all is not shown."
        texts.append(text)
    return texts


def page(evaluations: pandas.DataFrame, template: str, tradeoff_png: bytes) -> str:
    """Return the findings as one self-contained HTML page.

    template: a Jinja2 template (report/findings.html); it gets the tables, sentences and the figure as a data address.
    """
    judged = verdicts(evaluations)
    forget = forget_attributes(evaluations)
    data = evaluations[evaluations["evaluation"] == "data"].pivot_table(
        index="attribute", columns="metric", values="value", sort=False
    )
    trained = steps(evaluations)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        experiment=evaluations["experiment"].iloc[0] if len(evaluations) else "",
        answers=answers(evaluations),
        forget=forget,
        retain=retain_attributes(evaluations),
        data={name: {metric: int(count) for metric, count in row.dropna().items()} for name, row in data.iterrows()},
        candidates=candidates(evaluations),
        methods=[written(method) for method in methods(evaluations)],
        steps={written(method): row.dropna().astype(int).to_dict() for method, row in trained.iterrows()},
        equal_compute=bool(len(trained)) and all(row.dropna().nunique() == 1 for _, row in trained.iterrows()),
        summary=summary.html(evaluations),
        verdicts=[_verdict_line(line) for line in judged.itertuples(index=False)],
        comparisons=int((judged["verdict"] != NOT_MEASURED).sum()),
        seeds=max((len(seeds(evaluations, candidate)) for candidate in candidates(evaluations)), default=0),
        figure=base64.b64encode(tradeoff_png).decode("ascii"),
    )


def _attribute_splits(evaluations: pandas.DataFrame) -> list[Candidate]:
    return [candidate for candidate in candidates(evaluations) if candidate.kind == "attribute"]


def _percent(share: float) -> str:
    return "an unknown value" if math.isnan(share) else f"{share:.1%}"


def _clause(row: pandas.Series, rival: str) -> str:
    if row["verdict"] == NOT_MEASURED:
        return f"was not compared with {rival}"
    interval = f"95 % interval {_points(row['low'])} to {_points(row['high'])}"
    numbers = f"(retain minus forget {_points(row['difference'])} points, {interval}, seeds: {row['seeds']})"
    return {
        BETTER: f"did better than {rival} {numbers}",
        WORSE: f"did worse than {rival} {numbers}",
        NOT_SHOWN: f"is not shown to differ from {rival} {numbers}",
        NOT_SHOWN_AGAINST: f"is not shown to differ from {rival}, with an estimate that is worse {numbers}",
    }[row["verdict"]]


def _points(share: float) -> str:
    return "unknown" if math.isnan(share) else summary.number(share, percent=True, difference=True)


def _verdict_line(line) -> dict:
    percent = line.measure != "perplexity"
    texts = [
        "–" if math.isnan(value) else summary.number(value, percent, difference=True)
        for value in (line.difference, line.low, line.high)
    ]
    return {
        "label": line.label,
        "rival": RIVALS[line.rival],
        "measure": f"{line.measure}, {'points' if percent else 'of held-out prose'}",
        "better": "lower" if dict((name, better) for name, *_, better in MEASURES)[line.measure] < 0 else "higher",
        "difference": texts[0],
        "interval": f"{texts[1]} to {texts[2]}",
        "seeds": line.seeds,
        "verdict": line.verdict,
        "kind": line.verdict if line.verdict in (BETTER, WORSE) else "open",
    }
