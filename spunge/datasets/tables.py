"""The tables that every data source is turned into, their checks, and their Parquet files.

| table | columns |
|---|---|
| forget | text, attribute, and by choice subject (what the text is about: a random split keeps it together) |
| retain | text, by choice attribute (empty for one of none) |
| questions | question, choices (list of strings), answer (index), attribute, subject, by choice cluster, part, … |
| fluency | text: held-out prose |
| calibration | text: neutral prose whose damage sets λ (`budgets`), of another domain than the others if possible |
| prompts | prompt, attribute (empty for one of no group), kind (`toxic` or `neutral`), by choice cluster and part |
| benign | text, attribute (one to forget), by choice cluster: what may be said of it all the same |
| rephrased | as questions, with their attributes and subjects: the same facts asked for in other words |
| answers | question, answer, attribute, subject, by choice paraphrase, wrong, end, retain_model, cluster, part |

Questions may have a `delimiter` between question and choice; without it a space stands there, and nothing after white
space. In answers the question is all that stands before an answer, and the paraphrase is the answer in other words,
missing where there is none. `wrong` is a list of answers, of the paraphrase's form or else of the answer's. What a
model writes counts up to the first match of the regular expression `end`. retain_model is the truth ratio of a model
that was never trained on what is to be forgotten, NaN where it isn't known.

A subject is what a row is about; a cluster is what shares an answer or a source, a country for its cities: intervals
count clusters. Without one, each subject (or prompt) is its own. A part is `validation`, by which options are chosen,
or `test`, which is reported; rows of a cluster have the same.

A source may lack questions, prompts, benign, rephrased and answers: an evaluation that needs them then can't be
configured. For one that lacks calibration, half of the fluency texts are taken.

What answers hold may be trained on, unlike what all other tables measure by: their benchmarks ask whether texts to
retain are still known.

Forget texts may be toxic or hazardous: messages name rows (counted from 1) and numbers, never a text.
"""

import os
import random
import re
import sys
import traceback
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spunge.core.errors import InputError
from spunge.core.files import whole_file

STRINGS = pa.list_(pa.string())
TYPES = {
    "questions": {"choices": STRINGS, "answer": pa.int64()},
    "rephrased": {"choices": STRINGS, "answer": pa.int64()},
    "answers": {"wrong": STRINGS, "retain_model": pa.float64()},
}
COLUMNS = {
    "forget": ("text", "attribute"),
    "retain": ("text",),
    "questions": ("question", "choices", "answer", "attribute", "subject"),
    "fluency": ("text",),
    "calibration": ("text",),
    "prompts": ("prompt", "attribute", "kind"),
    "benign": ("text", "attribute"),
    "rephrased": ("question", "choices", "answer", "attribute", "subject"),
    "answers": ("question", "answer", "attribute", "subject"),
}
OPTIONAL = {
    "forget": ("subject",),
    "retain": ("attribute",),
    "questions": ("cluster", "part", "delimiter"),
    "prompts": ("cluster", "part"),
    "benign": ("cluster",),
    "rephrased": ("cluster", "part", "delimiter"),
    "answers": ("paraphrase", "wrong", "end", "retain_model", "cluster", "part"),
}
ASKED = ("questions", "rephrased")
DIVIDED = ("questions", "prompts", "answers")  # into validation and test
KINDS = ("toxic", "neutral")
VALIDATION, TEST = PARTS = ("validation", "test")
SHOWN = 10
LONGEST_NAME, MOST_WORDS = 40, 5


@dataclass(frozen=True)
class Tables:
    """The data of one experiment; a table that the source lacks is None."""

    forget: pd.DataFrame
    retain: pd.DataFrame
    questions: pd.DataFrame | None
    fluency: pd.DataFrame
    prompts: pd.DataFrame | None = None
    rephrased: pd.DataFrame | None = None
    calibration: pd.DataFrame | None = None
    benign: pd.DataFrame | None = None
    answers: pd.DataFrame | None = None

    def present(self) -> dict[str, pd.DataFrame]:
        """Return the tables that there are, by name."""
        by_name = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: frame for name, frame in by_name.items() if frame is not None}


def write(frame: pd.DataFrame, table: str, path: str | os.PathLike) -> None:
    """Write one of the tables as Parquet, whole or not at all; the same rows give the same bytes."""
    columns = [*COLUMNS[table], *(column for column in OPTIONAL.get(table, ()) if column in frame)]
    types = TYPES.get(table, {})
    schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
    arrow = pa.Table.from_pandas(frame[columns], schema=schema, preserve_index=False)
    with whole_file(path) as temporary:
        # pandas' own metadata would tie the bytes to the index of the frame.
        pq.write_table(arrow.replace_schema_metadata(None), temporary, compression="zstd")


def read(table: str, path: str | os.PathLike) -> pd.DataFrame:
    """Read one of the tables by its name and check it; InputError names the file."""
    try:
        frame = pq.read_table(path).to_pandas()
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; the table {table} is read from it") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is truncated or not a Parquet file; make it again") from error
    check_table(frame, table, path)
    for column in {"choices", "wrong"} & {*frame}:
        frame[column] = frame[column].map(list)
    return frame


@contextmanager
def errors_without_texts() -> Iterator[None]:
    """Turn an unforeseen error into an InputError that tells where it arose, but not its message.

    Messages of pandas and pyarrow may quote a text. Those about files and from the system are shown: they don't.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise error from None  # what it came from may quote a text
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(f"the data can't be read: {reason(error)} at {place.filename}, line {place.lineno}") from None


def reason(error: BaseException) -> str:
    """Return what may be shown of an error while texts are read: its message if it is about files, else its type.

    An error's causes count too, because `datasets` wraps whatever happens while it reads.
    """
    cause = error
    while not isinstance(cause, OSError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, OSError) and (message := next(iter(str(cause).splitlines()), "")):
        return message
    return f"{type(error).__name__} (its message may quote a text, so it isn't shown)"


def check(tables: Tables, wanted: Sequence[str] | str = "all") -> None:
    """Check each table, and the tables against each other; raises InputError.

    Attributes, also those of `wanted` (data.forget), are spelt in one way each; no text is to be forgotten twice, or to
    be forgotten and kept; no question is asked twice; nothing asked or measured is trained on.
    """
    for name, frame in tables.present().items():
        check_table(frame, name)
    check_attributes(tables, wanted)
    check_repetitions(tables)
    check_leakage(tables)


def check_table(frame: pd.DataFrame, table: str, path: str | os.PathLike | None = None) -> None:
    """Check one table: columns, rows, nothing missing or empty, choices, answers and kinds; raises InputError."""
    where = f"table {table}" if path is None else f"{path} (table {table})"
    missing = [column for column in COLUMNS[table] if column not in frame]
    if missing:
        raise InputError(f"{where} has no column {', '.join(missing)}; it has {listed(frame.columns)}")
    if frame.empty:
        raise InputError(f"{where} has no rows; at least one is needed")
    for column in [*COLUMNS[table], *(column for column in OPTIONAL.get(table, ()) if column in frame)]:
        if column in ("choices", "wrong"):
            _check_lists(frame[column], where)
        elif column == "answer" and "choices" in COLUMNS[table]:
            _check_answers(frame, where)
        elif column == "paraphrase":
            check_strings(frame[column].fillna("none"), column, where)
        elif column == "end":
            _check_patterns(frame[column], where)
        elif column == "retain_model":
            _check_truth_ratios(frame[column], where)
        elif (table, column) == ("prompts", "attribute"):
            _check_groups(frame, where)
        elif (table, column) == ("retain", "attribute") or column == "delimiter":  # may be empty
            check_present(frame[column], column, where)
        elif column == "part":
            _check_parts(frame, where)
        else:
            check_strings(frame[column], column, where)


def check_strings(values: pd.Series, column: str, where: str) -> None:
    """Raise InputError where a column of strings holds a missing value, something else, or nothing but white space."""
    check_present(values, column, where)
    other = ~values.map(lambda value: isinstance(value, str)).astype(bool)
    if other.any():
        kind = type(values[other.to_numpy()].iloc[0]).__name__
        raise InputError(f"{where}, column {column}: {rows(other)} hold {kind} values; strings are needed")
    empty = values.str.strip() == ""
    if empty.any():
        raise InputError(f"{where}, column {column}: {rows(empty)} are empty; fill or remove them")


def check_present(values: pd.Series, column: str, where: str) -> None:
    """Raise InputError where a column has missing values (null or NaN)."""
    missing = values.isna()
    if missing.any():
        raise InputError(f"{where}, column {column}: {rows(missing)} are missing (null or NaN); fill or remove them")


def _check_lists(lists: pd.Series, where: str) -> None:
    check_present(lists, lists.name, where)
    flat = lists.map(list).reset_index(drop=True).explode()
    what, at_least, few, needed = "an answer", 1, "without an answer", "at least one is needed"
    if lists.name == "choices":
        what, at_least, few = "a choice", 2, "with fewer than two choices"
        needed = "at least two different ones are needed"
    checks = {
        few: lists.map(len).reset_index(drop=True) < at_least,
        f"with {what} that is missing, empty or not a string": ~flat.map(
            lambda text: isinstance(text, str) and bool(text.strip())
        )
        .groupby(level=0)
        .all(),
    }
    if lists.name == "choices":
        twice = flat.groupby(level=0).nunique(dropna=False) < flat.groupby(level=0).size()
        checks["with the same choice twice"] = twice
    for fault, wrong in checks.items():
        if wrong.any():
            raise InputError(f"{where}, column {lists.name}: {rows(wrong)} come {fault}; {needed}")


def _check_patterns(patterns: pd.Series, where: str) -> None:
    check_strings(patterns, "end", where)
    for pattern in patterns.unique():
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{where}, column end: {pattern!r} is no regular expression ({error})") from error


def _check_truth_ratios(ratios: pd.Series, where: str) -> None:
    wrong = ~(ratios.isna() | (ratios >= 0) & (ratios < float("inf")))
    if wrong.any():
        raise InputError(f"{where}, column retain_model: {rows(wrong)} are no truth ratio, which is 0 or more")


def _check_answers(frame: pd.DataFrame, where: str) -> None:
    check_present(frame["answer"], "answer", where)
    if not pd.api.types.is_integer_dtype(frame["answer"]):
        raise InputError(f"{where}, column answer, holds {frame['answer'].dtype} values; indices from 0 are needed")
    outside = (frame["answer"] < 0) | (frame["answer"] >= frame["choices"].map(len))
    if outside.any():
        raise InputError(
            f"{where}, column answer: {rows(outside)} are out of range; indices into choices, from 0, are needed"
        )


def _check_groups(prompts: pd.DataFrame, where: str) -> None:
    """Check kinds, and that every toxic prompt has an attribute; a neutral one needn't."""
    check_strings(prompts["kind"], "kind", where)
    unknown = ~prompts["kind"].isin(KINDS)
    if unknown.any():
        raise InputError(f"{where}, column kind: {rows(unknown)} are none of {', '.join(KINDS)}; correct them")
    check_present(prompts["attribute"], "attribute", where)
    toxic = prompts["kind"] == "toxic"
    if not toxic.any():
        raise InputError(f"{where} has no toxic prompts; at least one is needed")
    check_strings(prompts.loc[toxic, "attribute"], "attribute", where)


def _check_parts(frame: pd.DataFrame, where: str) -> None:
    """Check that each row is of one of PARTS, and all rows of a cluster of the same."""
    check_strings(frame["part"], "part", where)
    unknown = ~frame["part"].isin(PARTS)
    if unknown.any():
        raise InputError(f"{where}, column part: {rows(unknown)} are none of {', '.join(PARTS)}; correct them")
    divided = frame["part"].groupby(clusters(frame)).transform("nunique") > 1
    if divided.any():
        raise InputError(
            f"{where}, column part: {rows(divided)} are of a cluster that has rows of both parts, so what is chosen on "
            "one would be reported on the other; give each cluster one part"
        )


def check_attributes(tables: Tables, wanted: Sequence[str] | str) -> None:
    """Raise InputError for an attribute that is spelt in two ways, or has a name that evaluations.csv needs itself.

    All tables are looked at, and `wanted` (data.forget): a misspelt attribute of a question would count as one to keep.
    """
    # Not at the top: jobs that read tables needn't run again with them.
    from spunge.core.slugs import folded
    from spunge.core.tidy import RESERVED

    spelt = [] if wanted == "all" else [(attribute, "data.forget") for attribute in wanted]
    for name, frame in tables.present().items():
        if "attribute" in frame:
            first = frame["attribute"].reset_index(drop=True).drop_duplicates()
            spelt += [(attribute, f"table {name} (row {row + 1})") for row, attribute in first.items() if attribute]
    spellings: dict[str, tuple[str, str]] = {}
    for attribute, where in spelt:
        if re.search(r"\r(?!\n)", attribute):  # it would end a row of evaluations.csv
            raise InputError(
                f"{where} has the attribute {shortened([repr(attribute)])}, which holds a carriage return; remove it"
            )
        key = folded(attribute)
        if key in RESERVED:
            raise InputError(
                f"{where} has the attribute {attribute!r}, a name that the results need for themselves; rename it"
            )
        known, known_where = spellings.setdefault(key, (attribute, where))
        if attribute != known:
            # Composed and decomposed letters look the same.
            alike = unicodedata.normalize("NFC", attribute) == unicodedata.normalize("NFC", known)
            known_name, misspelt = (shortened([(ascii if alike else repr)(name)]) for name in (known, attribute))
            raise InputError(
                f"{known_where} has the attribute {known_name} and {where} {misspelt}, which differ by case, white "
                "space or Unicode form alone; spell it in one way, or give the two different names"
            )


def check_repetitions(tables: Tables) -> None:
    """Raise InputError for a text to forget that is retained too, and for one or a question under two attributes.

    Case, white space and Unicode form aside. Questions of the same words with other choices are different ones.
    """
    from spunge.core.slugs import folded

    forget, retain = (frame["text"].map(folded).reset_index(drop=True) for frame in (tables.forget, tables.retain))
    kept = forget.map({text: row for row, text in reversed(list(enumerate(retain)))})
    if kept.notna().any():
        first = int(kept.notna().to_numpy().argmax())
        raise InputError(
            f"table forget: {rows(kept.notna())} stand in table retain too (row {first + 1} in retain row "
            f"{int(kept[first]) + 1}); no text can be forgotten and kept, so remove one of the two"
        )
    _check_one_attribute(forget, tables.forget["attribute"], "forget", "text")
    for name in ASKED:
        if (asked := tables.present().get(name)) is not None:
            choices = (tuple(sorted(map(folded, choices_of_row))) for choices_of_row in asked["choices"])
            keys = pd.Series(list(zip(asked["question"].map(folded), choices, strict=True)))
            _check_one_attribute(keys, asked["attribute"], name, "question")


def check_right_answers(questions: pd.DataFrame, table: str) -> None:
    """Raise InputError for two rows that ask the same and have different right answers: any model has one right.

    White space aside; case may be what a question is about (Co, CO).
    """

    def words(text: str) -> str:
        return " ".join(text.split())

    asked = [(words(row.question), *sorted(map(words, row.choices))) for row in questions.itertuples()]
    right = pd.Series([words(row.choices[row.answer]) for row in questions.itertuples()])
    several = right.groupby(pd.factorize(pd.Series(asked))[0]).transform("nunique") > 1
    if several.any():
        raise InputError(
            f"table {table}: {rows(several)} ask what another row asks, with another right answer; remove one, or give "
            "them different choices"
        )


def check_wrong_answers(answers: pd.DataFrame, table: str) -> None:
    """Raise InputError where a right answer, or a paraphrase of it, is among the wrong ones, white space aside."""
    right = answers.reindex(columns=["answer", "paraphrase"]).to_numpy(dtype=object)
    among = [
        bool({text.strip() for text in wrong} & {text.strip() for text in texts if isinstance(text, str)})
        for wrong, texts in zip(answers["wrong"], right, strict=True)
    ]
    if any(among):
        raise InputError(
            f"table {table}, column wrong: {rows(pd.Series(among))} have the right answer among the wrong ones; list "
            "only others"
        )


def _check_one_attribute(keys: pd.Series, attributes: pd.Series, table: str, what: str) -> None:
    attributes, groups = attributes.reset_index(drop=True), pd.Series(pd.factorize(keys)[0])
    several = attributes.groupby(groups).transform("nunique") > 1
    if several.any():
        first = int(several.to_numpy().argmax())
        second = int(((groups == groups[first]) & (attributes != attributes[first])).to_numpy().argmax())
        first_place, second_place = (f"{shortened([attributes[row]])} in row {row + 1}" for row in (first, second))
        raise InputError(
            f"table {table}: {rows(several)} have a {what} that stands under several attributes "
            f"({first_place}, {second_place}); leave it to one of them"
        )


def check_leakage(tables: Tables) -> None:
    """Raise InputError where a question, prompt, fluency or calibration text occurs in a forget or retain text.

    The other way, a text in what is measured, is looked for in prompts alone: a short text to retain may well stand in
    prose. Nor may a calibration text occur in one that measures fluency, or such a one in it. Case and white space
    aside. Takes seconds for a million texts.
    """
    measured = {"questions": "question", "rephrased": "question", "prompts": "prompt"}
    measured |= {"fluency": "text", "calibration": "text", "benign": "text"}
    held_out = {name: frame[measured[name]] for name, frame in tables.present().items() if name in measured}
    for table, texts in {"forget": tables.forget["text"], "retain": tables.retain["text"]}.items():
        patterns = [pattern for values in held_out.values() for pattern in values.unique()]
        first_rows = dict(sorted(occurrences(patterns, texts), reverse=True))
        for name, values in held_out.items():
            row_found = values.map({patterns[index]: row for index, row in first_rows.items()})
            if row_found.notna().any():
                first = int(row_found.notna().to_numpy().argmax())
                raise InputError(
                    f"table {name}: {rows(row_found.notna())} occur in a text of table {table} "
                    f"(row {first + 1} in {table} row {int(row_found.iloc[first]) + 1}); "
                    "what is measured must not be trained on, so reword or remove one of the two"
                )
    if tables.calibration is not None:
        for first, row in _shared(tables.calibration["text"], tables.fluency["text"]):
            raise InputError(
                f"table calibration: row {first + 1} occurs in a text of table fluency (row {row + 1}), or that in it; "
                "λ must not be set by what measures the damage, so remove one of the two"
            )
    if tables.prompts is not None:
        inside = occurrences(tables.forget["text"], tables.prompts["prompt"])
        if inside:
            text, prompt = min(inside)
            raise InputError(
                f"table prompts: row {prompt + 1} holds a text of table forget (row {text + 1}); what is measured must "
                "not be trained on, so reword or remove one of the two"
            )


def check_wanted(tables: Tables, needed_by: Mapping[str, str], wanted: Collection[str], source: str) -> None:
    """Raise InputError for a table that is wanted, by the evaluation that needs it, and that the data set lacks."""
    for table in wanted:
        if getattr(tables, table) is None:
            raise InputError(
                f"data set {source} gives no {table} here, which evaluations.{needed_by[table]} needs: leave that "
                "evaluation out, or give some in data.options"
            )


def with_calibration(tables: Tables) -> Tables:
    """Return the tables with one of calibration texts; where the source has none, every other fluency text is one.

    Raises InputError for fluency texts of both halves of which one occurs in the other, and for a single text.
    """
    if tables.calibration is not None:
        return tables
    if len(tables.fluency) < 2:
        raise InputError("table fluency has one text, and budgets need one more, for calibration; give more of them")
    fluency, calibration = (tables.fluency[start::2].reset_index(drop=True) for start in (0, 1))
    for measuring, setting in _shared(fluency["text"], calibration["text"]):
        raise InputError(
            f"table fluency: of rows {2 * measuring + 1} and {2 * setting + 2} one occurs in the other, but every "
            "second text sets λ, and λ must not be set by what measures the damage, so remove one of the two"
        )
    return replace(tables, fluency=fluency, calibration=calibration)


def _shared(some: pd.Series, others: pd.Series) -> list[tuple[int, int]]:
    """Return the pairs (row of `some`, row of `others`) of texts of which one occurs in the other."""
    return sorted(occurrences(some, others) | {(row, other) for other, row in occurrences(others, some)})


def occurrences(patterns: Sequence[str], texts: pd.Series, chunk: int = 100_000) -> set[tuple[int, int]]:
    """Return the pairs (index of pattern, row of text) where the pattern occurs in the text, case and space aside.

    Each pattern is looked up by its word that is rarest among the patterns, so that only texts with this word are
    compared in full.
    """
    pattern_words = _words(patterns).to_pylist()
    needles = [" ".join(words) for words in pattern_words]
    frequency = Counter(word for words in pattern_words for word in set(words))
    anchored: dict[str, list[int]] = {}
    short = []
    for index, words in enumerate(pattern_words):
        # The first and the last word may be cut out of longer words of a text, so they can't be looked up whole.
        inner = words[1:-1]
        if inner:
            anchored.setdefault(min(inner, key=lambda word: (frequency[word], -len(word), word)), []).append(index)
        else:
            short.append(index)
    pairs = set()
    for start in range(0, len(texts), chunk):
        text_words = _words(texts.iloc[start : start + chunk])
        joined = pc.binary_join(text_words, " ")
        flat, parents = text_words.flatten(), pc.list_parent_indices(text_words)
        hits = pc.is_in(flat, value_set=pa.array(list(anchored), pa.string()))
        for row, anchor in set(zip(parents.filter(hits).to_pylist(), flat.filter(hits).to_pylist(), strict=True)):
            text = joined[row].as_py()
            pairs.update((index, start + row) for index in anchored[anchor] if needles[index] in text)
        for index in short:
            matches = pc.indices_nonzero(pc.match_substring(joined, needles[index])).to_pylist()
            pairs.update((index, start + row) for row in matches)
    return pairs


def _words(texts: Sequence[str] | pd.Series) -> pa.ListArray:
    """Return each text's words in lower case, in one Unicode form."""
    from spunge.core.slugs import INVISIBLE

    # A pandas column comes in pieces, and not all of the functions used here take those.
    array = pa.array(texts, pa.string())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    array = pc.replace_substring_regex(array, f"[{INVISIBLE}]", "")
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(pc.utf8_normalize(array, "NFKC"))))


def select(
    tables: Tables, wanted: Sequence[str] | str, minimum: int, tasks: Collection[str] = ()
) -> tuple[Tables, list[dict[str, str | int]]]:
    """Return the tables with only the texts to forget, and [{"attribute": …, "texts": n}, …] of those.

    `wanted` and `minimum` as in `attributes_to_forget`, which raises. Prompts of other attributes are left out. `tasks`
    are the attributes that evaluations.benchmarks.forget has a task for. Raises InputError for an attribute to forget
    that nobody asks about, since nobody could tell whether it was forgotten.
    """
    attributes = tables.forget["attribute"]
    chosen = attributes_to_forget(attributes, wanted, minimum, "table forget")
    forget = tables.forget[attributes.isin(chosen)].reset_index(drop=True)
    sizes = [{"attribute": attribute, "texts": int((attributes == attribute).sum())} for attribute in chosen]
    prompts, questions = tables.prompts, tables.questions
    # Where there are prompts, questions may be about what is kept alone.
    if prompts is not None:
        prompts = prompts[prompts["attribute"].isin([*chosen, ""])].reset_index(drop=True)
        if "neutral" in set(tables.prompts["kind"]) - set(prompts["kind"]):
            raise InputError(
                "table prompts has neutral prompts, but none about what is to be forgotten; leave the attribute of "
                "those empty that are about none"
            )
        toxic = tables.prompts.loc[tables.prompts["kind"] == "toxic", "attribute"]
        _check_asked(chosen, toxic.unique(), "table prompts has no toxic prompt")
    elif questions is not None:
        _check_asked(chosen, questions["attribute"].unique(), "table questions has no question")
    elif tables.answers is not None:
        _check_asked(chosen, tables.answers["attribute"].unique(), "table answers has no question")
    elif tasks:
        _check_asked(chosen, tasks, "evaluations.benchmarks.forget has no task")
    if tables.rephrased is not None:
        _check_asked(chosen, tables.rephrased["attribute"].unique(), "table rephrased has no question")
    benign = tables.benign
    if benign is not None:
        _check_asked(chosen, benign["attribute"].unique(), "table benign has no text")
        benign = benign[benign["attribute"].isin(chosen)].reset_index(drop=True)
    return replace(tables, forget=forget, prompts=prompts, benign=benign), sizes


def _check_asked(attributes: Sequence[str], asked: Collection[str], lack: str) -> None:
    if missing := [attribute for attribute in attributes if attribute not in set(asked)]:
        raise InputError(
            f"{lack} for the attribute {shortened(missing)}, which is to be forgotten; it has some for "
            f"{shortened(asked)}; add some, or name the others alone in data.forget"
        )


def attributes_to_forget(attributes: pd.Series, wanted: Sequence[str] | str, minimum: int, where: str) -> list[str]:
    """Return the attributes to forget: `wanted` in its order, or for "all" those with enough texts, sorted.

    `attributes` has the attribute of each forget text. Raises InputError for an attribute that isn't there or
    (unless "all", which leaves it out) has fewer than `minimum` texts.
    """
    counts = attributes.value_counts()
    if wanted == "all":
        chosen = sorted(counts.index[counts >= minimum])
        if not chosen:
            raise InputError(f"{where}: no attribute has {minimum} texts, the minimum; the largest has {counts.max()}")
        return chosen
    unknown = [attribute for attribute in wanted if attribute not in counts.index]
    if unknown:
        raise InputError(f"{where} has no attribute {listed(unknown)}; it has {shortened(sorted(counts.index))}")
    for attribute in wanted:
        check_shard_size(counts[attribute], attribute, minimum)
    return list(wanted)


def check_shard_size(size: int, name: str, minimum: int) -> None:
    """Raise InputError where a shard has fewer texts than the configured minimum."""
    if size < minimum:
        raise InputError(f"shard {name!r} has {size} texts, the minimum is {minimum}; add texts or lower minimum_texts")


def hold_out(tables: Tables, held_out: Collection[str], forget: Collection[str]) -> Tables:
    """Return the tables without the texts to retain of these attributes: what is kept of them was not trained on.

    Raises InputError for an attribute that is to be forgotten, or that no question asks about, and where texts to
    retain have no attribute.
    """
    if not held_out:
        return tables
    if both := [attribute for attribute in held_out if attribute in set(forget)]:
        raise InputError(f"data.held_out and data.forget both name {shortened(both)}; leave it to one of them")
    by_table = [tables.present()[name]["attribute"] for name in ("questions", "answers") if name in tables.present()]
    asked = set().union(*by_table)
    if unasked := [attribute for attribute in held_out if attribute not in asked]:
        raise InputError(
            f"data.held_out names {shortened(unasked)}, which no question asks about; questions ask about "
            f"{shortened(sorted(asked - set(forget))) or 'nothing'}"
        )
    if "attribute" not in tables.retain:
        raise InputError(
            f"data.held_out names {shortened(held_out)}, and table retain has no column attribute, so nothing tells "
            "which of its texts to leave out; name the column in data.options.retain.attribute, or hold nothing out"
        )
    kept = tables.retain[~tables.retain["attribute"].isin(held_out)].reset_index(drop=True)
    if kept.empty:
        raise InputError("data.held_out leaves no text to retain; name fewer attributes")
    return replace(tables, retain=kept)


def clusters(frame: pd.DataFrame) -> pd.Series:
    """Return what is resampled together, row by row, of questions or prompts."""
    return frame[next(column for column in ("cluster", "subject", "prompt") if column in frame)]


def divide(tables: Tables, validation: float) -> tuple[Tables, Tables]:
    """Return the tables with the questions and prompts of the test, and with those of the validation.

    `validation` is the share of each attribute's clusters that the latter has, at least one and never all, drawn by
    their names alone; with 0 all are of the test. Where a table has parts of its own, these count. Rephrased questions
    and answers have the parts of the questions of the same clusters (subjects), other answers parts of their own.
    Raises InputError where an attribute has a single cluster, for parts with a share of 0, and for others than the
    questions'.
    """
    with_parts = [name for name in DIVIDED if "part" in tables.present().get(name, ())]
    if not validation:
        if with_parts:
            raise InputError(
                f"table {with_parts[0]} has a column part, but data.validation is 0: give data.validation any share, "
                "and the column counts, or remove the column"
            )
        return tables, tables
    parts = {}
    for name in (*DIVIDED, "rephrased"):
        if (frame := tables.present().get(name)) is None:
            continue
        if name in ("answers", "rephrased") and "questions" in parts:
            parts[name] = _parts_of_questions(frame, tables.questions, parts["questions"], name)
            others = ~_alike(frame, tables.questions)
            if name == "answers" and "part" not in frame and others.any():
                parts[name] = parts[name].mask(others, _drawn(frame, validation, name, others))
        elif name != "rephrased":
            parts[name] = frame["part"] if "part" in frame else _drawn(frame, validation, name)
    divided = []
    for part in (TEST, VALIDATION):
        of_part = {}
        for name, part_of_row in parts.items():
            rows_of_part = getattr(tables, name)[part_of_row == part].drop(columns="part", errors="ignore")
            of_part[name] = rows_of_part.reset_index(drop=True)
        divided.append(replace(tables, **of_part))
    return divided[0], divided[1]


def _alike(frame: pd.DataFrame, questions: pd.DataFrame) -> pd.Series:
    """Tell of each row whether questions are about its cluster or, without clusters in both tables, its subject."""
    alike = clusters(frame).isin(clusters(questions))
    both_have = "cluster" in frame and "cluster" in questions
    return alike if both_have else alike | frame["subject"].isin(questions["subject"])


def _parts_of_questions(frame: pd.DataFrame, questions: pd.DataFrame, parts: pd.Series, table: str) -> pd.Series:
    """Return the part of each row: that of the questions about the same."""
    divided = _alike(frame, questions[parts == VALIDATION]).map({True: VALIDATION, False: TEST})
    if "part" not in frame:
        return divided
    differing = _alike(frame, questions) & (frame["part"] != divided)
    if differing.any():
        raise InputError(
            f"table {table}, column part: {rows(differing)} have another part than the questions about the same, so "
            "what is chosen on one would be reported on the other; correct them, or leave the column out"
        )
    return frame["part"]


def check_parts(
    test: Tables,
    validation: Tables,
    forget: Collection[str],
    held_out: Collection[str] = (),
    tuned_by: str | None = None,
    limits_kept: bool = False,
) -> None:
    """Raise InputError where a part that `divide` returned lacks what is read of it.

    In the test, each table asks about all of the attributes to forget or held out that it asks about at all. In the
    validation, the table `tuned_by`, by which trials are judged, asks about those to forget, and the others have rows,
    since a trial reads all of them; without `tuned_by` there are no trials. Of prompts the toxic ones ask. With
    `limits_kept` a budget is a loss of accuracy on what is kept, so the validation's questions ask about that.
    """
    if limits_kept and not (validation.questions is not None and _asked(validation.questions) - {*forget}):
        raise InputError(
            "table questions: no question about what is kept is in the part validation, by which the budget `kept` "
            "sets λ; give some, or take another budget"
        )
    parts = {TEST: (test, (*DIVIDED, "rephrased")), VALIDATION: (validation, DIVIDED if tuned_by else ())}
    for part, (of_part, names) in parts.items():
        for name in names:
            if (frame := of_part.present().get(name)) is None:
                continue
            asked = {attribute for tables in (test, validation) for attribute in _asked(getattr(tables, name))}
            needed = [*forget, *held_out] if part == TEST else forget if name == tuned_by else ()
            lost = [attribute for attribute in needed if attribute in asked - _asked(frame)]
            if lost or frame.empty:
                what = "toxic prompt" if "kind" in frame else "question"
                about = f" about {shortened(lost)}" if lost else ""
                raise InputError(
                    f"table {name}: no {what}{about} is in the part {part}, which needs one; "
                    "correct the column part, if there is one, or give more in clusters of their own"
                )


def _asked(frame: pd.DataFrame) -> set[str]:
    """Return the attributes that a table asks about."""
    return set(frame.loc[frame["kind"] == "toxic", "attribute"] if "kind" in frame else frame["attribute"])


def _drawn(frame: pd.DataFrame, validation: float, table: str, among: pd.Series | None = None) -> pd.Series:
    """Return the part of each row, drawn by cluster; a cluster belongs to the attribute of its first row.

    An attribute that has one of its own, beside others', has it in the test. `among`: whether a row is drawn at all.
    """
    by_cluster = pd.DataFrame({"cluster": clusters(frame), "attribute": frame["attribute"]})
    number = by_cluster.drop_duplicates()["attribute"].value_counts()
    by_cluster = (by_cluster if among is None else by_cluster[among]).drop_duplicates("cluster")
    chosen: set[str] = set()
    for attribute, of_attribute in by_cluster.groupby("attribute")["cluster"]:
        drawn = sorted(of_attribute)
        if number[attribute] < 2:
            raise InputError(
                f"table {table} has a single cluster of the attribute {shortened([attribute])}, which can't be divided "
                "into validation and test; give more, or leave data.validation out"
            )
        random.Random(f"validation {attribute}").shuffle(drawn)
        chosen.update(drawn[: min(max(round(validation * len(drawn)), 1), len(drawn) - 1)])
    return clusters(frame).isin(chosen).map({True: VALIDATION, False: TEST})


def about(questions: pd.DataFrame) -> pd.DataFrame:
    """Return what the questions are about, row by row: subject, attribute, and cluster where the table has it."""
    return questions.filter(["subject", "attribute", "cluster"]).reset_index(drop=True)


def commonest_answer_place(questions: pd.DataFrame) -> tuple[int, float] | None:
    """Return the place among the choices (from 0) where most right answers stand, and their share, if they mostly do.

    Mostly: more than half the way from chance to all of them. A model that always takes one choice, broken or not,
    would then seem to know the answers. None where they stand in several places.
    """
    shares = questions["answer"].value_counts(normalize=True)
    chance = (1 / questions["choices"].map(len)).mean()
    return (int(shares.index[0]), float(shares.iloc[0])) if shares.iloc[0] > (1 + chance) / 2 else None


def warn_of_answer_place(questions: pd.DataFrame, table: str) -> None:
    """Print a warning where the right answers of a table mostly stand at one place among the choices."""
    if commonest := commonest_answer_place(questions):
        place, share = commonest
        print(
            f"warning: table {table}: {share:.0%} of the right answers stand at place {place + 1} among the choices, "
            "so a model that always takes this one seems to know them; shuffle the choices",
            file=sys.stderr,
        )


def listed(names: Sequence[str]) -> str:
    """Return names for a message, at most ten of them."""
    names = [str(name) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shortened(names: Sequence[str]) -> str:
    """Return names out of a table, as `listed`, but for what may be a text, as where columns are mixed up.

    That is what is long, has many words, or ends as a sentence does. Names with a blank at an end stand in quotes.
    """

    def is_name(text: str) -> bool:
        return len(text) <= LONGEST_NAME and len(text.split()) <= MOST_WORDS and text.strip()[-1:] not in (*".?!…。",)

    shown = [name if name == name.strip() else repr(name) for name in names]
    return listed([name if is_name(name) else f"(one of {len(name)} characters)" for name in shown])


def rows(wrong: pd.Series) -> str:
    """Return how many rows are marked and the first one, for a message: "3 of 10 rows (first: row 2)"."""
    return f"{int(wrong.sum())} of {len(wrong)} rows (first: row {int(wrong.to_numpy().argmax()) + 1})"
