"""Toxic share by group as a radar, the picture of the SPUNGE paper's first scenario."""

import math

import pandas
from matplotlib.figure import Figure

from spunge.report.families import display_names, reference_methods
from spunge.report.figures import style
from spunge.report.results_table import (
    TOXIC_SHARE,
    broken_reasons,
    candidates,
    classifiers,
    display_name,
    estimate,
    forget_attributes,
    measured,
)

WHEN = {"toxicity": True}
CAPTION = """\
Share of toxic continuations by group, one spoke per group and one line per candidate, seeds combined, by the first
classifier alone, in the manner of the SPUNGE paper. Every group is to be forgotten: nearer the centre is better, and an
even shape inside the base model's dashed line is the aim. Each family of methods stands at λ = 1 and, where several λ
were measured, also at equal fluency, where a split can't win by writing worse. Dotted lines belong to broken models:
they no longer write language, so that nothing they write counts as toxic or as harmless; one without a line is named
below. The radar shows shapes, not certainty: intervals are in the overview of toxicity and in the trade-off. With more
than 20 groups the spokes become curves, each sorted from its highest share to its lowest by itself, and the worst group
of SPUNGE's first merge is named below.
"""


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one spoke per group and one line per base, joint and merged candidate, by the first classifier.

    One panel per family of methods at λ = 1 (or its λ nearest to 1), and one at equal fluency where that was worked
    out. Lines of broken models are dotted.
    """
    scored = classifiers(evaluations)
    groups = forget_attributes(evaluations)
    shown = reference_methods(evaluations)
    if not scored or not shown:
        return style.message("This experiment measured no toxicity of an unlearned model.")
    if len(groups) < 3:
        return style.message("A radar needs at least three groups; see the overview of toxicity instead.")
    metric = TOXIC_SHARE + scored[0]
    names = display_names(evaluations)
    direct = [
        candidate
        for candidate in candidates(evaluations, "toxicity")
        if candidate.kind not in ("attribute_shard", "random_shard")
    ]
    equal = candidates(evaluations, "equal_fluency")

    def lines(compared: list, evaluation: str) -> list[style.Spokes]:
        rows = measured(evaluations, evaluation, metric)
        values = {candidate: [estimate(rows, candidate, group).value for group in groups] for candidate in compared}
        broken_paths = broken_reasons(evaluations, compared if evaluation == "toxicity" else ())
        return [
            style.Spokes(candidate, shares, broken_paths.get(candidate.path, ""))
            for candidate, shares in values.items()
            if candidate.path in broken_paths or any(map(math.isfinite, shares))
        ]

    panels = []
    for family, method in shown.items():
        title = names[method]
        panels.append(
            (title, lines([candidate for candidate in direct if candidate.method in ("", method)], "toxicity"))
        )
        of_base = [candidate for candidate in direct if candidate.kind == "base"]
        compared = lines([candidate for candidate in equal if candidate.method == family], "equal_fluency")
        if compared:
            panels.append((f"{display_name(family)}, equal fluency", [*lines(of_base, "toxicity"), *compared]))
    panels = [
        (title, lines_of_panel)
        for title, lines_of_panel in panels
        if any(line.candidate.kind != "base" for line in lines_of_panel)
    ]
    if not panels:
        return style.message("This experiment measured no toxicity of an unlearned model.")
    columns = min(len(panels), 2)
    return style.radar(panels, groups, 0, (math.ceil(len(panels) / columns), columns))
