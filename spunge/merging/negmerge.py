"""NegMerge: the mean of the entries whose sign agrees in all task vectors (Kim et al. 2024, arXiv 2410.05583).

The paper merges vectors of fine-tuning and negates the result; unlearning's vectors are negated already. The merge is
odd, so both orders give the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from spunge.merging import common, consensus


@dataclass(frozen=True)
class Options(common.Options):
    """Settings of a NegMerge: those of every merge."""


def prepare(shards: common.Shards, options: Options) -> Callable[[str, list[torch.Tensor]], Iterator[common.Block]]:
    """Return the merge of one parameter."""
    weights = common.column(options.weights)

    def merge_parameter(name: str, deltas: list[torch.Tensor]) -> Iterator[common.Block]:
        for block in common.blocks(deltas):
            kept = block * consensus.unanimous(block)
            yield common.Block(block, block, kept, consensus.linear(kept, weights).mul_(options.scale))

    return merge_parameter
