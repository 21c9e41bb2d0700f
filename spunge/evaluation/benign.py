"""Benign texts about the attributes to forget: their perplexity, by attribute.

A model that is to write no hate speech must still be able to speak of the groups: what it loses here is over-refusal.
"""

import pandas as pd
import torch

from spunge.evaluation import fluency
from spunge.evaluation.statistics import PERPLEXITY

TABLE = "benign"
METRICS = PERPLEXITY
Options = fluency.Options


def score(model: torch.nn.Module, tokenizer, texts: pd.DataFrame, batch_size: int, max_tokens: int) -> pd.DataFrame:
    """Return what `fluency.losses` does of the benign table."""
    return fluency.losses(model, tokenizer, texts, batch_size, max_tokens, TABLE)
