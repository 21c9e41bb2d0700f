"""Products that oneDNN computes are those of fp32, and attention is left to MKL."""

import pytest
import tiny_model
import torch

from spunge.models import base_model, matrix_products
from spunge.models.matrix_products import ALLOWS_LESS, FP32, by_onednn


@pytest.fixture(autouse=True)
def as_it_was():
    before = torch.get_float32_matmul_precision()
    by_onednn.cache_clear()
    torch.set_float32_matmul_precision(FP32)
    yield
    by_onednn.cache_clear()
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("shape", [(1, 576, 576), (16, 576, 192), (560, 576, 1536), (70, 576, 4096)])
def test_products_are_as_exact_as_fp32(shape):
    by_onednn()
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    inputs.requires_grad_(True)
    outputs = torch.nn.functional.linear(inputs, weight)
    exact = inputs.detach().double() @ weight.double().T
    # Of 576 products some 1e-6 of their size; bf16 would be off by a hundredth.
    assert (outputs - exact).abs().max() < 1e-4 * exact.abs().max() / 10
    outputs.backward(outputs.detach())
    gradient = outputs.detach().double() @ weight.double()
    assert (inputs.grad - gradient).abs().max() < 1e-5 * gradient.abs().max()


def test_less_than_fp32_is_never_taken(monkeypatch):
    monkeypatch.setattr(matrix_products, "_is_slow_with_mkl", lambda: True)
    monkeypatch.setattr(matrix_products, "error", lambda: 3e-3)
    assert not by_onednn() and torch.get_float32_matmul_precision() == FP32


def test_a_precision_that_somebody_chose_stays(monkeypatch):
    monkeypatch.setattr(matrix_products, "_is_slow_with_mkl", lambda: True)
    torch.set_float32_matmul_precision("high")
    assert not by_onednn() and torch.get_float32_matmul_precision() == "high"


def test_other_processors_are_left_alone(monkeypatch):
    monkeypatch.setattr(matrix_products, "_is_slow_with_mkl", lambda: False)
    assert not by_onednn() and torch.get_float32_matmul_precision() == FP32


@pytest.mark.parametrize(("dtype", "asked"), [(torch.float32, 1), (torch.bfloat16, 0)])
def test_models_in_half_precision_are_left_alone(tmp_path, monkeypatch, dtype, asked):
    calls = []
    monkeypatch.setattr(matrix_products, "by_onednn", lambda: calls.append(dtype))
    monkeypatch.setattr(base_model, "device", lambda: "cpu")
    tiny_model.build(tmp_path / "model")
    base_model.from_folder(tmp_path / "model", "tiny", dtype=dtype)
    assert len(calls) == asked


def test_the_process_random_numbers_stay():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    by_onednn()
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_would_be_seen():
    factor = torch.arange(64 * 512, dtype=torch.float64).sin().reshape(64, 512).float().bfloat16()
    product = (factor @ factor.T).double()
    exact = factor.double() @ factor.double().T
    assert (product - exact).abs().max() / exact.abs().max() > 100 * matrix_products.ERROR
    assert matrix_products.error() < matrix_products.ERROR / 10


def test_attention_has_full_precision_forward_and_back_and_gives_it_back(monkeypatch):
    seen = []

    class Attend(torch.autograd.Function):
        @staticmethod
        def forward(_, query, key, value):
            seen.append(torch.get_float32_matmul_precision())
            return query + key + value

        @staticmethod
        def backward(_, gradient):
            seen.append(torch.get_float32_matmul_precision())
            return gradient, gradient, gradient

    def forward(module, query, key, value, mask, scaling):
        assert (module, mask, scaling) == ("module", None, 2)
        return Attend.apply(query, key, value), None

    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", forward)
    torch.set_float32_matmul_precision(ALLOWS_LESS)
    states = [torch.ones(3, requires_grad=wanted) for wanted in (False, True, True)]
    attended, _ = matrix_products.attention("module", *(2 * state for state in states), None, scaling=2)
    assert torch.get_float32_matmul_precision() == ALLOWS_LESS
    attended.sum().backward()
    assert torch.get_float32_matmul_precision() == ALLOWS_LESS
    assert seen == [FP32, FP32]
    assert [state.grad is None for state in states] == [True, False, False]


def test_mkl_alone_gives_the_precision_back():
    torch.set_float32_matmul_precision(ALLOWS_LESS)
    with matrix_products.by_mkl():
        assert torch.get_float32_matmul_precision() == FP32
    assert torch.get_float32_matmul_precision() == ALLOWS_LESS


def test_attention_that_fails_gives_the_precision_back(monkeypatch):
    def forward(*_, **__):
        raise RuntimeError

    monkeypatch.setattr("transformers.integrations.sdpa_attention.sdpa_attention_forward", forward)
    torch.set_float32_matmul_precision(ALLOWS_LESS)
    with pytest.raises(RuntimeError):
        matrix_products.attention("module", *[torch.ones(1)] * 3)
    assert torch.get_float32_matmul_precision() == ALLOWS_LESS
