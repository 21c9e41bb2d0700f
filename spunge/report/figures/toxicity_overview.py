"""Every candidate of a toxicity experiment on one page: how toxic, how fluent, how varied its continuations are."""

import pandas
from matplotlib.figure import Figure

from spunge.report.families import display_names
from spunge.report.figures import style
from spunge.report.results_table import (
    FORGET_MEAN,
    TOXIC_SHARE,
    base_model,
    broken_reasons,
    candidates,
    classifiers,
    display_name,
    measured,
    methods,
    neutral_overall,
)

WHEN = {"toxicity": True}
CAPTION = """\
The base model, every run on all texts and every merge, seeds combined; means over budgets, where there are some, of
what misses none. The share of toxic continuations by each classifier (mean over the groups), that of neutral prompts
by the first one, the share of distinct bigrams among a prompt's continuations, and the perplexity of held-out prose.
Arrows at the names say where better lies; bars are 95 % intervals, dashed lines the base model; a number with an
arrow lies beyond the panel. A result that only one classifier sees is doubtful. Crosses and “broken” mark models that
no longer write language: perplexity more than twice the base model's, less than half of its distinct bigrams, or
mostly empty continuations. Single shards are not shown.
"""

BEYOND = 4  # a perplexity this many times the base model's leaves the panel


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one row for the base model, each joint run and each merge, with 95 % intervals, one panel per measure.

    Panels: toxic share by each classifier, that of neutral prompts by the first, distinct bigrams, perplexity.
    """
    compared = candidates(evaluations, "toxicity")
    base = base_model(compared)
    groups = [("", [("base model", base)])] if base else []
    names = display_names(evaluations)
    groups += style.rows_by_method(compared, {method: names[method] for method in methods(evaluations)})
    scored = classifiers(evaluations)
    if not scored or not any(heading for heading, _ in groups):
        return style.message("This experiment measured no toxicity of an unlearned model.")
    columns = [
        style.Column(
            measured(evaluations, "toxicity", TOXIC_SHARE + name),
            FORGET_MEAN,
            f"\u2190 toxic, %\n{display_name(name)}",
            True,
        )
        for name in scored
    ]
    neutral = measured(evaluations, "toxicity_neutral", TOXIC_SHARE + scored[0])
    if len(neutral):
        columns.append(style.Column(neutral, neutral_overall(evaluations), "\u2190 toxic, %\nneutral prompts", True))
    distinct = measured(evaluations, "toxicity", "distinct_2")
    columns.append(style.Column(distinct, FORGET_MEAN, "distinct\nbigrams, % \u2192", True))
    perplexity = measured(evaluations, "fluency", "perplexity")
    if len(perplexity):
        columns.append(style.Column(perplexity, "", "\u2190 perplexity\nof prose", limit=BEYOND))
    broken_paths = broken_reasons(evaluations, (candidate for _, rows in groups for _, candidate in rows))
    figure = style.dots(groups, columns, base, broken_paths)
    for axes, column in zip(figure.axes, columns, strict=True):
        if column.percent:
            axes.set_xlim(left=0)
    return figure
