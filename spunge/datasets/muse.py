"""MUSE (Shi et al. 2024, arXiv 2407.06460): a model forgets the novels, or the news articles, that it was trained on.

Forget and retain: passages of the texts in `raw`. Attribute: the novel, or a column that you added to the files.
Answers: what MUSE asks of what is forgotten, how passages go on (`verbmem`) or questions about them (`knowmem`), and
its questions about what is retained. Fluency: Wikipedia, or your own texts.

The files are those of the hub data sets (CC BY 4.0, but the texts are their authors'), or of a local copy of one.
Messages never show a text. docs/muse.md has the details.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from spunge.core.errors import InputError
from spunge.core.slugs import folded
from spunge.datasets import hub, toxigen
from spunge.datasets.table import Prose
from spunge.datasets.tables import Tables, check_strings, listed, shortened
from spunge.experiment.options import Count, Seed, Text, checked

HUB = {"books": "muse-bench/MUSE-Books", "news": "muse-bench/MUSE-News"}
REVISIONS = {
    "books": "051ba90319e920d410d87cfdbd61f25843c1b892",
    "news": "506bd5b150b92814d45e4404a82f120ab2d748bf",
}
BOOK = "book"
RETAINED = "retained texts"  # the attribute of the questions about them
NEAR = 20  # characters on both sides, by which is told whether a space stands there
NEXT_QUESTION = r"\n\n|\nQuestion|Question:"  # MUSE ends an answer there, since after examples a model asks itself more
NOTHING = r"(?!)"  # matches nowhere
EDGE = 60  # letters on both sides of where a passage is cut in two, by which the text that it stands in is found


@checked
class Options:
    """What to build."""

    corpus: Annotated[Literal["books", "news"], Field(description="MUSE's novels, or its news articles.")] = "books"
    mirror: hub.Mirror = None
    revision: Annotated[
        Text | None, Field(description="Commit of the hub data set; null takes the one that docs/muse.md names.")
    ] = None
    attribute: Annotated[
        Text,
        Field(description="What the texts are split by: `book`, or a column that the mirror's files have besides."),
    ] = BOOK
    asks: Annotated[
        Literal["verbmem", "knowmem"],
        Field(
            description="What is asked of what is forgotten: how passages go on, or questions, of which each then "
            "needs its own value in the column `attribute`."
        ),
    ] = "verbmem"
    words_per_text: Annotated[
        Count, Field(description="Words of a passage, at most; a method cuts it after its own number of tokens.")
    ] = 1000
    fluency: Annotated[
        Prose | None, Field(description="As in the data set `table`; null takes Wikipedia's validation split.")
    ] = None
    fluency_texts: Annotated[Count, Field(description="Texts that measure fluency.")] = 200
    minimum_words: Annotated[Count, Field(description="Shorter texts, headings for one, measure no fluency.")] = 20
    seed: Annotated[Seed, Field(description="Draws the texts for fluency.")] = 0


def build(options: Options, wheel_files: Mapping[str, Path], forget: Sequence[str] | str) -> Tables:
    """Return the tables with the texts of the `forget` attributes (a list, or "all") to be forgotten; no wheel is used.

    Texts of `raw/forget` of other attributes are neither forgotten nor retained. Raises InputError for an unknown
    attribute, a file that can't be had or read, and for texts or questions whose attribute no file tells.
    """
    raw = read("raw/forget", ["text"], options)
    if options.attribute not in raw and (options.corpus, options.attribute) == ("books", BOOK):
        raw[BOOK] = [f"book {row + 1}" for row in raw.index]
    raw["attribute"] = attributes_of(raw, "raw/forget", options)
    raw["subject"] = [f"text {row + 1}" for row in raw.index]
    known = raw["attribute"].unique()
    chosen = list(known) if forget == "all" else list(forget)
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(
            f"muse's {options.corpus} has no {options.attribute} {listed(unknown)}; it has {shortened(known)}"
        )
    to_forget = passages(raw[raw["attribute"].isin(chosen)], options)
    retained = passages(read("raw/retain1", ["text"], options), options)
    kept = ~retained["text"].map(folded).isin(set(to_forget["text"].map(folded)))
    # Where every text is an attribute, a random split parts it; else it keeps it together.
    whole_texts = [] if len(known) == len(raw) else ["subject"]
    return Tables(
        forget=to_forget[["text", "attribute", *whole_texts]],
        retain=retained.loc[kept, ["text"]].reset_index(drop=True),
        questions=None,
        answers=answers(raw, chosen, options),
        fluency=toxigen.draw_prose(options.fluency or toxigen.FLUENCY, "fluency", options.fluency_texts, options),
    )


def read(name: str, columns: Sequence[str], options: Options) -> pd.DataFrame:
    """Return the rows of a file with these columns, and the one that `attribute` names if it is there.

    Rows without anything in the first column are left out: News has one. Raises InputError.
    """
    repository, revision = HUB[options.corpus], options.revision or REVISIONS[options.corpus]
    path = hub.locate(f"{name}-00000-of-00001.parquet", repository, revision, options.mirror, "docs/muse.md")
    further = [options.attribute] if options.attribute in hub.columns_of(path) else []
    frame = toxigen.read_columns(path, dict.fromkeys([*columns, *further]))
    frame = frame[frame[columns[0]].map(lambda text: text is not None and str(text).strip() != "")]
    for column in frame:
        check_strings(frame[column], column, str(path))
    return frame.reset_index(drop=True)


def attributes_of(frame: pd.DataFrame, name: str, options: Options) -> pd.Series:
    """Return the attribute of each row of a file; raises InputError where it has no such column."""
    if options.attribute not in frame:
        raise InputError(
            f"{name} of {options.mirror or HUB[options.corpus]} has no column {options.attribute}, which says what its "
            "rows are about: add it to a copy of the file, and name the copy's folder (mirror; docs/muse.md)"
        )
    return frame[options.attribute]


def passages(texts: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the texts cut into passages of `words_per_text` words or less, in order, and none twice.

    Under two attributes a passage stays twice, which `tables.check` refuses.
    """
    cut = texts.assign(text=texts["text"].map(lambda text: cut_up(text, options.words_per_text)))
    cut = cut.explode("text", ignore_index=True)
    keys = cut.filter(["text", "attribute"]).assign(text=cut["text"].map(folded))
    return cut[~keys.duplicated()].reset_index(drop=True)


def cut_up(text: str, words: int) -> list[str]:
    """Return a text in pieces of so many words, the last one shorter; within a piece nothing is changed."""
    places = [word.span() for word in re.finditer(r"\S+", text)]
    pieces = [places[start : start + words] for start in range(0, len(places), words)]
    return [text[piece[0][0] : piece[-1][1]] for piece in pieces]


def answers(raw: pd.DataFrame, chosen: Sequence[str], options: Options) -> pd.DataFrame:
    """Return the table answers: what is asked of the `chosen` attributes, and MUSE's questions about the retained."""
    if options.asks == "verbmem":
        asked = continuations(raw, options)
    else:
        asked = questions("forget_qa", options)
        asked["attribute"] = attributes_of(asked, "knowmem/forget_qa", options)
        if unknown := sorted(set(asked["attribute"]) - set(raw["attribute"])):
            raise InputError(
                f"muse: knowmem/forget_qa has the {options.attribute} {shortened(unknown)}, raw/forget has not"
            )
    kept = questions("retain_qa", options).assign(attribute=RETAINED)
    rows = pd.concat([asked[asked["attribute"].isin(chosen)], kept], ignore_index=True)
    return rows[["question", "answer", "attribute", "subject", "cluster", "end"]]


def continuations(raw: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the passages of `verbmem`, cut in two where MUSE cuts them, each with what the text has that it stands in.

    They were made of tokens, and of articles in a row, so what is looked for in a text are the letters on both sides of
    the cut. Left out are those that stand in no text, or in texts of several attributes. A text is a cluster, but where
    every text is an attribute. Where the text has no space at the cut, the passage has none.
    Raises InputError where none is left.
    """
    found = read("verbmem/forget", ["prompt", "gt"], options)
    texts, rows = raw["text"].map(letters), []
    for number, (prompt, rest) in enumerate(zip(found["prompt"], found["gt"], strict=True), start=1):
        edge = letters(prompt)[-EDGE:] + letters(rest)[:EDGE]
        around = raw[[edge in text for text in texts]]
        if around["attribute"].nunique() == 1:
            attribute, subject = around[["attribute", "subject"]].iloc[0]
            cluster = subject if raw["attribute"].duplicated().any() else f"passage {number}"
            end, start = " ".join(prompt.split())[-NEAR:], " ".join(rest.split())[:NEAR]
            is_joined = any(end + start in " ".join(text.split()) for text in around["text"])
            rows.append((prompt.rstrip(), ("" if is_joined else " ") + rest.strip(), attribute, subject, cluster))
    if not rows:
        raise InputError(
            "muse: no passage of verbmem/forget stands in raw/forget, in texts of one attribute; take both from one "
            "version of the data"
        )
    return pd.DataFrame(rows, columns=["question", "answer", "attribute", "subject", "cluster"]).assign(end=NOTHING)


def letters(text: str) -> str:
    """Return a text's letters and digits in lower case: tokens that became text again differ in all else."""
    return "".join(re.findall(r"\w+", text.lower()))


def questions(name: str, options: Options) -> pd.DataFrame:
    """Return the questions of a file of `knowmem`, each after MUSE's examples, and a cluster by itself."""
    columns = ["question", "answer"]
    examples = read(f"knowmem/{name}_icl", columns, options)
    before = "".join(f"Question: {row.question}\nAnswer: {row.answer}\n\n" for row in examples.itertuples())
    asked = read(f"knowmem/{name}", columns, options)
    asked["subject"] = asked["cluster"] = asked["question"]
    asked["question"] = [f"{before}Question: {question}\nAnswer:" for question in asked["question"]]
    asked["answer"] = " " + asked["answer"]
    return asked.assign(end=NEXT_QUESTION)
