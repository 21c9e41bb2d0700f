"""Fluency: perplexity of prose that no shard and no retain set holds."""

import pandas as pd
import torch

from spunge.progress import Progress


@torch.no_grad()
def score(model: torch.nn.Module, tokenizer, texts: pd.DataFrame, batch_size: int, max_tokens: int) -> pd.DataFrame:
    """Return one row per text of the fluency table, in order, with an empty `attribute` and its number as `subject`.

    `loss` is the summed negative log-likelihood in nats, `tokens` their number. A text's first token is conditioned
    upon, not predicted. Texts are batched by length, on the model's device.
    """
    tokens = tokenizer(texts["text"].tolist(), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    losses = torch.zeros(len(tokens), dtype=torch.float64)
    progress = Progress("fluency", len(order))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in rows], batch_first=True)
        lengths = torch.tensor([len(tokens[row]) for row in rows])
        mask = torch.arange(batch.shape[1]) < lengths[:, None]
        logits = model(input_ids=batch.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1]
        wanted = batch[:, 1:].to(model.device)
        # One row per token: with the vocabulary not last, the softmax would stride through memory.
        per_token = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), reduction="none"
        ).view_as(wanted)
        losses[rows] = (per_token.cpu() * mask[:, 1:]).sum(dim=1, dtype=torch.float64)
        progress.step(start + len(rows))
    scores = {"loss": losses.numpy(), "tokens": [len(row) - 1 for row in tokens]}
    return pd.DataFrame({"attribute": "", "subject": [str(row) for row in range(len(tokens))], **scores})
