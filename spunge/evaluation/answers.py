"""Open questions: how likely the known answer is, whether the model writes it, and the truth ratio of TOFU.

Maini et al. 2024 (arXiv 2401.06121), as OpenUnlearning computes it. An answer's probability is the geometric mean over
its tokens and the end of text; the truth ratio R is the geometric mean of the wrong answers' over that of the right
one, in its paraphrase if there is one. docs/tofu.md has the formulas.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from rouge_score.rouge_scorer import RougeScorer

from spunge.core.errors import InputError
from spunge.core.slugs import unaccented, words
from spunge.datasets.tables import about
from spunge.evaluation import generation
from spunge.evaluation.knowledge import say_cut
from spunge.evaluation.statistics import Metric
from spunge.experiment.options import Count, checked

TABLE = "answers"
METRICS = {
    "rouge_l_recall": Metric("rouge_l_recall", of_utility=True),
    "probability": Metric("probability", of_utility=True),
    "truth_ratio_closer_to_1": Metric("truth_ratio_closer_to_1"),
    "truth_ratio_true_better": Metric("truth_ratio_true_better", of_utility=True),
}
TINY = 1e-10  # as OpenUnlearning adds it, so that nothing is divided by 0


@checked
class Options:
    """How answers are asked for."""

    batch_size: Annotated[Count, Field(description="Questions that are asked together.")] = 32
    max_new_tokens: Annotated[Count, Field(description="Tokens that the model writes at most.")] = 200
    stop_at_newline: Annotated[bool, Field(description="End what it writes before the first line break.")] = False


def score(
    model: torch.nn.Module,
    tokenizer,
    answers: pd.DataFrame,
    batch_size: int,
    max_new_tokens: int,
    stop_at_newline: bool = False,
) -> pd.DataFrame:
    """Return one row per question, in order: `about`, the columns of METRICS, and cut, as knowledge's.

    rouge_l_recall (Lin 2004): the share of the answer's words that stand, in their order and by stems, in what the
    model writes, greedily, up to the row's `end`. probability: the answer's, or its share among wrong answers of its
    own form. With wrong answers also truth_ratio R, truth_ratio_closer_to_1 = min(R, 1 / R), high where the model
    prefers none, and truth_ratio_true_better = max(0, 1 − R), high where it prefers the right one; retain_model as in
    the table. NaN where a likelihood isn't finite, or nothing was written for that reason. Raises InputError for an
    answer without tokens. What the models write is not kept.
    """
    likelihoods, cut = mean_log_likelihoods(model, tokenizer, answers, batch_size)
    options = generation.Options(
        samples=1,
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        batch_size=batch_size,
        stop_at_newline=stop_at_newline,
    )
    written = generation.continue_prompts(model, tokenizer, answers["question"].tolist(), options)["text"]
    if "end" in answers:
        written = [
            text if pd.isna(text) else re.split(end, text, maxsplit=1)[0]
            for text, end in zip(written, answers["end"], strict=True)
        ]
    plain = (without_special_tokens(tokenizer, answer) for answer in answers["answer"])
    scores = [
        {"rouge_l_recall": rouge_l_recall(answer, text)} | truth(likelihood)
        for answer, text, likelihood in zip(plain, written, likelihoods, strict=True)
    ]
    of_retain_model = answers.filter(["retain_model"]).reset_index(drop=True)
    return pd.concat([about(answers), pd.DataFrame(scores), of_retain_model], axis=1).assign(cut=cut)


def mean_log_likelihoods(
    model: torch.nn.Module, tokenizer, answers: pd.DataFrame, batch_size: int
) -> tuple[list[dict[str, list[float]]], list[float]]:
    """Return each row's mean log-likelihoods per token of its `answer`, `paraphrase` and `wrong` answers, in nats.

    Besides return 1 for a row whose question's start was left out, because it is longer than the model's context, else
    0. An answer is what follows as many tokens as the question alone has, in those of both together, and the end of
    text.
    """
    from spunge.evaluation.prefix_sharing_lm import PrefixSharingLM

    forms = [
        {
            "answer": [row["answer"]],
            "paraphrase": [row["paraphrase"]] if isinstance(row.get("paraphrase"), str) else [],
            "wrong": [*row.get("wrong", ())],
        }
        for row in answers.to_dict("records")
    ]
    requests = []
    for number, (question, by_form) in enumerate(zip(answers["question"], forms, strict=True)):
        length = len(tokenizer(question)["input_ids"])
        for answer in (answer for of_form in by_form.values() for answer in of_form):
            tokens = tokenizer(question + answer)["input_ids"]
            if tokenizer.eos_token_id is not None and tokens[-1] != tokenizer.eos_token_id:
                tokens.append(tokenizer.eos_token_id)
            if len(tokens) <= length:
                raise InputError(f"table answers: an answer in row {number + 1} has no tokens after its question's")
            requests.append((question, tokens[:length], tokens[length:]))
    lm = PrefixSharingLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    means = iter(
        likelihood / len(tokens)
        for likelihood, (_, _, tokens) in zip(lm.log_likelihoods(requests), requests, strict=True)
    )
    likelihoods = [{form: [next(means) for _ in of_form] for form, of_form in by_form.items()} for by_form in forms]
    cut = [float(question in lm.cut) for question in answers["question"]]
    say_cut("answers", cut, lm.max_length)
    return likelihoods, cut


def truth(likelihoods: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return `score`'s columns that rest on a row's mean log-likelihoods; none of R without wrong answers."""
    if not all(map(math.isfinite, (value for of_form in likelihoods.values() for value in of_form))):
        likelihoods = {form: [math.nan for _ in of_form] for form, of_form in likelihoods.items()}
    probability, wrong = math.exp(likelihoods["answer"][0]), np.array(likelihoods["wrong"])
    if not len(wrong):
        return {"probability": probability}
    (right,) = np.exp(likelihoods["paraphrase"] or likelihoods["answer"])
    ratio = float(np.exp(wrong.mean()) / (right + TINY))
    return {
        "probability": probability
        if likelihoods["paraphrase"]
        else float(probability / (probability + np.exp(wrong).sum() + TINY)),
        "truth_ratio": ratio,
        "truth_ratio_closer_to_1": float(np.minimum(ratio, 1 / (ratio + TINY))),
        "truth_ratio_true_better": float(np.maximum(0, 1 - ratio)),
    }


def rouge_l_recall(answer: str, written: str | None) -> float:
    """Return the ROUGE-L recall of what a model wrote; NaN where that is missing.

    rouge_score's own words are of a to z and digits alone. So accents are left out before, and the words of an answer
    in another script are cut here.
    """
    if pd.isna(written):
        return math.nan
    is_latin = all(unicodedata.name(one, "").startswith("LATIN") for one in answer if one.isalpha())
    scorer = RougeScorer(["rougeL"], use_stemmer=True, tokenizer=None if is_latin else _Words())
    return float(scorer.score(unaccented(answer), unaccented(written.strip()))["rougeL"].recall)


class _Words:
    """A tokenizer of rouge_score for any script."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def without_special_tokens(tokenizer, text: str) -> str:
    """Return a text without the special tokens that a template ends it with."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(tokens, skip_special_tokens=True).strip()
