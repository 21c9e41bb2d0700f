"""TIES of RMU task vectors in the 7B shape: ours on the CPU, the same on the GPU, and mergekit where it is there."""

import importlib
import json
import logging
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import ties as pair
from benchmarks.gpu.machine import SEED, Machine
from benchmarks.gpu.training import TRAINED_LAYERS
from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.models import task_vector

NAMES = tuple(f"model.layers.{number}.mlp.down_proj.weight" for number in TRAINED_LAYERS)
BLOCK = 1 << 24


def ties(machine: Machine) -> None:
    """Report the seconds from the shards' files to the merged one, each way; ours and the device's must be the same."""
    base = machine.seven()
    made = pair.Shards(base, tuple(_vectors(machine, base)), ())
    ours, other = machine.folder / "ours.safetensors", machine.folder / "other.safetensors"
    machine.report("seconds on the CPU", _seconds(lambda: made.ours(ours)))
    machine.report("seconds on the device", _seconds(lambda: _on_device(made.vectors, machine.device, other)))
    merged, on_device = task_vector.read(ours), task_vector.read(other)
    for name in NAMES:
        different = int(((merged[name] - on_device[name]).abs() > pair.AGREE).sum())
        if different > max(1, pair.TIES_SHARE * merged[name].numel()):
            raise InputError(f"{different} entries of {name} differ between the CPU's merge and the device's")
    if find_spec("mergekit") is None:
        machine.report("mergekit", "not there")
        return
    checkpoints = tuple(_checkpoints(machine, base, made.vectors))
    whole = pair.Shards(base, made.vectors, checkpoints)
    importlib.import_module("mergekit.merge")  # outside the clock, as ours is
    machine.report("seconds of mergekit", _seconds(lambda: _mergekit(whole, machine, machine.folder / "mergekit")))


def _vectors(machine: Machine, base) -> list[Path]:
    shape = torch.Size((machine.sizes.seven.hidden, machine.sizes.seven.intermediate))
    generator = torch.Generator(machine.device).manual_seed(SEED)
    paths = []
    for number in range(machine.sizes.vectors):
        tensors = (
            (name, pair.NOISE * torch.randn(shape, device=machine.device, generator=generator).cpu()) for name in NAMES
        )
        paths.append(machine.folder / f"vector{number}.safetensors")
        task_vector.write(paths[-1], dict.fromkeys(NAMES, shape), tensors, task_vector.make_provenance(base))
    return paths


def _on_device(vectors: tuple[Path, ...], device: str, output: Path) -> None:
    """Merge by TIES in a few lines of PyTorch, a parameter of all shards at a time."""
    read = [task_vector.read(path) for path in vectors]

    def merged():
        for name in NAMES:
            deltas = torch.stack([vector[name].to(device).flatten() for vector in read])
            dropped = deltas.shape[1] - int(pair.DENSITY * deltas.shape[1])
            for delta in deltas:
                delta[delta.abs() < delta.abs().kthvalue(dropped + 1).values] = 0
            result = torch.empty(deltas.shape[1], device=device)
            for start in range(0, deltas.shape[1], BLOCK):
                block = deltas[:, start : start + BLOCK]
                sign = torch.where(block.sum(dim=0) >= 0, 1.0, -1.0)
                agreeing = block.sign() == sign
                result[start : start + BLOCK] = (block * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)
            yield name, result.view(read[0].shapes[name]).cpu()

    task_vector.write(output, {name: read[0].shapes[name] for name in NAMES}, merged(), read[0].provenance)


def _checkpoints(machine: Machine, base, vectors: tuple[Path, ...]) -> list[Path]:
    """Write whole checkpoints that share one link to what no shard changed."""
    before = task_vector.TensorFolder(base.folder)
    folders = []
    for number, path in enumerate(vectors):
        folder = machine.folder / f"checkpoint{number}"
        folder.mkdir()
        for file in base.folder.glob("*.json"):
            (folder / file.name).symlink_to(file)
        (folder / "unchanged.safetensors").symlink_to(base.folder / "model.safetensors")
        delta = task_vector.read(path)
        changed = ((name, (before[name].float() + delta[name]).to(torch.bfloat16)) for name in NAMES)
        layout = {name: (before.shapes[name], torch.bfloat16) for name in NAMES}
        safetensors_writer.write(folder / "changed.safetensors", layout, changed, {"format": "pt"})
        files = {name: "changed.safetensors" if name in NAMES else "unchanged.safetensors" for name in before}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
        folders.append(folder)
    return folders


def _mergekit(whole: pair.Shards, machine: Machine, output: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    logging.getLogger("mergekit").setLevel(logging.ERROR)
    models = [
        {"model": str(folder), "parameters": {"density": pair.DENSITY, "weight": 1.0}} for folder in whole.checkpoints
    ]
    configuration = {
        "merge_method": "ties",
        "base_model": str(whole.base.folder),
        "models": models,
        "parameters": {"normalize": True},
        "dtype": "bfloat16",
    }
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False, cuda=machine.device == "cuda")
    run_merge(MergeConfiguration.model_validate(configuration), str(output), options)


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
