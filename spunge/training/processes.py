"""What the processes of one job, as `accelerate launch` starts them, agree on; one alone agrees with itself."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from spunge.core import files, progress


def number_and_count() -> tuple[int, int]:
    """Return the number of this process, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def largest(*numbers: int) -> list[int]:
    """Return the largest of each number over all processes, so that all do the same."""
    if number_and_count()[1] == 1:
        return list(numbers)
    device = "cpu" if "gloo" in torch.distributed.get_backend_config() else "cuda"
    maxima = torch.tensor(numbers, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(maxima, op=torch.distributed.ReduceOp.MAX)
    return maxima.tolist()


def gathered(value: object) -> list:
    """Return what every process has, in their order; so none goes on before all have come here."""
    values = [value] * number_and_count()[1]
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def say(line: str) -> None:
    """Print a line for the log, once for all processes."""
    if number_and_count()[0] == 0:
        progress.say(line)


def scratch_folder(path: Path) -> AbstractContextManager[Path]:
    """Return the context of a scratch folder, which all processes share and the first makes and removes."""
    return files.scratch_folder(path) if os.environ.get("RANK", "0") == "0" else nullcontext(path)
