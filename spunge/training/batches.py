"""Batches of texts: grouped by length, and padded."""

import torch

LENGTH_RATIO = 2  # padding costs what text costs, but short batches waste more of a matrix product


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
