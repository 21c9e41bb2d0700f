"""Merges of task vectors, one file each: `Options`, `prepare(shards, options)` and pure functions on tensors.

`prepare` returns the function that the driver calls with each parameter; see `spunge.merging.common`. The kind in the
configuration is the file's name.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType

from spunge.errors import InputError

KINDS = ("dare_linear", "dare_ties", "linear", "negmerge", "ties", "tsv")


def load(kind: str) -> ModuleType:
    """Return the merge's module; an unknown kind raises InputError with the known ones."""
    if kind not in KINDS:
        raise InputError(f"there is no merge {kind}; known are {', '.join(KINDS)}")
    return importlib.import_module(f"{__name__}.{kind}")


def options(kind: str, given: Mapping[str, object]) -> object:
    """Make the Options of a kind; an unknown key or a value out of range raises InputError with what would do."""
    made = load(kind).Options
    fields = sorted(field.name for field in dataclasses.fields(made))
    if unknown := sorted(set(given) - set(fields)):
        raise InputError(f"{kind} has no option {unknown[0]}; it has {', '.join(fields)}")
    return made(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
