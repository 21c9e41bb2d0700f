"""How shards become one: weighted sums and means, and TIES' sign election (Yadav et al. 2023, arXiv 2306.01708).

Entries have shape (shards, …), results (…). Signs and counts are summed as floats: comparisons and `where` with scalars
take several times longer.
"""

import torch


def weigh(entries: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Multiply the entries of each shard with its weight, of shape (shards, 1, …); None means 1 each."""
    return entries if weights is None else entries * weights


def linear(entries: torch.Tensor, weights: torch.Tensor | None = None, normalize: bool = True) -> torch.Tensor:
    """Return the weighted mean over the shards or, not normalized, the weighted sum."""
    total = weigh(entries, weights).sum(dim=0)
    if not normalize:
        return total
    return total.div_(len(entries) if weights is None else weights.sum(dim=0))


def election(weighted: torch.Tensor, by: str = "mass") -> torch.Tensor:
    """Return the sums whose signs TIES elects (step 2).

    `mass` sums the (weighted) values, as the paper; `count` takes the number of positive less that of negative ones.
    """
    return (weighted if by == "mass" else weighted.sign()).sum(dim=0)


def elect_sign(weighted: torch.Tensor, by: str = "mass", zero: float = 1.0) -> torch.Tensor:
    """Return the elected signs, +1 or -1; a sum of exactly 0 elects `zero` (+1 or -1)."""
    sign = election(weighted, by).sign_()
    return sign.add_((1 - sign.abs()).mul_(zero))


def disjoint_mean(weighted: torch.Tensor, sign: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Average, per parameter, the non-zero entries that agree with the elected sign (step 3); none gives 0.

    `weighted` are entries times weights; the divisor is the sum of the agreeing shards' weights, as in mergekit, or
    their number where there are no weights.
    """
    agreeing = (weighted * sign).relu_()
    total = agreeing.sum(dim=0)
    divisor = weigh(agreeing.sign_(), weights).sum(dim=0).clamp_(min=torch.finfo(total.dtype).tiny)
    return total.div_(divisor).mul_(sign)


def ties(
    entries: torch.Tensor, weights: torch.Tensor | None = None, sign: str = "mass", zero: float = 1.0
) -> torch.Tensor:
    """Elect signs and average what agrees with them (steps 2 and 3), weights before the election as in mergekit."""
    weighted = weigh(entries, weights)
    return disjoint_mean(weighted, elect_sign(weighted, sign, zero), weights)


def unanimous(entries: torch.Tensor) -> torch.Tensor:
    """Return 1 where the entries of all shards have the same sign, which 0 has not, else 0."""
    return (entries.sign().sum(dim=0).abs_() == len(entries)).to(entries.dtype)
