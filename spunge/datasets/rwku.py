"""RWKU (Jin et al. 2024, arXiv 2406.10890): knowledge about 200 famous people, which a model has by itself.

Forget: texts about some of the people, its targets; attribute = the target. Retain: texts about others of them.
Answers: RWKU's blanks, questions and adversarial questions about both, and about neighbours of what is forgotten.
Fluency: Wikipedia, or your own texts.

The files are those of the hub data set (CC BY 4.0), or of a local copy of it. docs/rwku.md has the details.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets import hub, toxigen
from spunge.datasets.table import Prose, decode, json_lines
from spunge.datasets.tables import Tables, check_strings, listed, shortened
from spunge.experiment.options import Count, Distinct, Seed, Text, checked

HUB = "jinzhuoran/RWKU"
REVISION = "d72f493d481d1b0a9bdc6e869d32baeffad8904f"
OTHERS, NEIGHBOURS = "other targets", "neighbours"  # attributes of what is asked besides
QUESTION = "{question}"
BLANK, QUESTIONS = (
    "Please complete the blank in the following question.",
    "Please briefly answer the following question.",
)
# Types of adversarial questions that RWKU asks in another form: this one shows examples, that one begins the answer.
IN_CONTEXT, AFFIRMATIVE = "incontext learning", "affirmative suffix"


@checked
class Options:
    """What to build."""

    mirror: hub.Mirror = None
    revision: Annotated[Text, Field(description="Commit of the hub data set.")] = REVISION
    targets: Annotated[
        Count,
        Field(description="The first so many of RWKU's 200 people: `data.forget` names some, the others are retained."),
    ] = 20
    texts: Annotated[
        Literal["positive", "positive_phi", "passage"],
        Field(
            description="What is trained on: texts about a target by Llama-3-8B-Instruct or by Phi-3-mini, from whose "
            "own knowledge RWKU forgets, or passages of Wikipedia."
        ),
    ] = "positive"
    texts_per_target: Annotated[Count, Field(description="Texts about each target, at most.")] = 100
    levels: Annotated[
        Distinct[Literal[1, 2, 3]],
        Field(description="What is asked: 1 blanks to fill, 2 questions, 3 adversarial questions."),
    ] = (1, 2, 3)
    template: Annotated[
        Text, Field(description="How the model is asked: a turn with {question} in it, before the answer begins.")
    ] = "{question}\n"
    fluency: Annotated[
        Prose | None, Field(description="As in the data set `table`; null takes Wikipedia's validation split.")
    ] = None
    fluency_texts: Annotated[Count, Field(description="Texts that measure fluency.")] = 200
    minimum_words: Annotated[Count, Field(description="Shorter texts, headings for one, measure no fluency.")] = 20
    seed: Annotated[Seed, Field(description="Draws the texts about each target, and those for fluency.")] = 0

    def __post_init__(self):
        if self.template.count(QUESTION) != 1:
            raise InputError(f"rwku's template {self.template!r} needs {QUESTION} once")


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with what is known of the `forget` targets to be forgotten; no wheel is used.

    A target's texts depend on the seed and the files alone. Raises InputError for an unknown target, for "all", which
    leaves none to retain, and for a file that can't be had or read, or lacks something about a target.
    """
    known = list(dict.fromkeys(read("intro", options, "target")["target"]))[: options.targets]
    if unknown := [name for name in ([] if forget == "all" else forget) if name not in known]:
        raise InputError(
            f"rwku's first {options.targets} targets have no {listed(unknown)}; they are {shortened(known)}"
        )
    others = [] if forget == "all" else [name for name in known if name not in forget]
    if not others:
        raise InputError(
            f"rwku retains texts about targets that are not forgotten, and data.forget names all of the {len(known)}; "
            "name fewer, or raise data.options.targets"
        )
    texts = about_one(read(options.texts, options, "text", "subject"))
    drawn = {target: draw(texts, target, options) for target in known}
    retained = [(text, OTHERS) for target in others for text in drawn[target]]
    return Tables(
        forget=pd.DataFrame(
            [(text, target) for target in forget for text in drawn[target]], columns=["text", "attribute"]
        ),
        retain=pd.DataFrame(retained, columns=["text", "attribute"]),
        questions=None,
        answers=ask(forget, others, options),
        fluency=toxigen.draw_prose(options.fluency or toxigen.FLUENCY, "fluency", options.fluency_texts, options),
    )


def read(name: str, options: Options, *columns: str) -> pd.DataFrame:
    """Return these columns of a file of the folder All, a list of objects or one a line; raises InputError."""
    path = hub.locate(f"All/{name}.json", HUB, options.revision, options.mirror, "docs/rwku.md")
    content = decode(path.read_bytes(), str(path))
    if not content.lstrip().startswith("["):
        records = [record for _, record in json_lines(path, str(path))]
    else:
        try:
            records = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {error.lineno}, is no JSON: {error.msg}; fetch it again") from error
    frame = pd.DataFrame.from_records(records)
    for column in columns:
        if column not in frame:
            raise InputError(f"{path} has no {column}; it has {listed(frame.columns)}")
        check_strings(frame[column], column, str(path))
    return frame[[*columns]]


def about_one(texts: pd.DataFrame) -> pd.DataFrame:
    """Return the texts, each once, without those that stand under several targets: they are about none of these."""
    texts = texts.assign(text=texts["text"].str.strip(), folded=texts["text"].map(folded))
    texts = texts.drop_duplicates(["folded", "subject"])
    return texts[~texts["folded"].duplicated(keep=False)].drop(columns="folded")


def draw(texts: pd.DataFrame, target: str, options: Options) -> list[str]:
    """Return `texts_per_target` of the texts of a target, or all where there are fewer; raises InputError for none."""
    own = texts.loc[texts["subject"] == target, "text"].tolist()
    if not own:
        raise InputError(
            f"rwku's {options.texts}.json has no text about {shortened([target])}; take one version of all files"
        )
    return random.Random(f"{options.seed} {target}").sample(own, min(options.texts_per_target, len(own)))


def ask(forget: Sequence[str], others: Sequence[str], options: Options) -> pd.DataFrame:
    """Return the table answers: about the targets to forget, about others, and about neighbours of the former.

    Left out are questions that were there before, those about a neighbour who is a target, forgotten or retained, and
    those about a neighbour that name another target to forget. A target is a cluster, but where targets are the
    attribute.
    """
    rows, before, people = [], set(), {folded(name) for name in (*forget, *others)}
    asked = [(f"forget_level{level}", level, [*forget, *others], None) for level in options.levels]
    asked += [(f"neighbor_level{level}", level, forget, NEIGHBOURS) for level in options.levels if level < 3]
    for name, level, targets, attribute in asked:
        further = ["neighbor"] if attribute else ["type"] if level == 3 else []
        found = read(name, options, "query", "answer", "subject", *further)
        for row in found[found["subject"].isin(targets)].to_dict("records"):
            target, question = row["subject"], worded(row["query"], level, row.get("type", ""), options)
            said = folded(f"{row['query']} {row['answer']}")
            of_target = attribute and folded(row["neighbor"]) in people
            named = attribute and any(folded(other) in said for other in forget if other != target)
            if of_target or named or question in before:
                continue
            before.add(question)
            is_forgotten = attribute is None and target in forget
            about = target if is_forgotten else attribute or OTHERS
            rows.append((question, f" {row['answer'].strip()}", about, target, question if is_forgotten else target))
    return pd.DataFrame(rows, columns=["question", "answer", "attribute", "subject", "cluster"])


def worded(query: str, level: int, kind: str, options: Options) -> str:
    """Return a question as RWKU's authors ask it (eval_forget.py), in the template."""
    label = "" if kind == IN_CONTEXT else "Question: "
    turn = f"{BLANK if level == 1 else QUESTIONS}\n{label}{query.strip()}"
    return options.template.replace(QUESTION, turn) + ("" if kind == AFFIRMATIVE else "Answer:")
