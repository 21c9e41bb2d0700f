"""A candidate as a whole Hugging Face folder: base plus task vector, written tensor by tensor."""

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.core.files import json_object, scratch_folder
from spunge.core.progress import Progress
from spunge.export import card
from spunge.export.contents import CONFIG, COPIED, INDEX, TOKENIZER_CONFIG, WEIGHTS
from spunge.models import base_model
from spunge.models.task_vector import BaseModel, TaskVector, TensorFolder, is_finite

# Where a model or tokenizer was loaded from, which older versions of transformers keep in its files, newer ones don't.
_ORIGINS = ("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file")
_STORED = {name: dtype for dtype, name in safetensors_writer.DTYPES.items()}


def export(
    base: BaseModel,
    task_vector: TaskVector,
    folder: str | os.PathLike,
    name: str,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write base + task vector to `folder`: weights, config, tokenizer, model card and, where it fits, mergekit.yaml.

    Sums are made in fp32, one tensor at a time, then cast to `dtype`, or to the base tensor's own where there is none;
    `name` is the candidate's, for the card; `max_shard_size` a number of bytes or a string as `5GB`. Tensors have the
    names of the base's files, and the files are divided as by transformers' save_pretrained. The folder appears whole
    or not at all.
    Raises InputError for a vector of another base, a parameter that the base's files lack or hold quantized, sums that
    the dtype can't hold, and too small a disk.
    """
    task_vector.check_base(base, "the task vector")
    weights, folder = TensorFolder(base.folder), Path(folder)
    model = base_model.blueprint(base)
    changes = _changes(model, weights, task_vector)
    layout = _layout(weights, changes, dtype)
    copied = _copied(base.folder)
    with scratch_folder(folder.with_name(f".{folder.name}.partial")) as building:
        _check_space(layout, copied, folder)
        building.mkdir(parents=True)
        _write_weights(
            building,
            layout,
            lambda tensor: _sum(weights, task_vector, tensor, changes.get(tensor), layout[tensor][1]),
            model.num_parameters(),
            max_shard_size,
        )
        stored = _main_dtype(layout)
        _write_config(base.folder / CONFIG, building / CONFIG, stored)
        for path in copied:
            _copy(path, building / path.name)
        card.write(building, folder, name, base, task_vector, stored)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)


def _stored_names(model: torch.nn.Module, weights: TensorFolder) -> dict[str, list[str]]:
    """Return, for every parameter and every tensor of the base's files, the tensors in these files that it stands for.

    A tied parameter stands for its twin's tensor too, but only where both tensors are equal: transformers does not tie
    them otherwise.
    """
    files = base_model.FileNames(model, weights.shapes)
    twins: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        twins.setdefault(id(parameter), []).append(name)
    stored = {}
    for names in twins.values():
        held = {name: files.tensors[name] for name in names if name in files.tensors}
        tensors = [tensor for tensors_of_twin in held.values() for tensor in tensors_of_twin]
        tied = all(torch.equal(weights[tensors[0]], weights[other]) for other in tensors[1:])
        for name in names:
            stored[name] = tensors if tied or name not in held else held[name]
    return stored | {tensor: stored.get(files.parameters.get(tensor), [tensor]) for tensor in weights.shapes}


def _changes(model: torch.nn.Module, weights: TensorFolder, task_vector: TaskVector) -> dict[str, str]:
    """Return, for every tensor of the base's files that changes, the task vector's name for it."""
    stored = _stored_names(model, weights)
    changes: dict[str, str] = {}
    for name, shape in task_vector.shapes.items():
        if not stored.get(name):
            raise InputError(f"the task vector changes {name}, which the base model's files do not have")
        for tensor in stored[name]:
            if shape != weights.shapes[tensor]:
                shape_found, wanted = tuple(shape), tuple(weights.shapes[tensor])
                raise InputError(f"the task vector's {name} is {shape_found}, the base model's {tensor} is {wanted}")
            other = changes.setdefault(tensor, name)
            if other != name and not torch.equal(task_vector[name], task_vector[other]):
                raise InputError(
                    f"the task vector changes {other} and {name} differently, which are one tensor in the base model"
                )
    return changes


def _layout(
    weights: TensorFolder, changes: Mapping[str, str], dtype: torch.dtype | None
) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return shape and dtype of every tensor to be written, in transformers' order: layer 2 before layer 10."""
    layout = {}
    for name in sorted(weights.shapes, key=_natural):
        stored_dtype = _STORED.get(weights.dtypes[name])
        if stored_dtype is None or (name in changes and not stored_dtype.is_floating_point):
            raise InputError(
                f"the base model's {name} is kept as {weights.dtypes[name]}: a quantized model can't be exported; "
                "unlearn its unquantized original"
            )
        layout[name] = (weights.shapes[name], dtype if dtype and stored_dtype.is_floating_point else stored_dtype)
    return layout


def _sum(
    weights: TensorFolder, task_vector: TaskVector, name: str, change: str | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return one tensor as it is written: the base's, plus the task vector's `change` if there is one."""
    tensor = weights[name]
    if change is None and tensor.dtype == dtype:
        return tensor
    tensor = (tensor.float() + task_vector[change] if change else tensor).to(dtype)
    if not is_finite(tensor):
        raise InputError(
            f"{name} has entries that are not finite as {_name(dtype)}: export in a wider dtype, or see whether the "
            "unlearning diverged"
        )
    return tensor


def _write_weights(
    folder: Path,
    layout: Mapping[str, tuple[torch.Size, torch.dtype]],
    read: Callable[[str], torch.Tensor],
    parameters: int,
    max_shard_size: int | str,
) -> None:
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        layout, get_storage_size=_bytes, filename_pattern=WEIGHTS, max_shard_size=max_shard_size
    )
    progress, done = Progress("export", len(layout)), itertools.count(1)
    for filename, names in split.filename_to_tensors.items():
        shard = {name: layout[name] for name in names}
        safetensors_writer.write(folder / filename, shard, _read(names, read, progress, done), {"format": "pt"})
    if split.is_sharded:
        index = {
            "metadata": {"total_parameters": parameters, **split.metadata},
            "weight_map": split.tensor_to_filename,
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _read(
    names: list[str], read: Callable[[str], torch.Tensor], progress: Progress, done: Iterator[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name in names:
        yield name, read(name)
        progress.step(next(done))


def _write_config(source: Path, target: Path, dtype: str) -> None:
    config = _without_origins(json.loads(source.read_text()))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"  # its older name
    target.write_text(json.dumps({**config, key: dtype}, indent=2, ensure_ascii=False) + "\n")


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    if source.name == TOKENIZER_CONFIG and (config := json_object(source)) != (own := _without_origins(config)):
        target.write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n")


def _without_origins(config: Mapping) -> dict:
    return {key: value for key, value in config.items() if key not in _ORIGINS}


def _copied(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if any(path.match(pattern) for pattern in COPIED))


def _check_space(layout: Mapping[str, tuple[torch.Size, torch.dtype]], copied: list[Path], folder: Path) -> None:
    needed = sum(map(_bytes, layout.values())) + sum(path.stat().st_size for path in copied)
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{folder} needs {needed / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB left: free some and run again"
        )


def _main_dtype(layout: Mapping[str, tuple[torch.Size, torch.dtype]]) -> str:
    """Return the dtype of most scalars; some models keep a few tensors in another."""
    counts: Counter[torch.dtype] = Counter()
    for shape, dtype in layout.values():
        if dtype.is_floating_point:
            counts[dtype] += shape.numel()
    return _name(counts.most_common(1)[0][0])


def _bytes(entry: tuple[torch.Size, torch.dtype]) -> int:
    shape, dtype = entry
    return shape.numel() * dtype.itemsize


def _natural(name: str) -> list[tuple[bool, int | str]]:
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in name.split(".")]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
