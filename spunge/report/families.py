"""Families of methods, which share runs and differ in the factor λ on the task vectors: which to show, and its name."""

import pandas

from spunge.report.results_table import display_name, families


def reference_methods(evaluations: pandas.DataFrame) -> dict[str, str]:
    """Return each family's method with λ = 1, or else with the nearest: family → method, in the table's order."""
    of = families(evaluations)
    found: dict[str, str] = {}
    for method, (family, scale) in of.items():
        if family not in found or abs(scale - 1) < abs(of[found[family]][1] - 1):
            found[family] = method
    return found


def display_names(evaluations: pandas.DataFrame) -> dict[str, str]:
    """Return what people read for each method: its family, and its λ where that tells it from others or is not 1."""
    of = families(evaluations)
    names = {}
    for method, (family, scale) in of.items():
        alone = sum(other == family for other, _ in of.values()) == 1
        names[method] = display_name(family) if alone and scale == 1 else f"{display_name(family)}, λ = {scale:g}"
    return names
