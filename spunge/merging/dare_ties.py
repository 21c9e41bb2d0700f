"""DARE with TIES' sign election: drop at random, rescale, elect, disjoint mean (Yu et al. 2023, arXiv 2311.03099)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from spunge.merging import common, consensus, sparsify


@dataclass(frozen=True)
class Options(common.Options):
    """Settings of this merge: `density` is the share of entries that the random drop keeps (1 less the rate p)."""

    density: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        common.check_density(self.density)


def prepare(shards: common.Shards, options: Options) -> Callable[[str, list[torch.Tensor]], Iterator[common.Block]]:
    """Return the merge of one parameter."""
    weights = common.column(options.weights)
    combine = partial(consensus.ties, weights=weights)
    return sparsify.dare(shards, options.density, options.scale, combine)
