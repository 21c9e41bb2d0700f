"""What all merges share: options, the shards' task vectors, and the blocks in which a parameter is worked through."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from spunge.core.errors import InputError
from spunge.models.task_vector import TaskVector

# Entries per block, of all shards together: few enough that a block and what is made of it stay in the cache.
BLOCK = 1 << 17


@dataclass(frozen=True)
class Options:
    """Settings of every merge: `scale` is λ, the factor on the merged vector; `weights` has one number a shard."""

    scale: float = 1.0
    weights: tuple[float, ...] | None = None

    def __post_init__(self):
        for weight in self.weights or ():
            if not 0 < weight < math.inf:
                raise InputError(f"a merge's weights hold {weight}; a weight is a number above 0")


def check_density(density: float) -> None:
    """Raise InputError unless `density` is a share."""
    if not 0 < density <= 1:
        raise InputError(f"a merge's density is {density}; it is the share kept, above 0 and at most 1")


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of those allowed."""
    if value not in allowed:
        raise InputError(f"a merge's {key} is {value}; it can be {' or '.join(allowed)}")


@dataclass(frozen=True)
class Shards:
    """The task vectors to merge with their common `layout` (parameter → shape), and the seed of random merges."""

    vectors: Mapping[str, TaskVector]
    layout: Mapping[str, torch.Size]
    seed: int = 0

    def read(self, name: str) -> list[torch.Tensor]:
        """Return one parameter of every shard, fp32; where a vector does not change it, zeros."""
        shape = self.layout[name]
        return [vector[name] if name in vector else torch.zeros(shape) for vector in self.vectors.values()]


class Block(NamedTuple):
    """Some consecutive entries of one parameter: the first three of shape (shards, entries), `merged` (entries,).

    `deltas` are the entries as read, `voting` those whose signs are compared (after a trim or a random drop), `kept`
    those that the merge could use.
    """

    deltas: torch.Tensor
    voting: torch.Tensor
    kept: torch.Tensor
    merged: torch.Tensor


def blocks(deltas: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the entries of equally shaped tensors, stacked to (shards, entries), BLOCK entries of all at a time.

    While the blocks last, torch works in one thread: a block takes microseconds an operation, and two threads that wait
    for each other on a busy machine took a hundred times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from map(torch.stack, zip(*(pieces(delta, len(deltas)) for delta in deltas), strict=True))
    finally:
        torch.set_num_threads(threads)


def pieces(tensor: torch.Tensor, shards: int) -> tuple[torch.Tensor, ...]:
    """Return the entries of a tensor of any shape in the pieces that the blocks of that many shards have."""
    return tensor.flatten().split(max(1, BLOCK // shards))


def column(weights: tuple[float, ...] | None) -> torch.Tensor | None:
    """Return weights as fp32 of shape (shards, 1), for entries of shape (shards, entries); None (all 1) stays None."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)[:, None]
