"""The user's own data: files or hub data sets, with a mapping from the tables' columns to those of the source.

Each of the tables is described by a mapping, for example

    forget: {path: my/forget.csv, text: sentence, attribute: topic, subject: person}
    retain: {path: "hub:Salesforce/wikitext", config: wikitext-2-raw-v1, split: train, revision: b08601e, text: text}
    questions: {path: my/questions.jsonl, choices: [a, b, c, d], answer: right}
    fluency: {path: my/prose.parquet}
    prompts: {path: my/prompts.csv, prompt: beginning, attribute: topic}
    rephrased: {path: my/rephrased.jsonl, choices: [a, b, c, d], answer: right}
    answers: {path: my/answers.jsonl, question: asked, answer: right, wrong: [b, c, d]}

`path` is a CSV, JSONL or Parquet file, or `hub:owner/name` with `config`, `split` (default train) and `revision`. A
column that isn't mapped is looked for under the table's own name for it. `subject` may be absent: a question is then
its own subject, and a random split deals out single texts. `choices` is a list of columns, or one column with lists
(in CSV: JSON lists). `answer` is the index of the right choice from 0, or its text; `answer_is: index` or
`answer_is: text` says which where both readings are possible. Attributes, subjects, choices and answers are text or
numbers; whole numbers become their digits, and attributes and subjects must not be others. `kind` of a prompt is
`toxic` or `neutral`, and a neutral one needs no attribute. `questions`, `prompts`, `rephrased` and `answers` may be
left out: they are for the evaluations knowledge, toxicity, durability and answers. `rephrased` is described as
`questions` are. `wrong` of an answer is given as `choices` are.
"""

import codecs
import csv
import io
import json
import logging
import math
import numbers
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Required

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from typing_extensions import TypedDict

from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets.tables import (
    ASKED,
    COLUMNS,
    OPTIONAL,
    Tables,
    attributes_to_forget,
    check_attributes,
    check_present,
    check_right_answers,
    check_strings,
    check_table,
    check_wrong_answers,
    listed,
    reason,
    rows,
    shortened,
)
from spunge.experiment.options import STRICT, Text, checked

HUB = "hub:"
INDEX = "__index_level_0__"  # pandas' name for a CSV file's first column where rows have a field too many
HUB_KEYS = ("config", "split", "revision")
ASK = (*ASKED, "answers")
WITHOUT = (("prompts", "attribute"), ("retain", "attribute"))  # rows that have none are left empty
NAMES = ("attribute", "subject", "cluster")  # text or whole numbers


class Source(TypedDict, total=False):
    """Where a table comes from; the other keys are the source's names of its columns."""

    __pydantic_config__ = STRICT

    path: Required[Text]
    config: Text | None
    split: Text
    revision: Text | None


class Prose(Source, total=False):
    """The table fluency or calibration."""

    text: str


class Retain(Prose, total=False):
    """The table retain."""

    attribute: str


class Forget(Retain, total=False):
    """The table forget."""

    subject: str


class Questions(Source, total=False):
    """The table questions or rephrased."""

    question: str
    choices: str | Annotated[Sequence[str], Field(min_length=1)]
    answer: str
    answer_is: Literal["index", "text"]
    attribute: str
    subject: str
    cluster: str
    part: str
    delimiter: str


class Answers(Source, total=False):
    """The table answers."""

    question: str
    answer: str
    paraphrase: str
    end: str
    wrong: str | Annotated[Sequence[str], Field(min_length=1)]
    retain_model: str
    attribute: str
    subject: str
    cluster: str
    part: str


class Prompts(Source, total=False):
    """The table prompts."""

    prompt: str
    attribute: str
    kind: str
    cluster: str
    part: str


@checked
class Options:
    """Where each table comes from."""

    forget: Annotated[Forget, Field(description="Texts to forget, and the attribute of each.")]
    retain: Annotated[
        Retain, Field(description="Texts to retain, and the attribute of each if it has one, for `data.held_out`.")
    ]
    fluency: Annotated[Prose, Field(description="Texts that measure fluency.")]
    questions: Annotated[
        Questions | None, Field(description="Questions by attribute, for the evaluation `knowledge`.")
    ] = None
    prompts: Annotated[Prompts | None, Field(description="Prompts, for the evaluation `toxicity`.")] = None
    rephrased: Annotated[
        Questions | None, Field(description="The questions in other words, for `durability.rephrase`.")
    ] = None
    answers: Annotated[
        Answers | None, Field(description="Open questions and their answers, for the evaluation `answers`.")
    ] = None
    calibration: Annotated[
        Prose | None,
        Field(description="Neutral texts whose damage sets λ, for `budgets`; else half of the fluency texts do."),
    ] = None


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the texts of the `forget` attributes (a list, or "all") to be forgotten.

    Texts of other attributes are left out, not retained. Raises InputError for a file, column, value or attribute that
    isn't there or can't be used.
    """
    sources = {field.name: getattr(options, field.name) for field in fields(options)}
    built = Tables(**{table: source and read_source(source, table) for table, source in sources.items()})
    named = [getattr(built, table) for table in ASK if getattr(built, table) is not None]
    for column in ("subject", "cluster"):
        names = [frame.loc[frame[column] != frame["question"], column] for frame in named if column in frame]
        _check_spelling(pd.concat([pd.Series(dtype=object), *names]), column, "the tables of questions and answers")
    # Before any rows are left out: they may be of an attribute to forget, but for their spelling.
    check_attributes(built, forget)
    where = options.forget["path"]
    chosen = attributes_to_forget(built.forget["attribute"], forget, 1, where)
    kept = built.forget[built.forget["attribute"].isin(chosen)].reset_index(drop=True)
    return replace(built, forget=kept)


def read_source(source: Source, table: str, minimum_words: int = 0) -> pd.DataFrame:
    """Return one of the tables (its columns only) from its mapping; raises InputError.

    Rows whose text has fewer than `minimum_words` words are left out: a corpus has headings and blank lines.
    """
    optional = [*OPTIONAL.get(table, ()), *(["subject"] if table in ASK else [])]
    wanted = list(dict.fromkeys([*COLUMNS[table], *optional]))
    path = source["path"]
    where = f"{path} (table {table})"
    if not path.startswith(HUB) and (given := [key for key in HUB_KEYS if source.get(key) is not None]):
        raise InputError(f"{where} is a file, so it has no {given[0]}, as a data set on the hub has; leave it out")
    raw = _read_hub(source, where) if path.startswith(HUB) else _read_file(Path(path), where)
    if raw.empty:
        raise InputError(f"{where} has no rows; at least one is needed")
    narrow = raw.select_dtypes(["float16", "float32"]).columns
    raw[narrow] = raw[narrow].astype(str).astype(float)  # 3.14 as it is written, not 3.140000104904175
    raw = raw.astype(object)  # each value as it is: 2024, not 2024.0 where others are missing
    if minimum_words:
        raw = _of_words(raw, source.get("text", "text"), minimum_words, where)
    frame = pd.DataFrame(index=raw.index)
    for column in wanted:
        name = source.get(column, column)
        if column in optional and column not in source and column not in raw:
            if table in ASK and column == "subject":
                # Questions that are spelt alike are one subject.
                spelling = frame["question"].map(folded)
                frame[column] = frame["question"].groupby(spelling, sort=False).transform("first")
            continue
        if column in ("choices", "wrong"):
            frame[column] = _choices(raw, name, where)
            continue
        _check_columns(raw, [name], where)
        if (table, column) in WITHOUT:
            names = _names(raw[name].fillna(""), name, where)
            frame[column] = names.where(names.str.strip() != "", "")
            continue
        if column == "paraphrase":  # some answers may have none
            frame[column] = raw[name].map(_text)
            if (wrong := frame[column].isna() & raw[name].notna()).any():
                raise InputError(f"{where}, column {name}: {rows(wrong)} hold no text; give one, or leave it empty")
            continue
        if column == "delimiter":  # some languages have no spaces
            frame[column] = raw[name].fillna("").map(_text)
            continue
        if column == "retain_model":
            frame[column] = _numbers(raw[name], name, where)
            continue
        check_present(raw[name], name, where)
        if column == "answer":
            frame[column] = raw[name] if table in ASKED else raw[name].map(_text)
        else:
            frame[column] = _names(raw[name], name, where) if column in NAMES else raw[name]
            check_strings(frame[column], name, where)
            if column in ("subject", "cluster"):
                _check_spelling(frame[column], name, where)
    if table in ASKED:
        frame["answer"] = _answers(frame["answer"], frame["choices"], source.get("answer_is"), where)
    if table == "answers":
        _move_spaces(frame)
    check_table(frame, table, path)
    if table in ASKED and not path.startswith(HUB):  # nobody could mend those of the hub
        check_right_answers(frame, table)
    if "wrong" in frame and not path.startswith(HUB):
        check_wrong_answers(frame, table)
    return frame


def _read_file(path: Path, where: str) -> pd.DataFrame:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{where} is none of CSV, JSONL and Parquet by its suffix; rename or convert it")
    try:
        return readers[path.suffix.lower()](path, where)
    except FileNotFoundError as error:
        beside = sorted(other.name for other in path.parent.glob("*")) if path.parent.is_dir() else []
        there = f"{path.parent} holds {listed(beside)}" if beside else f"{path.parent} is empty or not there"
        raise InputError(f"{where} is not there; {there}") from error
    except (OSError, pa.ArrowException, ValueError) as error:
        kind = path.suffix[1:].upper()
        raise InputError(f"{where} can't be read as {kind}: {reason(error)}; mend or convert it") from error


def _read_csv(path: Path, where: str) -> pd.DataFrame:
    """Return a CSV file's rows, all cells as strings; only an empty cell is missing, "NA" and "None" are good values.

    pandas' own reader takes the first column for an index where rows have a field too many, and fills up short ones.
    """
    text = decode(path.read_bytes(), where)
    csv.field_size_limit(sys.maxsize)  # a text may be a whole paper
    lines = io.StringIO(text, newline="").readlines()
    reader = csv.reader(lines, strict=True)
    header, records, start = None, [], 1
    try:
        for row in reader:
            blank = not lines[start - 1].strip() and reader.line_num == start
            _check_quotes("".join(lines[start - 1 : reader.line_num]), row, f"{where}, line {start}")
            if header is None and not blank:
                header = row
                for separator, name in {";": "semicolons", "\t": "tabs"}.items():
                    if len(header) == 1 and separator in header[0]:
                        raise InputError(f"{where} has its columns separated by {name}; save it with commas")
                _check_columns_of(header, where)
            elif not blank:
                if len(row) != len(header):
                    raise InputError(
                        f"{where}, line {start}, has {len(row)} fields, but the header has {len(header)}; all need as "
                        "many, and a text with a comma in it must stand in quotes"
                    )
                records.append([cell or None for cell in row])
            start = reader.line_num + 1
    except csv.Error as error:  # its message is of quotes, and quotes no text
        raise InputError(
            f"{where}, line {start}, can't be read as CSV ({error}); a text with a quotation mark in it must stand in "
            "quotes, with the mark doubled"
        ) from error
    if header is None:
        raise InputError(f"{where} is empty; at least one row is needed")
    return pd.DataFrame(records, columns=header, dtype=str)


def _check_quotes(line: str, row: Sequence[str], where: str) -> None:
    """Check that no space stands before the quotation mark that begins a cell: both would be part of the text."""
    if not re.search(r'(?:^|,)[ \t]+"', line):
        return
    without = next(csv.reader(io.StringIO(line, newline=""), skipinitialspace=True))
    if [cell.lstrip(" ") for cell in row] != [cell.lstrip(" ") for cell in without]:
        raise InputError(f"{where}, has a space before a quotation mark that begins a cell; remove the space")


def _check_columns_of(names: Sequence[str], where: str) -> None:
    if not all(name.strip() for name in names):
        raise InputError(f"{where} has a column without a name; name it, or remove it")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"{where} has several columns named {shortened(twice)}; rename or remove all but one")


def _read_jsonl(path: Path, where: str) -> pd.DataFrame:
    # pandas' own reader turns columns with names like "date" into dates, and numbers beside missing ones into floats.
    return pd.DataFrame([record for _, record in json_lines(path, where)], dtype=object)


def json_lines(path: Path, where: str) -> Iterator[tuple[int, dict]]:
    """Yield the number of each line of a JSONL file and the object in it, one at a time; blank lines are left out.

    Raises InputError that names the line, and quotes nothing of it.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not (text := decode(line, where, number)).strip():
                continue
            try:
                record = _loads(text, object_pairs_hook=_object)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}, line {number}, is no JSON: {error.msg} at column {error.colno}") from error
            except KeyError as error:
                raise InputError(f"{where}, line {number}, has a key twice; rename or remove one") from error
            if not isinstance(record, dict):
                raise InputError(f"{where}, line {number}, is no JSON object; write one {{...}} a line")
            yield number, record


def _loads(text: str, **options: Any) -> Any:
    """Return what JSON says; half a character (a lone surrogate), which no file can hold, is a JSONDecodeError, too."""
    value = json.loads(text, **options)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            start = re.search(r"\\u[dD][89a-fA-F]", text)
            raise json.JSONDecodeError("half a character, a lone surrogate", text, start.start()) from None
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise KeyError
    return record


def decode(content: bytes, where: str, first: int = 1) -> str:
    """Return text in UTF-8 without a byte order mark; InputError names the line, where `first` is the first one."""
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + content[: error.start].count(b"\n")
        raise InputError(f"{where}, line {line}, is not in UTF-8; save the file in UTF-8") from error


def _read_parquet(path: Path, where: str) -> pd.DataFrame:
    _check_columns_of(pq.ParquetDataset(path).schema.names, where)
    # pandas would take an index of its own out of the columns, and make floats of whole numbers beside missing ones.
    return pq.read_table(path).to_pandas(ignore_metadata=True, integer_object_nulls=True)


def _read_hub(source: Mapping[str, Any], where: str) -> pd.DataFrame:
    import datasets

    # Where a file can't be read, these log what is wrong with which text.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL + 1)
    name = source["path"].removeprefix(HUB)
    try:
        loaded = datasets.load_dataset(
            name, source.get("config"), split=source.get("split", "train"), revision=source.get("revision")
        )
        frame = loaded.to_pandas()
    # Whatever goes wrong (no network, no access, no such split) is for the user to mend.
    except Exception as error:
        asked = ", ".join(f"{key} {source[key]}" for key in HUB_KEYS if key in source)
        asked = f" with {asked}" if asked else ""
        raise InputError(f"{where} could not be loaded from the hub{asked}: {reason(error)}") from error
    if INDEX in frame and loaded.info.builder_name == "csv":
        raise InputError(
            f"{where} has rows of more fields than its header; a text with a comma in it must stand in quotes"
        )
    return frame


def _of_words(raw: pd.DataFrame, column: str, fewest: int, where: str) -> pd.DataFrame:
    _check_columns(raw, [column], where)
    words = raw[column].map(lambda text: len(text.split()) if isinstance(text, str) else 0).astype(int)
    if words.max() < fewest:
        raise InputError(f"{where}, column {column}, has no text of at least {fewest} words; lower minimum_words")
    return raw[words >= fewest].reset_index(drop=True)


def _check_columns(raw: pd.DataFrame, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in raw]
    if missing:
        raise InputError(f"{where} has no column {listed(missing)}; it has {shortened(raw.columns)}")


def _names(values: pd.Series, name: str, where: str) -> pd.Series:
    """Return attributes or subjects as strings; a value that is neither text nor a whole number is an InputError."""
    texts = values.map(_text)
    wrong = texts.isna() | values.map(lambda value: isinstance(value, numbers.Real) and value % 1 != 0).astype(bool)
    if wrong.any():
        kind = type(values[wrong].iloc[0]).__name__
        raise InputError(
            f"{where}, column {name}: {rows(wrong)} hold {kind} values; text or whole numbers are needed, so write "
            "one name for each row, in quotes"
        )
    return texts


def _numbers(values: pd.Series, name: str, where: str) -> pd.Series:
    """Return numbers, NaN where there is none; raises InputError for anything else."""
    numeric = pd.to_numeric(values, errors="coerce").astype(float)
    truths = values.map(lambda value: isinstance(value, bool)).astype(bool)
    if (wrong := truths | numeric.isna() & values.notna()).any():
        raise InputError(f"{where}, column {name}: {rows(wrong)} hold no number; give one, or leave the cell empty")
    return numeric


def _text(value: Any) -> str | None:
    """Return text as it is and a number as text, a whole one in its digits (2024 for 2024.0); None for all else."""
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value % 1 == 0 else str(value)
    return None


def _choices(raw: pd.DataFrame, name: str | Sequence[str], where: str) -> pd.Series:
    """Return each question's choices as a list of strings, from a list of columns or one column of lists.

    What is neither text nor a number becomes None, which `check_table` refuses.
    """
    if not isinstance(name, str):
        _check_columns(raw, name, where)
        for column in name:
            check_present(raw[column], column, where)
        lists = raw[list(name)].to_numpy(dtype=object).tolist()
    else:
        _check_columns(raw, [name], where)
        check_present(raw[name], name, where)
        lists = raw[name].map(_as_list).tolist()
        wrong = pd.Series([choices is None for choices in lists])
        if wrong.any():
            raise InputError(f"{where}, column {name}: {rows(wrong)} hold no (JSON) list; write them as one")
    return pd.Series([[_text(choice) for choice in choices] for choices in lists], index=raw.index, dtype=object)


def _move_spaces(frame: pd.DataFrame) -> None:
    """Move a space at the end of a question to its answers: tokens begin with it, and an answer's are its own."""
    bare = frame["question"].str.rstrip(" ")
    spaces = [question[len(start) :] for question, start in zip(frame["question"], bare, strict=True)]
    frame["question"] = bare
    for column in frame.columns.intersection(["answer", "paraphrase", "wrong"]):
        frame[column] = [
            [space + one if isinstance(one, str) else one for one in value]
            if isinstance(value, list)
            else (value if pd.isna(value) else space + value)
            for space, value in zip(spaces, frame[column], strict=True)
        ]


def _check_spelling(names: pd.Series, column: str, where: str) -> None:
    """Check that no two names differ by case, white space or Unicode form alone: they would be told apart."""
    known: dict[str, str] = {}
    for name in names.unique():
        if (first := known.setdefault(folded(name), name)) != name:
            raise InputError(
                f"{where}, column {column}: {shortened([ascii(first)])} and {shortened([ascii(name)])} differ by case, "
                "white space or Unicode form alone; spell it in one way, or give the two different names"
            )


def _as_list(value: Any) -> list | None:
    if isinstance(value, str):
        try:
            value = _loads(value)
        except json.JSONDecodeError:
            return None
    # An array of Parquet's, say; the keys of a mapping are no choices.
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else None


def _answers(answers: pd.Series, choices: pd.Series, answer_is: str | None, where: str) -> pd.Series:
    """Return the index of each right choice; all rows of the column are read in the same way."""
    texts = answers.map(_text)
    indices = pd.to_numeric(texts, errors="coerce")
    # pandas.Series.isin compares with one set for all rows; here each row has its own choices.
    as_text = [text in choices_of_row for text, choices_of_row in zip(texts, choices, strict=True)]
    as_index = (indices.notna() & (indices % 1 == 0)).tolist()
    if answer_is is None:
        if any(as_text) and all(as_index):
            raise InputError(f"{where}, column answer, may be indices or texts of choices; say so with answer_is")
        answer_is = "index" if all(as_index) else "text"
    wrong = ~pd.Series(as_index if answer_is == "index" else as_text)
    if wrong.any():
        need = "no whole number" if answer_is == "index" else "none of the choices, nor an index throughout"
        raise InputError(f"{where}, column answer: {rows(wrong)} hold {need}; give the right choice's text or index")
    if answer_is == "index":
        return indices.astype("int64")
    return pd.Series(
        [choices_of_row.index(text) for text, choices_of_row in zip(texts, choices, strict=True)], index=answers.index
    )
