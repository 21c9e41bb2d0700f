"""What all merges share: the shards' task vectors, and the blocks in which a parameter is worked through."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from spunge.models.task_vector import TaskVector

# Entries per block, of all shards together: few enough that a block and what is made of it stay in the cache.
BLOCK = 1 << 17


@dataclass
class Survey:
    """What a merge found in passes over whole tensors and vectors.

    `thresholds` has for each parameter the least magnitude that the trim keeps of each shard, `zero_sign` the sign (+1
    or -1) that a sum of exactly 0 elects.
    """

    thresholds: dict[str, list[float]] = field(default_factory=dict)
    zero_sign: float | None = None


@dataclass(frozen=True)
class Shards:
    """The task vectors to merge with their common `layout` (parameter → shape), and the seed of random merges."""

    vectors: Mapping[str, TaskVector]
    layout: Mapping[str, torch.Size]
    seed: int = 0
    survey: Survey = field(default_factory=Survey)

    def read(self, name: str) -> list[torch.Tensor]:
        """Return one parameter of every shard, fp32; where a vector does not change it, zeros."""
        shape = self.layout[name]
        return [vector[name] if name in vector else torch.zeros(shape) for vector in self.vectors.values()]


class Entries(NamedTuple):
    """Some consecutive entries of one parameter of all shards, of shape (shards, entries).

    `deltas` are the entries as read, `voting` those whose signs are compared (after a trim or a random drop), `kept`
    those that the consensus is made of.
    """

    deltas: torch.Tensor
    voting: torch.Tensor
    kept: torch.Tensor


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
