"""SimNPO: NPO with a length-normalized reward and no reference model (Fan et al. 2024, arXiv 2410.07163, equation 4).

    loss = −(2/β) · E[log σ(−(β/|y|) · log π(y) − γ)] + retain_weight · NLL(retain)

E is the mean over a batch's forget texts y of |y| predicted tokens, log π(y) the sum over these; NLL is the mean over a
batch's predicted tokens.
"""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch.nn.functional import logsigmoid

from spunge.experiment.options import NonNegative, Positive, checked
from spunge.methods import Run, Unlearned
from spunge.training import loop


@checked
class Options(loop.Options):
    """Settings of one run; see `training.Options`.

    The defaults are the authors' on WMDP (WMDP/configs/unlearn/wmdp/SimNPO.json). Texts that the model knows by heart
    take more: on TOFU they have β = 4.5 and 1 : 8 for the two losses, but where a text has 3 nats a token σ(β · 3) is 1
    then, and nothing is unlearned.
    """

    beta: Annotated[Positive, Field(description="Inverse temperature β.")] = 0.1
    gamma: Annotated[float, Field(description="Reward margin γ.")] = 0.0
    retain_weight: Annotated[NonNegative, Field(description="Weight of the retain texts' loss; 0 leaves it out.")] = 1.0


def loss(log_probabilities, tokens, reference, beta: float, gamma: float) -> torch.Tensor:
    """Return each text's loss from log π(y) and |y|, all shapes (texts,); `reference` is not used."""
    return -2 / beta * logsigmoid(-beta * log_probabilities / tokens - gamma)


def unlearn(run: Run, options: Options) -> Unlearned | None:
    """Minimise the SimNPO loss and return the change."""
    chosen = partial(loss, beta=options.beta, gamma=options.gamma)
    forget = loop.LossTerm("forget", run.forget, options.max_tokens_forget, chosen)
    return loop.train(run, options, [forget, *loop.retain_terms(run, options, options.retain_weight)])
