"""The user's own data: files or hub data sets, with a mapping from the tables' columns to those of the source.

Each of the tables is described by a mapping, for example

    forget: {path: my/forget.csv, text: sentence, attribute: topic, subject: person}
    retain: {path: "hub:Salesforce/wikitext", config: wikitext-2-raw-v1, split: train, revision: b08601e, text: text}
    questions: {path: my/questions.jsonl, choices: [a, b, c, d], answer: right}
    fluency: {path: my/prose.parquet}
    prompts: {path: my/prompts.csv, prompt: beginning, attribute: topic}
    rephrased: {path: my/rephrased.jsonl, choices: [a, b, c, d], answer: right}

`path` is a CSV, JSONL or Parquet file, or `hub:owner/name` with `config`, `split` (default train) and `revision`. A
column that isn't mapped is looked for under the table's own name for it. `subject` may be absent: a question is then
its own subject, and a random split deals out single texts. `choices` is a list of columns, or one column with lists
(in CSV: JSON lists). `answer` is the index of the right choice from 0, or its text; `answer_is: index` or
`answer_is: text` says which where both readings are possible. `kind` of a prompt is `toxic` or `neutral`, and a neutral
one needs no attribute. `questions`, `prompts` and `rephrased` may be left out: they are for the evaluations knowledge,
toxicity and durability. `rephrased` is described as `questions` are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from spunge.datasets.tables import (
    COLUMNS,
    Tables,
    attributes_to_forget,
    check_present,
    check_strings,
    check_table,
    listed,
    rows,
)
from spunge.errors import InputError

HUB = "hub:"
HUB_KEYS = ("config", "split", "revision")
ASKED = ("questions", "rephrased")


@dataclass(frozen=True)
class Options:
    """Where each table comes from: `path`, and the source's name of each column."""

    forget: Mapping[str, Any]
    retain: Mapping[str, Any]
    fluency: Mapping[str, Any]
    questions: Mapping[str, Any] | None = None
    prompts: Mapping[str, Any] | None = None
    rephrased: Mapping[str, Any] | None = None


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the texts of the `forget` attributes (a list, or "all") to be forgotten.

    Texts of other attributes are left out, not retained. Raises InputError for a file, column, value or attribute that
    isn't there or can't be used.
    """
    sources = {field.name: getattr(options, field.name) for field in fields(options)}
    built = Tables(**{table: source and read_source(source, table) for table, source in sources.items()})
    where = str(options.forget["path"])
    chosen = attributes_to_forget(built.forget["attribute"], forget, 1, where)
    kept = built.forget[built.forget["attribute"].isin(chosen)].reset_index(drop=True)
    return replace(built, forget=kept)


def read_source(source: Mapping[str, Any], table: str, minimum_words: int = 0) -> pd.DataFrame:
    """Return one of the tables (its columns only) from its mapping; raises InputError.

    Rows whose text has fewer than `minimum_words` words are left out: a corpus has headings and blank lines.
    """
    optional = ["subject"] if table in ("forget", *ASKED) else []
    wanted = list(dict.fromkeys([*COLUMNS[table], *optional]))
    known = ["path", *HUB_KEYS, *wanted, *(["answer_is"] if table in ASKED else [])]
    unknown = [key for key in source if key not in known]
    if unknown:
        raise InputError(f"table {table} has no key {listed(unknown)}; its keys are {', '.join(known)}")
    if "path" not in source:
        raise InputError(f"table {table} has no path; give a CSV, JSONL or Parquet file, or hub:owner/name")
    path = str(source["path"])
    where = f"{path} (table {table})"
    raw = _read_hub(source, where) if path.startswith(HUB) else _read_file(Path(path), where)
    if raw.empty:
        raise InputError(f"{where} has no rows; at least one is needed")
    if minimum_words:
        raw = _of_words(raw, source.get("text", "text"), minimum_words, where)
    frame = pd.DataFrame(index=raw.index)
    for column in wanted:
        name = source.get(column, column)
        if column in optional and column not in source and column not in raw:
            if table in ASKED:
                frame[column] = frame["question"]
            continue
        if column == "choices":
            frame[column] = _choices(raw, name, where)
            continue
        _check_columns(raw, [name], where)
        if (table, column) == ("prompts", "attribute"):
            frame[column] = raw[name].map(str, na_action="ignore").fillna("")
            continue
        check_present(raw[name], name, where)
        if column == "answer":
            frame[column] = raw[name]
        else:
            frame[column] = raw[name].map(str) if column in ("attribute", "subject") else raw[name]
            check_strings(frame[column], name, where)
    if table in ASKED:
        frame["answer"] = _answers(frame["answer"], frame["choices"], source.get("answer_is"), where)
    check_table(frame, table, path)
    return frame


def _read_file(path: Path, where: str) -> pd.DataFrame:
    readers = {
        # Only an empty cell is missing: "NA" and "None" are good values (Namibia's code, for one).
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""]),
        ".jsonl": lambda: _read_jsonl(path),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix.lower() not in readers:
        raise InputError(f"{where} is none of CSV, JSONL and Parquet by its suffix; rename or convert it")
    try:
        return readers[path.suffix.lower()]()
    except FileNotFoundError as error:
        beside = sorted(other.name for other in path.parent.glob("*")) if path.parent.is_dir() else []
        there = f"{path.parent} holds {listed(beside)}" if beside else f"{path.parent} is empty or not there"
        raise InputError(f"{where} is not there; {there}") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{where} is empty; at least one row is needed") from error
    except ValueError as error:  # pandas', pyarrow's and the decoder's parse errors; their messages may quote a text
        raise InputError(f"{where} can't be read as {path.suffix[1:].upper()} in UTF-8; mend or convert it") from error


def _read_jsonl(path: Path) -> pd.DataFrame:
    # pandas' own reader turns columns with names like "date" into dates.
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("a line holds something else than an object")
    return pd.DataFrame(records)


def _read_hub(source: Mapping[str, Any], where: str) -> pd.DataFrame:
    import datasets

    name = source["path"].removeprefix(HUB)
    try:
        loaded = datasets.load_dataset(
            name, source.get("config"), split=source.get("split", "train"), revision=source.get("revision")
        )
    # Whatever goes wrong (no network, no access, no such split) is for the user to mend, and says so in its message.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{where} could not be loaded from the hub: {reason}") from error
    return loaded.to_pandas()


def _of_words(raw: pd.DataFrame, column: str, fewest: int, where: str) -> pd.DataFrame:
    _check_columns(raw, [column], where)
    words = raw[column].map(lambda text: len(text.split()) if isinstance(text, str) else 0).astype(int)
    if words.max() < fewest:
        raise InputError(f"{where}, column {column}, has no text of at least {fewest} words; lower minimum_words")
    return raw[words >= fewest].reset_index(drop=True)


def _check_columns(raw: pd.DataFrame, names: Sequence[str], where: str) -> None:
    missing = [name for name in names if name not in raw]
    if missing:
        raise InputError(f"{where} has no column {listed(missing)}; it has {listed(raw.columns)}")


def _choices(raw: pd.DataFrame, name: str | Sequence[str], where: str) -> pd.Series:
    """Return each question's choices as a list of strings, from a list of columns or one column of lists."""
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
            raise InputError(f"{where}, column {name}: {rows(wrong)} hold no (JSON) list; write choices as one")
    return pd.Series([[str(choice) for choice in choices] for choices in lists], index=raw.index, dtype=object)


def _as_list(value: Any) -> list | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, list) else None
    return list(value)


def _answers(answers: pd.Series, choices: pd.Series, answer_is: str | None, where: str) -> pd.Series:
    """Return the index of each right choice; all rows of the column are read in the same way."""
    indices = pd.to_numeric(answers, errors="coerce")
    texts = answers.map(str)
    # pandas.Series.isin compares with one set for all rows; here each row has its own choices.
    as_text = [text in own for text, own in zip(texts, choices, strict=True)]
    as_index = (indices.notna() & (indices % 1 == 0)).tolist()
    if answer_is is None:
        if all(as_text) and all(as_index):
            raise InputError(f"{where}, column answer, may be indices or texts of choices; say so with answer_is")
        answer_is = "index" if all(as_index) else "text"
    if answer_is not in ("index", "text"):
        raise InputError(f"{where}: answer_is is {answer_is!r}; it must be index or text")
    wrong = ~pd.Series(as_index if answer_is == "index" else as_text)
    if wrong.any():
        need = "no whole number" if answer_is == "index" else "none of the choices, nor an index throughout"
        raise InputError(f"{where}, column answer: {rows(wrong)} hold {need}; give the right choice's text or index")
    if answer_is == "index":
        return indices.astype("int64")
    return pd.Series([own.index(text) for text, own in zip(texts, choices, strict=True)], index=answers.index)
