"""TIES as pure functions on tensors: trim, elect a sign, disjoint mean (Yadav et al. 2023, arXiv 2306.01708)."""

from collections.abc import Callable, Iterable

import torch

_HALF = 16
_BINS = 1 << _HALF


def magnitude_threshold(tensors: Callable[[], Iterable[torch.Tensor]], k: int) -> float:
    """Return the k-th largest magnitude over all entries of fp32 tensors of any shape, exactly, one tensor at a time.

    The bits of a non-negative fp32 number, read as an integer, sort as the number does; so one pass counts the upper 16
    bits, a second pass the lower 16 bits of the bin in which the k-th lies. `tensors` is called once a pass. A `k`
    below 1 gives infinity (nothing is that large), one that reaches the number of entries gives 0.
    """
    if k < 1:
        return float("inf")
    upper = torch.zeros(_BINS, dtype=torch.int64)
    for tensor in tensors():
        upper += torch.bincount(_magnitude_bits(tensor) >> _HALF, minlength=_BINS).cpu()
    if k >= int(upper.sum()):
        return 0.0
    upper_bin, above = _kth_bin(upper, k)
    lower = torch.zeros(_BINS, dtype=torch.int64)
    for tensor in tensors():
        bits = _magnitude_bits(tensor)
        lower += torch.bincount(bits[bits >> _HALF == upper_bin] & (_BINS - 1), minlength=_BINS).cpu()
    lower_bin, _ = _kth_bin(lower, k - above)
    return torch.tensor(upper_bin << _HALF | lower_bin, dtype=torch.int32).view(torch.float32).item()


def _magnitude_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().abs().flatten().view(torch.int32)


def _kth_bin(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th entry counted from the top, and how many entries lie in the bins above it."""
    from_top = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, k))
    above = int(from_top[position - 1]) if position else 0
    return len(counts) - 1 - position, above


def trim(tensor: torch.Tensor, threshold: float) -> torch.Tensor:
    """Set the entries of a tensor of any shape whose magnitude is below `threshold` to zero (TIES, step 1)."""
    return torch.where(tensor.abs() >= threshold, tensor, 0.0)


def elect_sign(trimmed: torch.Tensor, by: str = "mass") -> torch.Tensor:
    """Elect one sign per parameter (TIES, step 2): shape (shards, …) to (…), entries +1 or -1.

    `mass` takes the sign of the sum of the trimmed values, as the paper; `count` that of the number of positive less
    the number of negative ones. A tie counts as +, as in PEFT and mergekit.
    """
    total = {"mass": lambda: trimmed.sum(dim=0), "count": lambda: trimmed.sign().sum(dim=0)}[by]()
    return torch.where(total >= 0, 1.0, -1.0)


def disjoint_mean(trimmed: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """Average, per parameter, the non-zero entries that agree with the elected sign (TIES, step 3); none gives 0.

    `trimmed` has shape (shards, …), `sign` and the result (…).
    """
    agreeing = trimmed * sign > 0
    return torch.where(agreeing, trimmed, 0.0).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)


def merge(trimmed: torch.Tensor, scale: float, sign: str = "mass") -> torch.Tensor:
    """Merge trimmed task vectors (shards, …) into one of shape (…): scale · disjoint mean of the elected sign."""
    return scale * disjoint_mean(trimmed, elect_sign(trimmed, sign))
