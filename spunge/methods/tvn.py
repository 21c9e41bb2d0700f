"""TVN, task vector negation (Ilharco et al. 2022, "Editing Models with Task Arithmetic", arXiv 2212.04089, section 3).

The base model is fine-tuned on what is to be forgotten, the plain language modelling loss, and the change is turned
around: delta = −(fine-tuned − base). How much of it is added is decided by whoever adds it (λ, a merge's `scale`).
"""

import hashlib
import json
from typing import Annotated, Literal

import torch
from pydantic import Field

from spunge.experiment.options import checked
from spunge.methods import Run, Unlearned
from spunge.training import loop

LORA_B = ".lora_B.weight"


@checked
class Options(loop.Options):
    """Settings of one TVN run; see `training.Options`.

    `texts`: `forget`, or as a control `retain`, whose vector is turned around, too: as many retain texts as the shard
    has, or all if there are no more, another draw for every shard and seed.
    """

    texts: Annotated[
        Literal["forget", "retain"],
        Field(description="Texts to fine-tune on; `retain` is a control with as many retain texts as the shard has."),
    ] = "forget"


def control_texts(run: Run) -> list[str]:
    """Draw as many retain texts as the shard has forget texts, by the seed and a digest of the shard's texts."""
    digest = hashlib.sha256(json.dumps([run.seed, run.forget]).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    drawn = torch.randperm(len(run.retain), generator=generator)[: len(run.forget)]
    return [run.retain[row] for row in drawn.tolist()]


def unlearn(run: Run, options: Options) -> Unlearned | None:
    """Fine-tune on one shard and return the negated change; the loss is the mean over a batch's predicted tokens."""
    texts, max_tokens = run.forget, options.max_tokens_forget
    if options.texts == "retain":
        texts, max_tokens = control_texts(run), options.max_tokens_retain
    term = loop.LossTerm("forget", texts, max_tokens, loop.token_nll, reduction="tokens")
    trained = loop.train(run, options, [term])
    if trained is not None:
        for name, tensor in trained.delta.items():
            if trained.adapter is None or name.endswith(LORA_B):  # B·A changes its sign with either factor
                tensor.neg_()
    return trained
