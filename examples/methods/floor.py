"""Gradient ascent with a floor: a text whose loss has reached `floor` nats per token is left alone."""

import dataclasses
from functools import partial

import torch

from spunge.training import loop


@dataclasses.dataclass(frozen=True)
class Options(loop.Options):
    floor: float = 6.0


def loss(log_probabilities, tokens, reference, floor):
    return torch.relu(floor + log_probabilities / tokens)


def unlearn(run, options):
    forget = loop.LossTerm("forget", run.forget, options.max_tokens_forget, partial(loss, floor=options.floor))
    return loop.train(run, options, [forget, *loop.retain_terms(run, options, weight=1.0)])
