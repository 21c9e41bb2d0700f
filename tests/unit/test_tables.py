import hashlib
import traceback
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest

from spunge.core import slugs, tidy
from spunge.core.errors import InputError
from spunge.datasets import tables

SECRET = "a text that must not be shown"


@pytest.fixture
def good():
    return tables.Tables(
        forget=pd.DataFrame({"text": [SECRET, "Nairobi lies in Kenya."], "attribute": ["A", "B"]}),
        retain=pd.DataFrame({"text": ["Rome lies in Italy.", "Prose."]}),
        questions=pd.DataFrame(
            {
                "question": ["The capital of Kenya is", "The capital of Italy is"],
                "choices": [["Nairobi", "Accra"], ["Bern", "Rome"]],
                "answer": [0, 1],
                "attribute": ["B", "C"],
                "subject": ["Kenya", "Italy"],
            }
        ),
        fluency=pd.DataFrame({"text": ["It was a dark and stormy night."]}),
    )


def changed(good, table, column, values):
    return replace(good, **{table: getattr(good, table).assign(**{column: values})})


def test_good_tables_pass(good):
    tables.check(good)


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("forget", "text", [SECRET, " "], r"forget, column text: 1 of 2 rows \(first: row 2\) are empty"),
        ("forget", "text", [SECRET, None], r"forget, column text: 1 of 2 rows \(first: row 2\) are missing"),
        ("forget", "attribute", [float("nan"), "B"], r"column attribute: 1 of 2 rows \(first: row 1\) are missing"),
        ("forget", "text", ["x", 2], r"column text: 1 of 2 rows \(first: row 2\) hold int values; strings are needed"),
        ("retain", "text", ["x", ""], "table retain, column text: 1 of 2 rows"),
        ("questions", "answer", [0, 2], r"answer: 1 of 2 rows \(first: row 2\) are out of range"),
        ("questions", "answer", [-1, 1], "out of range"),
        ("questions", "answer", [0.5, 1], "float64 values; indices"),
        (
            "questions",
            "choices",
            [["a", "a"], ["b", "c"]],
            r"1 of 2 rows \(first: row 1\) come with the same choice twice",
        ),
        ("questions", "choices", [["a", "d"], ["b"]], "fewer than two choices"),
        ("questions", "choices", [["a", None], ["b", "c"]], "with a choice that is missing"),
    ],
)
def test_bad_values_are_one_sentence_without_the_text(good, table, column, values, message):
    with pytest.raises(InputError, match=message) as caught:
        tables.check(changed(good, table, column, values))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_column_names_the_ones_there(good):
    with pytest.raises(InputError, match="table forget has no column attribute; it has text, topic"):
        tables.check(replace(good, forget=good.forget.rename(columns={"attribute": "topic"})))


def test_no_rows(good):
    with pytest.raises(InputError, match="table fluency has no rows"):
        tables.check(replace(good, fluency=good.fluency.iloc[:0]))


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("forget", "x: THE capital  of\nKenya is Nairobi", r"questions: 1 of 2 rows \(first: row 1\).*forget row 2"),
        ("retain", "Well, the capital of Italy is Rome", r"questions: 1 of 2 rows \(first: row 2\).*retain row 2"),
        ("retain", "Well, the \uff43apital of Italy is Rome", r"questions: 1 of 2 rows \(first: row 2\).*retain row 2"),
        ("retain", "So: It was a dark and stormy night. Then", "table fluency: 1 of 1 rows.*retain row 2"),
        ("forget", "It was a dark and stormy night.", "table fluency: 1 of 1 rows.*forget row 2"),
    ],
)
def test_leakage(good, table, text, message):
    first = getattr(good, table)["text"].iloc[0]
    with pytest.raises(InputError, match=message):
        tables.check(changed(good, table, "text", [first, text]))


def test_rephrased_questions_must_not_be_trained_on_either(good):
    rephrased = good.questions.assign(question=["Which is Kenya's?", "Name the one of Italy"])
    tables.check(replace(good, rephrased=rephrased))
    leaking = rephrased.assign(question=["Which is Kenya's?", good.retain["text"].iloc[0]])
    with pytest.raises(InputError, match=r"table rephrased: 1 of 2 rows \(first: row 2\).*retain row 1"):
        tables.check(replace(good, rephrased=leaking))


@pytest.mark.parametrize(
    ("changes", "wanted", "message"),
    [
        # Case, blanks, a no-break space, full width, and letters composed and decomposed.
        (
            {"questions": ["b", "C"]},
            "all",
            r"table forget \(row 2\) has .* 'B' and table questions \(row 1\) 'b'",
        ),
        ({"questions": ["C", "B\r"]}, "all", r"table questions \(row 2\) has the attribute 'B\\r', which holds a carr"),
        (
            {"questions": ["C", "B "]},
            "all",
            r"'B' and table questions \(row 2\) 'B ', which differ by case, white",
        ),
        ({"forget": ["A\xa0a", "A a"]}, "all", r"table forget \(row 1\) .* 'A\\xa0a' and table forget \(row 2\) 'A a'"),
        ({"questions": ["B", "\uff22"]}, "all", "'B' and table questions"),
        ({"forget": ["Cafe\u0301", "B"]}, ["Caf\xe9"], r"data.forget has .* 'Caf\\xe9' and .* \(row 1\) 'Cafe\\u0301'"),
        ({"forget": ["A ", "A "]}, ["A"], r"data.forget has the attribute 'A' and table forget \(row 1\) 'A ', which"),
        ({"prompts": ["a", "B", "B", ""]}, "all", r"'A' and table prompts \(row 1\) 'a'"),
        (
            {"rephrased": ["B", "c"]},
            "all",
            r"table questions \(row 2\) has .* 'C' and table rephrased .* 'c'",
        ),
        (
            {"questions": ["B", "Retain  Mean"]},
            "all",
            r"table questions \(row 2\) has .* 'Retain  Mean', a name",
        ),
        ({"forget": ["forget mean", "B"]}, "all", "a name that the results need"),
        ({"prompts": ["A", "retain minus forget", "B", ""]}, "all", "a name that the results need"),
        ({}, ["Forget Mean"], "data.forget has the attribute 'Forget Mean', a name that"),
    ],
)
def test_an_attribute_has_one_spelling_and_no_name_of_the_results(prompted, changes, wanted, message):
    rephrased = prompted.questions.assign(question=["Which is Kenya's?", "Name the one of Italy"])
    every = replace(prompted, rephrased=rephrased)
    tables.check(every)
    for table, attributes in changes.items():
        every = changed(every, table, "attribute", attributes)
    with pytest.raises(InputError, match=message):
        tables.check(every, wanted)


def test_reserved_names_are_those_of_the_results():
    labels = {tidy.FORGET_MEAN, tidy.WORST_FORGET, tidy.RETAIN_MEAN, tidy.RETAIN_MINUS_FORGET}
    assert set(tidy.RESERVED) == labels == {slugs.folded(name) for name in tidy.RESERVED}


def test_every_attribute_to_forget_is_asked_about(good):
    about_b = "no question for the attribute A, which is to be forgotten; it has some for B, C"
    tables.select(good, ["B"], 1)
    for table in ("questions", "rephrased"):
        with pytest.raises(InputError, match=f"table {table} has {about_b}"):
            tables.select(replace(good, **({"questions": None} | {table: good.questions})), "all", 1)
    alone = replace(good, questions=None)
    tables.select(alone, "all", 1)
    tables.select(alone, "all", 1, ["B", "A"])
    with pytest.raises(InputError, match=r"evaluations.benchmarks.forget has no task for the attribute A, .* for B"):
        tables.select(alone, "all", 1, ["B"])


def test_questions_may_be_about_what_is_kept_alone_where_prompts_ask(prompted):
    kept = changed(prompted, "questions", "attribute", ["C", "C"])
    tables.select(kept, "all", 1)
    with pytest.raises(InputError, match="no question for the attribute A, B, which"):
        tables.select(replace(kept, prompts=None), "all", 1)


def test_no_text_is_forgotten_and_kept_nor_under_two_attributes(good):
    kept = changed(good, "retain", "text", ["Prose.", "nairobi LIES\tin Kenya. "])
    with pytest.raises(InputError, match=r"forget: 1 of 2 rows .*\(row 2 in retain row 2\); no text can be forgotten"):
        tables.check(kept)
    twice = changed(good, "forget", "text", ["Nairobi  lies in Kenya.", "Nairobi lies in Kenya."])
    told = r"forget: 2 of 2 rows \(first: row 1\) have a text that stands under several .* \(A in row 1, B in row 2\)"
    with pytest.raises(InputError, match=told) as caught:
        tables.check(twice)
    assert "Nairobi" not in str(caught.value)
    tables.check(changed(twice, "forget", "attribute", ["B", "B"]))


@pytest.mark.parametrize("table", ["questions", "rephrased"])
def test_no_question_stands_under_two_attributes(good, table):
    """With the same choices, in whatever order; with others it is another question."""
    asked = good.questions.assign(question=["Which is right?", "which IS  right?"])
    tables.check(replace(good, **{table: asked}))
    same = asked.assign(choices=[["Nairobi", "Accra"], ["Accra", "Nairobi"]])
    with pytest.raises(InputError, match=rf"table {table}: 2 of 2 rows .* \(B in row 1, C in row 2\); leave it to one"):
        tables.check(replace(good, **{table: same}))
    tables.check(replace(good, **{table: same.assign(attribute="B")}))


@pytest.mark.parametrize(
    ("answers", "choices", "expected"),
    [
        # Four choices: more than (1 + 1/4) / 2 = 5/8 at one place.
        ([0, 0, 0, 0, 0, 1, 2, 3], 4, None),
        ([2, 2, 2, 2, 2, 2, 1, 3], 4, (2, 0.75)),
        ([1, 1, 1, 0], 2, None),
        ([1, 1, 1, 1, 0], 2, (1, 0.8)),
    ],
)
def test_answers_that_stand_mostly_in_one_place(answers, choices, expected):
    questions = pd.DataFrame({"answer": answers, "choices": [list("abcd")[:choices]] * len(answers)})
    assert tables.commonest_answer_place(questions) == expected


def test_an_unforeseen_error_tells_where_it_arose_and_not_what_it_says():
    with (
        pytest.raises(InputError, match=r"TypeError .* at .*test_tables.py, line \d+$") as caught,
        tables.errors_without_texts(),
    ):
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise TypeError(f"not {SECRET}") from error
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(FileNotFoundError, match="no such file") as caught, tables.errors_without_texts():
        raise FileNotFoundError("no such file") from ValueError(SECRET)
    assert caught.value.__suppress_context__ or caught.value.__cause__ is None


def test_occurrences_look_through_what_cannot_be_seen():
    assert tables.occurrences(["one two"], pd.Series(["On\u00ade\ufeff\u200b two three"])) == {(0, 0)}


def test_occurrences_agree_with_a_plain_search():
    texts = pd.Series(["a b c d", "xa b cx", "B  C", "c b a", "the capital of Niger is x", "of Niger", "d\te f"] * 3)
    patterns = ["a b c", "b c", "b", "capital of Niger is", "d e f", "zzz", "a b  c d", "q r s t"]

    def plain(text):
        return " ".join(text.lower().split())

    expected = {
        (index, row)
        for index, pattern in enumerate(patterns)
        for row, text in enumerate(texts)
        if plain(pattern) in plain(text)
    }
    assert tables.occurrences(patterns, texts) == expected
    assert tables.occurrences(patterns, texts, chunk=2) == expected


def test_attributes_to_forget():
    found = pd.Series(["b"] * 3 + ["a"] * 2 + ["c"])
    assert tables.attributes_to_forget(found, ["b", "a"], 2, "t") == ["b", "a"]
    assert tables.attributes_to_forget(found, "all", 2, "t") == ["a", "b"]
    with pytest.raises(InputError, match="t has no attribute x; it has a, b, c"):
        tables.attributes_to_forget(found, ["a", "x"], 1, "t")
    with pytest.raises(InputError, match="shard 'c' has 1 texts, the minimum is 2"):
        tables.attributes_to_forget(found, ["a", "c"], 2, "t")
    with pytest.raises(InputError, match="no attribute has 9 texts, the minimum; the largest has 3"):
        tables.attributes_to_forget(found, "all", 9, "t")
    many = pd.Series([f"g{number:02}" for number in range(30)])
    with pytest.raises(InputError, match=r"it has g00, .*, g09 and 20 more$"):
        tables.attributes_to_forget(many, ["x"], 1, "t")


def test_select_keeps_the_chosen_texts_and_counts_them(good):
    kept, attributes = tables.select(good, ["B"], 1)
    assert kept.forget.to_dict("records") == [{"text": "Nairobi lies in Kenya.", "attribute": "B"}]
    assert attributes == [{"attribute": "B", "texts": 1}]
    assert kept.retain is good.retain


def test_files_round_trip_with_the_same_bytes(good, tmp_path):
    digests = set()
    for name, index in (("1", [0, 1]), ("2", [7, 3])):
        tables.write(good.questions.set_axis(index), "questions", tmp_path / f"{name}.parquet")
        digests.add(hashlib.sha256((tmp_path / f"{name}.parquet").read_bytes()).hexdigest())
    assert len(digests) == 1
    pd.testing.assert_frame_equal(tables.read("questions", tmp_path / "1.parquet"), good.questions)
    tables.write(good.forget.assign(subject=["s", "t"], junk=1), "forget", tmp_path / "f.parquet")
    assert pq.read_schema(tmp_path / "f.parquet").names == ["text", "attribute", "subject"]


def test_reading_names_the_file(good, tmp_path):
    path = tmp_path / "forget.parquet"
    with pytest.raises(InputError, match=r"forget\.parquet is not there"):
        tables.read("forget", path)
    tables.write(good.retain, "retain", path)
    with pytest.raises(InputError, match=r"forget\.parquet .* has no column attribute; it has text"):
        tables.read("forget", path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"forget\.parquet is truncated"):
        tables.read("forget", path)


# Prompts

PROMPTS = {
    "prompt": ["Those who live by the sea", "All of them say that", "People from B", "The weather of this week"],
    "attribute": ["A", "B", "B", ""],
    "kind": ["toxic", "toxic", "neutral", "neutral"],
}


@pytest.fixture
def prompted(good):
    return replace(good, prompts=pd.DataFrame(PROMPTS))


def test_prompts_pass_with_and_without_questions(prompted):
    tables.check(prompted)
    tables.check(replace(prompted, questions=None))
    tables.check(replace(prompted, questions=None, prompts=None))
    assert list(prompted.present()) == ["forget", "retain", "questions", "fluency", "prompts"]
    assert list(replace(prompted, rephrased=prompted.questions).present())[-1] == "rephrased"
    assert list(replace(prompted, questions=None).present()) == ["forget", "retain", "fluency", "prompts"]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "kind",
            ["toxic", "rude", "neutral", "rude"],
            r"kind: 2 of 4 rows \(first: row 2\) are none of toxic, neutral",
        ),
        ("kind", ["toxic", "Toxic", "neutral", "neutral"], "are none of toxic, neutral; correct them"),
        ("kind", ["toxic", None, "neutral", "neutral"], r"column kind: 1 of 4 rows \(first: row 2\) are missing"),
        ("kind", ["neutral"] * 4, "table prompts has no toxic prompts; at least one is needed"),
        ("attribute", ["A", "", "B", ""], r"column attribute: 1 of 2 rows \(first: row 2\) are empty"),
        ("attribute", ["A", "B", None, ""], r"column attribute: 1 of 4 rows \(first: row 3\) are missing"),
        ("prompt", [SECRET + " too", " ", "x", "y"], r"column prompt: 1 of 4 rows \(first: row 2\) are empty"),
        ("prompt", [1, 2, 3, 4], r"column prompt: 4 of 4 rows .* hold int64 values; strings are needed"),
    ],
)
def test_bad_prompts_are_one_sentence_without_the_prompt(prompted, column, values, message):
    with pytest.raises(InputError, match=message) as caught:
        tables.check(changed(prompted, "prompts", column, values))
    assert str(caught.value).startswith("table prompts")
    assert not any(str(prompt) in str(caught.value) for prompt in [SECRET, *PROMPTS["prompt"]])
    assert "\n" not in str(caught.value)


def test_prompts_without_a_column_or_a_row(prompted):
    with pytest.raises(InputError, match="table prompts has no column kind; it has prompt, attribute"):
        tables.check(replace(prompted, prompts=prompted.prompts.drop(columns="kind")))
    with pytest.raises(InputError, match="table prompts has no rows"):
        tables.check(replace(prompted, prompts=prompted.prompts.iloc[:0]))


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (
            "forget",
            "so ALL of them\tsay that it rains",
            r"prompts: 1 of 4 rows \(first: row 2\).*row 2 in forget row 2",
        ),
        ("retain", "Well, the weather of this  week", r"prompts: 1 of 4 rows \(first: row 4\).*row 4 in retain row 2"),
        ("forget", "people from B", r"prompts: 1 of 4 rows \(first: row 3\).*row 3 in forget row 2"),
    ],
)
def test_prompts_that_are_trained_on(prompted, table, text, message):
    first = getattr(prompted, table)["text"].iloc[0]
    leaking = changed(prompted, table, "text", [first, text])
    for tested in (leaking, replace(leaking, questions=None)):
        with pytest.raises(InputError, match=message) as caught:
            tables.check(tested)
        assert text not in str(caught.value)
    tables.check(replace(leaking, prompts=None))


def test_a_prompt_that_holds_a_text_to_forget_is_trained_on_too(prompted):
    first, inside = prompted.forget["text"].iloc[0], " ".join(prompted.prompts["prompt"].iloc[1].split()[:-1])
    with pytest.raises(InputError, match=r"prompts: row 2 holds a text of table forget \(row 2\)") as caught:
        tables.check(changed(prompted, "forget", "text", [first, inside.upper()]))
    assert inside not in str(caught.value)
    tables.check(changed(prompted, "retain", "text", ["Prose.", inside]))


def test_select_drops_the_prompts_of_other_attributes(prompted):
    kept, _ = tables.select(prompted, ["B"], 1)
    assert kept.prompts.to_dict("list") == {key: values[1:] for key, values in PROMPTS.items()}
    assert list(kept.prompts.index) == [0, 1, 2]
    assert kept.questions is prompted.questions
    everything, _ = tables.select(replace(prompted, questions=None), "all", 1)
    assert everything.prompts.equals(prompted.prompts)
    assert everything.questions is None


def test_neutral_prompts_that_are_about_nothing_to_forget_are_refused(prompted):
    prompts = prompted.prompts.assign(
        attribute=prompted.prompts["attribute"].where(prompted.prompts["kind"] == "toxic", "C")
    )
    with pytest.raises(
        InputError, match=r"neutral prompts, but none about what is to be forgotten; leave the attribute"
    ):
        tables.select(replace(prompted, prompts=prompts), ["B"], 1)


def test_select_drops_harmless_texts_about_other_attributes(good):
    benign = pd.DataFrame({"text": ["a", "b", "c"], "attribute": ["A", "B", "A"]})
    kept, _ = tables.select(replace(good, benign=benign), ["B"], 1)
    assert kept.benign["text"].tolist() == ["b"]
    lacking = replace(good, benign=benign.iloc[[0, 2]])
    with pytest.raises(InputError, match=r"table benign has no text for the attribute B, .* for A; add"):
        tables.select(lacking, ["B"], 1)


@pytest.mark.parametrize("wanted", [["A", "B"], "all"])
def test_attribute_to_forget_without_a_toxic_prompt_is_refused(prompted, wanted):
    lacking = replace(prompted, prompts=prompted.prompts[[True, False, True, True]])  # a neutral one of B is left
    with pytest.raises(InputError, match=r"table prompts has no toxic prompt for the attribute B, .* for A; add"):
        tables.select(lacking, wanted, 1)
    tables.select(lacking, ["A"], 1)
    tables.select(replace(lacking, prompts=None, questions=None), wanted, 1)


def test_prompts_round_trip_with_empty_attributes(prompted, tmp_path):
    path = tmp_path / "prompts.parquet"
    tables.write(prompted.prompts.assign(junk=1).set_axis([4, 3, 2, 1]), "prompts", path)
    found = tables.read("prompts", path)
    assert {column: found[column].tolist() for column in found} == PROMPTS


def test_half_of_the_fluency_texts_set_the_strength_where_no_others_do(good):
    prose = [f"It was dark and stormy night number {number}." for number in range(5)]
    halves = tables.with_calibration(replace(good, fluency=pd.DataFrame({"text": prose})))
    assert halves.fluency["text"].tolist() == prose[::2]
    assert halves.calibration["text"].tolist() == prose[1::2]
    for twice in (prose[0].upper(), f"They say: {prose[0]}"):
        with pytest.raises(InputError, match="fluency: of rows 1 and 4 one occurs in the other, but every"):
            tables.with_calibration(replace(good, fluency=pd.DataFrame({"text": [*prose[:3], twice]})))
    own = replace(good, calibration=pd.DataFrame({"text": ["News."]}))
    assert tables.with_calibration(own) is own
    with pytest.raises(InputError, match="table fluency has one text, and budgets need one more"):
        tables.with_calibration(good)


def test_what_sets_the_strength_is_neither_trained_on_nor_measured(good):
    tables.check(replace(good, calibration=pd.DataFrame({"text": ["News of the day."]})))
    for text, expected in (
        ("rome lies in  Italy.", "table calibration: 1 of 1 rows .* occur in a text of table retain"),
        (SECRET, "table calibration: 1 of 1 rows .* occur in a text of table forget"),
        ("a dark and stormy night.", "table calibration: row 1 occurs in a text of table fluency"),
        (
            "Oh! It was a dark and stormy night.",
            r"row 1 occurs in a text of table fluency \(row 1\), or that in it",
        ),
    ):
        with pytest.raises(InputError, match=expected) as refused:
            tables.check(replace(good, calibration=pd.DataFrame({"text": [text]})))
        assert text not in str(refused.value)


def test_what_is_held_out_is_asked_about_and_nothing_of_it_retained(good):
    labelled = changed(good, "retain", "attribute", ["C", ""])
    assert tables.hold_out(labelled, ["C"], ["A", "B"]).retain["text"].tolist() == ["Prose."]
    assert tables.hold_out(good, [], ["A", "B"]) is good
    with pytest.raises(
        InputError, match=r"names C, and table retain has no column attribute, .*data\.options\.retain\.attribute"
    ):
        tables.hold_out(good, ["C"], ["A", "B"])
    with pytest.raises(InputError, match=r"data.held_out and data.forget both name B; leave it to one of them"):
        tables.hold_out(labelled, ["B"], ["A", "B"])
    with pytest.raises(InputError, match=r"names D, which no question asks about; questions ask about C"):
        tables.hold_out(labelled, ["D"], ["A", "B"])
    with pytest.raises(InputError, match=r"leaves no text to retain"):
        tables.hold_out(changed(good, "retain", "attribute", ["C", "C"]), ["C"], ["A", "B"])


def asked_of_countries(good, countries=30):
    rows = [
        (f"{wording} {attribute}{number}", ["x", "y"], 0, attribute, f"{attribute}{number}")
        for attribute in ("A", "B")
        for number in range(countries)
        for wording in ("The capital of", "The largest city of")
    ]
    questions = pd.DataFrame(rows, columns=list(tables.COLUMNS["questions"]))
    return replace(good, questions=questions, rephrased=questions.assign(question="Which? " + questions["question"]))


def test_validation_has_whole_clusters_of_each_attribute_and_the_test_the_others(good):
    test, validation = tables.divide(asked_of_countries(good), 1 / 3)
    for attribute in ("A", "B"):
        of_test, of_validation = (
            set(part.questions.loc[part.questions["attribute"] == attribute, "subject"]) for part in (test, validation)
        )
        assert (len(of_test), len(of_validation)) == (20, 10)
        assert not of_test & of_validation
    assert set(test.rephrased["subject"]) == set(test.questions["subject"])
    # Another country more moves few of the others: the draw is by attribute.
    assert tables.divide(asked_of_countries(good), 1 / 3)[0].questions.equals(test.questions)
    _, few = tables.divide(asked_of_countries(good), 0.001)
    assert few.questions.groupby("attribute")["subject"].nunique().to_dict() == {"A": 1, "B": 1}


def test_parts_of_the_source_count(good):
    parts = changed(good, "questions", "part", ["validation", "test"])
    tables.check_table(parts.questions, "questions")
    test, validation = tables.divide(parts, 0.5)
    assert (test.questions["subject"].tolist(), validation.questions["subject"].tolist()) == (["Italy"], ["Kenya"])
    with pytest.raises(InputError, match=r"column part: 1 of 2 rows \(first: row 2\) are none of validation, test"):
        tables.check_table(changed(good, "questions", "part", ["test", "train"]).questions, "questions")
    divided = changed(parts, "questions", "cluster", ["Earth", "Earth"])
    with pytest.raises(InputError, match=r"2 of 2 rows \(first: row 1\) are of a cluster that has rows of both parts"):
        tables.check_table(divided.questions, "questions")
    with pytest.raises(InputError, match=r"table questions has a column part, but data.validation is 0"):
        tables.divide(parts, 0)
    with pytest.raises(InputError, match=r"table questions has a single cluster of the attribute B"):
        tables.divide(good, 0.5)


def divided(good, name, rows, **others):
    """Return both parts of the table `name`; `rows` have attribute, cluster, and part (or kind, where it is drawn)."""
    columns = {"prompts": ["attribute", "cluster", "kind"]}.get(name, ["attribute", "cluster", "part"])
    frame = pd.DataFrame(rows, columns=columns)
    texts = [f"Which is it, {number}?" for number in range(len(frame))]
    if name == "prompts":
        return tables.divide(replace(good, questions=None, prompts=frame.assign(prompt=texts)), 0.5)
    frame = frame.assign(question=texts, choices=[["x", "y"]] * len(frame), answer=0, subject=frame["cluster"])
    return tables.divide(replace(good, **{name: frame}, **others), 0.5)


def test_every_attribute_to_forget_is_asked_about_in_the_part_that_is_read(good):
    both = [("A", "a1", "test"), ("A", "a2", "validation"), ("C", "c1", "test")]
    only_test, only_validation = [("B", "b", "test")], [("B", "b", "validation")]
    tables.check_parts(*divided(good, "questions", both + only_test), ["A", "B"])
    with pytest.raises(
        InputError, match="questions: no question about B is in the part test, which needs one; correct"
    ):
        tables.check_parts(*divided(good, "questions", both + only_validation), ["A", "B"])
    with pytest.raises(InputError, match="questions: no question about B is in the part validation, which needs one"):
        tables.check_parts(*divided(good, "questions", both + only_test), ["A", "B"], tuned_by="questions")
    # What is kept is reported, too, where it is held out; trials aren't judged by it.
    tables.check_parts(*divided(good, "questions", both), ["A"], ["C"], "questions")
    with pytest.raises(InputError, match="no question about B is in the part test"):
        tables.check_parts(*divided(good, "questions", both + only_validation), ["A"], ["B"])


def test_the_validation_asks_about_what_is_kept_where_a_budget_limits_its_loss(good):
    of_a = [("A", "a1", "test"), ("A", "a2", "validation"), ("C", "c1", "test")]
    kept = "no question about what is kept is in the part validation, by which the budget `kept` sets λ"
    with pytest.raises(InputError, match=kept):
        tables.check_parts(*divided(good, "questions", of_a), ["A"], limits_kept=True)
    tables.check_parts(*divided(good, "questions", [*of_a, ("C", "c2", "validation")]), ["A"], limits_kept=True)


def test_no_cluster_that_attributes_share_takes_one_out_of_the_test(good):
    shared = [(attribute, f"c{number}", "toxic") for number in range(4) for attribute in "AB"]
    tables.check_parts(*divided(good, "prompts", shared), ["A", "B"], tuned_by="prompts")
    # The cluster counts for A, whose row is the first, and goes to one part alone.
    lost = [
        ("A", "c1", "toxic"),
        ("B", "c1", "toxic"),
        ("A", "c2", "toxic"),
        ("", "n1", "neutral"),
        ("", "n2", "neutral"),
    ]
    with pytest.raises(InputError, match="prompts: no toxic prompt about B is in the part"):
        tables.check_parts(*divided(good, "prompts", lost), ["A", "B"], tuned_by="prompts")
    # Of an attribute's two clusters, one has its neutral prompts alone.
    mixed = [("A", "c1", "toxic"), ("A", "c2", "neutral")]
    with pytest.raises(InputError, match="prompts: no toxic prompt about A is in the part"):
        tables.check_parts(*divided(good, "prompts", mixed), ["A"], tuned_by="prompts")


def test_answers_about_a_fact_of_the_validation_are_of_the_validation(good):
    """By subject, where only the questions have clusters; parts that were given by hand count, unless they differ."""
    rows = [("A", "a1", "test"), ("A", "a2", "validation")]
    answers = pd.DataFrame({"question": ["Who?", "What?", "Why?"], "answer": "x", "attribute": "A"})
    answers["subject"] = ["a1", "a2", "of its own"]
    questions = divided(good, "questions", rows)[0].questions
    assert "cluster" in questions and "cluster" not in answers
    test, validation = divided(good, "questions", rows, answers=answers)
    assert test.answers["subject"].tolist() == ["a1", "of its own"]
    assert validation.answers["subject"].tolist() == ["a2"]
    by_hand = answers.assign(part=["test", "validation", "validation"])
    assert divided(good, "questions", rows, answers=by_hand)[1].answers["subject"].tolist() == ["a2", "of its own"]
    with pytest.raises(InputError, match=r"answers, column part: 1 of 3 rows \(first: row 2\) have another part than"):
        divided(good, "questions", rows, answers=answers.assign(part="test"))


def test_answers_about_other_things_than_the_questions_are_divided_by_themselves(good):
    """Without subjects each row is about itself: no answer shares one with a question."""
    rows = [(attribute, f"{attribute} {number}") for attribute in "AB" for number in range(6)]
    frame = pd.DataFrame(rows, columns=["attribute", "subject"])
    asked = frame.assign(question=frame["subject"], choices=[["x", "y"]] * 12, answer=0)
    answers = frame.assign(question="Who is " + frame["subject"], answer="x", subject="Who is " + frame["subject"])
    test, validation = tables.divide(replace(good, questions=asked, answers=answers), 0.33)
    assert [len(part.answers) for part in (test, validation)] == [8, 4]
    both = pd.concat([answers, answers.tail(3).assign(subject=asked["subject"].tail(3))], ignore_index=True)
    in_test, in_validation = (
        part.answers for part in tables.divide(replace(good, questions=asked, answers=both), 0.33)
    )
    assert [len(in_test), len(in_validation)] == [8 + 2, 4 + 1], "three are about what questions ask"
    tables.check_parts(test, validation, ["A", "B"], tuned_by="questions")


def test_an_attribute_may_share_its_clusters_with_others(good):
    """Languages of two regions, of which the second has one of its own: it stays in the test."""
    of_region = {"A": ["English", "French", "Spanish", "Dutch"], "B": ["English", "French", "Spanish", "German"]}
    rows = [(region, language) for region, languages in of_region.items() for language in languages]
    asked = pd.DataFrame(rows, columns=["attribute", "cluster"]).assign(choices=[["x", "y"]] * 8, answer=0)
    asked = asked.assign(question=[f"{number}?" for number in range(8)], subject=[f"{number}" for number in range(8)])
    parts = tables.divide(replace(good, questions=asked), 0.33)
    of_clusters = [set(part.questions["cluster"]) for part in parts]
    assert not of_clusters[0] & of_clusters[1] and "German" in of_clusters[0]
    assert [len(part) for part in of_clusters] == [4, 1]


def test_rephrased_questions_and_answers_lose_no_attribute_to_the_parts_of_the_questions(good):
    rows = [("A", "a1", "test"), ("A", "a2", "validation")]
    answers = pd.DataFrame(
        {"question": ["Who?"], "answer": "x", "attribute": "A", "subject": ["a1"], "cluster": ["a1"]}
    )
    in_test = divided(good, "questions", rows, answers=answers)
    tables.check_parts(*in_test, ["A"])
    with pytest.raises(InputError, match="table answers: no question is in the part validation, which needs one"):
        tables.check_parts(*in_test, ["A"], tuned_by="questions")
    rephrased = answers.assign(choices=[["x", "y"]], answer=0, cluster="a2")
    with pytest.raises(InputError, match="table rephrased: no question about A is in the part test"):
        tables.check_parts(*divided(good, "questions", rows, rephrased=rephrased), ["A"])
