"""A merge of LoRA adapters: its recipe against its tensors in a file, from opening it until the model has it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import measure, results
from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.merging import driver, recipe
from spunge.merging.options import Ties
from spunge.merging.shards import Survey
from spunge.models import base_model, task_vector
from spunge.models.task_vector import LORA_A, LORA_B, PEFT_PREFIX, BaseModel, TensorFolder

RANK, SHARDS = 8, 3
NAME = "lora_load"


@dataclass(frozen=True)
class Merged:
    """Adapters, their merge by TIES as a recipe, and the same as tensors."""

    base: BaseModel
    shards: dict[str, Path]
    recipe: Path
    file: Path

    def write_file(self) -> None:
        """Write the merged tensors, as a merge of anything but adapters does."""
        vector = recipe.read(self.recipe)
        task_vector.write(self.file, vector.shapes, vector.items(), vector.provenance)

    def load(self, path: Path) -> torch.nn.Module:
        """Return the candidate's model, as evaluations load it."""
        return base_model.load(self.base, torch.float32, "cpu", recipe.read(path))


@contextmanager
def merged(base: BaseModel, count: int) -> Iterator[Merged]:
    """Merge `count` random adapters of all linear maps of all layers, as scripts/merge.py does."""
    shapes = {
        name.removesuffix(".weight"): shape
        for name, shape in TensorFolder(base.folder).shapes.items()
        if name.endswith("_proj.weight")
    }
    provenance, options, survey = task_vector.make_provenance(base), Ties(density=0.5), Survey()
    with tempfile.TemporaryDirectory() as name:
        folder, shards = Path(name), {}
        for number in range(count):
            generator = torch.Generator().manual_seed(number)
            factors = {}
            for module, (rows, columns) in shapes.items():
                factors[PEFT_PREFIX + module + LORA_A] = 0.02 * torch.randn(RANK, columns, generator=generator)
                factors[PEFT_PREFIX + module + LORA_B] = 0.02 * torch.randn(rows, RANK, generator=generator)
            shards[f"shard{number}"] = folder / f"{number}.safetensors"
            config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
            task_vector.write_lora(shards[f"shard{number}"], factors, config, provenance)
        vectors = {shard: task_vector.read(path) for shard, path in shards.items()}
        task_vector.check_finite(
            driver.merge(vectors, "ties", options, driver.Diagnostics(list(vectors)), survey=survey)
        )
        provenance |= {"merge": "ties", "options": asdict(options), "seed": 0}
        provenance["shards"] = {shard: sha256(path) for shard, path in shards.items()}
        made = Merged(base, shards, folder / "recipe.safetensors", folder / "merged.safetensors")
        recipe.write(made.recipe, shards, survey, provenance)
        yield made


def loading(base: BaseModel, repeats: int) -> list[results.Row]:
    """Return lora_load: seconds with all files in the system's cache and without, and peak memory."""
    with merged(base, SHARDS) as made:
        made.write_file()
        by_recipe, by_file = recipe.read(made.recipe), task_vector.read(made.file)
        if not all(torch.equal(by_recipe[name], by_file[name]) for name in by_file):
            raise InputError(f"{NAME}: the recipe gives other tensors than the file")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as Snakemake's jobs have it
        ways = {"ours": lambda: made.load(made.recipe), "reference": lambda: made.load(made.file)}
        cached = measure.alternately(ways, repeats)
        files = [made.file, made.recipe, *made.shards.values()]
        uncached = measure.alternately(ways, repeats, before=lambda: _forget(files))
        torch.set_num_threads(threads)
        peaks = [measure.in_fresh_process(_peak, made, path) for path in (made.recipe, made.file)]
    machine = results.cpu()
    return [
        results.Row(NAME, "time", cached["ours"], cached["reference"], "s", machine),
        results.Row(NAME, "time, files not cached", uncached["ours"], uncached["reference"], "s", machine),
        results.Row(NAME, "peak memory", *peaks, "MB", machine),
    ]


def _forget(files: list[Path]) -> None:
    """Let the system forget what it has of files in its cache."""
    for path in files:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _peak(made: Merged, path: Path) -> float:
    memory = measure.PeakMemory()
    memory.start()
    made.load(path)
    return memory.peak()
