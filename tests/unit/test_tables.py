import hashlib
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest

from spunge.datasets import tables
from spunge.errors import InputError

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
        ("forget", "text", [1, 2], "column text, holds int64 values; strings"),
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
        ("retain", "So: It was a dark and stormy night. Then", "table fluency: 1 of 1 rows.*retain row 2"),
        ("forget", "It was a dark and stormy night.", "table fluency: 1 of 1 rows.*forget row 2"),
    ],
)
def test_leakage(good, table, text, message):
    first = getattr(good, table)["text"].iloc[0]
    with pytest.raises(InputError, match=message):
        tables.check(changed(good, table, "text", [first, text]))


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
