"""Cut the forget set into the shards that are unlearned separately: those of the splits that `splits` names.

Where the forget set has a subject, an attribute shard holds all texts about it; so that the control differs from it by
the attribute alone, a random split deals out whole subjects too. Their sizes then match as closely as whole subjects
can; they match exactly where all subjects have equally many texts, or where there is no subject.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spunge.core.errors import InputError
from spunge.experiment import splits


def shard(forget: pd.DataFrame, attributes: Sequence[str], split: str, name: str, seed: int) -> pd.DataFrame:
    """Return one shard of a split of the texts with these attributes, in the table's order.

    The shards of a split are disjoint and together hold every text; `seed` draws the random splits. Raises InputError
    for an unknown split or shard.
    """
    try:
        shards = splits.parts(attributes, split)
    except ValueError as error:
        raise InputError(str(error)) from None
    if name not in shards:
        raise InputError(f"split {split} has no shard {name!r}; it has {', '.join(shards)}")
    chosen = forget[forget["attribute"].isin(attributes)].reset_index(drop=True)
    if splits.kind(split) == "attribute":
        chosen = chosen[chosen["attribute"].isin(shards[name])]
    elif splits.kind(split) == "random":
        sizes = [int(chosen["attribute"].isin(attributes_of_shard).sum()) for attributes_of_shard in shards.values()]
        # Without subjects each text is one; copies of a text stay together, as in attribute shards.
        has_subject = "subject" in chosen
        units, _ = pd.factorize(chosen["subject" if has_subject else "text"], sort=has_subject)
        chosen = chosen[deal(units, sizes, seed) == list(shards).index(name)]
    return chosen.reset_index(drop=True)


def deal(units: np.ndarray, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Return the shard (0 … len(sizes) − 1) of each text, so that texts of one unit stay together.

    `units` (n,) numbers each text's unit from 0; `sizes` sum to n. The shuffled units are laid end to end and cut at
    the border between units that is closest to where the sizes end; each shard has a unit. Raises InputError where
    there are fewer units than shards.
    """
    texts = np.bincount(units)
    if len(texts) < len(sizes):
        raise InputError(
            f"a random split deals out whole subjects (texts without one), of which there are {len(texts)} for "
            f"{len(sizes)} shards: give more"
        )
    order = np.random.default_rng(seed).permutation(len(texts))
    ends = np.concatenate([[0], np.cumsum(texts[order])])
    cuts = [0]
    for number, end in enumerate(np.cumsum(sizes)[:-1], start=1):
        first, last = cuts[-1] + 1, len(texts) - (len(sizes) - number)
        cuts.append(first + int(np.abs(ends[first : last + 1] - end).argmin()))
    shard_of_unit = np.empty(len(texts), dtype=np.int64)
    shard_of_unit[order] = np.searchsorted(cuts[1:], np.arange(len(texts)), side="right")
    return shard_of_unit[units]
