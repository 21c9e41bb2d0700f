"""Merges of task vectors, one file each: `Options`, `prepare(shards, options)` and pure functions on tensors.

`prepare` returns the function that the driver calls with each parameter; see `spunge.merging.common`. The kind in the
configuration is the file's name.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType

from spunge.core.errors import InputError
from spunge.experiment.options import make

KINDS = ("dare_linear", "dare_ties", "linear", "negmerge", "ties", "tsv")


def load(kind: str) -> ModuleType:
    """Return the merge's module; an unknown kind raises InputError with the known ones."""
    if kind not in KINDS:
        raise InputError(f"there is no merge {kind}; known are {', '.join(KINDS)}")
    return importlib.import_module(f"{__name__}.{kind}")


def options(kind: str, given: Mapping[str, object]) -> object:
    """Make the Options of a kind; an unknown key or a value out of range raises InputError with what would do."""
    return make(kind, load(kind).Options, given)
