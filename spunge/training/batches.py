"""Batches: which texts each optimizer step sees, grouped and padded."""

import math

import torch

LENGTH_RATIO = 2  # padding costs what text costs, but short batches waste more of a matrix product


def schedule(count: int, batch_size: int, steps: int, generator: torch.Generator) -> list[list[int]]:
    """Return `steps` batches of row numbers: whole shuffled passes over `count` rows, one after another."""
    passes = math.ceil(batch_size * steps / count)
    order = [row for _ in range(passes) for row in torch.randperm(count, generator=generator).tolist()]
    return [order[start * batch_size : (start + 1) * batch_size] for start in range(steps)]


def by_length(rows: list[int], tokens: list[list[int]]) -> list[list[int]]:
    """Group rows so that in no group the longest text has over LENGTH_RATIO times the tokens of the shortest."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (len(tokens[row]), row)):
        if groups and len(tokens[row]) <= LENGTH_RATIO * len(tokens[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pad(rows: list[torch.Tensor], value: int = 0) -> torch.Tensor:
    """Stack rows of shape (length, …) to (rows, longest, …), padded at the end with `value`."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
