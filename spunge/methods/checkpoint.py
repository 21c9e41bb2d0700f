"""A ready-made checkpoint, or LoRA adapter, of any other tool as an unlearning run."""

import re
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from spunge.core import files
from spunge.core.errors import InputError
from spunge.experiment.options import Text, checked
from spunge.methods import Run, Unlearned
from spunge.models import base_model, task_vector

# Keys of a config.json that change nothing of what a model computes; learned positions and ties show in the tensors.
INDIFFERENT = re.compile(
    ".*_token_id|.*drop.*|.*init.*|.*_coef|.*_noise|output_.*|summary_.*|use_cache|pretraining_tp|tie_word_embeddings"
    "|max_position_embeddings|n_positions"
)


@checked
class Options:
    """Where the checkpoints are."""

    checkpoint: Annotated[
        Text,
        Field(description="Path of ready-made checkpoints or LoRA adapters; {split}, {shard}, {seed} are filled in."),
    ]


def unlearn(run: Run, options: Options) -> Unlearned:
    """Return the checkpoint's difference from the base model; there are no losses. Raises InputError as `read` does."""
    folder = options.checkpoint.format(split=run.split, shard=run.shard, seed=run.seed)
    return read(Path(folder), run.base)


def read(folder: Path, base: task_vector.BaseModel) -> Unlearned:
    """Return the difference of a checkpoint folder from the base model, or an adapter folder's A and B.

    Only parameters that changed are kept, and one tensor at a time is in memory. Raises InputError where the folder
    is not whole, doesn't fit the base model, is more than a change of its weights, or changes nothing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not there: it should be a folder with a checkpoint or a LoRA adapter")
    if (folder / task_vector.ADAPTER_CONFIG).exists():
        if whole := [name for name in (files.WEIGHTS, files.INDEX) if (folder / name).exists()]:
            raise InputError(f"{folder} has {whole[0]} and {task_vector.ADAPTER_CONFIG}: leave one of the two there")
        return _adapter(folder, base)
    if not files.weights_of(folder):
        inner = sorted({path.parent.name for path in folder.glob("*/*config.json")})
        raise InputError(
            f"{folder} has no safetensors files; "
            + (f"name one of the folders in it, {', '.join(inner)}" if inner else "other formats can run code")
        )
    return _checkpoint(folder, base)


def _checkpoint(folder: Path, base: task_vector.BaseModel) -> Unlearned:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base.folder, local_files_only=True)
    if (folder / "config.json").exists():
        _check_config(folder, base.source, config)
    model = base_model.check(base.folder, base.source)
    tied = model.all_tied_weights_keys
    config.tie_word_embeddings = bool(tied)  # as the base's weights are; configurations may say otherwise
    base_model.check(folder, str(folder), config=config)
    tensors = base_model.FileNames(model, task_vector.TensorFolder(base.folder).shapes).tensors
    tied = {tensors.get(name, [name])[0]: tensors.get(other, [other])[0] for name, other in tied.items()}
    names = base_model.names_in_base(folder, base)
    vector = task_vector.CheckpointMinusBase(folder, base, names=names, tied=tied)
    changed = task_vector.without_zeros(vector)
    if not changed:
        raise InputError(f"{folder} is the base model itself: not one of its parameters differs")
    return Unlearned(changed, [])


def _check_config(folder: Path, base: str, config) -> None:
    """Raise InputError where the checkpoint's configuration makes another model of the same weights than the base's."""
    from transformers import AutoConfig, PreTrainedConfig

    path = folder / "config.json"
    if files.json_object(path).get("quantization_config"):
        raise InputError(f"{folder} is quantized (quantization_config in its config.json): give it as plain weights")
    with base_model.transformers_errors(str(folder)):
        checkpoint_config = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    base_config = config.to_dict()
    of_any_model = PreTrainedConfig().to_dict().keys() - {"model_type"}
    for key in sorted((checkpoint_config.keys() & base_config.keys()) - of_any_model):
        if checkpoint_config[key] != base_config[key] and not INDIFFERENT.fullmatch(key):
            raise InputError(
                f"{path} has {key} {checkpoint_config[key]!r}, and {base} has {base_config[key]!r}: a checkpoint has "
                "to be the base model with other weights; where the key is there by mistake, take the base's"
            )


def _adapter(folder: Path, base: task_vector.BaseModel) -> Unlearned:
    from transformers.pytorch_utils import Conv1D

    adapter = task_vector.LoraAdapter.from_folder(folder, {"base": base.identity})
    model = base_model.check(base.folder, base.source)
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    parameters, modules = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_modules())
    for name, shape in adapter.shapes.items():
        module = modules.get(name.removesuffix(".weight"))
        if name not in parameters or parameters[name].shape != shape:
            actual = f"is {tuple(parameters[name].shape)}" if name in parameters else "does not exist"
            raise InputError(f"{folder} adapts {name} as {tuple(shape)}, which {actual} in {base.source}")
        if name in tied:
            raise InputError(
                f"{folder} adapts {name}, which is one tensor with another one in {base.source}: PEFT changes one alone"
            )
        if not isinstance(module, Conv1D if adapter.transposed else torch.nn.Linear):
            raise InputError(
                f"{folder} has fan_in_fan_out {adapter.transposed}, which doesn't fit {name} of {base.source}, "
                f"a {type(module).__name__}"
            )
    factors = adapter.factors()
    pairs = [(factors[name], factors[name.replace("lora_A", "lora_B")]) for name in factors if "lora_A" in name]
    if not any(a.any() and b.any() for a, b in pairs):
        raise InputError(f"{folder} is the base model itself: all products of its factors are 0")
    return Unlearned(factors, [], {**adapter.config, "base_model_name_or_path": base.source})
