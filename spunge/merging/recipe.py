"""A merge of LoRA adapters is kept as its recipe: the shards' files, and what passes over whole shards found.

Merged tensors of adapters fill gigabytes and are made again within seconds, so a recipe has none. It is a safetensors
file with metadata alone; kind, options, seed and the shards' SHA-256 stand in its provenance.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.core.files import scratch_folder, sha256
from spunge.merging import driver, registry
from spunge.merging.shards import Entries, Shards, Survey
from spunge.models import task_vector
from spunge.models.task_vector import METADATA_KEY, RECIPE_KEY, LoraAdapter, TaskVector


class Merged(TaskVector):
    """Task vectors that are merged parameter by parameter when one is asked for."""

    def __init__(self, shards: Shards, provenance: Mapping):
        self.provenance = dict(provenance)
        kind = self.provenance["merge"]
        self._shards = shards
        self._merge_parameter = driver.prepare(shards, kind, registry.options(kind, self.provenance["options"]))

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return dict(self._shards.layout)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._merge_parameter(name, _ignore)


def _ignore(entries: Entries, merged: torch.Tensor) -> None:
    """See a block and do nothing."""


def suits(kind: str, vectors: Iterable[TaskVector]) -> bool:
    """Tell whether a merge is kept as its recipe: of adapters alone, and made entry by entry, not of whole tensors."""
    return registry.of(kind).tensor_consensus is None and all(isinstance(vector, LoraAdapter) for vector in vectors)


def write(
    path: str | os.PathLike, shards: Mapping[str, str | os.PathLike], survey: Survey, provenance: Mapping
) -> None:
    """Write the recipe of a merge of the files `shards`, which it finds by their place relative to its own."""
    recipe = {
        "shards": {shard: os.path.relpath(file, Path(path).parent) for shard, file in shards.items()},
        "survey": asdict(survey),
    }
    metadata = {METADATA_KEY: json.dumps(dict(provenance), sort_keys=True, ensure_ascii=False)}
    safetensors_writer.write(path, {}, [], metadata | {RECIPE_KEY: json.dumps(recipe, ensure_ascii=False)})


def read(path: str | os.PathLike) -> TaskVector:
    """Open the task vector of a candidate: a merge's recipe, or any other as `task_vector.read`.

    Raises InputError where a shard is gone or not the one that was merged. Adapters are small, so all of each is hashed
    once, here.
    """
    path = Path(path)
    if not task_vector.has(path, RECIPE_KEY):
        return task_vector.read(path)
    provenance, recipe = task_vector.facts(path), task_vector.facts(path, RECIPE_KEY)
    vectors = {}
    for shard, place in recipe["shards"].items():
        file = Path(os.path.normpath(path.parent / place))
        if not file.is_file():
            raise InputError(f"{path} merges {file}, which is not there: bring it back, or run again to make both")
        if sha256(file) != provenance["shards"][shard]:
            raise InputError(f"{path} merges {file}, which is another one since: delete {path} and run again")
        vectors[shard] = task_vector.read(file)
    layout = driver.common_layout(vectors)
    return Merged(Shards(vectors, layout, provenance["seed"], Survey(**recipe["survey"])), provenance)


@contextmanager
def merged_once(path: str | os.PathLike, scratch: Path) -> Iterator[TaskVector]:
    """Yield what `read` returns; a recipe's tensors are made once, in a file in the folder `scratch`, which goes after.

    So they aren't merged anew for each λ, which takes minutes for a model of billions of parameters. Where the disk has
    no room for them, they are.
    """
    vector = read(path)
    size = 4 * sum(shape.numel() for shape in vector.shapes.values())
    if not isinstance(vector, Merged) or shutil.disk_usage(Path(path).parent).free < 2 * size:
        yield vector
        return
    with scratch_folder(scratch) as folder:
        folder.mkdir(parents=True)
        task_vector.write(folder / "merged.safetensors", vector.shapes, vector.items(), vector.provenance)
        yield task_vector.read(folder / "merged.safetensors")
