"""Open-ended questions: the model writes the answer, where otherwise it chooses among some that it is shown."""

from collections.abc import Sequence

import pandas as pd
import torch

from spunge.core.slugs import unaccented, words
from spunge.datasets.tables import about
from spunge.evaluation import generation

OPTIONS = generation.Options(samples=1, max_new_tokens=10, temperature=0.0, stop_at_newline=True)
ARTICLES = {"a", "an", "the"}


def score(model: torch.nn.Module, tokenizer, questions: pd.DataFrame) -> pd.DataFrame:
    """Return one row per question, in order: `about`, accuracy (1 where the right choice is named first).

    The accuracy is NaN where the model wrote nothing because its numbers weren't finite. A question is continued
    greedily, by at most 10 tokens of its line. What the models write is not kept.
    """
    # A space before the answer belongs to the answer's first token.
    prompts = questions["question"] + questions.get("delimiter", pd.Series("", questions.index)).str.rstrip(" ")
    written = generation.continue_prompts(model, tokenizer, prompts.tolist(), OPTIONS)["text"]
    right = [
        float("nan") if pd.isna(text) else float(first_named(text, choices) == answer)
        for text, choices, answer in zip(written, questions["choices"], questions["answer"], strict=True)
    ]
    return about(questions).assign(accuracy=right)


def first_named(text: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that a text names first, the longest one at that place; None if it names none.

    In whole words, without regard to case, accents, punctuation and articles.
    """
    said = words_of_answer(text)
    places = {}
    for index, choice in enumerate(choices):
        wanted = words_of_answer(choice)
        starts = (start for start in range(len(said)) if wanted and said[start : start + len(wanted)] == wanted)
        if (start := next(starts, None)) is not None:
            places[index] = start, -len(wanted)
    return min(places, key=places.get) if places else None


def words_of_answer(text: str) -> list[str]:
    return [word for word in words(unaccented(text)) if word not in ARTICLES]
