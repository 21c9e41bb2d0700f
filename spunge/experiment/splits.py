"""The splits of a forget set by name, and their parts; without libraries, since the workflow asks at every start.

- joint: everything at once, the baseline (one part, "all").
- balanced: the same, but each batch has as many texts of each attribute.
- sequential: the same, but the attributes come one after another, each with steps and an optimizer of its own.
- attribute: one part for each attribute, SPUNGE.
- random: as many parts and of the same sizes, drawn without regard to the attribute, the control ("part1", …).
- attribute-N: N groups of attributes that follow one another, sizes as equal as can be, larger first ("group1", …).
- random-N: N parts of the sizes of those groups, drawn without regard to the attribute ("part1", …).
"""

import re
from collections.abc import Sequence

UNDIVIDED = ("joint", "balanced", "sequential")  # one run on all texts; they differ in the order of the forget batches
ORDERED = ("balanced", "sequential")  # a method has to know the order
GROUPED = ("attribute", "random")
SPLITS = (*UNDIVIDED, *GROUPED)
ALL = "all"
NAME = re.compile(rf"({'|'.join(SPLITS)})(?:-(\d+))?")


def kind(split: str) -> str:
    """Return which of SPLITS a split is, whatever number of parts its name has: random-2 is a random one."""
    return split.partition("-")[0]


def number(split: str) -> int:
    """Return into how many parts a split groups the attributes, 0 where each is its own or all are one."""
    return int(split.partition("-")[2] or 0)


def grouped(split: str, into: int) -> str:
    """Return the name of the split that has so many parts: attribute-2."""
    return f"{split}-{into}"


def groups(attributes: Sequence[str], into: int) -> list[list[str]]:
    """Return the attributes in so many groups of neighbours, sizes as equal as can be, larger first."""
    size, larger = divmod(len(attributes), into)
    sizes = [size + (place < larger) for place in range(into)]
    starts = [sum(sizes[:place]) for place in range(into)]
    return [list(attributes[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def parts(attributes: Sequence[str], split: str) -> dict[str, list[str]]:
    """Return the parts of a split: name → the attributes whose texts it has, or whose number of texts if random.

    Raises ValueError for a name that is none, or for more groups than attributes.
    """
    if not (known := NAME.fullmatch(split)) or (known[2] and known[1] not in GROUPED):
        raise ValueError(f"split {split!r} is unknown; the known ones are {', '.join(SPLITS)}")
    if split in UNDIVIDED:
        return {ALL: list(attributes)}
    if split == "attribute":
        return {attribute: [attribute] for attribute in attributes}
    into = number(split) or len(attributes)
    if into > len(attributes):
        raise ValueError(f"split {split} has more parts than there are attributes, {len(attributes)}")
    name = "group" if kind(split) == "attribute" else "part"
    return {f"{name}{place}": group for place, group in enumerate(groups(attributes, into), start=1)}


def in_proportion(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide a whole number in proportion to sizes, by the largest remainders; at least 1 for each if it suffices."""
    least = int(total >= len(sizes))
    quotas = [total * size / sum(sizes) for size in sizes]
    shares = [max(least, int(quota)) for quota in quotas]

    def surplus(place: int) -> float:
        return shares[place] - quotas[place]

    while sum(shares) < total:
        shares[min(range(len(sizes)), key=surplus)] += 1
    while sum(shares) > total:
        shares[max((place for place, share in enumerate(shares) if share > least), key=surplus)] -= 1
    return shares
