"""Gradient ascent: the loss of the forget texts is maximised (Jang et al. 2022, arXiv 2210.01504; Yao et al. 2023).

    loss = −NLL(forget)

NLL is the mean over a batch's predicted tokens, as in TOFU (Maini et al. 2024, arXiv 2401.06121) and OpenUnlearning.
Nothing bounds it, so the model breaks after enough steps: keep `steps` and the learning rate low.
"""

from spunge.experiment.options import checked
from spunge.methods import Run, Unlearned
from spunge.training import loop


@checked
class Options(loop.Options):
    """Settings of one run; see `training.Options`."""


def unlearn(run: Run, options: Options) -> Unlearned | None:
    """Ascend the forget texts' loss and return the change."""
    likelihood = loop.token_log_likelihood
    return loop.train(
        run, options, [loop.LossTerm("forget", run.forget, options.max_tokens_forget, likelihood, reduction="tokens")]
    )
