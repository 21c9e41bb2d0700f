"""Splits of the forget set into the shards that are unlearned separately.

- joint: everything at once, the baseline (one part, "all").
- attribute: one part for each attribute, SPUNGE.
- random: as many parts and of the same sizes, drawn without regard to the attribute, the control ("part1", …).

Where the forget set has a subject, an attribute shard holds all texts about it; so that the control differs from it by
the attribute alone, the random split deals out whole subjects too. Their sizes then match as closely as whole subjects
can; they match exactly where all subjects have equally many texts, or where there is no subject.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spunge.errors import InputError

SPLITS = ("joint", "attribute", "random")
ALL = "all"


def parts(attributes: Sequence[str], split: str) -> list[str]:
    """Return the names of a split's parts: "all", the attributes, or part1 … partk."""
    if split == "joint":
        return [ALL]
    if split == "attribute":
        return list(attributes)
    if split == "random":
        return [f"part{number}" for number in range(1, len(attributes) + 1)]
    raise InputError(f"split {split!r} is unknown; the known ones are {', '.join(SPLITS)}")


def shard(forget: pd.DataFrame, attributes: Sequence[str], split: str, part: str, seed: int) -> pd.DataFrame:
    """Return one part of a split of the texts with these attributes, in the table's order.

    The parts of a split are disjoint and together hold every text; `seed` draws the random split. Raises InputError
    for an unknown split or part.
    """
    names = parts(attributes, split)
    if part not in names:
        raise InputError(f"split {split} has no part {part!r}; it has {', '.join(names)}")
    chosen = forget[forget["attribute"].isin(attributes)].reset_index(drop=True)
    if split == "attribute":
        chosen = chosen[chosen["attribute"] == part]
    elif split == "random":
        sizes = [int((chosen["attribute"] == attribute).sum()) for attribute in attributes]
        units = pd.factorize(chosen["subject"], sort=True)[0] if "subject" in chosen else np.arange(len(chosen))
        chosen = chosen[deal(units, sizes, seed) == names.index(part)]
    return chosen.reset_index(drop=True)


def deal(units: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Return the part (0 … len(sizes) − 1) of each text, so that texts of one unit stay together.

    `units` (n,) numbers each text's unit from 0; `sizes` sum to n. The shuffled units are laid end to end and cut at
    the border between units that is closest to where the sizes end.
    """
    texts = np.bincount(units)
    order = np.random.default_rng(seed).permutation(len(texts))
    ends = np.concatenate([[0], np.cumsum(texts[order])])
    cuts = [int(np.abs(ends - end).argmin()) for end in np.cumsum(sizes)[:-1]]
    part_of_unit = np.empty(len(texts), dtype=np.int64)
    part_of_unit[order] = np.searchsorted(cuts, np.arange(len(texts)), side="right")
    return part_of_unit[units]
