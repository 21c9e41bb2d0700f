"""What the attacks draw: nothing that a text to relearn tells is asked, and all candidates get the same."""

import pandas as pd
import pytest

from spunge.core.errors import InputError
from spunge.core.tidy import COLUMNS
from spunge.evaluation import durability, relearning, statistics
from spunge.experiment import configuration

ATTRIBUTES = ["Africa", "Asia"]
SUBJECTS = {"Africa": [f"Land {n}" for n in range(12)], "Asia": [f"Isle {n}" for n in range(10)]}
SUBJECTS |= {"Europe": [f"Coast {n}" for n in range(8)]}
ASKED = ["What is {}?", "Name {}:"]
NO_QUESTIONS = pd.DataFrame({"subject": []}, dtype=str)


@pytest.fixture
def forget():
    """Three texts about each subject of the attributes to forget."""
    rows = [
        (f"Text {number} about {subject}.", attribute, subject)
        for attribute in ATTRIBUTES
        for subject in SUBJECTS[attribute]
        for number in range(3)
    ]
    return pd.DataFrame(rows, columns=["text", "attribute", "subject"])


@pytest.fixture
def questions():
    return table(ASKED)


def table(templates):
    rows = [
        (template.format(subject), ["a", "b", "c", "d"][: 4 if attribute == "Africa" else 2], 0, attribute, subject)
        for attribute, subjects in SUBJECTS.items()
        for subject in subjects
        for template in templates
    ]
    return pd.DataFrame(rows, columns=["question", "choices", "answer", "attribute", "subject"])


def test_texts_to_relearn_are_about_different_subjects_first(forget):
    texts = durability.relearning_texts(forget, ATTRIBUTES, 10, NO_QUESTIONS, seed=0)
    assert texts["attribute"].tolist() == ["Africa"] * 10 + ["Asia"] * 10
    assert texts.groupby("attribute")["subject"].nunique().to_dict() == {"Africa": 10, "Asia": 10}
    many = durability.relearning_texts(forget, ATTRIBUTES, 25, NO_QUESTIONS, seed=0)
    for _, own in many.groupby("attribute"):
        counts = own["subject"].value_counts()
        assert counts.max() - counts.min() <= 1
        assert own["text"].is_unique


def test_fewer_texts_are_the_first_of_more_and_a_seed_draws_others(forget):
    few, many = (durability.relearning_texts(forget, ATTRIBUTES, number, NO_QUESTIONS, seed=3) for number in (4, 9))
    for attribute in ATTRIBUTES:
        own = many[many["attribute"] == attribute].head(4)
        assert few.loc[few["attribute"] == attribute, "text"].tolist() == own["text"].tolist()
    other = durability.relearning_texts(forget, ATTRIBUTES, 9, NO_QUESTIONS, seed=4)
    assert other["text"].tolist() != many["text"].tolist()
    pd.testing.assert_frame_equal(durability.relearning_texts(forget, ATTRIBUTES, 9, NO_QUESTIONS, seed=3), many)


def test_the_draw_of_an_attribute_rests_on_its_own_texts_alone(forget):
    alone = durability.relearning_texts(forget[forget["attribute"] == "Asia"], ["Asia"], 5, NO_QUESTIONS, seed=0)
    among = durability.relearning_texts(forget, ATTRIBUTES, 5, NO_QUESTIONS, seed=0)
    assert alone["text"].tolist() == among.loc[among["attribute"] == "Asia", "text"].tolist()


def test_texts_without_subjects_are_drawn_once_each(forget):
    texts = durability.relearning_texts(forget.drop(columns="subject"), ATTRIBUTES, 30, NO_QUESTIONS, seed=0)
    assert list(texts.columns) == ["attribute", "text"]
    assert set(texts["text"]) <= set(forget["text"]) and texts["text"].is_unique


def test_without_relearning_nothing_is_taught(forget):
    assert len(durability.relearning_texts(forget, ATTRIBUTES, 0, NO_QUESTIONS, seed=0)) == 0


def test_states_are_compared_on_a_sample_of_each_attribute(forget):
    many = pd.concat([forget.assign(text=forget["text"] + f" ({n})") for n in range(3)], ignore_index=True)
    sampled = durability.sample_texts(many, ATTRIBUTES, seed=0)
    assert sampled["attribute"].value_counts().to_dict() == {"Africa": 64, "Asia": 64}
    assert set(sampled["text"]) <= set(many["text"]) and sampled["text"].is_unique
    assert len(durability.sample_texts(forget, ATTRIBUTES, seed=0)) == len(forget)


def test_more_texts_than_there_are(forget):
    with pytest.raises(InputError, match=r"relearn\.texts is 31, but Asia has 30 texts: take fewer"):
        durability.relearning_texts(forget, ATTRIBUTES, 31, NO_QUESTIONS, seed=0)


def test_unrelated_texts_name_nothing_that_is_asked(questions):
    prose = [f"On day {n} it rained." for n in range(6)]
    retain = pd.DataFrame({"text": [*prose, "They saw Coast 3.", "Land 1 is far.", "The Land 15 Society met."]})
    texts = durability.unrelated_texts(retain, questions["subject"], 7, seed=0)
    assert set(texts["text"]) == {*prose, "The Land 15 Society met."}, "whole words count, not parts of them"
    assert set(texts["attribute"]) == {durability.UNRELATED}
    with pytest.raises(InputError, match="only 7 retain texts name no subject"):
        durability.unrelated_texts(retain, questions["subject"], 8, seed=0)


@pytest.mark.parametrize(
    "named",
    [
        "We met in Washington, D.C. in May.",
        "PERU is far.",
        "(Robert Downey Jr.)",
        "It says ¡Uno! there.",
        "Sa\u0303o Tome\u0301 is an island.",  # decomposed
        "我去年住在日本的一个小镇。",  # no space between words
    ],
)
def test_no_unrelated_text_names_a_subject_in_capitals_or_with_punctuation_at_its_end(named):
    subjects = ["Washington, D.C.", "Peru", "Robert Downey Jr.", "¡Uno!", "S\u00e3o Tom\u00e9", "日本"]
    retain = pd.DataFrame({"text": [named, "A peruke is worn.", "Unopened letters lay there."]})
    assert named not in set(durability.unrelated_texts(retain, subjects, 2, seed=0)["text"])
    with pytest.raises(InputError, match="only 2 retain texts name no subject"):
        durability.unrelated_texts(retain, subjects, 3, seed=0)


def test_nothing_that_was_taught_is_asked(forget, questions):
    texts = durability.relearning_texts(forget, ATTRIBUTES, 5, questions, seed=0)
    asked = durability.questions_to_ask(questions, durability.told(questions, texts), None, seed=0)
    taught = set(texts["subject"])
    assert len(taught) == 10 and not set(asked["subject"]) & taught
    assert asked["attribute"].value_counts().to_dict() == {"Africa": 14, "Asia": 10, "Europe": 16}
    assert questions.iloc[asked["row"]]["question"].tolist() == asked["question"].tolist()


def test_at_most_so_many_questions_in_the_tables_order(questions):
    nothing = pd.Series(False, index=questions.index)
    durability.check_asked(questions, questions["attribute"].unique())
    with pytest.raises(InputError, match="comes back, but none is about elsewhere, which is to be forgotten"):
        durability.check_asked(questions, ["elsewhere"])
    asked = durability.questions_to_ask(questions, nothing, 7, seed=0)
    assert asked["attribute"].value_counts().to_dict() == {"Africa": 7, "Asia": 7, "Europe": 7}
    assert asked["row"].is_monotonic_increasing
    pd.testing.assert_frame_equal(durability.questions_to_ask(questions, nothing, 7, seed=0), asked)
    assert durability.questions_to_ask(questions, nothing, 7, seed=1)["row"].tolist() != asked["row"].tolist()
    assert len(durability.questions_to_ask(questions, nothing, 1000, seed=0)) == len(questions)


def test_texts_about_everything_leave_no_question(forget, questions):
    texts = durability.relearning_texts(forget, ATTRIBUTES, 10, questions, seed=0)
    with pytest.raises(InputError, match="of every question about Asia, so that none is left: take fewer"):
        durability.questions_to_ask(questions, durability.told(questions, texts), None, seed=0)


def test_texts_keep_to_few_clusters_and_no_other_city_of_theirs_is_asked_about():
    """Twelve lands of three cities each: six texts are about two lands, or three, whose cities are all left out."""
    cities = [(f"City {land} {number}", f"Land {land}") for land in range(12) for number in range(3)]
    forget = pd.DataFrame([(f"{city} lies in {land}.", "Africa", city) for city, land in cities])
    forget.columns = ["text", "attribute", "subject"]
    questions = pd.DataFrame({"subject": [city for city, _ in cities], "cluster": [land for _, land in cities]})
    lands = sorted(set(questions["cluster"]))
    questions = questions.assign(question="Where?", attribute="Africa", choices=[lands] * len(questions))
    questions["answer"] = questions["cluster"].map(lands.index)
    texts = durability.relearning_texts(forget, ["Africa"], 6, questions, seed=0)
    of_texts = {land for city, land in cities if city in set(texts["subject"])}
    assert texts["subject"].is_unique and len(of_texts) == 2
    told = durability.told(questions, texts)
    assert set(questions.loc[told, "cluster"]) == of_texts and told.sum() == 6


def test_a_question_whose_answer_a_text_of_its_attribute_names_is_left_out():
    questions = pd.DataFrame({"subject": ["Brazil", "Angola", "Chile", "Peru"], "answer": [0, 0, 1, 1]})
    questions = questions.assign(choices=[["Portuguese", "Spanish"]] * 4, attribute=["a", "a", "a", "b"])
    texts = pd.DataFrame({"text": ["They speak portuguese in Brazil.", "Spanishness is a word."], "attribute": "a"})
    assert durability.told(questions, texts).tolist() == [True, True, False, False]
    assert durability.told(questions, texts.assign(subject=["Peru", "x"])).tolist() == [True, True, False, True]
    assert durability.told(questions, texts.assign(attribute="b")).tolist() == [False] * 4


def test_rephrased_questions_are_about_the_same_subjects(questions):
    asked = durability.questions_to_ask(questions, questions["subject"].isin(["Land 0", "Isle 4"]), 6, seed=0)
    rephrased = durability.rephrased_questions(table(["Tell {}:", "Which is {}?"]), asked, None, seed=0)
    subjects = set(asked["subject"])
    assert set(rephrased["subject"]) == subjects and len(rephrased) == 2 * len(subjects)
    assert not set(rephrased["question"]) & set(questions["question"])
    assert (durability.rephrased_questions(rephrased, asked, 3, seed=0)["attribute"].value_counts() == 3).all()
    other = rephrased.assign(subject=rephrased["subject"].str.upper())
    with pytest.raises(InputError, match="table rephrased asks nothing of Africa"):
        durability.rephrased_questions(other, asked, None, seed=0)


def test_what_is_asked_is_described(questions):
    told = questions["subject"].isin(["Land 0", "Land 1", "Isle 4"])
    rows = durability.describe("mine", questions, told, durability.questions_to_ask(questions, told, 9, seed=0))
    assert list(rows.columns) == COLUMNS
    values = rows.set_index(["attribute", "metric"])["value"].to_dict()
    assert values["Africa", "questions"] == values["Asia", "questions"] == values["Europe", "questions"] == 9
    assert (values["Africa", "left_out"], values["Asia", "left_out"], values["Europe", "left_out"]) == (4, 2, 0)
    assert (values["Africa", "chance"], values["Asia", "chance"]) == (0.25, 0.5)


def test_own_other_and_unrelated_texts_are_told_apart():
    """Three attributes to forget (a, b, c) and one to retain, one question each, by hand."""
    questions = pd.DataFrame({"attribute": list("abcr"), "subject": list("1234")})
    accuracy = {"a": [1, 0, 1, 1], "b": [0, 0, 0, 1], "c": [1, 1, 0, 0], durability.UNRELATED: [0, 1, 0, 1]}
    found = relearning.combine(accuracy, questions)
    assert found["forget"]["accuracy"].tolist() == [1, 0, 0, pytest.approx(2 / 3)]
    assert found["other"]["accuracy"].tolist() == [0.5, 0.5, 0.5, pytest.approx(2 / 3)]
    assert found["unrelated"]["accuracy"].tolist() == [0, 1, 0, 1]
    assert all(
        list(one["attribute"]) == list("abcr") and list(one["subject"]) == list("1234") for one in found.values()
    )


def test_one_attribute_has_no_other():
    questions = pd.DataFrame({"attribute": list("ar"), "subject": list("12")})
    found = relearning.combine({"a": [1, 0], durability.UNRELATED: [0, 0]}, questions)
    assert set(found) == {"forget", "unrelated"}
    section = {"relearn": {"texts": [50, 10]}, "quantise": [8, 4], "open_ended": True, "ablate": False}
    assert configuration.durability_evaluations(section, ["a"]) == {
        "relearn": ["relearned_forget_10", "relearned_unrelated_10", "relearned_forget_50", "relearned_unrelated_50"],
        "quantise": ["quantised_8", "quantised_4"],
        "rephrase": ["open_ended"],
        "ablate": [],
    }
    assert "relearned_other_10" in configuration.durability_evaluations(section, "all")["relearn"]


def test_attacks_have_knowledges_statistics():
    """Relearning after several other attributes gives shares of answers, which are averaged as answers are."""
    scores = pd.DataFrame({"attribute": ["a", "a", "r", "r"], "cluster": list("wxyz")})
    scores = scores.assign(accuracy=[0.5, 1.0, 0.0, 1.0], experiment="mine", candidate="base", method="", split="")
    scores = scores.assign(shard="", merge="", seed="all", budget="")
    attributes = statistics.attributes(scores, [{"attribute": "a"}])
    rows = statistics.estimates(scores, "relearned_other_10", attributes).set_index("attribute")
    assert set(rows["metric"]) == {"accuracy"} and set(rows["evaluation"]) == {"relearned_other_10"}
    means = rows.loc[["forget mean", "retain mean", "retain minus forget"], "value"]
    assert means.tolist() == [0.75, 0.5, -0.25]
    assert rows.loc["forget worst", "value"] == 0.75


def test_what_any_text_tells_of_a_cluster_or_an_answer_is_left_out():
    """Of Kenya's cities one is relearned, of Peru the land itself, and the last text names Rome."""
    questions = pd.DataFrame({"subject": ["Kisumu", "Mombasa", "Cusco", "Turin", "Oslo"], "attribute": "a"})
    questions = questions.assign(cluster=["Kenya", "Kenya", "Peru", "Italy", "Norway"], answer=[0, 0, 1, 2, 3])
    questions = questions.assign(choices=[["Nairobi", "Lima", "Rome", "Bergen"]] * 5)
    texts = pd.DataFrame({"text": ["A lake.", "A land.", "All roads lead to Rome."], "attribute": "a"})
    texts = texts.assign(subject=["Kisumu", "Peru", "x"])
    assert durability.told(questions, texts).tolist() == [True, True, True, True, False]


def test_chance_is_the_mean_over_questions_of_one_over_their_choices():
    questions = pd.DataFrame({"attribute": "a", "subject": list("xy"), "choices": [["1", "2"], list("12345678")]})
    rows = durability.describe("mine", questions, pd.Series([False, False]), questions)
    assert rows.set_index("metric").loc["chance", "value"] == (1 / 2 + 1 / 8) / 2
