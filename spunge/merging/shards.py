"""What all merges share: the shards' task vectors, and the blocks in which a parameter is worked through."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
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


class Parameter:
    """One parameter of every shard, fp32, whole or in blocks; where a vector does not change it, it is zeros."""

    def __init__(self, shards: Shards, name: str):
        self.name, self.shape = name, shards.layout[name]
        self._vectors = shards.vectors.values()

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        return [vector[self.name] if self.name in vector else torch.zeros(self.shape) for vector in self._vectors]

    def blocks(self) -> Iterator[list[torch.Tensor]]:
        """Yield the entries of each shard, (entries,), BLOCK entries of all at a time; valid until the next.

        Vectors are read block by block where `tensors` was not asked for before. While the blocks last, torch works in
        one thread: a block takes microseconds an operation, and two threads that wait for each other on a busy machine
        took a hundred times as long.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            readers = self._readers()
            for first, last in self.bounds():
                yield [read(first, last) for read in readers]
        finally:
            torch.set_num_threads(threads)

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yield the first and the last entry, itself left out, of every block."""
        step = max(1, BLOCK // len(self._vectors))
        for first in range(0, self.shape.numel(), step):
            yield first, min(first + step, self.shape.numel())

    def _readers(self) -> list[Callable[[int, int], torch.Tensor]]:
        if "tensors" in self.__dict__:
            return [partial(_slice, tensor.flatten()) for tensor in self.tensors]
        absent = partial(_slice, torch.zeros(()).expand(self.shape.numel()))
        return [vector.entries(self.name) if self.name in vector else absent for vector in self._vectors]


def _slice(flat: torch.Tensor, first: int, last: int) -> torch.Tensor:
    return flat[first:last]


class Entries(NamedTuple):
    """Some consecutive entries of one parameter: of each shard a tensor (entries,).

    `deltas` are the entries as read, `voting` those whose signs are compared (after a trim or a random drop), `kept`
    those that the consensus is made of.
    """

    deltas: list[torch.Tensor]
    voting: list[torch.Tensor]
    kept: list[torch.Tensor]


def column(weights: tuple[float, ...] | None) -> torch.Tensor | None:
    """Return weights as fp32 of shape (shards, 1), for entries of shape (shards, entries); None (all 1) stays None."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)[:, None]
