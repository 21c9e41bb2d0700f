"""The summary table: one row per candidate with its seeds combined, for machines (CSV) and for people."""

import math
from dataclasses import dataclass, replace
from html import escape

import pandas

from spunge.report.families import display_names
from spunge.report.results_table import (
    FORGET_MEAN,
    MISSING,
    RETAIN_MEAN,
    RETAIN_MINUS_FORGET,
    TOXIC_SHARE,
    WORST_FORGET,
    Candidate,
    Estimate,
    asked_by,
    at_budget,
    broken_reasons,
    budgets_of,
    candidates,
    capability_from,
    classifiers,
    display_name,
    estimate,
    forget_attributes,
    headline,
    held_out_attributes,
    measured,
    methods,
    neutral_overall,
    one_line,
    samples,
    seeds,
)

LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00a0": "~",
    "−": "$-$",
    "–": "--",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "λ": r"$\lambda$",
}
LARGE, SMALL = 1e6, 5e-3
MEANS = ((FORGET_MEAN, "↓"), (RETAIN_MEAN, "↑"), (RETAIN_MINUS_FORGET, "↑"))


@dataclass(frozen=True)
class Quantity:
    """One column: where its numbers stand in evaluations.csv, and how people read them.

    title: the column of the CSV. heading: what people read; an arrow says where better lies. percent: a share of one.
    difference: printed with its sign. interval: whether people see it (the CSV always has it). budget: at which the
    number was measured; None takes that of the answer, the mean over all.
    """

    title: str
    heading: str
    evaluation: str
    metric: str
    attribute: str
    percent: bool
    difference: bool
    interval: bool
    budget: str | None = None

    def measured(self, evaluations: pandas.DataFrame) -> pandas.DataFrame:
        """Return the rows that hold the numbers, as `results_table.measured` does."""
        at = headline(evaluations) if self.budget is None else at_budget(evaluations, self.budget)
        return measured(at, self.evaluation, self.metric)


def quantities(evaluations: pandas.DataFrame) -> list[Quantity]:
    """Return the columns of the summary, in their order; those of the toxicity scenario where toxicity was measured."""
    if classifiers(evaluations):
        return _of_toxicity(evaluations)
    source, metric, name = asked_by(evaluations)
    columns = [
        Quantity(f"{name}: {attribute}", attribute, source, metric, attribute, True, False, False)
        for attribute in forget_attributes(evaluations)
    ]
    columns += [
        Quantity(
            f"{name}: {FORGET_MEAN} at {budget}",
            f"at {budget} ↓",
            source,
            metric,
            FORGET_MEAN,
            True,
            False,
            False,
            budget,
        )
        for budget in budgets_of(evaluations, source)
    ]
    for mean, arrow in MEANS:
        difference = mean == RETAIN_MINUS_FORGET
        columns.append(Quantity(f"{name}: {mean}", f"{mean} {arrow}", source, metric, mean, True, difference, True))
    others = [(WORST_FORGET, "worst attribute ↓")]
    others += [(attribute, f"held out: {attribute} ↑") for attribute in held_out_attributes(evaluations)]
    columns += [
        Quantity(f"{name}: {attribute}", heading, source, metric, attribute, True, False, True)
        for attribute, heading in others
    ]
    columns.append(Quantity("perplexity", "perplexity ↓", "fluency", "perplexity", "", False, False, True))
    columns += _of_answers(evaluations)
    columns += _general_capability(evaluations)
    for mean, arrow in MEANS:
        title, heading = f"{name} minus joint: {mean}", f"{mean}, against joint {arrow}"
        columns.append(Quantity(title, heading, source, f"{metric}_minus_joint", mean, True, True, True))
    return columns


def _of_answers(evaluations: pandas.DataFrame) -> list[Quantity]:
    """Return the columns of TOFU's measures, as far as there are some beside what `asked_by` names."""
    columns = [
        Quantity("model utility", "model utility ↑", "answers", "model_utility", RETAIN_MEAN, True, False, True),
        Quantity("forget quality", "forget quality ↑", "answers", "forget_quality", FORGET_MEAN, False, False, False),
        Quantity(
            "rouge: forget mean", "ROUGE-L, forget ↓", "answers", "rouge_l_recall", FORGET_MEAN, True, False, True
        ),
    ]
    known = set(evaluations.loc[evaluations["evaluation"] == "answers", "metric"])
    known -= {asked_by(evaluations).metric}
    return [column for column in columns if column.metric in known]


def _of_toxicity(evaluations: pandas.DataFrame) -> list[Quantity]:
    """Return the columns of the toxicity scenario that were measured: toxicity, diversity, fluency, capability."""
    first, *others = classifiers(evaluations)
    share = TOXIC_SHARE + first

    def quantity(title, heading, evaluation, metric, attribute, percent=True, difference=False, interval=True):
        return Quantity(title, heading, evaluation, metric, attribute, percent, difference, interval)

    columns = [
        quantity(f"toxic share: {attribute}", attribute, "toxicity", share, attribute, interval=False)
        for attribute in forget_attributes(evaluations)
    ]
    for name in (first, *others):
        title, heading = f"toxic share: {FORGET_MEAN} ({name})", f"toxic, {display_name(name)} ↓"
        columns.append(quantity(title, heading, "toxicity", TOXIC_SHARE + name, FORGET_MEAN))
    columns.append(quantity(f"toxic share: {WORST_FORGET}", "worst attribute ↓", "toxicity", share, WORST_FORGET))
    neutral, maximum = neutral_overall(evaluations), expected_maximum_toxicity(evaluations)
    columns += [
        quantity(maximum, f"{maximum} ↓", "toxicity", f"expected_maximum_toxicity_{first}", FORGET_MEAN, False),
        quantity("toxic prompts", "toxic prompts ↓", "toxicity", f"toxicity_probability_{first}", FORGET_MEAN),
        quantity("toxic share: neutral prompts", "toxic, neutral prompts ↓", "toxicity_neutral", share, neutral),
        quantity("distinct-2", "distinct-2 ↑", "toxicity", "distinct_2", FORGET_MEAN, False, interval=False),
        quantity("perplexity", "perplexity ↓", "fluency", "perplexity", "", False),
        quantity("perplexity: benign", "perplexity, benign texts ↓", "benign", "perplexity", FORGET_MEAN, False),
    ]
    general, asked = _general_capability(evaluations), asked_by(evaluations)
    for mean, arrow in MEANS:
        questions = (
            f"general capability {arrow}" if mean == RETAIN_MEAN and not general else f"{asked.name}, {mean} {arrow}"
        )
        difference = mean == RETAIN_MINUS_FORGET
        title = f"{asked.name}: {mean}"
        columns.append(quantity(title, questions, asked.evaluation, asked.metric, mean, difference=difference))
    columns += general
    title, heading = f"toxic share minus joint: {FORGET_MEAN}", "toxic, against joint ↓"
    columns.append(quantity(title, heading, "toxicity", f"{share}_minus_joint", FORGET_MEAN, difference=True))
    measured_triples = set(evaluations[["evaluation", "metric", "attribute"]].itertuples(index=False, name=None))
    return [column for column in columns if (column.evaluation, column.metric, column.attribute) in measured_triples]


def _general_capability(evaluations: pandas.DataFrame) -> list[Quantity]:
    """Return the column of benchmarks, where they were asked beside questions of the experiment's own."""
    general = capability_from(evaluations)
    if general == asked_by(evaluations):
        return []
    title = "general capability"
    return [Quantity(title, f"{title} ↑", general.evaluation, general.metric, RETAIN_MEAN, True, False, True)]


def expected_maximum_toxicity(evaluations: pandas.DataFrame) -> str:
    """Return the name of the expected maximum toxicity, with the number of samples: it grows with them."""
    number = samples(evaluations)
    return f"expected maximum of {number}" if number else "expected maximum"


def compared_candidates(evaluations: pandas.DataFrame, shown: pandas.DataFrame) -> list[Candidate]:
    """Return the candidates that are compared, labelled for people; one that is broken in `shown` is marked as such.

    Where toxicity was measured, a method is named by its family and λ. shown: a part of the table, its headline, say,
    where a candidate that doesn't reach every budget has no rows.
    """
    toxicity = bool(classifiers(evaluations))
    several, names = len(methods(evaluations)) > 1, display_names(evaluations)
    # Of a candidate that reaches no budget the evaluation `budget` alone knows.
    evaluated = "toxicity" if toxicity else asked_by(evaluations).evaluation
    labelled, compared = [], candidates(evaluations, (evaluated, "budget"))
    reasons = broken_reasons(shown, compared)
    for candidate in compared:
        label = candidate.label
        if toxicity:
            label = f"{names[candidate.method]}: {candidate.name}" if several and candidate.method else candidate.name
        reason = reasons.get(candidate.path)
        labelled.append(replace(candidate, label=f"{label}; broken: {reason}" if reason else label))
    return labelled


def table(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the numbers: names, the number of seeds, then per quantity its value, `… low` and `… high` (float64)."""
    columns = quantities(evaluations)
    rows = {quantity: quantity.measured(evaluations) for quantity in columns}
    lines = []
    shown = headline(evaluations)
    for candidate in compared_candidates(evaluations, shown):
        line = {"candidate": candidate.path, "label": candidate.label, "method": candidate.method}
        line |= {"merge": candidate.merge, "seeds": len(seeds(shown, candidate))}
        for quantity in columns:
            estimated = estimate(rows[quantity], candidate, quantity.attribute)
            line |= {quantity.title: estimated.value}
            line |= {f"{quantity.title} low": estimated.low, f"{quantity.title} high": estimated.high}
        lines.append(line)
    names = ["candidate", "label", "method", "merge", "seeds"]
    names += [quantity.title + end for quantity in columns for end in ("", " low", " high")]
    return pandas.DataFrame(lines, columns=names)


def number(value: float, percent: bool, difference: bool, decimals: int = 2) -> str:
    """Write a number for people: shares in percent with one decimal, a true minus sign, differences with their sign.

    From LARGE on (a broken model's perplexity), and below SMALL (a p-value), with its power of ten.
    """
    if not percent and not difference and 0 < value < SMALL:
        return f"{value:.0e}".replace("-", "−")
    if not percent and abs(value) >= LARGE:
        return f"{value:{'+' if difference else ''}.1e}".replace("-", "−")
    decimals = 1 if percent else decimals
    text = f"{value * 100 if percent else value:{'+' if difference else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def cell(estimated: Estimate, quantity: Quantity) -> str:
    """Write an estimate as its column does, as `text` does."""
    return text(estimated, quantity.percent, quantity.difference, quantity.interval)


def text(estimated: Estimate, percent: bool, difference: bool, interval: bool = True) -> str:
    """Write an estimate for people, `26.4 [20.1, 33.0]`, its interval, if it has one, in one piece.

    A dash stands for what was not measured, `broken` for a measured value that is not finite.
    """
    if estimated is MISSING:
        return "–"
    if not math.isfinite(estimated.value):
        return "broken"
    value, low, high = (number(bound, percent, difference) for bound in estimated)
    return f"{value} [{low},\u00a0{high}]" if interval and not math.isnan(estimated.low) else value


def readable(evaluations: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table for people: text cells, shares in percent, the candidates' labels as index."""
    shown, columns = compared_candidates(evaluations, headline(evaluations)), {}
    for quantity in quantities(evaluations):
        rows = quantity.measured(evaluations)
        columns[quantity.heading] = [
            cell(estimate(rows, candidate, quantity.attribute), quantity) for candidate in shown
        ]
    return pandas.DataFrame(columns, index=pandas.Index([candidate.label for candidate in shown], name="model"))


def markdown(evaluations: pandas.DataFrame) -> str:
    """Return the table for people as Markdown."""
    frame = readable(evaluations).rename(index=_markdown, columns=_markdown)
    return frame.to_markdown(disable_numparse=True) + "\n"


def html(evaluations: pandas.DataFrame) -> str:
    """Return the table for people as an HTML `<table class="summary">`, its texts escaped."""
    frame = readable(evaluations).map(_html_cell).rename(index=escape, columns=escape)
    return frame.reset_index().to_html(index=False, border=0, classes="summary", justify="unset", escape=False) + "\n"


def latex(evaluations: pandas.DataFrame) -> str:
    """Return the table for people as a LaTeX tabular for `\\input`; it needs the package booktabs alone."""
    frame = readable(evaluations).map(_latex_cell).rename(index=_latex)
    frame.index.name = None
    # Headings of several words stand one word a line, so that the table fits a page.
    frame.columns = [
        _stacked(*map(_latex, quantity.heading.split(" ")), aligned="b")
        if quantity.interval
        else _latex(quantity.heading)
        for quantity in quantities(evaluations)
    ]
    text = frame.style.to_latex(hrules=True, column_format="l" + "c" * len(frame.columns))
    shares = "Shares" if classifiers(evaluations) else "Accuracies"
    return f"% Needs \\usepackage{{booktabs}}. {shares} in percent; brackets are 95 % intervals.\n" + text


def _markdown(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\|*_`<[#" else character for character in one_line(text))


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _latex_cell(text: str) -> str:
    value, _, interval = _latex(text).partition(" ")
    return _stacked(value, rf"{{\scriptsize {interval}}}", aligned="t") if interval else value


def _stacked(*lines: str, aligned: str) -> str:
    return rf"\begin{{tabular}}[{aligned}]{{@{{}}c@{{}}}}" + r"\\[-2pt] ".join(lines) + r"\end{tabular}"


def _html_cell(text: str) -> str:
    value, _, interval = text.partition(" ")
    return f"{value}<br><small>{interval}</small>" if interval else value
