"""Unlearning methods, one file each: `Options`, `unlearn(base, forget, retain, options, seed, device, label, states)`.

A method trains on the texts of one shard, starting from the base model, and returns the changed parameters' differences
in fp32 together with its losses. The name in the configuration is the file's name.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType

from spunge.errors import InputError


@dataclasses.dataclass(frozen=True)
class Unlearned:
    """What a method returns: `delta` maps parameter names to fp32 differences from the base model.

    `losses` has one row per recorded stretch of steps: `step` (steps done) and each loss's mean over the stretch.
    """

    delta: dict
    losses: list[dict[str, float]]


def known() -> list[str]:
    """Return the names of the methods that lie in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """Return the method's module; an unknown name raises InputError with the known ones."""
    if name not in known():
        raise InputError(f"there is no method {name}; known are {', '.join(known())}")
    return importlib.import_module(f"{__name__}.{name}")


def options(module: ModuleType, given: Mapping[str, object]) -> object:
    """Make the method's Options from configuration values; an unknown key raises InputError with the known ones."""
    fields = {field.name for field in dataclasses.fields(module.Options)}
    if unknown := sorted(set(given) - fields):
        raise InputError(
            f"{module.__name__.rpartition('.')[2]} has no option {unknown[0]}; it has {', '.join(sorted(fields))}"
        )
    return module.Options(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
