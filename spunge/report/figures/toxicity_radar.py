"""Toxic share by group as a radar, the picture of the SPUNGE paper's first scenario."""

import math

import pandas
from matplotlib.figure import Figure

from spunge.report.families import display_names, reference_methods
from spunge.report.figures import style
from spunge.report.results_table import (
    TOXIC_SHARE,
    candidates,
    classifiers,
    display_name,
    estimate,
    forget_attributes,
    measured,
)


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
    direct = [one for one in candidates(evaluations, "toxicity") if one.kind not in ("shard", "part")]
    equal = candidates(evaluations, "equal_fluency")

    def lines(found: list, evaluation: str) -> list[style.Spokes]:
        rows = measured(evaluations, evaluation, metric)
        values = {one: [estimate(rows, one, group).value for group in groups] for one in found}
        wrecked = style.broken_ones(evaluations, found if evaluation == "toxicity" else ())
        return [
            style.Spokes(one, own, wrecked.get(one.path, ""))
            for one, own in values.items()
            if one.path in wrecked or any(map(math.isfinite, own))
        ]

    panels = []
    for family, method in shown.items():
        title = names[method]
        panels.append((title, lines([one for one in direct if one.method in ("", method)], "toxicity")))
        of_base = [one for one in direct if one.kind == "base"]
        compared = lines([one for one in equal if one.method == family], "equal_fluency")
        if compared:
            panels.append((f"{display_name(family)}, equal fluency", [*lines(of_base, "toxicity"), *compared]))
    panels = [(title, own) for title, own in panels if any(line.candidate.kind != "base" for line in own)]
    if not panels:
        return style.message("This experiment measured no toxicity of an unlearned model.")
    columns = min(len(panels), 2)
    return style.radar(panels, groups, 0, (math.ceil(len(panels) / columns), columns))
