"""DARE with a linear merge: drop at random, rescale, weighted mean or sum (Yu et al. 2023, arXiv 2311.03099)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from spunge.merging import common, consensus, sparsify


@dataclass(frozen=True)
class Options(common.Options):
    """Settings of this merge.

    `density` is the share of entries that the random drop keeps (1 less the paper's rate p); `normalize` divides the
    weighted sum by the sum of the weights.
    """

    density: float = 0.2
    normalize: bool = True

    def __post_init__(self):
        super().__post_init__()
        common.check_density(self.density)


def prepare(shards: common.Shards, options: Options) -> Callable[[str, list[torch.Tensor]], Iterator[common.Block]]:
    """Return the merge of one parameter."""
    weights = common.column(options.weights)
    combine = partial(consensus.linear, weights=weights, normalize=options.normalize)
    return sparsify.dare(shards, options.density, options.scale, combine)
