import hashlib
import itertools
import re

import pytest

from spunge.core.slugs import folded, slug, slugs

NASTY = [
    "../x",
    "a/b",
    "a-b",
    "a b",
    "Côte d'Ivoire",
    "Cote-d-Ivoire",
    "🙂",
    "🙃",
    "",
    ".",
    "..",
    "-x",
    "x" * 65,
    "x" * 66,
    "\udce9",
]


@pytest.mark.parametrize(
    "spelling",
    ["Café au lait", " CAFE\u0301\tau\xa0 lait\n", "ｃａｆé AU lait", "\ufeffCa\u00adfé\u200b au\u2060 lait"],
)
def test_spellings_of_one_name_fold_to_one(spelling):
    assert folded(spelling) == "café au lait"


def test_different_names_stay_different():
    assert folded("Straße") == folded("STRASSE") != folded("Strase")
    assert folded("a b") != folded("ab")


@pytest.mark.parametrize("plain", ["Africa", "0", "middle_east", "a-b", "x" * 64])
def test_plain_names_stay(plain):
    assert slug(plain) == plain


def test_hash_is_that_of_the_original():
    digest = hashlib.sha256("Côte d'Ivoire".encode()).hexdigest()
    assert slug("Côte d'Ivoire") == f"Cote-d-Ivoire-{digest[:10]}"


def test_nasty_values_become_distinct_safe_components():
    names = [slug(value) for value in NASTY]
    assert len(set(names)) == len(NASTY)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) for name in names)


def test_values_that_differ_by_case_stay_apart_on_any_file_system():
    names = slugs(["Asia", "asia", "Africa"])
    assert names["Africa"] == "Africa"
    assert len({name.casefold() for name in names.values()}) == 3


def test_a_value_that_imitates_a_hashed_name_does_not_meet_it():
    names = slugs(["a/b", slug("a/b")])
    assert len(set(names.values())) == 2


def test_order_and_repetition_do_not_matter():
    values = ["Asia", "asia", "a/b", "ties"]
    expected = slugs(values)
    assert all(slugs(order) == expected for order in itertools.permutations(values))
    assert slugs([*values, "Asia"]) == expected
