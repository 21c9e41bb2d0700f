"""Weighted mean of task vectors, or their weighted sum: task arithmetic (Ilharco et al. 2022, arXiv 2212.04089)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from spunge.merging import common, consensus


@dataclass(frozen=True)
class Options(common.Options):
    """Settings of a linear merge: `normalize` divides the weighted sum by the sum of the weights."""

    normalize: bool = True


def prepare(shards: common.Shards, options: Options) -> Callable[[str, list[torch.Tensor]], Iterator[common.Block]]:
    """Return the merge of one parameter."""
    weights = common.column(options.weights)

    def merge_parameter(name: str, deltas: list[torch.Tensor]) -> Iterator[common.Block]:
        for block in common.blocks(deltas):
            merged = consensus.linear(block, weights, options.normalize).mul_(options.scale)
            yield common.Block(block, block, block, merged)

    return merge_parameter
