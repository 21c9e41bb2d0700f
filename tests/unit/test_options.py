"""Options are checked where they are made: wrong types, values out of range and unknown names end in one sentence."""

import dataclasses
import math
from typing import Annotated, get_type_hints

import pytest
from pydantic import Field

from spunge.core.errors import InputError
from spunge.datasets import table
from spunge.datasets.tables import ASKED, COLUMNS
from spunge.experiment.options import Count, NonEmpty, Positive, checked, make


@checked
class Options:
    size: Annotated[Count, Field(description="How many.")]
    rates: Positive | NonEmpty[Positive] = 0.5

    def __post_init__(self):
        if self.size == 13:
            raise InputError("13 is no size")


@dataclasses.dataclass(frozen=True)
class OfAUser(Options):
    floor: float = 6.0


def test_values_become_what_they_are_declared_to_be():
    assert Options(2, 1).rates == 1.0
    assert Options(2, [1, 2.5]).rates == (1.0, 2.5)
    assert dataclasses.replace(Options(2), size=3) == Options(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options(2).size = 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "lacks the option size"),
        ({"size": "60"}, "size is '60': input should be a valid integer"),
        ({"size": True}, "size is True: input should be a valid integer"),
        ({"size": 60.0}, r"size is 60\.0: input should be a valid integer"),
        ({"size": 0}, "size is 0: input should be greater than or equal to 1"),
        ({"size": 1, "rates": math.inf}, "rates is inf: input should be a finite number"),
        ({"size": 1, "rates": []}, "rates is .*: input should be a valid number, or tuple should have at least 1 item"),
        ({"size": 1, "rate": 1}, "rate is 1: unexpected keyword argument"),
        ({"size": 13}, "^13 is no size$"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(given, message):
    with pytest.raises(InputError, match=message) as refused:
        Options(**given)
    assert "\n" not in str(refused.value)
    if "rate" not in given:
        with pytest.raises(InputError, match=message):
            make("mine", Options, given)


def test_a_plain_dataclass_of_a_users_may_extend_options():
    assert make("mine", OfAUser, {"size": 2, "floor": 5.0}) == OfAUser(2, 0.5, 5.0)
    with pytest.raises(InputError, match="mine has no option flor; it has floor, rates, size"):
        make("mine", OfAUser, {"flor": 5.0})
    with pytest.raises(InputError, match="13 is no size"):
        make("mine", OfAUser, {"size": 13})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(table.Options)])
def test_every_column_of_a_table_can_be_mapped(name):
    keys = {"forget": table.Forget, "prompts": table.Prompts, "answers": table.Answers}.get(name)
    keys = keys or (table.Questions if name in ASKED else table.Prose)
    assert set(COLUMNS[name]) <= set(get_type_hints(keys))
