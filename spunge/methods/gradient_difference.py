"""Gradient difference: ascent on the forget texts, descent on the retain texts (Liu et al. 2022, arXiv 2203.12817).

    loss = −NLL(forget) + retain_weight · NLL(retain)

NLL is the mean over a batch's predicted tokens, as in TOFU (Maini et al. 2024, arXiv 2401.06121) and OpenUnlearning.
"""

from typing import Annotated

from pydantic import Field

from spunge.experiment.options import NonNegative, checked
from spunge.methods import Run, Unlearned
from spunge.training import loop


@checked
class Options(loop.Options):
    """Settings of one run; see `training.Options`. `retain_weight` 1 is TOFU's and OpenUnlearning's."""

    retain_weight: Annotated[NonNegative, Field(description="Weight of the retain texts' loss; 0 leaves it out.")] = 1.0


def unlearn(run: Run, options: Options) -> Unlearned | None:
    """Minimise the difference of the two losses and return the change."""
    likelihood = loop.token_log_likelihood
    forget = loop.LossTerm("forget", run.forget, options.max_tokens_forget, likelihood, reduction="tokens")
    return loop.train(run, options, [forget, *loop.retain_terms(run, options, options.retain_weight)])
