"""Relearning: fine-tune an unlearned model on a few texts, and ask about other facts than theirs.

An attack on unlearning as in Hu et al. 2024 ("Unlearning or obfuscating? Jogging the memory of unlearned LLMs via
benign relearning", arXiv 2406.13356), Deeb and Roger 2024 ("Do unlearning methods remove information from language
model weights?", arXiv 2410.08827), who ask about other facts than those relearned, and Łucki et al. 2024 ("An
adversarial perspective on machine unlearning for AI safety", arXiv 2409.18025).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from spunge.datasets.tables import about
from spunge.evaluation import knowledge
from spunge.evaluation.durability import UNRELATED
from spunge.experiment.options import Count, Distinct, NonNegative, Positive, Tokens, checked
from spunge.training import loop
from spunge.training.resume import Checkpoint, State


@checked
class Options:
    """Settings of the fine-tuning: passes over the texts, with LoRA on every linear layer but the output layer.

    Defaults are those of Łucki et al.'s code (src/finetuning/finetune.py), whose learning rate falls to 0 after a
    warm-up, while it stays the same here.
    """

    texts: Annotated[
        Distinct[Count],
        Field(
            description="Numbers of texts to relearn; each takes a fine-tuning run per forget attribute, and one on "
            "unrelated texts."
        ),
    ] = (10, 50)
    epochs: Annotated[Count, Field(description="Passes over the texts.")] = 3
    learning_rate: Annotated[Positive, Field(description="Learning rate of AdamW.")] = 2e-4
    batch_size: Annotated[Count, Field(description="Texts a step.")] = 1
    max_tokens: Annotated[Tokens, Field(description="Texts are cut after this many tokens.")] = 1024
    weight_decay: Annotated[NonNegative, Field(description="Weight decay of AdamW.")] = 0.01
    lora_rank: Annotated[Count, Field(description="Rank of the LoRA factors.")] = 128
    lora_alpha: Annotated[Positive, Field(description="LoRA's α; it scales by α / rank.")] = 16
    gradient_checkpointing: Annotated[
        bool, Field(description="Compute activations again in the backward pass; saves memory, takes longer.")
    ] = False

    def of_training(self, texts: int, dtype: str) -> loop.Options:
        """Return the training loop's options for this number of texts."""
        return loop.Options(
            steps=math.ceil(texts * self.epochs / self.batch_size),
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_tokens_forget=self.max_tokens,
            trained="lora",
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            weight_decay=self.weight_decay,
            gradient_checkpointing=self.gradient_checkpointing,
            dtype=dtype,
        )


def relearn(
    model: torch.nn.Module,
    tokenizer,
    texts: pd.DataFrame,
    questions: pd.DataFrame,
    options: Options,
    batch_size: int,
    dtype: str,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> dict[str, pd.DataFrame]:
    """Relearn the first 10, 50 … `texts` of every attribute, each time from `model` on, and ask all `questions`.

    `texts` as `durability.relearning_texts` and `unrelated_texts` give them; `batch_size` counts questions. Returns
    scores by evaluation, as `combine` does; the model is left as it was. `checkpoint` keeps the answers after
    every fine-tuning that is done, and how far the one at work is.
    """
    checkpoint = checkpoint or Checkpoint()
    scores_by_evaluation = {}
    for number in sorted(options.texts):
        accuracy = {}
        for place, (attribute, texts_of_attribute) in enumerate(texts.groupby("attribute", sort=False)):
            answered, trained = (checkpoint.nested(f"{number}-{place}-{what}") for what in ("answered", "trained"))
            if (before := answered.kept()) is not None:
                accuracy[attribute] = before.tensors["accuracy"].numpy()
                continue
            label = f"relearn {number} {attribute or 'unrelated'} texts"
            chosen = texts_of_attribute["text"].head(number).tolist()
            term = loop.LossTerm("forget", chosen, options.max_tokens, loop.token_nll, reduction="tokens")
            settings = options.of_training(number, dtype)
            with loop.fine_tuned(model, tokenizer, settings, [term], seed, label, trained) as relearned:
                scores = knowledge.score(relearned, tokenizer, questions, batch_size)
                accuracy[attribute] = scores["accuracy"].to_numpy()
                answered.keep(State({"accuracy": torch.tensor(accuracy[attribute])}))
            trained.remove()
        of_number = combine(accuracy, questions)
        scores_by_evaluation |= {f"relearned_{source}_{number}": scores for source, scores in of_number.items()}
    return scores_by_evaluation


def combine(accuracy: Mapping[str, Sequence[float]], questions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return scores, one row per question, after relearning `forget`, `other` and `unrelated` texts.

    `accuracy` has, by the attribute whose texts were relearned (UNRELATED for prose), that of every question. In
    `forget`, a question has its accuracy after its own attribute's texts were relearned; in `other`, the mean over the
    runs that relearned another attribute's. A question to retain has the mean over all attributes in both. Without a
    second attribute there is no `other`. An accuracy that is NaN spoils only the means that it is part of.
    """
    attributes = [name for name in accuracy if name != UNRELATED]
    values = np.array([accuracy[name] for name in attributes])
    of_attribute = np.array([[name == asked for asked in questions["attribute"]] for name in attributes])
    retained = ~of_attribute.any(axis=0)
    weights = {"forget": of_attribute | retained}
    if len(attributes) > 1:
        weights["other"] = ~of_attribute
    scores = {name: np.where(weight, values, 0).sum(axis=0) / weight.sum(axis=0) for name, weight in weights.items()}
    scores["unrelated"] = np.asarray(accuracy[UNRELATED])
    return {name: about(questions).assign(accuracy=accuracies) for name, accuracies in scores.items()}
