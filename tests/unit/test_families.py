"""Families of models through all methods, as the table in docs/methods.md says."""

import families
import pytest


@pytest.fixture(scope="module", params=families.FAMILIES)
def case(request, tmp_path_factory):
    folder, family = tmp_path_factory.mktemp("family"), families.FAMILIES[request.param]
    return request.param, families.Case(family, family.build(folder), folder)


def test_the_page_tells_what_each_method_makes_of_a_family(case):
    name, of_family = case
    found = families.row(name, [families.outcome(of_family, way) for way in families.WAYS])
    assert found in families.PAGE.read_text().splitlines(), "run python tests/families.py"
