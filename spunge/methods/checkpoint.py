"""A ready-made checkpoint, or LoRA adapter, of any other tool as an unlearning run."""

import dataclasses
from pathlib import Path

from spunge import task_vector
from spunge.errors import InputError
from spunge.methods import Run, Unlearned


@dataclasses.dataclass(frozen=True)
class Options:
    """`checkpoint` is the folder's path, in which {split}, {part} and {seed} stand for the run's."""

    checkpoint: str


def unlearn(run: Run, options: Options) -> Unlearned:
    """Return what the checkpoint changed; there are no losses. Raises InputError as `read` does."""
    folder = options.checkpoint.format(split=run.split, part=run.part, seed=run.seed)
    return read(Path(folder), run.base)


def read(folder: Path, base: task_vector.BaseModel) -> Unlearned:
    """Return the difference of a checkpoint folder from the base model, or an adapter folder's A and B.

    Only parameters that changed are kept, and one tensor at a time is in memory. Raises InputError where the folder
    holds no safetensors, doesn't fit the base model, or changes nothing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not there: it should be a folder with a checkpoint or a LoRA adapter")
    if (folder / "adapter_config.json").is_file():
        adapter = task_vector.LoraAdapter.from_folder(folder, {"base": base.identity})
        shapes = task_vector.TensorFolder(base.folder).shapes
        for name, shape in adapter.shapes.items():
            if shapes.get(name) != shape:
                found = f"is {tuple(shapes[name])}" if name in shapes else "does not exist"
                raise InputError(f"{folder} adapts {name} as {tuple(shape)}, which {found} in {base.source}")
        return Unlearned(adapter.factors(), [], {**adapter.config, "base_model_name_or_path": base.source})
    changed = task_vector.without_zeros(task_vector.CheckpointMinusBase(folder, base))
    if not changed:
        raise InputError(f"{folder} is the base model itself: not one of its parameters differs")
    return Unlearned(changed, [])
