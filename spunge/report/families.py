"""Families of methods, which share runs and differ in the factor λ on the task vectors: which to show, and its name."""

import pandas

from spunge.report.results_table import display_name, families


def reference_methods(evaluations: pandas.DataFrame) -> dict[str, str]:
    """Return each family's method with λ = 1, or else with the nearest: family → method, in the table's order."""
    family_of = families(evaluations)
    references: dict[str, str] = {}
    for method, (family, scale) in family_of.items():
        if family not in references or abs(scale - 1) < abs(family_of[references[family]][1] - 1):
            references[family] = method
    return references


def display_names(evaluations: pandas.DataFrame) -> dict[str, str]:
    """Return what people read for each method: its family, and its λ where that tells it from others or is not 1."""
    family_of = families(evaluations)
    names = {}
    for method, (family, scale) in family_of.items():
        alone = sum(other_family == family for other_family, _ in family_of.values()) == 1
        names[method] = display_name(family) if alone and scale == 1 else f"{display_name(family)}, λ = {scale:g}"
    return names
