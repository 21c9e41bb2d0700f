"""Disk: eight shards' task vectors and their merge against nine whole checkpoints, from the sizes of real files."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.ties import RMU_TRAINED
from spunge.models import task_vector
from spunge.models.task_vector import LORA_A, LORA_B, PEFT_PREFIX, BaseModel, TensorFolder

SHARDS, RANK = 8, 8
MB = 1e6


def rmu(base: BaseModel) -> list[results.Row]:
    """Return disk_rmu: three changed tensors a shard, as many in the merge."""
    shapes = {name: TensorFolder(base.folder).shapes[name] for name in RMU_TRAINED}
    size = _size(base, lambda path, provenance: task_vector.write(path, shapes, _zeros(shapes), provenance))
    return [_row("disk_rmu", base, (SHARDS + 1) * size)]


def lora(base: BaseModel) -> list[results.Row]:
    """Return disk_lora: rank 8 factors of all linear maps of all layers a shard; the merge is ΔW, whole matrices."""
    shapes = {
        name: shape
        for name, shape in TensorFolder(base.folder).shapes.items()
        if name.endswith("_proj.weight") and len(shape) == 2
    }
    factors = {}
    for name, (rows, columns) in shapes.items():
        module = PEFT_PREFIX + name.removesuffix(".weight")
        factors[module + LORA_A], factors[module + LORA_B] = torch.zeros(RANK, columns), torch.zeros(rows, RANK)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
    shard = _size(base, lambda path, provenance: task_vector.write_lora(path, factors, config, provenance))
    merged = _size(base, lambda path, provenance: task_vector.write(path, shapes, _zeros(shapes), provenance))
    return [_row("disk_lora", base, SHARDS * shard + merged)]


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
