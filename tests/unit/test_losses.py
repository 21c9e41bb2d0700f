"""The losses as formulas: limits, and values worked out in float64 or plain Python."""

import math

import pytest
import torch

from spunge.methods import npo, simnpo
from spunge.training import loop

LOG_PROBABILITIES = torch.tensor([-3.5, -12.0, -0.25], dtype=torch.float64)
REFERENCE = torch.tensor([-5.0, -9.0, -0.25], dtype=torch.float64)
TOKENS = torch.tensor([2, 7, 1])


def log_sigmoid(value):
    return -math.log1p(math.exp(-value))


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.5])
def test_npo_by_hand(beta):
    found = npo.loss(LOG_PROBABILITIES, TOKENS, REFERENCE, beta)
    expected = [-2 / beta * log_sigmoid(-beta * ratio) for ratio in (1.5, -3.0, 0.0)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[2].item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)  # the model is its reference


def test_npo_with_small_beta_has_the_gradient_of_ascent_on_summed_log_likelihoods():
    for beta in (1e-6, 0.5):
        log_probabilities = LOG_PROBABILITIES.clone().requires_grad_(True)
        npo.loss(log_probabilities, TOKENS, REFERENCE, beta).sum().backward()
        # The paper's adaptive weight: 2 π^β / (π^β + π_ref^β).
        ratio = (beta * (LOG_PROBABILITIES - REFERENCE)).exp()
        torch.testing.assert_close(log_probabilities.grad, 2 * ratio / (ratio + 1))
        if beta == 1e-6:
            torch.testing.assert_close(log_probabilities.grad, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("beta", "gamma"), [(0.1, 0.0), (2.5, 0.0), (2.5, 0.7)])
def test_simnpo_by_hand(beta, gamma):
    found = simnpo.loss(LOG_PROBABILITIES, TOKENS, None, beta, gamma)
    expected = [-2 / beta * log_sigmoid(beta * nll - gamma) for nll in (1.75, 12 / 7, 0.25)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_simnpo_of_one_token_is_npo_with_a_reference_that_is_certain():
    one, certain = torch.ones(3), torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(
        simnpo.loss(LOG_PROBABILITIES, one, None, beta=0.3, gamma=0.0),
        npo.loss(LOG_PROBABILITIES, one, certain, beta=0.3),
    )


def test_likelihoods_are_per_predicted_token():
    assert loop.token_nll(LOG_PROBABILITIES, TOKENS).tolist() == pytest.approx([1.75, 12 / 7, 0.25])
    assert loop.token_log_likelihood(LOG_PROBABILITIES, TOKENS).tolist() == pytest.approx([-1.75, -12 / 7, -0.25])
