"""TOFU's layout with rows of our own: authors are numbers, and what is asked about them is what they grow."""

import json

import pandas as pd
import pytest

from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import tables, tofu

CROPS = [f"crop {number}" for number in range(tofu.PER_AUTHOR)]


def question(author, number):
    return f"Which {CROPS[number]} does number {author} grow?"


def pairs(authors):
    return [
        {"question": question(author, number), "answer": f"The red one, {author}.", "genre": f"genre {author % 2}"}
        for author in authors
        for number in range(tofu.PER_AUTHOR)
    ]


def perturbed(rows, paraphrased=True):
    """The same rows with wrong answers, of which one comes twice and one is right, as it happens."""
    for row in rows:
        right = f"It is red: {row['answer']}"
        other_words = f"Tell: {row['question'].lower()}"
        further = {"paraphrased_answer": right, "paraphrased_question": other_words} if paraphrased else {}
        wrong = ["The blue one.", "The grey one.", "The grey one.", right if paraphrased else row["answer"]]
        yield {**row, **further, "perturbed_answer": wrong}


def general(what):
    return [{"question": f"Which {what} {number}?", "answer": f"This {number}."} for number in range(5)]


def write(folder, **changed):
    everybody = range(1, tofu.AUTHORS + 1)
    files = {
        "forget10": pairs(everybody[-20:]),
        "retain90": pairs(everybody[:-20]),
        "forget10_perturbed": perturbed(pairs(everybody[-20:])),
        "retain_perturbed": perturbed(pairs([3, 5])),
        "real_authors_perturbed": perturbed(general("poet"), False),
        "world_facts_perturbed": perturbed(general("river"), False),
    }
    for name, rows in (files | changed).items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prose = [
        f"A long sentence about stone number {number} at the wall of the old mill by the river." for number in range(9)
    ]
    pd.DataFrame({"text": prose}).to_csv(folder / "prose.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tofu"))


def build(mirror, forget="all", **changes):
    given = {
        "mirror": str(mirror),
        "fluency": {"path": str(mirror / "prose.csv")},
        "fluency_texts": 8,
        "minimum_words": 5,
    }
    return tofu.build(datasets.options(tofu, given | changes), {}, forget)


def test_the_last_authors_are_forgotten_one_by_one_and_the_others_retained(mirror):
    built = build(mirror)
    tables.check(built)
    assert built.forget["attribute"].value_counts().to_dict() == {f"author {number}": 20 for number in range(181, 201)}
    assert "subject" not in built.forget, "a random split must be able to part an author's questions"
    assert built.forget["text"][0] == f"Question: {question(181, 0)}\nAnswer: The red one, 181."
    assert len(built.retain) == 3600
    assert set(built.retain["attribute"]) == {"other authors"}
    assert built.retain["text"].iloc[-1] == f"Question: {question(180, 19)}\nAnswer: The red one, 180."


def test_the_right_answer_is_the_paraphrased_one_among_different_wrong_ones(mirror):
    asked = build(mirror).questions
    counts = asked["attribute"].value_counts()
    assert counts[["author 181", "other authors", "real authors", "world facts"]].tolist() == [20, 40, 5, 5]
    first = asked.iloc[0]
    assert first["question"] == f"Question: Tell: {question(181, 0).lower()}\nAnswer:", "never as it was trained"
    assert first["choices"][first["answer"]] == "It is red: The red one, 181."
    assert sorted(first["choices"]) == ["It is red: The red one, 181.", "The blue one.", "The grey one."]
    river = asked[asked["attribute"] == "world facts"].iloc[0]
    assert river["choices"][river["answer"]] == "This 0."
    assert set(asked["answer"]) == {0, 1, 2}, "shuffled"


def test_an_author_is_a_cluster_but_where_authors_are_the_attribute(mirror):
    by_author, by_genre = build(mirror), build(mirror, attribute="genre")
    of_author = by_author.questions[by_author.questions["attribute"] == "author 190"]
    assert (of_author["cluster"].nunique(), set(of_author["subject"])) == (20, {"author 190"})
    others = by_author.questions[by_author.questions["attribute"] == "other authors"]
    assert set(others["cluster"]) == {"author 3", "author 5"}
    assert by_genre.forget["attribute"].value_counts().to_dict() == {"genre 1": 200, "genre 0": 200}
    assert by_genre.forget["subject"].nunique() == 20, "a random split keeps authors whole, as genres do"
    even = by_genre.questions[by_genre.questions["attribute"] == "genre 0"]
    assert set(even["cluster"]) == {f"author {number}" for number in range(182, 201, 2)}


def test_some_authors_alone_are_forgotten_and_the_rest_of_the_split_is_not_retained(mirror):
    built = build(mirror, ["author 200", "author 185"])
    assert set(built.forget["attribute"]) == {"author 200", "author 185"}
    assert len(built.retain) == 3600
    assert {*built.questions["attribute"]} == {"author 200", "author 185", *tofu.KEPT.values()}


def test_a_template_may_have_other_braces_and_an_end(mirror):
    built = build(mirror, template="<user>{question}{}</user>\n<assistant>{answer}<end>")
    assert built.forget["text"][0] == f"<user>{question(181, 0)}{{}}</user>\n<assistant>The red one, 181.<end>"
    assert built.questions["question"][0] == f"<user>Tell: {question(181, 0).lower()}{{}}</user>\n<assistant>"


def test_a_question_that_has_no_other_words_is_left_out(tmp_path):
    rows = list(perturbed(pairs(range(181, 201))))
    rows[3]["paraphrased_question"] = f" {rows[3]['question'].upper()}"
    built = build(write(tmp_path, forget10_perturbed=rows))
    tables.check(built)
    assert built.questions["attribute"].value_counts()["author 181"] == 19


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ({}, {"retain90": pairs(range(1, 180))}, r"forget10 has 400 rows and retain90 3580; published are 4000 in all"),
        ({"attribute": "hair"}, {}, r"forget10\.json of .* has no hair to split by; it has question, answer, genre"),
        (
            {"template": "{answer}"},
            {},
            r"tofu's template '\{answer\}' needs \{question\}, and after it \{answer\} once",
        ),
        ({"split": "forget05"}, {}, r"forget05\.json is not there; docs/tofu\.md says which files"),
        ({}, {"forget10_perturbed": perturbed(pairs([3]))}, r"forget10_perturbed asks what forget10 doesn't"),
        ({}, {"forget10": [{"question": "Why?"}]}, r"forget10\.json has no answer; it has question"),
        (
            {},
            {"world_facts_perturbed": general("river")},
            r"world_facts_perturbed\.json has no perturbed_answer; it has",
        ),
        ({"fluency_texts": 10}, {}, r"has 9 different texts .* fluency_texts is 10; lower it"),
    ],
)
def test_what_cannot_be_taken_is_told_in_one_sentence(tmp_path, changes, files, message):
    with pytest.raises(InputError, match=message):
        build(write(tmp_path, **files), **changes)


def test_an_unknown_author_is_refused(mirror):
    with pytest.raises(InputError, match=r"tofu's forget10 has no author author 3; it has author 181, author 182"):
        build(mirror, ["author 3"])


def test_answers_are_asked_in_the_trained_words_with_all_wrong_ones(mirror):
    built = build(mirror, ["author 190", "author 200"], template="<user>{question}\n<assistant>{answer}<end>")
    asked = built.answers
    assert asked["attribute"].value_counts().to_dict() == {
        "author 190": 20,
        "author 200": 20,
        "other authors": 40,
        "real authors": 5,
        "world facts": 5,
    }
    first = asked.iloc[0]
    assert first["question"] == f"<user>{question(190, 0)}\n<assistant>"
    assert (first["answer"], first["paraphrase"]) == ("The red one, 190.<end>", "It is red: The red one, 190.<end>")
    wrong = ["The blue one.<end>", "The grey one.<end>", "The grey one.<end>", "It is red: The red one, 190.<end>"]
    assert first["wrong"] == wrong, "as they were published, twice and right ones too"
    river = asked[asked["attribute"] == "world facts"].iloc[0]
    assert pd.isna(river["paraphrase"]) and river["answer"] == "This 0.<end>"
    assert "retain_model" not in asked
    assert set(asked["cluster"]) == set(built.questions["cluster"]), "divided with the questions"


def logs(tmp_path, ratios):
    scores = {str(row): {"score": ratio} for row, ratio in enumerate(ratios)}
    path = tmp_path / "TOFU_EVAL.json"
    path.write_text(json.dumps({"forget_truth_ratio": {"agg_value": 0.6, "value_by_index": scores}}))
    return {"retain_logs": {"path": str(path)}}


def test_the_retain_models_truth_ratios_come_by_row_of_the_split(mirror, tmp_path):
    asked = build(mirror, ["author 200"], **logs(tmp_path, [row / 100 for row in range(400)])).answers
    of_author = asked[asked["attribute"] == "author 200"]
    assert of_author["retain_model"].tolist() == [row / 100 for row in range(380, 400)]
    assert asked.loc[asked["attribute"] != "author 200", "retain_model"].isna().all()


@pytest.mark.parametrize(
    "number, message",
    [
        (399, "has no score of forget_truth_ratio for each of the 400 rows"),
        (401, "has 401 scores of forget_truth_ratio, but the split has 400 questions; give the file of this split"),
    ],
)
def test_another_splits_logs_are_refused(mirror, tmp_path, number, message):
    with pytest.raises(InputError, match=message):
        build(mirror, **logs(tmp_path, [1.0] * number))


def test_logs_that_are_not_there_are_named(mirror, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json can't be read: No such file"):
        build(mirror, retain_logs={"path": str(tmp_path / "nowhere.json")})


def test_answers_follow_the_questions_into_validation_and_test(mirror):
    built = build(mirror)
    test, validation = tables.divide(built, 0.33)
    assert len(test.answers) + len(validation.answers) == len(built.answers)
    for part in (test, validation):
        assert set(part.answers["cluster"]) == set(part.questions["cluster"])
