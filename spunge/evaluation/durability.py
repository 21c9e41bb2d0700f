"""Texts to relearn and questions to ask for the attacks on unlearning, drawn once for all candidates.

Recovery is measured, not teaching: no question is asked whose subject, cluster or answer a text to relearn tells. That
holds even where fewer texts or texts of another attribute were relearned, so that all results are about the same
questions.
"""

import re
import zlib
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pandas as pd

from spunge.core.errors import InputError
from spunge.core.slugs import UNSPACED, folded
from spunge.core.tidy import CANDIDATE_COLUMNS, COLUMNS
from spunge.datasets.tables import shortened
from spunge.experiment.records import ALL_SEEDS

UNRELATED = ""  # stands for the attribute where texts have none
SAMPLED = 64  # texts whose mean activations are compared: an estimate of the mean is enough
AT = "evaluations.durability"


def relearning_texts(
    forget: pd.DataFrame, attributes: Sequence[str], number: int, questions: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Return `number` texts of each attribute in the order in which they are relearned: attribute, text, subject.

    A smaller number of texts is the first of them. They are about no more clusters than have as many subjects, so that
    others are left to ask about; no subject comes twice before all of these have come. Without a `subject` in `forget`,
    each text is its own subject. Raises InputError for an attribute with fewer texts.
    """
    cluster_of = dict(zip(questions["subject"], _clusters(questions), strict=True))
    drawn = []
    for attribute in attributes:
        of_attribute = forget[forget["attribute"] == attribute]
        if len(of_attribute) < number:
            raise InputError(
                f"{AT}.relearn.texts is {number}, but {attribute} has {len(of_attribute)} texts: take fewer"
            )
        of_attribute = of_attribute.iloc[_generator(seed, f"texts of {attribute}").permutation(len(of_attribute))]
        if "subject" in of_attribute:
            clusters = of_attribute["subject"].map(lambda subject: cluster_of.get(subject, subject))
            subjects = of_attribute.groupby(clusters, sort=False)["subject"].nunique()
            enough = subjects.index[subjects.cumsum() - subjects < number]
            of_attribute = of_attribute[clusters.isin(enough)]
            of_attribute = of_attribute.iloc[
                np.argsort(of_attribute.groupby("subject").cumcount().to_numpy(), kind="stable")
            ]
        drawn.append(of_attribute.head(number))
    columns = ["attribute", "text", *(["subject"] if "subject" in forget else [])]
    return pd.concat(drawn, ignore_index=True)[columns]


def unrelated_texts(retain: pd.DataFrame, subjects: Collection[str], number: int, seed: int) -> pd.DataFrame:
    """Return `number` retain texts that name none of the subjects asked about, in the order of relearning.

    Columns as in `relearning_texts`, the attribute empty. Raises InputError where there are fewer.
    """
    names = _naming(set(subjects))
    drawn = []
    # In random order, and no further than needed: a corpus may be large, and so may be the number of names.
    for row in _generator(seed, "unrelated texts").permutation(len(retain)):
        text = retain["text"].iat[row]
        if not names(text):
            drawn.append(text)
        if len(drawn) == number:
            return pd.DataFrame({"attribute": UNRELATED, "text": drawn})
    raise InputError(
        f"{AT}.relearn.texts is {number}, but only {len(drawn)} retain texts name no subject of a question: take fewer"
    )


def sample_texts(forget: pd.DataFrame, attributes: Sequence[str], seed: int) -> pd.DataFrame:
    """Return SAMPLED texts of each attribute, or all if there are no more, in the table's order."""
    return _at_most(forget[forget["attribute"].isin(attributes)], SAMPLED, seed, "states")


def told(questions: pd.DataFrame, texts: pd.DataFrame) -> pd.Series:
    """Return of which questions texts to relearn tell.

    They share the subject or cluster, or are of the question's attribute and name its right answer.
    """
    clusters, subjects = _clusters(questions), set(texts.get("subject", []))
    about = clusters.isin({*clusters[questions["subject"].isin(subjects)], *subjects})
    answers = pd.Series(
        [choices[answer] for choices, answer in zip(questions["choices"], questions["answer"], strict=True)],
        index=questions.index,
        dtype=object,
    )
    for attribute, of_attribute in texts.groupby("attribute")["text"]:
        whole, asked = "\n".join(of_attribute), answers[questions["attribute"] == attribute]
        named = [name for name in asked.unique() if _naming([name])(whole)]
        about[asked.index] |= asked.isin(named)
    return about


def _naming(names: Collection[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a text has one of the names in whole words, in any case and Unicode form.

    Scripts that put no space between words (UNSPACED) have no whole words: there a name may stand anywhere.
    """
    spelt, unspaced = sorted({folded(name) for name in names}), re.compile(f"[{UNSPACED}]")
    anywhere = [re.escape(name) for name in spelt if unspaced.search(name)]
    words = "|".join(re.escape(name) for name in spelt if not unspaced.search(name))
    found = re.compile("|".join([*anywhere, *([rf"(?<!\w)(?:{words})(?!\w)"] if words else [])]))
    return lambda text: bool(found.search(folded(text)))


def _clusters(questions: pd.DataFrame) -> pd.Series:
    return questions.get("cluster", questions["subject"])


def check_asked(questions: pd.DataFrame, attributes: Sequence[str]) -> None:
    """Raise InputError where no question asks about what is to be forgotten: no attack could show it come back."""
    if not {*attributes} & {*questions["attribute"]}:
        raise InputError(
            f"{AT} asks the table questions what comes back, but none is about {shortened(attributes)}, which is to be "
            "forgotten: give some, or leave durability out"
        )


def questions_to_ask(questions: pd.DataFrame, told: pd.Series, most: int | None, seed: int) -> pd.DataFrame:
    """Return the questions that nothing was `told` of, at most so many of each attribute, in the table's order.

    The column `row` is added: the question's place in the table. Raises InputError where an attribute has none left.
    """
    left = questions.assign(row=range(len(questions)))[~told]
    for attribute in questions["attribute"].unique():
        if not (left["attribute"] == attribute).any():
            raise InputError(
                f"{AT}.relearn.texts takes texts that tell the subject, cluster or answer of every question about "
                f"{attribute}, so that none is left: take fewer"
            )
    return _at_most(left, most, seed, "questions")


def rephrased_questions(rephrased: pd.DataFrame, chosen: pd.DataFrame, most: int | None, seed: int) -> pd.DataFrame:
    """Return the rephrased questions about the subjects of the `chosen` ones, at most so many of each attribute.

    Raises InputError where an attribute has none.
    """
    wanted = pd.MultiIndex.from_frame(chosen[["attribute", "subject"]])
    about_chosen = rephrased[pd.MultiIndex.from_frame(rephrased[["attribute", "subject"]]).isin(wanted)]
    for attribute in chosen["attribute"].unique():
        if not (about_chosen["attribute"] == attribute).any():
            raise InputError(
                f"table rephrased asks nothing of {attribute} about a subject that table questions asks about; give "
                "both tables the same attributes and subjects"
            )
    return _at_most(about_chosen, most, seed, "rephrased")


def describe(experiment: str, questions: pd.DataFrame, told: pd.Series, chosen: pd.DataFrame) -> pd.DataFrame:
    """Return tidy rows (COLUMNS) about the questions, by attribute.

    `questions`: asked; `left_out`: questions of which texts to relearn `told`; `chance`: the accuracy of
    guessing, the mean of 1 / choices.
    """
    described = dict.fromkeys(CANDIDATE_COLUMNS, "") | {"experiment": experiment, "candidate": "base"}
    described |= {"seed": ALL_SEEDS, "evaluation": "durability", "low": "", "high": ""}
    chance = (1 / chosen["choices"].map(len)).groupby(chosen["attribute"]).mean()
    rows = []
    for attribute, n in chosen["attribute"].value_counts(sort=False).items():
        left_out = int((told & (questions["attribute"] == attribute)).sum())
        for metric, value in (("questions", n), ("left_out", left_out), ("chance", chance[attribute])):
            rows.append({**described, "attribute": attribute, "metric": metric, "value": value, "n": n})
    return pd.DataFrame(rows, columns=COLUMNS)


def _at_most(frame: pd.DataFrame, most: int | None, seed: int, what: str) -> pd.DataFrame:
    if most is None:
        return frame.reset_index(drop=True)
    kept = []
    for attribute, of_attribute in frame.groupby("attribute", sort=False):
        drawn = _generator(seed, f"{what} of {attribute}").permutation(len(of_attribute))[:most]
        kept += of_attribute.index[drawn].tolist()
    return frame.loc[sorted(kept)].reset_index(drop=True)


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
