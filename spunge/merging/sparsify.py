"""Which entries of a task vector a merge looks at: the largest (TIES' trim) or some drawn at random (DARE)."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch

_HALF = 16
_BINS = 1 << _HALF
_CHUNK = 1 << 20


def kth_magnitude(tensor: torch.Tensor, k: int) -> float:
    """Return the k-th largest magnitude among the entries of an fp32 tensor of any shape, exactly.

    The bits of a non-negative fp32 number, read as an integer, sort as the number does, and numpy selects integers in
    linear time. Takes a copy of the tensor. A `k` below 1 gives infinity (nothing is that large), one that reaches the
    number of entries gives 0.
    """
    if k < 1:
        return math.inf
    if k >= tensor.numel():
        return 0.0
    bits = _magnitude_bits(tensor).numpy()
    position = len(bits) - k
    bits.partition(position)
    return _number(int(bits[position]))


def kth_magnitude_of_all(tensors: Callable[[], Iterable[torch.Tensor]], k: int) -> float:
    """Return the k-th largest magnitude over all entries of several tensors, exactly, one tensor at a time.

    One pass counts the upper 16 bits of the magnitudes, a second pass the lower 16 bits in the bin in which the k-th
    lies. `tensors` is called once a pass. `k` as in `kth_magnitude`.
    """
    if k < 1:
        return math.inf
    upper = torch.zeros(_BINS, dtype=torch.int64)
    for bits in _chunks(tensors()):
        upper += torch.bincount(bits >> _HALF, minlength=_BINS)
    if k >= int(upper.sum()):
        return 0.0
    upper_bin, above = _kth_bin(upper, k)
    lower = torch.zeros(_BINS, dtype=torch.int64)
    for bits in _chunks(tensors()):
        lower += torch.bincount(bits[bits >> _HALF == upper_bin] & (_BINS - 1), minlength=_BINS)
    lower_bin, _ = _kth_bin(lower, k - above)
    return _number(upper_bin << _HALF | lower_bin)


def _chunks(tensors: Iterable[torch.Tensor]) -> Iterable[torch.Tensor]:
    return (_magnitude_bits(chunk) for tensor in tensors for chunk in tensor.flatten().split(_CHUNK))


def _magnitude_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().flatten().view(torch.int32) & 0x7FFFFFFF


def _number(bits: int) -> float:
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()


def _kth_bin(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th entry counted from the top, and how many entries lie in the bins above it."""
    from_top = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_top, k))
    above = int(from_top[position - 1]) if position else 0
    return len(counts) - 1 - position, above


def trim(tensor: torch.Tensor, threshold: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Set the entries of an fp32 tensor of any shape whose magnitude is below `threshold` to zero (TIES, step 1).

    `threshold` is an fp32 number. Entries as large as it are kept, all of them: the choice among equals would depend on
    their order. `out` is resized and takes the result, unless that is the tensor itself.
    """
    if threshold == 0:
        return tensor
    # hardshrink keeps what is larger than its bound; it is one pass, without a mask
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    out = None if out is None else out.resize_(tensor.shape)
    return torch.hardshrink(tensor, below if threshold < math.inf else math.inf, out=out)


def draws(seed: int, shard: str, parameter: str) -> np.random.Generator:
    """Return the random numbers for one parameter of one shard; they depend on these three alone, not on any order."""
    key = json.dumps([seed, shard, parameter]).encode()
    return np.random.Generator(np.random.SFC64(int.from_bytes(hashlib.sha256(key).digest())))


def drop(entries: torch.Tensor, density: float, numbers: np.random.Generator) -> torch.Tensor:
    """Keep each of the entries (entries,) with probability `density` and divide it by that (DARE, arXiv 2311.03099).

    Takes one number an entry, so successive blocks of a parameter continue where the last one ended.
    """
    keep = torch.from_numpy(numbers.random(len(entries), dtype=np.float32)) < density
    return entries * keep / density
