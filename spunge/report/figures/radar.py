"""Accuracy by attribute as a radar, the picture of the SPUNGE paper."""

import pandas
from matplotlib.figure import Figure

from spunge.report.figures import style
from spunge.report.results_table import (
    asked_by,
    broken_reasons,
    candidates,
    display_name,
    estimate,
    forget_attributes,
    measured,
    methods,
    retain_attributes,
)

WHEN = {"toxicity": False}
CAPTION = """\
Accuracy by attribute (of open questions ROUGE-L recall), one spoke per attribute and one line per candidate, seeds
combined, in the manner of the SPUNGE paper. Spokes on grey are to be forgotten: there a line should lie near the
centre; on white it should stay on the base model's dashed line. Dotted lines belong to broken models, and one without a
line is named below. The radar shows shapes, not certainty: its intervals are in the bars by attribute. With more than
20 attributes the spokes become curves, each sorted from its highest accuracy to its lowest by itself, and the worst
attribute of SPUNGE's first merge is named below.
"""


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one spoke per attribute and one line per base, joint and merged candidate, one panel per method.

    The spokes of the forget attributes stand on grey. Lines of broken models are dotted.
    """
    asked = asked_by(evaluations)
    accuracy = measured(evaluations, asked.evaluation, asked.metric)
    shown = [
        candidate for candidate in candidates(evaluations) if candidate.kind not in ("attribute_shard", "random_shard")
    ]
    asked = set(accuracy.index.get_level_values("attribute"))
    forget = [attribute for attribute in forget_attributes(evaluations) if attribute in asked]
    attributes = [*forget, *retain_attributes(evaluations)]
    broken_paths = broken_reasons(evaluations, shown)
    lines = {
        candidate: style.Spokes(
            candidate,
            [estimate(accuracy, candidate, attribute).value for attribute in attributes],
            broken_paths.get(candidate.path, ""),
        )
        for candidate in shown
    }
    panels = [
        (display_name(method), [line for candidate, line in lines.items() if candidate.method in ("", method)])
        for method in methods(evaluations)
    ]
    if not shown or not panels:
        return style.message("This experiment measured no accuracy of an unlearned model.")
    if len(attributes) < 3:
        return style.message("A radar needs at least three attributes; see the bars instead.")
    return style.radar(panels, attributes, len(forget), style.panels(len(panels)))
