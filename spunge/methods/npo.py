"""NPO, negative preference optimization (Zhang et al. 2024, arXiv 2404.05868, equation 3).

    loss = −(2/β) · E[log σ(−β · log(π(y) / π_ref(y)))] + retain_weight · NLL(retain)

E is the mean over a batch's forget texts y, log π(y) the sum over the text's predicted tokens; NLL is the mean over a
batch's predicted tokens. π_ref is the base model; its log π_ref(y) is computed once, before training, so that no second
model is kept. For β → 0 the gradient is that of ascent on the texts' summed negative log-likelihoods.
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

    β = 0.1 is the paper's; `retain_weight` 1 makes it the paper's NPO+RT, which its authors' code runs by default
    (TOFU/config/forget.yaml), 0 its plain NPO.
    """

    beta: Annotated[Positive, Field(description="Inverse temperature β.")] = 0.1
    retain_weight: Annotated[NonNegative, Field(description="Weight of the retain texts' loss; 0 leaves it out.")] = 1.0


def loss(log_probabilities, tokens, reference, beta: float) -> torch.Tensor:
    """Return each text's loss from log π(y) and log π_ref(y), all shapes (texts,)."""
    return -2 / beta * logsigmoid(-beta * (log_probabilities - reference))


def unlearn(run: Run, options: Options) -> Unlearned | None:
    """Minimise the NPO loss and return the change."""
    forget = loop.LossTerm(
        "forget", run.forget, options.max_tokens_forget, partial(loss, beta=options.beta), reference=True
    )
    return loop.train(run, options, [forget, *loop.retain_terms(run, options, options.retain_weight)])
