"""How shards become one: weighted sums and means, and TIES' sign election (Yadav et al. 2023, arXiv 2306.01708).

`entries` has one tensor of fp32 entries for each shard, all of one shape: a list, or a tensor (shards, …). `weights` is
a tensor (shards, …) that broadcasts against it; None means 1 each. Shards are added one after another: that takes half
as long as torch's sum over them, whose order of adding also depends on their number.
Signs and counts are added as floats: comparisons and `where` with scalars take several times longer.
"""

from collections.abc import Iterable, Sequence

import torch

Tensors = Sequence[torch.Tensor]


def weigh(entries: Tensors, weights: torch.Tensor | None) -> Tensors:
    """Multiply the entries of each shard with its weight."""
    return entries if weights is None else [shard * weight for shard, weight in zip(entries, weights, strict=True)]


def total(entries: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the sum over the shards, a tensor of its own."""
    first, *rest = entries
    summed = first.clone()
    for shard in rest:
        summed += shard
    return summed


def linear(entries: Tensors, weights: torch.Tensor | None = None, normalize: bool = True) -> torch.Tensor:
    """Return the weighted mean over the shards or, not normalized, the weighted sum."""
    summed = total(weigh(entries, weights))
    if not normalize:
        return summed
    return summed.div_(len(entries) if weights is None else weights.sum(dim=0))


def election(weighted: Tensors, by: str = "mass") -> torch.Tensor:
    """Return the sums whose signs TIES elects (step 2).

    `mass` sums the (weighted) values, as the paper; `count` takes the number of positive less that of negative ones.
    """
    return total(weighted if by == "mass" else (shard.sign() for shard in weighted))


def elect_sign(weighted: Tensors, by: str = "mass", zero: float = 1.0) -> torch.Tensor:
    """Return the elected signs, +1 or -1; a sum of exactly 0 elects `zero` (+1 or -1)."""
    return election(weighted, by).sign_().add_(zero / 2).sign_()


def disjoint_mean(weighted: Tensors, sign: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Average, per parameter, the non-zero entries that agree with the elected sign (step 3); none gives 0.

    `weighted` are entries times weights; the divisor is the sum of the agreeing shards' weights, as in mergekit, or
    their number where there are no weights.
    """
    summed, divisor, agreeing = torch.zeros_like(sign), torch.zeros_like(sign), torch.empty_like(sign)
    for number, shard in enumerate(weighted):
        torch.mul(shard, sign, out=agreeing).relu_()
        summed += agreeing
        agreeing.sign_()
        divisor += agreeing if weights is None else agreeing.mul_(weights[number])
    return summed.div_(divisor.clamp_(min=torch.finfo(sign.dtype).tiny)).mul_(sign)


def ties(entries: Tensors, weights: torch.Tensor | None = None, sign: str = "mass", zero: float = 1.0) -> torch.Tensor:
    """Elect signs and average what agrees with them (steps 2 and 3), weights before the election as in mergekit."""
    weighted = weigh(entries, weights)
    return disjoint_mean(weighted, elect_sign(weighted, sign, zero), weights)


def unanimous(entries: Tensors) -> torch.Tensor:
    """Return 1 where the entries of all shards have the same sign, which 0 has not, else 0."""
    return (election(entries, "count").abs_() == len(entries)).to(entries[0].dtype)
