"""TIES on task vectors against mergekit on whole checkpoints: time, peak memory, and memory by the model's size."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import measure, results
from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.merging import driver
from spunge.merging.options import Ties
from spunge.models import task_vector
from spunge.models.task_vector import BaseModel, TensorFolder

DENSITY = 0.5
NOISE = 1e-3  # standard deviation of what "unlearning" changed
RMU_TRAINED = tuple(f"model.layers.{number}.mlp.down_proj.weight" for number in (5, 6, 7))
# mergekit keeps k entries of each tensor; we keep those as large as the k-th, which are more where several are equal.
TIES_SHARE, AGREE = 1e-4, 1e-6
SYNTHETIC_SHAPE, SYNTHETIC_LAYERS = torch.Size((1536, 4096)), 6


@dataclass(frozen=True)
class Shards:
    """The same shards twice: as task vectors and as whole checkpoints (none where mergekit isn't asked)."""

    base: BaseModel
    vectors: tuple[Path, ...]
    checkpoints: tuple[Path, ...]

    def ours(self, output: Path) -> None:
        """Merge the task vector files to one task vector file, as scripts/merge.py does."""
        vectors = {f"shard{number}": task_vector.read(path) for number, path in enumerate(self.vectors)}
        diagnostics = driver.Diagnostics(list(vectors))
        merged = driver.merge(vectors, "ties", Ties(density=DENSITY), diagnostics)
        provenance = next(iter(vectors.values())).provenance
        task_vector.write(output, driver.common_layout(vectors), merged, provenance)
        diagnostics.rows()

    def mergekit(self, output: Path) -> None:
        """Merge the checkpoints to a whole checkpoint with mergekit, on the CPU."""
        from mergekit.config import MergeConfiguration
        from mergekit.merge import MergeOptions, run_merge

        logging.getLogger("mergekit").setLevel(logging.ERROR)
        configuration = {
            "merge_method": "ties",
            "base_model": str(self.base.folder),
            "models": [
                {"model": str(folder), "parameters": {"density": DENSITY, "weight": 1.0}} for folder in self.checkpoints
            ],
            "parameters": {"normalize": True},
            "dtype": "float32",
        }
        options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
        run_merge(MergeConfiguration.model_validate(configuration), str(output), options)


@contextmanager
def shards(base: BaseModel, count: int, changed: Iterable[str] | None = None) -> Iterator[tuple[Shards, Path]]:
    """Make `count` shards that differ from the base by noise in the tensors `changed` (None: in all of them).

    Yields them and the temporary folder that they lie in. Task vector and checkpoint are exactly the same shard: the
    vector is what the fp32 checkpoint minus the base gives.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = TensorFolder(base.folder)
        names = sorted(before if changed is None else changed)
        layout = {name: (before.shapes[name], torch.float32) for name in sorted(before)}
        vectors, checkpoints = [], []
        for number in range(count):
            generator = torch.Generator().manual_seed(number)
            checkpoint = folder / f"checkpoint{number}"
            checkpoint.mkdir()
            for path in base.folder.glob("*.json"):
                if not path.name.endswith(".index.json") and path.name != "manifest.json":
                    (checkpoint / path.name).symlink_to(path.resolve())
            safetensors_writer.write(
                checkpoint / "model.safetensors", layout, _noisy(before, set(names), generator), {"format": "pt"}
            )
            after = TensorFolder(checkpoint)
            vector = folder / f"vector{number}.safetensors"
            task_vector.write(
                vector,
                {name: before.shapes[name] for name in names},
                ((name, after[name] - before[name].float()) for name in names),
                task_vector.make_provenance(base),
            )
            vectors.append(vector)
            checkpoints.append(checkpoint)
        yield Shards(base, tuple(vectors), tuple(checkpoints)), folder


def _noisy(before: TensorFolder, changed: set[str], generator: torch.Generator) -> Iterator[tuple[str, torch.Tensor]]:
    for name in sorted(before):
        tensor = before[name].float()
        if name in changed:
            tensor = tensor + NOISE * torch.randn(tensor.shape, generator=generator)
        yield name, tensor


def compare(name: str, base: BaseModel, ours: Path, reference: Path) -> None:
    """Raise InputError unless base plus our merged task vector is the reference's merged checkpoint.

    Entries may differ where several are as large as the trim's k-th, in at most `TIES_SHARE` of a tensor (and one).
    """
    before, merged, whole = TensorFolder(base.folder), task_vector.read(ours), TensorFolder(reference)
    for parameter in before:
        tensor = before[parameter].float()
        if parameter in merged:
            tensor = tensor + merged[parameter]
        different = int(((tensor - whole[parameter].float()).abs() > AGREE).sum())
        if different > max(1, TIES_SHARE * tensor.numel()):
            raise InputError(f"{name}: {different} of {tensor.numel()} entries of {parameter} differ from mergekit's")


def _import_mergekit() -> None:
    try:
        import mergekit.merge  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"mergekit can't be imported ({error}): pip install -r requirements-mergekit.txt, as make benchmark does"
        ) from error


def times(name: str, base: BaseModel, count: int, changed: Iterable[str] | None, repeats: int) -> list[results.Row]:
    """Return the row of one merge's time: both in this process, imports excluded, files in the system's cache."""
    _import_mergekit()
    with shards(base, count, changed) as (pair, folder):
        ours, reference = folder / "ours.safetensors", folder / "mergekit"
        ways = {"ours": lambda: pair.ours(ours), "reference": lambda: pair.mergekit(reference)}
        seconds = measure.alternately(ways, repeats)
        compare(name, base, ours, reference)
    return [results.Row(name, "time", seconds["ours"], seconds["reference"], "s", machine=results.cpu())]


def peak_memory(name: str, base: BaseModel, count: int, changed: Iterable[str] | None) -> list[results.Row]:
    """Return the row of one merge's peak memory, each side in a process of its own."""
    with shards(base, count, changed) as (pair, folder):
        ours, reference = folder / "ours.safetensors", folder / "mergekit"
        peaks = [
            measure.in_fresh_process(_peak, pair, side, output)
            for side, output in (("ours", ours), ("mergekit", reference))
        ]
        compare(name, base, ours, reference)
    return [results.Row(name, "peak memory", *peaks, "MB", machine=results.cpu())]


def _peak(pair: Shards, side: str, output: Path) -> float:
    if side == "mergekit":
        _import_mergekit()  # imports belong to the start
    memory = measure.PeakMemory()
    memory.start()
    getattr(pair, side)(output)
    return memory.peak()


def memory_by_size() -> list[results.Row]:
    """Return how our peak memory grows when a model has 2 and 4 times as many layers of the same size."""
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        for times in (1, 2, 4):
            shapes = {f"layers.{number}.weight": SYNTHETIC_SHAPE for number in range(times * SYNTHETIC_LAYERS)}
            parameters = sum(shape.numel() for shape in shapes.values())
            paths = []
            for shard in range(3):
                generator = torch.Generator().manual_seed(shard)
                path = Path(name) / f"{times}-{shard}.safetensors"
                tensors = (
                    (parameter, NOISE * torch.randn(shape, generator=generator)) for parameter, shape in shapes.items()
                )
                provenance = {"base": "synthetic", "base_source": "synthetic", "base_parameters": parameters}
                task_vector.write(path, shapes, tensors, provenance)
                paths.append(path)
            pair = Shards(BaseModel(Path(name), "synthetic", "synthetic", parameters, ()), tuple(paths), ())
            peaks[times] = measure.in_fresh_process(_peak, pair, "ours", Path(name) / "merged.safetensors")
    return [
        results.Row(
            "ties_memory_by_size",
            f"peak memory, {times} times the layers",
            peaks[times],
            peaks[1],
            "MB",
            machine=results.cpu(),
        )
        for times in (2, 4)
    ]
