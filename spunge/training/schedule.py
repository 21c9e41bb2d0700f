"""Which texts each optimizer step sees, in the order that a run's split asks for."""

import math
from collections import Counter
from itertools import chain
from typing import NamedTuple

import torch

from spunge.experiment import splits
from spunge.training.run import Run


class Stage(NamedTuple):
    """A stretch of a run: its first step, counted from 1, how many it has, and in how many of them the rate rises."""

    first: int
    steps: int
    warmup_steps: int


def stages(run: Run, steps: int, warmup_steps: int = 0) -> list[Stage]:
    """Return the stretches of a run that have an optimizer of their own: one, but one per shard in `sequential`.

    These have the steps and the warm-up that they have in the attribute split.
    """
    if run.split != "sequential":
        return [Stage(1, steps, warmup_steps)]
    texts = Counter(run.attribute_positions())
    sizes = [texts[attribute] if run.steps_of_shards == "proportional" else 1 for attribute in sorted(texts)]
    steps_of_shards, warmups = splits.in_proportion(steps, sizes), splits.in_proportion(warmup_steps, sizes)
    firsts = [1 + sum(steps_of_shards[:place]) for place in range(len(sizes))]
    return [Stage(*stage) for stage in zip(firsts, steps_of_shards, warmups, strict=True)]


def forget_batches(run: Run, batch_size: int, steps: int, take_turns: bool = False) -> list[list[int]]:
    """Return the forget rows of each step, in the order that the run's split asks for.

    `balanced`: batch after batch, the attributes are gone round text by text, so that each has as many of a batch or,
    where that can't be, of some batches. `sequential`: one attribute after another, each with the batches that the run
    on its own shard has. Else batches of all rows alike or, where attributes `take_turns`, of one attribute each.
    Wherever attributes are told apart, each one's texts are gone through in shuffled passes of their own.
    """
    rows_of: dict[int, list[int]] = {}
    for row, attribute in enumerate(run.attribute_positions()):
        rows_of.setdefault(attribute if take_turns or run.split in splits.ORDERED else 0, []).append(row)
    count, sequential = len(rows_of), run.split == "sequential"
    if run.split == "balanced":
        places = [[(step * batch_size + text) % count for text in range(batch_size)] for step in range(steps)]
    elif sequential:
        places = [[place] * batch_size for place, stage in enumerate(stages(run, steps)) for _ in range(stage.steps)]
    else:
        places = [[step % count] * batch_size for step in range(steps)]
    number, generator, orders = Counter(chain(*places)), torch.Generator().manual_seed(run.seed), []
    for place, (_, rows) in enumerate(sorted(rows_of.items())):
        if sequential:
            generator.manual_seed(run.seed)  # as in the run on this shard alone
        orders.append(iter([rows[one] for one in shuffled_passes(len(rows), number[place], generator)]))
    return [[next(orders[place]) for place in batch] for batch in places]


def retain_batches(count: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the retain rows of each step: those of a longer run of the same seed begin with them, whatever its split.

    The forget rows of no split are drawn by the same numbers.
    """
    return batches_of_rows(count, batch_size, steps, (seed + 2**31) % 2**32)


def batches_of_rows(count: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return `steps` batches of row numbers: whole shuffled passes over `count` rows, one after another."""
    order = shuffled_passes(count, batch_size * steps, torch.Generator().manual_seed(seed))
    return [order[start * batch_size : (start + 1) * batch_size] for start in range(steps)]


def shuffled_passes(count: int, visits: int, generator: torch.Generator) -> list[int]:
    """Return row numbers for at least so many visits: whole shuffled passes over `count` rows."""
    passes = math.ceil(visits / count)
    return [row for _ in range(passes) for row in torch.randperm(count, generator=generator).tolist()]


def visits(run: Run, batches: list[list[int]]) -> dict[str, int]:
    """Return how many texts of each attribute these batches of forget rows have; nothing where texts have none."""
    return dict(Counter(run.attributes[row] for row in chain(*batches))) if run.attributes else {}
