"""Figures, one file each: `WHEN` it is drawn, its `CAPTION` in the report, and `draw(evaluations) -> Figure`.

`WHEN` names evaluations, with True where an experiment must have one and False where it must not; `shards` stands among
them for a method with several numbers of shards. `python rules/generate.py` writes down what the files say, for a plan.
"""

import importlib
import pkgutil
from types import ModuleType

SHARED = {"fonts", "style"}  # modules of this folder that are no figure


def known() -> list[str]:
    """Return the names of the figures that lie in this folder."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - SHARED)


def load(name: str) -> ModuleType:
    """Return the module of a figure by its name."""
    return importlib.import_module(f"{__name__}.{name}")
