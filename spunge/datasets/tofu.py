"""TOFU (Maini et al. 2024, arXiv 2401.06121): 4,000 questions and answers about 200 authors who do not exist.

For a model that was trained on all of them. Forget: the questions and answers about the last authors, 20 about each, as
`forget01`, `forget05` and `forget10` have them; attribute = the author, or a column that you added. Retain: those about
all other authors. Questions: the same in other words, the answer among wrong ones that were made from it, about the
forgotten authors and some of the others; and about real authors and the world. Answers: the same in the words of TOFU's
own measures, which are the trained ones. Fluency: Wikipedia, or your own texts.

The files are those of the hub data set (MIT), or of a local copy of it. docs/tofu.md has the details.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Required

import pandas as pd
from pydantic import Field
from typing_extensions import TypedDict

from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets import hub, toxigen
from spunge.datasets.table import Prose, json_lines
from spunge.datasets.tables import Tables, check_present, check_strings, listed, shortened
from spunge.experiment.options import STRICT, Count, Seed, Text, checked

HUB = "locuslab/TOFU"
REVISION = "324592d84ae4f482ac7249b9285c2ecdb53e3a68"
AUTHORS, PER_AUTHOR = 200, 20
RETAINED = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
AUTHOR = "author"
OTHER_AUTHORS = "other authors"
DERIVED = ["subject", "attribute"]  # columns that no file has
# What is asked besides, by the file with the right and the wrong answers.
KEPT = {
    "retain_perturbed": OTHER_AUTHORS,
    "real_authors_perturbed": "real authors",
    "world_facts_perturbed": "world facts",
}
QUESTION, ANSWER = "{question}", "{answer}"
WRONG = "perturbed_answer"  # a list
TRUTH_RATIO = "forget_truth_ratio"  # as OpenUnlearning's logs call it


class Logs(TypedDict, total=False):
    """OpenUnlearning's TOFU_EVAL.json of a model that was never trained on the split, for forget quality."""

    __pydantic_config__ = STRICT

    path: Required[Text]


@checked
class Options:
    """What to build."""

    mirror: hub.Mirror = None
    revision: Annotated[Text, Field(description="Commit of the hub data set.")] = REVISION
    split: Annotated[
        Literal["forget01", "forget05", "forget10"],
        Field(description="Which authors are forgotten: 2, 10 or 20 of 200."),
    ] = "forget10"
    attribute: Annotated[
        Text,
        Field(description="What the texts are split by: `author`, or a column that the mirror's files have besides."),
    ] = AUTHOR
    template: Annotated[
        Text,
        Field(description="A text to forget or to retain, as the model was trained; what stands before {answer} asks."),
    ] = "Question: {question}\nAnswer: {answer}"
    retain_logs: Logs | None = None
    fluency: Annotated[
        Prose | None, Field(description="As in the data set `table`; null takes Wikipedia's validation split.")
    ] = None
    fluency_texts: Annotated[Count, Field(description="Texts that measure fluency.")] = 200
    minimum_words: Annotated[Count, Field(description="Shorter texts, headings for one, measure no fluency.")] = 20
    seed: Annotated[Seed, Field(description="Draws the order of the choices, and the texts for fluency.")] = 0

    def __post_init__(self):
        if not (QUESTION in self.template.partition(ANSWER)[0] and self.template.count(ANSWER) == 1):
            raise InputError(f"tofu's template {self.template!r} needs {QUESTION}, and after it {ANSWER} once")


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the texts of the `forget` attributes (a list, or "all") to be forgotten; no wheel is used.

    Texts of the split's other attributes are neither forgotten nor retained. Raises InputError for an unknown
    attribute, and for a file that can't be had or read, or has other rows than were published.
    """
    split, retained = read(options.split, options), read(RETAINED[options.split], options)
    if len(split) + len(retained) != AUTHORS * PER_AUTHOR or len(split) % PER_AUTHOR:
        raise InputError(
            f"tofu: {options.split} has {len(split)} rows and {RETAINED[options.split]} {len(retained)}; published are "
            f"{AUTHORS * PER_AUTHOR} in all, {PER_AUTHOR} for each author"
        )
    told = pd.concat([retained, split], ignore_index=True)
    told["subject"] = [f"author {row // PER_AUTHOR + 1}" for row in told.index]
    told["attribute"] = OTHER_AUTHORS
    told.loc[len(retained) :, "attribute"] = attributes_of(told[len(retained) :], options)
    after = options.template.partition(ANSWER)[2]
    told["text"] = [f"{beginning(row.question, options)}{row.answer}{after}" for row in told.itertuples()]
    to_forget, known = told[len(retained) :], told["attribute"][len(retained) :].unique()
    if unknown := [name for name in ([] if forget == "all" else forget) if name not in known]:
        raise InputError(
            f"tofu's {options.split} has no {options.attribute} {listed(unknown)}; it has {shortened(known)}"
        )
    to_forget = to_forget[to_forget["attribute"].isin(known if forget == "all" else forget)]
    # Where authors are the attribute, a random split parts the questions about one; else it keeps them together.
    whole_authors = [] if options.attribute == AUTHOR else ["subject"]
    return Tables(
        forget=to_forget[["text", "attribute", *whole_authors]].reset_index(drop=True),
        retain=told.loc[: len(retained) - 1, ["text", "attribute"]],
        questions=ask(told, to_forget, options),
        answers=answers(told, to_forget, options),
        fluency=toxigen.draw_prose(options.fluency or toxigen.FLUENCY, "fluency", options.fluency_texts, options),
    )


def read(name: str, options: Options, *further: str) -> pd.DataFrame:
    """Return the rows of a file, each with a question, an answer and the `further` columns; raises InputError."""
    path = hub.locate(f"{name}.json", HUB, options.revision, options.mirror, "docs/tofu.md")
    frame = pd.DataFrame([record for _, record in json_lines(path, str(path))])
    for column in ("question", "answer", *further):
        if column not in frame:
            raise InputError(f"{path} has no {column}; it has {listed(frame.columns)}")
        (check_present if column in further else check_strings)(frame[column], column, str(path))
    return frame


def beginning(question: str, options: Options) -> str:
    """Return what a text has before the answer."""
    return options.template.partition(ANSWER)[0].replace(QUESTION, question)


def attributes_of(split: pd.DataFrame, options: Options) -> pd.Series:
    """Return what each text to forget is split by: its author, or the column that is named."""
    if options.attribute == AUTHOR:
        return split["subject"]
    where = f"{options.split}.json of {options.mirror or HUB}"
    if options.attribute not in split:
        raise InputError(
            f"{where} has no {options.attribute} to split by; it has {listed(split.columns.drop(DERIVED))}"
        )
    check_strings(split[options.attribute], options.attribute, where)
    return split[options.attribute]


def ask(told: pd.DataFrame, to_forget: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the table questions: in other words than were trained, the answer among wrong ones made from it.

    Left out are wrong answers that occur twice, or are the right one, and questions without any other, or that have no
    other words. An author is a cluster, but where authors are the attribute.
    """
    rows, trained = [], set(told["question"].map(folded))
    for row in perturbed(told, to_forget, options).to_dict("records"):
        words, right = (
            row[column] if pd.isna(row.get(f"paraphrased_{column}")) else row[f"paraphrased_{column}"]
            for column in ("question", "answer")
        )
        wrong = [answer for answer in dict.fromkeys(row[WRONG]) if answer != right]
        if not wrong or folded(words) in trained:
            continue
        choices = [right, *wrong]
        random.Random(f"{options.seed} {row['question']}").shuffle(choices)
        before = beginning(words, options)
        question = before.rstrip(" ")  # a space belongs to the first token of a choice
        of_row = [row[column] for column in ("attribute", "subject", "cluster")]
        rows.append((question, choices, choices.index(right), *of_row, before[len(question) :]))
    return pd.DataFrame(rows, columns=["question", "choices", "answer", "attribute", "subject", "cluster", "delimiter"])


def answers(told: pd.DataFrame, to_forget: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the table answers: TOFU's own questions, with what its measures compare.

    What retain_model says of a row stands there if `retain_logs` are given.
    """
    rows, after = perturbed(told, to_forget, options), options.template.partition(ANSWER)[2]
    return rows.filter(["attribute", "subject", "cluster", "retain_model"]).assign(
        question=[beginning(question, options) for question in rows["question"]],
        answer=rows["answer"] + after,
        paraphrase=rows["paraphrased_answer"] + after,
        wrong=[[answer + after for answer in answers] for answers in rows[WRONG]],
    )


def perturbed(told: pd.DataFrame, to_forget: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the rows of the files with right and wrong answers: those about what is to be forgotten, then KEPT's.

    Besides the files' columns they have attribute, subject, cluster, and retain_model if there are `retain_logs`. An
    author is a cluster, but where authors are the attribute.
    """
    subjects = told.drop_duplicates("question").set_index("question")[["subject", "attribute"]]
    asked = read(f"{options.split}_perturbed", options, WRONG).join(subjects, on="question")
    if not (asked["attribute"].notna() & (asked["attribute"] != OTHER_AUTHORS)).all():
        raise InputError(
            f"tofu: {options.split}_perturbed asks what {options.split} doesn't; take both from one version of the data"
        )
    if options.retain_logs is not None:
        asked["retain_model"] = truth_ratios(Path(options.retain_logs["path"]), len(asked))
    asked = asked[asked["attribute"].isin(to_forget["attribute"])]
    kept = [
        read(name, options, WRONG).join(subjects["subject"], on="question").assign(attribute=attribute)
        for name, attribute in KEPT.items()
    ]
    rows = pd.concat([asked, *kept], ignore_index=True)
    rows["subject"] = rows["subject"].fillna(rows["question"])
    rows["cluster"] = rows["subject"].where(rows["attribute"] != rows["subject"], rows["question"])
    return rows.reindex(columns=dict.fromkeys([*rows, "paraphrased_question", "paraphrased_answer"]))


def truth_ratios(path: Path, number: int) -> list[float]:
    """Return the truth ratios of the split's questions, by row, from a file of OpenUnlearning's; raises InputError."""
    try:
        logged = json.loads(path.read_text(encoding="utf-8"))[TRUTH_RATIO]["value_by_index"]
        ratios = [float(logged[str(row)]["score"]) for row in range(number)]
    except OSError as error:
        raise InputError(f"data.options.retain_logs: {path} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"data.options.retain_logs: {path} has no score of {TRUTH_RATIO} for each of the {number} rows; give the "
            "TOFU_EVAL.json that OpenUnlearning wrote for the retain model on this split"
        ) from error
    if len(logged) != number:
        raise InputError(
            f"data.options.retain_logs: {path} has {len(logged)} scores of {TRUTH_RATIO}, but the split has {number} "
            "questions; give the file of this split"
        )
    return ratios
