"""Fluency: perplexity of prose that no shard and no retain set holds."""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from spunge.core.progress import Progress
from spunge.evaluation.statistics import PERPLEXITY
from spunge.experiment.options import Count, Tokens, checked
from spunge.models import base_model

TABLE = "fluency"
METRICS = PERPLEXITY
COLUMNS = ["attribute", "subject", "loss", "tokens"]


@checked
class Options:
    """How prose is read."""

    batch_size: Annotated[Count, Field(description="Texts that are read together.")] = 8
    max_tokens: Annotated[Tokens, Field(description="Texts are cut after this many tokens.")] = 128


def score(model: torch.nn.Module, tokenizer, texts: pd.DataFrame, batch_size: int, max_tokens: int) -> pd.DataFrame:
    """Return what `losses` does of the fluency table, which is about no attribute."""
    return losses(model, tokenizer, texts.assign(attribute=""), batch_size, max_tokens, TABLE)


@torch.no_grad()
def losses(
    model: torch.nn.Module, tokenizer, texts: pd.DataFrame, batch_size: int, max_tokens: int, name: str
) -> pd.DataFrame:
    """Return one row per text, in order: `attribute`, its number as `subject`, `loss`, `tokens`, its cluster if any.

    `texts` has the columns text and attribute; `name` is that of the evaluation, for messages.
    `loss` is the summed negative log-likelihood in nats, NaN where it isn't finite, `tokens` their number. A text's
    first token is conditioned upon, not predicted. Texts are batched by length, on the model's device.
    """
    tokens = tokenizer(texts["text"].tolist(), truncation=True, max_length=max_tokens)["input_ids"]
    base_model.check_tokens(model, tokens, f"the {name} texts", f"lower evaluations.{name}.max_tokens")
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    sums = torch.zeros(len(tokens), dtype=torch.float64)
    progress = Progress(name, len(order))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in rows], batch_first=True)
        # Padding is on the right, so under causal attention it changes nothing before it: no mask is needed.
        logits = model(input_ids=batch.to(model.device), use_cache=False).logits
        # Text by text: the softmax over a whole batch would take as much memory again.
        for row, predicted in zip(rows, logits, strict=True):
            wanted = torch.tensor(tokens[row][1:], dtype=torch.long, device=model.device)
            per_token = torch.nn.functional.cross_entropy(predicted[: len(wanted)].float(), wanted, reduction="none")
            sums[row] = per_token.sum(dtype=torch.float64)
        progress.step(start + len(rows))
    scores = {"loss": np.where(sums.isfinite(), sums, np.nan), "tokens": [len(row) - 1 for row in tokens]}
    about = texts.filter(["attribute", "cluster"]).reset_index(drop=True)
    return about.assign(subject=[str(row) for row in range(len(tokens))], **scores)
