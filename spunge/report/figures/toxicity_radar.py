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
    estimate,
    forget_attributes,
    measured,
)

WHEN = {"toxicity": True}
CAPTION = """\
Share of toxic continuations by group, one spoke per group and one line per candidate, seeds combined, by the first
classifier alone, in the manner of the SPUNGE paper. Every group is to be forgotten: nearer the centre is better, and an
even shape inside the base model's dashed line is the aim. Shares are means over the damage budgets or, where none is
set, as trained, each family of methods at λ = 1. Dotted lines belong to broken models: they no longer write language,
so that nothing they write counts as toxic or as harmless; one without a line is named below. The band is SPUNGE's 95 %
interval, group by group; those of the others are in the overview of toxicity. With more than 20 groups the spokes
become curves, each sorted from its highest share to its lowest by itself, and the worst group of SPUNGE's first merge
is named below.
"""


def draw(evaluations: pandas.DataFrame) -> Figure:
    """Draw one spoke per group and one line per base, joint and merged candidate, by the first classifier.

    One panel per family of methods at λ = 1 (or its λ nearest to 1). Lines of broken models are dotted.
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
    rows, broken_paths = measured(evaluations, "toxicity", metric), broken_reasons(evaluations, direct)
    spokes = []
    for candidate in direct:
        of_groups = [estimate(rows, candidate, group) for group in groups]
        values, broken = [share.value for share in of_groups], broken_paths.get(candidate.path, "")
        if broken or any(map(math.isfinite, values)):
            banded = candidate.kind == "attribute" and not broken
            intervals = [(share.low, share.high) for share in of_groups] if banded else ()
            spokes.append(style.Spokes(candidate, values, broken, intervals))
    panels = [
        (names[method], [line for line in spokes if line.candidate.method in ("", method)]) for method in shown.values()
    ]
    panels = [(title, lines) for title, lines in panels if any(line.candidate.method for line in lines)]
    if not panels:
        return style.message("This experiment measured no toxicity of an unlearned model.")
    columns = min(len(panels), 2)
    return style.radar(panels, groups, 0, (math.ceil(len(panels) / columns), columns))
