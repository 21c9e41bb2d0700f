"""Disk: eight shards' task vectors and their merge against nine whole checkpoints, from the sizes of real files."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks import merged_lora, results
from benchmarks.ties import RMU_TRAINED
from spunge.models import task_vector
from spunge.models.task_vector import BaseModel, TensorFolder

SHARDS = 8
MB = 1e6


def rmu(base: BaseModel) -> list[results.Row]:
    """Return disk_rmu: three changed tensors a shard, as many in the merge."""
    shapes = {name: TensorFolder(base.folder).shapes[name] for name in RMU_TRAINED}
    size = _size(base, lambda path, provenance: task_vector.write(path, shapes, _zeros(shapes), provenance))
    return [_row("disk_rmu", base, (SHARDS + 1) * size)]


def lora(base: BaseModel) -> list[results.Row]:
    """Return disk_lora: rank 8 factors of all linear maps of all layers a shard; the merge is its recipe."""
    with merged_lora.merged(base, SHARDS) as made:
        size = sum(path.stat().st_size for path in [*made.shards.values(), made.recipe])
    return [_row("disk_lora", base, size)]


def _zeros(shapes: dict[str, torch.Size]) -> Iterable[tuple[str, torch.Tensor]]:
    return ((name, torch.zeros(shape)) for name, shape in shapes.items())


def _size(base: BaseModel, write) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vector.safetensors"
        write(path, task_vector.make_provenance(base))
        return path.stat().st_size


def _row(name: str, base: BaseModel, size: int) -> results.Row:
    checkpoint = sum((base.folder / file).stat().st_size for file in base.weight_files)
    return results.Row(name, "disk", size / MB, (SHARDS + 1) * checkpoint / MB, "MB", machine=results.cpu())
