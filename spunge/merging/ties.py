"""TIES: trim, elect a sign, disjoint mean (Yadav et al. 2023, arXiv 2306.01708)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from spunge.merging import common, consensus, sparsify
from spunge.models.task_vector import TaskVector


@dataclass(frozen=True)
class Options(common.Options):
    """Settings of a TIES merge.

    `density` is the share of entries that the trim keeps, by magnitude, over each `tensor` or over the whole `model`
    (all of the model's parameters count, changed or not, as in the authors' code); `sign` elects by `mass` or `count`;
    a sum of exactly 0 elects + (`zero_sum: positive`) or what the elections of the whole model elect more often
    (`majority`, the authors' code; + where both are as many).
    """

    density: float = 0.2
    trim: str = "tensor"
    sign: str = "mass"
    zero_sum: str = "positive"

    def __post_init__(self):
        super().__post_init__()
        common.check_density(self.density)
        common.check_choice("trim", self.trim, ("tensor", "model"))
        common.check_choice("sign", self.sign, ("mass", "count"))
        common.check_choice("zero_sum", self.zero_sum, ("positive", "majority"))


def prepare(shards: common.Shards, options: Options) -> Callable[[str, list[torch.Tensor]], Iterator[common.Block]]:
    """Return the merge of one parameter.

    `trim: model` and `zero_sum: majority` each need passes over all task vectors before the first parameter is merged.
    """
    weights = common.column(options.weights)
    limits = {}
    if options.trim == "model":
        found = [_model_threshold(vector, options.density) for vector in shards.vectors.values()]
        limits = dict.fromkeys(shards.layout, found)

    def trimmed(name: str, deltas: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if name not in limits:
            limits[name] = [sparsify.kth_magnitude(one, int(options.density * one.numel())) for one in deltas]
        for block in common.blocks(deltas):
            kept = [sparsify.trim(entries, limit) for entries, limit in zip(block, limits[name], strict=True)]
            yield block, torch.stack(kept) if any(limits[name]) else block

    def majority() -> float:
        balance = 0
        for name in shards.layout:
            for _, kept in trimmed(name, shards.read(name)):
                balance += int(consensus.election(consensus.weigh(kept, weights), options.sign).sign_().sum())
        return -1.0 if balance < 0 else 1.0

    zero = majority() if options.zero_sum == "majority" else 1.0

    def merge_parameter(name: str, deltas: list[torch.Tensor]) -> Iterator[common.Block]:
        for block, kept in trimmed(name, deltas):
            merged = consensus.ties(kept, weights, options.sign, zero).mul_(options.scale)
            yield common.Block(block, kept, kept, merged)

    return merge_parameter


def _model_threshold(vector: TaskVector, density: float) -> float:
    k = int(density * vector.provenance["base_parameters"])
    return sparsify.kth_magnitude_of_all(lambda: (vector[name] for name in vector), k)
