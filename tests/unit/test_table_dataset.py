import json
import re
import sys
import types

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts import build_tables
from spunge import datasets
from spunge.core.errors import InputError
from spunge.datasets import table, tables

SECRET = "a text that must not be shown"


@pytest.fixture
def sources(tmp_path):
    """The worked example: CSV with a topic column, JSONL, Parquet."""
    pd.DataFrame({"sentence": [SECRET, "two", "three"], "topic": ["NA", "b", "c"], "person": ["p", "q", "q"]}).to_csv(
        tmp_path / "forget.csv", index=False
    )
    (tmp_path / "retain.jsonl").write_text('{"text": "kept 1"}\n{"text": "2001-02-03"}\n')
    pd.DataFrame(
        {"q": ["Who?", "What?"], "a": ["x", "y"], "b": ["z", "w"], "right": ["z", "y"], "topic": ["NA", "kept"]}
    ).to_csv(tmp_path / "questions.csv", index=False)
    pd.DataFrame({"text": ["Held-out prose."]}).to_parquet(tmp_path / "fluency.parquet")
    return {
        "forget": {"path": str(tmp_path / "forget.csv"), "text": "sentence", "attribute": "topic"},
        "retain": {"path": str(tmp_path / "retain.jsonl")},
        "questions": {
            "path": str(tmp_path / "questions.csv"),
            "question": "q",
            "choices": ["a", "b"],
            "answer": "right",
            "attribute": "topic",
        },
        "fluency": {"path": str(tmp_path / "fluency.parquet"), "text": "text"},
    }


def build(sources, forget="all"):
    return table.build(datasets.options(table, sources), {}, forget)


def test_mapped_columns(sources):
    built = build(sources)
    tables.check(built)
    assert built.forget.to_dict("list") == {"text": [SECRET, "two", "three"], "attribute": ["NA", "b", "c"]}
    assert built.retain["text"].tolist() == ["kept 1", "2001-02-03"]
    assert built.questions.to_dict("list") == {
        "question": ["Who?", "What?"],
        "choices": [["x", "z"], ["y", "w"]],
        "answer": [1, 0],
        "attribute": ["NA", "kept"],
        "subject": ["Who?", "What?"],
    }
    assert built.fluency["text"].tolist() == ["Held-out prose."]


def test_rephrased_questions_are_described_as_questions_are(sources, tmp_path):
    other = pd.read_csv(tmp_path / "questions.csv", keep_default_na=False).assign(
        q=["Who is it?", "What is it?"], about=["p", "q"]
    )
    other.to_csv(tmp_path / "rephrased.csv", index=False)
    assert build(sources).rephrased is None
    sources["rephrased"] = sources["questions"] | {"path": str(tmp_path / "rephrased.csv"), "subject": "about"}
    built = build(sources)
    tables.check(built)
    assert built.rephrased["question"].tolist() == ["Who is it?", "What is it?"]
    assert built.rephrased["subject"].tolist() == ["p", "q"]
    unchanged = ["choices", "answer"]
    pd.testing.assert_frame_equal(built.rephrased[unchanged], built.questions[unchanged])


def test_subject_and_a_chosen_attribute(sources):
    sources["forget"]["subject"] = "person"
    assert build(sources, ["c"]).forget.to_dict("records") == [{"text": "three", "attribute": "c", "subject": "q"}]
    with pytest.raises(InputError, match=r"forget.csv has no attribute d; it has NA, b, c"):
        build(sources, ["d"])


def test_a_cluster_where_one_is_named(tmp_path):
    frame = pd.DataFrame({"prompt": ["x", "y"], "attribute": ["a", "a"], "kind": "toxic", "author": [1, "b"]})
    frame.to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    source = {"path": str(tmp_path / "prompts.jsonl")}
    assert "cluster" not in table.read_source(source, "prompts")
    prompts = table.read_source(source | {"cluster": "author"}, "prompts")
    assert prompts["cluster"].tolist() == ["1", "b"]
    tables.write(prompts, "prompts", tmp_path / "prompts.parquet")
    assert tables.read("prompts", tmp_path / "prompts.parquet")["cluster"].tolist() == ["1", "b"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_stands_between_question_and_choice_may_be_nothing(tmp_path, suffix):
    asked = pd.DataFrame(
        {"question": ["日本の首都は", "Capital:"], "choices": ['["東京", "大阪"]', '["Rome", "Oslo"]']}
    )
    asked = asked.assign(answer=0, attribute=["a", "b"], delimiter=["", "\n"])
    path = tmp_path / f"asked{suffix}"
    asked.to_csv(path, index=False) if suffix == ".csv" else asked.to_json(path, orient="records", lines=True)
    found = table.read_source({"path": str(path)}, "questions")
    assert found["delimiter"].tolist() == ["", "\n"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("answers", "expected"), [([1, 0], [1, 0]), (["z", "y"], [1, 0])])
def test_choices_in_one_column_and_both_kinds_of_answer(sources, tmp_path, suffix, answers, expected):
    choices = [["x", "z"], ["y", "w"]]
    frame = pd.DataFrame({"question": ["Who?", "What?"], "answer": answers, "attribute": [1, 2]})
    path = tmp_path / f"asked.{suffix}"
    if suffix == "csv":
        frame.assign(choices=[json.dumps(own) for own in choices]).to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.assign(choices=choices).to_json(path, orient="records", lines=True)
    else:
        frame.assign(choices=choices).to_parquet(path)
    built = build({**sources, "questions": {"path": str(path)}}).questions
    assert built["choices"].tolist() == choices
    assert built["answer"].tolist() == expected
    assert built["attribute"].tolist() == ["1", "2"]


def test_an_answer_that_reads_both_ways_must_be_named(sources, tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text('{"question": "1+1=", "choices": ["1", "2", "3"], "answer": 1, "attribute": "sums"}\n')
    source = {"path": str(path)}
    with pytest.raises(InputError, match="may be indices or texts of choices; say so with answer_is"):
        table.read_source(source, "questions")
    assert table.read_source({**source, "answer_is": "index"}, "questions")["answer"].tolist() == [1]
    assert table.read_source({**source, "answer_is": "text"}, "questions")["answer"].tolist() == [0]
    # A stray space in one choice makes no indices of all the others' texts.
    with open(path, "a") as file:
        file.write('{"question": "2-1=", "choices": ["0", "1 ", "2"], "answer": "1", "attribute": "sums"}\n')
    with pytest.raises(InputError, match="may be indices or texts of choices; say so with answer_is"):
        table.read_source(source, "questions")


def test_quotation_marks_and_blanks_within_a_cell_are_its_own(tmp_path):
    (tmp_path / "retain.csv").write_text('text,more\n" ""a"", b",x\n"She said, ""c"" twice", y\n"d,\n ""e""",z\n')
    found = table.read_source({"path": str(tmp_path / "retain.csv")}, "retain")
    assert found["text"].tolist() == [' "a", b', 'She said, "c" twice', 'd,\n "e"']


def test_a_question_is_its_own_subject_however_it_is_spelt(tmp_path):
    asked = pd.DataFrame({"question": ["Who?", "who? ", "What?"], "choices": [["x", "y"]] * 3, "answer": 0})
    asked.assign(attribute="a").to_parquet(tmp_path / "questions.parquet")
    found = table.read_source({"path": str(tmp_path / "questions.parquet")}, "questions")
    assert found["subject"].tolist() == ["Who?", "Who?", "What?"]


def test_a_subject_is_spelt_alike_in_all_tables(sources, tmp_path):
    """A rephrased question about what nothing else asks about would be of the test, whatever is of the validation."""
    asked = pd.read_csv(tmp_path / "questions.csv", keep_default_na=False)
    asked.assign(subject=["Kenya", "q"]).to_csv(tmp_path / "questions.csv", index=False)
    asked.assign(subject=["kenya", "q"], q=["Who is it?", "?"]).to_csv(tmp_path / "rephrased.csv", index=False)
    sources["rephrased"] = sources["questions"] | {"path": str(tmp_path / "rephrased.csv")}
    with pytest.raises(
        InputError, match=r"tables of questions and answers, column subject: 'Kenya' and 'kenya' differ"
    ):
        build(sources)


@pytest.mark.parametrize("column", ["subject", "cluster"])
def test_a_name_in_two_spellings_is_refused(tmp_path, column):
    """As two clusters, one could be of the test and one of the validation."""
    asked = pd.DataFrame({"question": ["Who?", "What?"], "choices": [["x", "y"]] * 2, "answer": 0, "attribute": "a"})
    asked.assign(**{column: ["Kenya", "kenya "]}).to_parquet(tmp_path / "questions.parquet")
    with pytest.raises(InputError, match=f"column {column}: 'Kenya' and 'kenya ' differ by case, white space or"):
        table.read_source({"path": str(tmp_path / "questions.parquet")}, "questions")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "forget",
            {"path": "FOLDER/none.csv"},
            r"none.csv \(table forget\) is not there; .* holds fluency.parquet, forget",
        ),
        ("forget", {"path": "FOLDER/fluency.txt"}, "none of CSV, JSONL and Parquet"),
        ("forget", {"attribute": "group"}, "has no column group; it has sentence, topic, person"),
        ("forget", {"atribute": "x"}, "table's forget.atribute is 'x': extra inputs are not permitted"),
        ("questions", {"choices": ["a", "c"]}, "has no column c; it has q, a, b, right, topic"),
        ("questions", {"choices": "a"}, r"column a: 2 of 2 rows \(first: row 1\) hold no \(JSON\) list"),
        ("questions", {"answer": "topic"}, r"column answer: 2 of 2 rows \(first: row 1\) hold none of the choices"),
        (
            "questions",
            {"answer_is": "letter"},
            "table's questions.answer_is is 'letter': input should be 'index' or 'text'",
        ),
        ("questions", {"answer_is": "index"}, "hold no whole number"),
        ("questions", {"choices": ["a", "right"], "answer": "a"}, "come with the same choice twice"),
    ],
)
def test_bad_mappings_are_one_sentence(sources, tmp_path, name, change, message):
    change = {
        key: value.replace("FOLDER", str(tmp_path)) if isinstance(value, str) else value
        for key, value in change.items()
    }
    with pytest.raises(InputError, match=message):
        build({**sources, name: {**sources[name], **change}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"sentence,topic\n{SECRET},a\n,b\n", r"column sentence: 1 of 2 rows \(first: row 2\) are missing"),
        (f"sentence,topic\n{SECRET},a\nx,\n", r"column topic: 1 of 2 rows \(first: row 2\) are missing"),
        (f"sentence,topic\n{SECRET},a\n'  ',b\n".replace("'", '"'), r"column sentence: 1 of 2 rows .* are empty"),
        ("sentence,topic\n", "has no rows"),
        ("", "is empty"),
        # The first has a comma too many in every row, so pandas would take its half for an index.
        (
            f"sentence,topic\n{SECRET}, yes,a\n{SECRET}, no,b\n",
            "line 2, has 3 fields, but the header has 2; all need as",
        ),
        (f'sentence,topic\n"{SECRET}\nis long",a\n\n{SECRET}\n', "line 5, has 1 fields, but the header has 2"),
        (
            f'sentence,topic\n{SECRET},a\n"{SECRET},b\n{SECRET},c\n',
            "line 3, can't be read as CSV .unexpected end of data",
        ),
        (
            f'sentence,topic\n"{SECRET} "is" secret",a\n',
            r"line 2, can't be read as CSV .* must stand in quotes, with the",
        ),
        (f",sentence,topic\n0,{SECRET},a\n", "has a column without a name; name it, or remove it"),
        (f"sentence,topic,sentence\n{SECRET},a,{SECRET}\n", "has several columns named sentence; rename or remove"),
        (f'sentence,topic\n{SECRET},a\n "{SECRET}",b\n', "line 3, has a space before a quotation mark that begins a"),
        (f'sentence,topic\na, "{SECRET}, yes"\n', "line 2, has a space before a quotation mark that begins a cell"),
        (f"sentence;topic\n{SECRET};a\n", "has its columns separated by semicolons; save it with commas"),
        (f"sentence\ttopic\n{SECRET}, yes\ta\n", "has its columns separated by tabs; save it with commas"),
        (f"sentence, topic\n{SECRET},a\n", "has no column topic; it has sentence, ' topic'"),
    ],
)
def test_bad_contents_never_show_a_text(sources, tmp_path, content, message):
    (tmp_path / "forget.csv").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        build(sources)
    assert SECRET not in str(caught.value)


def test_wrong_encoding_and_truncated_parquet(sources, tmp_path):
    (tmp_path / "forget.csv").write_bytes("sentence,topic\nCôte,a\n".encode("latin-1"))
    with pytest.raises(
        InputError, match=r"forget.csv \(table forget\), line 2, is not in UTF-8; save the file in UTF-8"
    ):
        build(sources)
    path = tmp_path / "fluency.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"fluency.parquet \(table fluency\) can't be read as PARQUET"):
        table.read_source(sources["fluency"], "fluency")


def run(sources, folder, *more, forget=("NA",), asked=("questions",), tasks=()):
    """Build the tables as rule data does, in this process."""
    described = ["--dataset=table", *more, f"--attributes-output={folder / 'attributes.json'}"]
    for name, value in {"options": sources, "forget": forget, "tasks": tasks}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
        described.append(f"--{name}={folder / name}.json")
    outputs = [f"--{name}-output={folder / name}.parquet" for name in ("forget", "retain", "fluency", *asked)]
    return build_tables.main([*described, *outputs])


def test_rule_data_refuses_what_nobody_asks_about(sources, tmp_path, capfd):
    sources["questions"]["answer"] = "right"
    assert run(sources, tmp_path) == 0
    assert run(sources, tmp_path, forget=["NA", "b"]) == 1
    told = "error: table questions has no question for the attribute b, which is to be forgotten; it has"
    assert told in capfd.readouterr().err
    # Where knowledge isn't evaluated, nobody asks the questions.
    assert run(sources, tmp_path, forget=["NA", "b"], asked=(), tasks=["NA"]) == 1
    told = "error: evaluations.benchmarks.forget has no task for the attribute b, which is to be forgotten; it has"
    assert told in capfd.readouterr().err
    assert run(sources, tmp_path, forget=["NA", "b"], asked=(), tasks=["NA", "b"]) == 0


def test_rule_data_refuses_a_division_that_leaves_nothing_to_report(sources, tmp_path, capfd):
    frame = pd.read_csv(tmp_path / "questions.csv", keep_default_na=False)
    for part, read, told in (
        (
            "validation",
            [],
            "error: table questions: no question about NA is in the part test, which needs one; correct",
        ),
        ("test", [], None),
        ("test", ["--tuned-by=questions"], "error: table questions: no question about NA is in the part validation,"),
    ):
        frame.assign(part=[part, "test"]).to_csv(tmp_path / "questions.csv", index=False)
        assert run(sources, tmp_path, "--validation=0.5", *read) == (told is not None)
        assert (told or "") in capfd.readouterr().err


def test_rule_data_says_where_answers_stand_mostly_in_one_place(sources, tmp_path, capfd):
    assert run(sources, tmp_path) == 0
    assert "warning" not in capfd.readouterr().err, "one of two at each place"
    sources["questions"]["choices"] = ["b", "a"]
    frame = pd.read_csv(tmp_path / "questions.csv", keep_default_na=False)
    frame.assign(right=frame["b"]).to_csv(tmp_path / "questions.csv", index=False)
    assert run(sources, tmp_path) == 0
    told = "warning: table questions: 100% of the right answers stand at place 1 among the choices, so a model"
    assert told in capfd.readouterr().err


def test_hub_asks_for_what_is_configured(monkeypatch):
    """The hub itself can't be reached in tests; what is asked of `load_dataset` is what can go wrong here."""
    asked = {}

    def load_dataset(name, config, *, split, revision):
        asked.update(name=name, config=config, split=split, revision=revision)
        if split == "none":
            raise ValueError("Unknown split\nsecond line")
        return types.SimpleNamespace(to_pandas=lambda: pd.DataFrame({"line": ["x"]}))

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    source = {"path": "hub:o/n", "config": "c", "split": "test", "revision": "abc", "text": "line"}
    assert table.read_source(source, "retain")["text"].tolist() == ["x"]
    assert asked == {"name": "o/n", "config": "c", "split": "test", "revision": "abc"}
    asked_for = r"hub:o/n \(table retain\) could not be loaded from the hub with config c, split none, revision abc: "
    with pytest.raises(InputError, match=f"{asked_for}ValueError .its message may quote a text, so it isn't shown.$"):
        table.read_source({**source, "split": "none"}, "retain")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1, 2]", "line 3, is no JSON object; write one {...} a line"),
        (f'{{"text": "{SECRET}'.encode(), "line 3, is no JSON: "),
        (f'{{"text": "{SECRET}", "text": "x"}}'.encode(), "line 3, has a key twice; rename or remove one"),
        (f'{{"text": "{SECRET} Côte"}}'.encode("latin-1"), "line 3, is not in UTF-8; save the file in UTF-8"),
        (f'{{"text": "{SECRET} \\ud83d"}}'.encode(), "line 3, is no JSON: half a character, a lone surrogate"),
    ],
)
def test_lines_that_are_no_json_objects(tmp_path, line, message):
    path = tmp_path / "retain.jsonl"
    path.write_bytes(b'{"text": "kept"}\n\n' + line + b"\n")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        table.read_source({"path": str(path)}, "retain")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_byte_order_mark_blank_lines_and_line_breaks_in_texts(tmp_path, suffix):
    content = {
        "csv": '\ufefftext,more\r\n"one, and\nmore",x\r\n\r\n  \r\n"NA",\r\n',
        "jsonl": '\ufeff{"text": "one, and\\nmore"}\r\n\r\n{"text": "NA"}',
    }
    path = tmp_path / f"retain.{suffix}"
    path.write_bytes(content[suffix].encode())
    assert table.read_source({"path": str(path)}, "retain")["text"].tolist() == ["one, and\nmore", "NA"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["attribute", "subject"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [(2024, "2024"), (2024.0, "2024"), ("NA", "NA"), *((bad, None) for bad in ([SECRET], {"name": SECRET}, True, 0.5))],
)
def test_attributes_and_subjects_are_text_or_whole_numbers(tmp_path, suffix, column, value, expected):
    path = tmp_path / f"forget.{suffix}"
    frame = pd.DataFrame({"text": ["x"], "attribute": ["a"], "subject": ["s"]}).assign(**{column: [value]})
    write = {
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(path),
    }
    write[suffix]()
    if expected is not None:
        assert table.read_source({"path": str(path)}, "forget")[column].tolist() == [expected]
        return
    told = rf"column {column}: 1 of 1 rows \(first: row 1\) hold \w+ values; text or whole numbers are needed"
    with pytest.raises(InputError, match=told) as caught:
        table.read_source({"path": str(path)}, "forget")
    assert SECRET not in str(caught.value)


def test_numbers_beside_missing_ones_stay_whole(tmp_path):
    path = tmp_path / "prompts.parquet"
    pd.DataFrame({"prompt": ["p", "q"], "kind": ["toxic", "neutral"], "attribute": [2024, None]}).to_parquet(path)
    assert table.read_source({"path": str(path)}, "prompts")["attribute"].tolist() == ["2024", ""]


def test_numbers_of_parquet_are_those_that_it_shows(tmp_path):
    choices = {"a": pa.array([3.14], pa.float32()), "b": pa.array([2.7], pa.float32())}
    asked = pa.table({"question": ["pi is about"], **choices, "answer": [0], "attribute": ["x"]})
    pq.write_table(asked, tmp_path / "questions.parquet")
    found = table.read_source({"path": str(tmp_path / "questions.parquet"), "choices": ["a", "b"]}, "questions")
    assert found["choices"].tolist() == [["3.14", "2.7"]]
    large = [2**53 + 1, 2**53]  # in floats they are one
    pq.write_table(pa.table({"text": ["a", "b", "c"], "attribute": [*large, None]}), tmp_path / "retain.parquet")
    found = table.read_source({"path": str(tmp_path / "retain.parquet")}, "retain")
    assert found["attribute"].tolist() == [*map(str, large), ""]


def test_a_file_has_no_split(sources):
    for key, value in (("split", "forget10"), ("config", "all"), ("revision", "abc")):
        with pytest.raises(InputError, match=f"forget.csv .table forget. is a file, so it has no {key}, as a data set"):
            build(sources | {"forget": sources["forget"] | {key: value}})


def test_one_question_has_one_right_answer(tmp_path):
    choices = ["cobalt", "carbon monoxide"]
    asked = pd.DataFrame({"question": ["What is Co?", "What is  Co?"], "attribute": "a"})
    asked["choices"] = [choices, choices[::-1]]
    path = tmp_path / "questions.parquet"
    asked.assign(answer=[0, 1]).to_parquet(path)
    assert len(table.read_source({"path": str(path)}, "questions")) == 2
    asked.assign(answer=[0, 0]).to_parquet(path)
    with pytest.raises(InputError, match=r"table questions: 2 of 2 rows .* with another right answer; remove one"):
        table.read_source({"path": str(path)}, "questions")
    asked.assign(answer=[0, 0], question=["What is Co?", "What is CO?"]).to_parquet(path)
    assert len(table.read_source({"path": str(path)}, "questions")) == 2


def test_a_folder_of_parquet_files_is_one_table(tmp_path):
    (tmp_path / "retain.parquet").mkdir()
    for number in range(2):
        pd.DataFrame({"text": [f"text {number}"]}).to_parquet(tmp_path / f"retain.parquet/part-{number}.parquet")
    found = table.read_source({"path": str(tmp_path / "retain.parquet")}, "retain")
    assert found["text"].tolist() == ["text 0", "text 1"]


def test_an_index_of_pandas_is_a_column_like_others(tmp_path):
    path = tmp_path / "retain.parquet"
    pd.DataFrame({"text": ["x"], "more": [1]}).set_index("text").to_parquet(path)
    assert table.read_source({"path": str(path)}, "retain")["text"].tolist() == ["x"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": {"text": [SECRET, "x"], "label": ["A", "B"]}}, "hold no .JSON. list; write them as one"),
        ({"choices": 5}, "hold no .JSON. list; write them as one"),
        ({"choices": [SECRET, None]}, "come with a choice that is missing, empty or not a string"),
        ({"choices": [SECRET, [SECRET]]}, "come with a choice that is missing, empty or not a string"),
        ({"answer": [SECRET]}, "hold none of the choices, nor an index throughout"),
        ({"answer": True}, "hold none of the choices, nor an index throughout"),
        ({"choices": [0, 1, 2], "answer": 1.0}, "may be indices or texts of choices; say so with answer_is"),
    ],
)
def test_choices_and_answers_of_other_kinds(tmp_path, change, message):
    path = tmp_path / "questions.jsonl"
    question = {"question": "Who?", "choices": ["x", "y"], "answer": 0, "attribute": "a"}
    path.write_text(json.dumps(question | change))
    with pytest.raises(InputError, match=message) as caught:
        table.read_source({"path": str(path)}, "questions")
    assert SECRET not in str(caught.value)


def test_mixed_up_columns_and_a_header_that_lacks_show_no_text(sources, tmp_path):
    text = f"{SECRET}, whatever it says"
    (tmp_path / "forget.csv").write_text(f'sentence,topic\na,"{text}"\n')
    with pytest.raises(InputError, match=r"has no attribute a; it has \(one of 47 characters\)$"):
        build(sources, ["a"])
    # As a name, a short sentence is known by its words or by its end.
    (tmp_path / "forget.csv").write_text("sentence,topic\na,People in Togo speak French daily\nb,Togo is small.\n")
    with pytest.raises(InputError, match=r"has no attribute a; it has \(one of 33 cha.*\), \(one of 14 characters\)$"):
        build(sources, ["a"])
    (tmp_path / "forget.csv").write_text(f'sentence,topic\na,"{text}\rmore"\n')
    with pytest.raises(InputError, match=r"has the attribute \(one of 55 characters\), which holds a carriage return"):
        build(sources)
    (tmp_path / "forget.csv").write_text(f'"{text}",a\nx,b\n')
    with pytest.raises(InputError, match=r"has no column sentence; it has \(one of 47 characters\), a$"):
        build(sources)


def test_no_row_is_left_out_for_its_spelling(sources, tmp_path):
    path = tmp_path / "forget.csv"
    path.write_text("sentence,topic\none,NA\ntwo,b\nthree,b \n")
    with pytest.raises(
        InputError, match=r"data.forget has .* 'b' and table forget \(row 3\) 'b ', which differ by case"
    ):
        build(sources, ["NA", "b"])
    with pytest.raises(
        InputError, match=r"data.forget has .* 'na' and table forget \(row 1\) 'NA', which differ by case"
    ):
        build(sources, ["na"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", f"text\n{SECRET}, yes\n{SECRET}, no\n", "has rows of more fields than its header; a text with a"),
        (
            "train.csv",
            f"text\nx\n{SECRET}, no, yes\n",
            r"could not be loaded from the hub: \w+ .its message may quote a",
        ),
        # The card says that it is a number, so pyarrow quotes what is none.
        ("train.jsonl", f'{{"text": "{SECRET}"}}', r"could not be loaded from the hub: DatasetGenerationError .its"),
    ],
)
def test_what_datasets_says_of_a_text_is_never_shown(tmp_path, monkeypatch, caplog, capfd, name, content, message):
    """A folder stands for the hub's repository: the library reads its files in the same way, and logs the same."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(content)
    if name == "train.jsonl":
        card = "---\ndataset_info:\n  features:\n  - name: text\n    dtype: int64\n---\n"
        (tmp_path / "data" / "README.md").write_text(card)
    with pytest.raises(InputError, match=message) as caught:
        table.read_source({"path": f"hub:{tmp_path / 'data'}"}, "retain")
    assert SECRET not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


def test_answers_come_with_wrong_ones_and_paraphrases_where_there_are_some(sources, tmp_path):
    rows = [
        {"q": "Who? ", "right": "x", "other": "an x", "b": "y", "c": "z", "topic": "NA", "known": 0.25},
        {"q": "When? ", "right": 2024, "b": "2020", "c": 1999, "topic": "kept"},
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"question": "q", "answer": "right", "paraphrase": "other", "wrong": ["b", "c"], "attribute": "topic"}
    sources["answers"] = {"path": str(tmp_path / "answers.jsonl"), "retain_model": "known"} | columns
    built = build(sources)
    tables.check(built)
    # The space between the two is the answer's, whose first token begins with it.
    assert built.answers["question"].tolist() == ["Who?", "When?"]
    assert built.answers["answer"].tolist() == [" x", " 2024"]
    assert built.answers["wrong"].tolist() == [[" y", " z"], [" 2020", " 1999"]]
    assert built.answers["paraphrase"][0] == " an x" and pd.isna(built.answers["paraphrase"][1])
    assert built.answers["retain_model"][0] == 0.25 and pd.isna(built.answers["retain_model"][1])
    assert built.answers["subject"].tolist() == ["Who? ", "When? "]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("retain_model", "much", "hold no number; give one, or leave"),
        ("retain_model", True, "hold no number; give one, or leave"),
        ("paraphrase", ["It is x."], "hold no text; give one, or leave"),
        ("wrong", ["y", None], "come with an answer that is missing, empty or not a string"),
        ("wrong", ["y", "x "], "have the right answer among the wrong ones; list only others"),
    ],
)
def test_what_an_answer_comes_with_is_refused_where_it_is_of_another_kind(tmp_path, column, value, message):
    row = {"question": "Who? ", "answer": "x", "attribute": "b", "wrong": ["y"], column: value}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=rf"column {column}: 1 of 1 rows .* {message}"):
        table.read_source({"path": str(tmp_path / "answers.jsonl")}, "answers")
