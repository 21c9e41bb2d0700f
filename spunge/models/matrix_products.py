"""Matrix products in fp32 on AMD's CPUs: by oneDNN, since MKL takes less than half of what they can do.

PyTorch leaves fp32 products to MKL, which has no AVX-512 for AMD's CPUs. oneDNN has, and PyTorch takes it where less
than fp32 is allowed, the precision "medium". What it computes there is fp32 all the same: bf16 would take AMX, a unit
that AMD's lack, which is forbidden besides, and the products are tried. benchmarks/README.md has the speed.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import torch

FP32, ALLOWS_LESS = "highest", "medium"
ERROR = 1e-5  # relative to the largest product: fp32 has some 3e-7, bf16 3e-3
SIZES = (64, 512)


@functools.cache
def by_onednn() -> bool:
    """Let oneDNN compute this process' fp32 products where that is faster and as exact; tell whether it does."""
    if not _is_slow_with_mkl() or torch.get_float32_matmul_precision() != FP32:
        return False
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # oneDNN reads it at its first product
    torch.set_float32_matmul_precision(ALLOWS_LESS)
    if error() > ERROR:
        torch.set_float32_matmul_precision(FP32)
        return False
    from transformers import AttentionInterface

    AttentionInterface.register("sdpa", attention)
    return True


def _is_slow_with_mkl() -> bool:
    processor = Path("/proc/cpuinfo")
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and processor.is_file()
        and "AuthenticAMD" in processor.read_text(encoding="utf-8")
    )


def error() -> float:
    """Return the largest error of a product in fp32, as it is computed now, relative to its largest entry."""
    rows, inner = SIZES
    # No random numbers: a job's own come from the process' generator.
    factor = torch.arange(rows * inner, dtype=torch.float64).sin().reshape(rows, inner).float()
    exact = factor.double() @ factor.double().T
    return float((factor @ factor.T - exact).abs().max() / exact.abs().max())


@contextlib.contextmanager
def by_mkl() -> Iterator[None]:
    """Leave products to MKL meanwhile: what several jobs compute must be the same whether they have a model or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(FP32)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *arguments, **options
) -> tuple[torch.Tensor, None]:
    """Return what transformers' `sdpa` does, with products by MKL: oneDNN is several times as slow at small ones.

    So are those of its backward pass.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    before = torch.get_float32_matmul_precision()
    with by_mkl():
        attended, weights = sdpa_attention_forward(module, query, key, value, *arguments, **options)
    if attended.requires_grad:
        attended.register_hook(lambda _: torch.set_float32_matmul_precision(FP32))
        for states in (query, key, value):
            if states.requires_grad:
                states.register_hook(lambda _: torch.set_float32_matmul_precision(before))
    return attended, weights
