"""SimNPO: NPO with a length-normalized reward and no reference model (Fan et al. 2024, arXiv 2410.07163, equation 4).

    loss = −(2/β) · E[log σ(−(β/|y|) · log π(y) − γ)] + retain_weight · NLL(retain)

E is the mean over a batch's forget texts y of |y| predicted tokens, log π(y) the sum over these; NLL is the mean over a
batch's predicted tokens.
"""

import dataclasses
from functools import partial

import torch
from torch.nn.functional import logsigmoid

from spunge.methods import Run, Unlearned
from spunge.training import loop


@dataclasses.dataclass(frozen=True)
class Options(loop.Options):
    """Settings of one run; see `training.Options`.

    The defaults are the authors' on WMDP (WMDP/configs/unlearn/wmdp/SimNPO.json). Texts that the model knows by heart
    take more: on TOFU they have β = 4.5 and 1 : 8 for the two losses, but where a text has 3 nats a token σ(β · 3) is 1
    then, and nothing is unlearned.
    """

    beta: float = 0.1
    gamma: float = 0.0
    retain_weight: float = 1.0


def loss(log_probabilities, tokens, reference, beta: float, gamma: float) -> torch.Tensor:
    """Return each text's loss from log π(y) and |y|, all shapes (texts,); `reference` is not used."""
    return -2 / beta * logsigmoid(-beta * log_probabilities / tokens - gamma)


def unlearn(run: Run, options: Options) -> Unlearned | None:
    """Minimise the SimNPO loss and return the change."""
    chosen = partial(loss, beta=options.beta, gamma=options.gamma)
    forget = loop.LossTerm("forget", run.forget, options.max_tokens_forget, chosen)
    return loop.train(run, options, [forget, *loop.retain_terms(run, options, options.retain_weight)])
