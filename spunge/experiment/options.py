"""Options of methods, merges, data sets and evaluations: frozen dataclasses made from configuration values.

An option is one field: its type with its limits and its meaning, and its default. The schema of the configuration is
written from these fields (schemas/generate.py), and pydantic checks them where a job makes its options.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from spunge.core.errors import InputError

# "60.0" and True are no numbers, and no number is infinite.
STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, regex_engine="python-re")

T = TypeVar("T")
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Tokens = Annotated[int, Field(ge=2)]  # nothing predicts a text's first token
# Whatever draws by it takes so much: PyTorch and NumPy's generators more, NumPy's older functions (vLLM) no more.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# Lists become tuples.
NonEmpty = Annotated[tuple[T, ...], Field(min_length=1, strict=False)]
Distinct = Annotated[tuple[T, ...], Field(min_length=1, strict=False, json_schema_extra={"uniqueItems": True})]
Steps = Annotated[
    Count,
    Field(
        description="Optimizer steps per shard; the joint run takes as many as all shards together, a shard of several "
        "attributes (`shards`) as many as theirs."
    ),
]
ModelDtype = Annotated[str, SkipJsonSchema()]  # a method is given it by the workflow: `model.dtype`


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values are checked; one that doesn't fit raises InputError."""
    made = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
    unchecked = made.__init__

    @functools.wraps(unchecked)
    def init(self, *values, **named):
        try:
            unchecked(self, *values, **named)
        except pydantic.ValidationError as error:
            raise InputError(_sentence(cls, error)) from error

    made.__init__ = init
    return made


def _sentence(cls: type, validation: pydantic.ValidationError) -> str:
    """Say in one sentence which option of a class doesn't fit, and what would do."""
    # A module has one class of that name, or several that are called what has the options.
    name = cls.__module__.rpartition(".")[2] if cls.__name__ == "Options" else cls.__name__
    errors = validation.errors(include_url=False)
    if missing := [error["loc"][0] for error in errors if error["type"] == "missing" and len(error["loc"]) == 1]:
        return f"{name} lacks the option {', '.join(missing)}"
    first, place = errors[0], errors[0]["loc"][0]
    option = place if isinstance(place, str) else dataclasses.fields(cls)[place].name  # given without its name
    inner = [str(key) for key in first["loc"][1:] if str(key).isidentifier() and str(key).islower()]
    # Where an option can be of several types, there is an error for each.
    same = [error for error in errors if error["loc"][0] == place and error["input"] is first["input"]]
    told = ", or ".join(f"{error['msg'][0].lower()}{error['msg'][1:]}" for error in same)
    return f"{name}'s {'.'.join([option, *inner])} is {first['input']!r}: {told}"


def make(name: str, options: type, given: Mapping[str, object]) -> object:
    """Make `options`, a dataclass, from given values, lists as tuples; `name` is what has them, for errors.

    Raises InputError for an unknown key, with the known ones, for a missing one, and for a value that doesn't fit.
    """
    fields = {field.name for field in dataclasses.fields(options)}
    if unknown := sorted(set(given) - fields):
        raise InputError(f"{name} has no option {unknown[0]}; it has {', '.join(sorted(fields))}")
    try:
        return options(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    except TypeError as error:  # a dataclass of the user's, in which an option without a default was not given
        raise InputError(f"the options of {name}: {error}") from error
