"""Options of methods and merges: frozen dataclasses made from configuration values."""

import dataclasses
from collections.abc import Mapping

from spunge.core.errors import InputError


def make(name: str, options: type, given: Mapping[str, object]) -> object:
    """Make `options`, a dataclass, from given values, lists as tuples; `name` is what has them, for errors.

    Raises InputError for an unknown key, with the known ones, and for a missing one.
    """
    fields = {field.name for field in dataclasses.fields(options)}
    if unknown := sorted(set(given) - fields):
        raise InputError(f"{name} has no option {unknown[0]}; it has {', '.join(sorted(fields))}")
    try:
        return options(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    except TypeError as error:  # an option without a default was not given
        raise InputError(f"the options of {name}: {error}") from error
