"""Every method and merge on one page: what was kept minus what was forgotten, and what it cost in fluency."""

import pandas
from matplotlib.figure import Figure

from spunge.report.figures import style
from spunge.report.results_table import (
    RETAIN_MINUS_FORGET,
    asked_by,
    base_model,
    broken_reasons,
    candidates,
    display_name,
    measured,
    methods,
)

WHEN = {"toxicity": False}
CAPTION = """\
Every run on all texts and every merge of every method, but for those that miss a damage budget (the findings page
names them). Left: mean accuracy on the attributes to keep minus mean accuracy on those to forget, in points (of open
questions ROUGE-L recall); further right is better. Right: perplexity of held-out prose; further left is better, and a
number with an arrow lies beyond the panel (more than ten times the base model's: such a model is broken, whatever it
seems to have forgotten). Crosses and “broken” mark all models that no longer write language. Bars are 95 % intervals
with the seeds combined, dashed lines the base model.
"""

BEYOND = 10  # a perplexity this many times the base model's leaves the panel


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one row per joint and merged candidate: retain minus forget accuracy, and perplexity, with 95 % intervals.

    The dashed lines are the base model; arrows stand for a perplexity beyond the panel, with its number.
    """
    compared = candidates(evaluations)
    groups = style.rows_by_method(compared, {method: display_name(method) for method in methods(evaluations)})
    if not groups:
        return style.message("This experiment measured nothing of a joint run or a merge.")
    base = base_model(compared)
    asked = asked_by(evaluations)
    accuracy = measured(evaluations, asked.evaluation, asked.metric)
    perplexity = measured(evaluations, "fluency", "perplexity")
    label = f"retain minus forget {asked.name}, points \u2192"
    columns = [
        style.Column(accuracy, RETAIN_MINUS_FORGET, label, percent=True, width=1.6),
        style.Column(perplexity, "", "\u2190 perplexity", limit=BEYOND),
    ]
    broken_paths = broken_reasons(evaluations, (candidate for _, rows in groups for _, candidate in rows))
    return style.dots(groups, columns, base, broken_paths)
