"""Task vectors: what unlearning changed, parameter by parameter, read lazily (Ilharco et al. 2022, arXiv 2212.04089).

A task vector maps parameter names to the difference from the base model, in fp32. It is held in one of three ways: the
changed tensors alone, a PEFT LoRA adapter, or a whole checkpoint minus its base.
"""

import json
import os
import re
import subprocess
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from spunge import safetensors_stream
from spunge.errors import InputError

METADATA_KEY = "spunge"
ADAPTER_KEY = "adapter_config"
PEFT_PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class BaseModel:
    """A model folder as `spunge.models.prepare` leaves it: Hugging Face files and a manifest.

    `identity` is the SHA-256 over its weight files' digests, `parameters` the number of scalars in them.
    """

    folder: Path
    source: str
    identity: str
    parameters: int
    weight_files: tuple[str, ...]

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "BaseModel":
        """Read the manifest and check that the weight files still have their recorded sizes.

        Raises InputError where the manifest or a file is missing or a file was truncated.
        """
        folder = Path(folder)
        manifest_path = folder / "manifest.json"
        if not manifest_path.is_file():
            raise InputError(f"{folder} has no manifest.json: it is no model folder that the `model` rule prepared")
        manifest = json.loads(manifest_path.read_text())
        for name, file in manifest["weights"].items():
            path = folder / name
            found = path.stat().st_size if path.exists() else 0
            if found != file["bytes"]:
                raise InputError(
                    f"{path} has {found} bytes where its manifest says {file['bytes']}: delete {folder} and run again"
                )
        return cls(folder, manifest["source"], manifest["identity"], manifest["parameters"], tuple(manifest["weights"]))


class TaskVector(Mapping[str, torch.Tensor]):
    """A lazily read mapping from parameter name to its fp32 difference from the base model.

    `provenance` tells how it was made; its key `base` is the identity of the base model.
    """

    provenance: dict

    @property
    @abstractmethod
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of every changed parameter, without reading any tensor."""

    @abstractmethod
    def __getitem__(self, name: str) -> torch.Tensor: ...

    def __contains__(self, name: object) -> bool:
        return name in self.shapes  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def check_base(self, base: BaseModel, where: str) -> None:
        """Raise InputError unless this vector was made from `base`."""
        if self.provenance["base"] != base.identity:
            raise InputError(
                f"{where} was made from base model {self.provenance['base'][:12]} "
                f"({self.provenance.get('base_source', 'source unknown')}), not from {base.identity[:12]} "
                f"({base.source}): unlearn it again from this base model or configure the other one"
            )


class ChangedTensors(TaskVector):
    """A task vector kept as a safetensors file of the changed parameters alone."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.provenance = json.loads(_metadata(self.path)[METADATA_KEY])
        with safe_open(self.path, "pt") as file:
            self._shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        with safe_open(self.path, "pt") as file:
            return file.get_tensor(name).float()


class LoraAdapter(TaskVector):
    """A PEFT LoRA adapter read as ΔW = scaling · B · A (Hu et al. 2021, arXiv 2106.09685).

    `weights` is the adapter's safetensors file with PEFT's names, `config` the contents of its adapter_config.json.
    """

    def __init__(self, weights: str | os.PathLike, config: Mapping, provenance: Mapping):
        self.path, self.config, self.provenance = Path(weights), dict(config), dict(provenance)
        if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("bias", "none") != "none":
            raise InputError(
                f"{weights} is no plain LoRA adapter: DoRA, trained biases and other types have no ΔW = B·A"
            )
        self._transpose = bool(config.get("fan_in_fan_out"))
        self._shapes = {}
        with safe_open(self.path, "pt") as file:
            for key in sorted(file.keys()):
                if key.endswith(LORA_B):
                    continue
                if not key.endswith(LORA_A):
                    raise InputError(
                        f"{weights} also holds {key}: it is no plain LoRA adapter, so ΔW = B·A is not all of it"
                    )
                rows = file.get_slice(key.removesuffix(LORA_A) + LORA_B).get_shape()[0]
                columns = file.get_slice(key).get_shape()[1]
                shape = (columns, rows) if self._transpose else (rows, columns)
                self._shapes[key.removeprefix(PEFT_PREFIX).removesuffix(LORA_A) + ".weight"] = torch.Size(shape)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, provenance: Mapping) -> "LoraAdapter":
        """Read a folder that PEFT's `save_pretrained` wrote."""
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        return cls(Path(folder) / "adapter_model.safetensors", config, provenance)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._shapes

    def factors(self) -> dict[str, torch.Tensor]:
        """Return the adapter's own tensors, A and B of every module, under PEFT's names."""
        with safe_open(self.path, "pt") as file:
            return {key: file.get_tensor(key) for key in sorted(file.keys())}

    def _alpha(self, module: str) -> float:
        """Return the module's α; PEFT takes the first key of `alpha_pattern` that matches the end of its name."""
        for pattern, alpha in (self.config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return alpha
        return self.config["lora_alpha"]

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        module = PEFT_PREFIX + name.removesuffix(".weight")
        with safe_open(self.path, "pt") as file:
            a = file.get_tensor(module + LORA_A).float()
            b = file.get_tensor(module + LORA_B).float()
        rank = a.shape[0]
        alpha = self._alpha(name.removesuffix(".weight"))
        scaling = alpha / rank**0.5 if self.config.get("use_rslora") else alpha / rank
        delta = scaling * (b @ a)
        return delta.T.contiguous() if self._transpose else delta


class CheckpointMinusBase(TaskVector):
    """A whole Hugging Face checkpoint read as its difference from the base, for results of outside tools.

    A checkpoint in another precision is compared with the base rounded to it, so that rounding is no change. A tensor
    of the checkpoint that the base lacks raises InputError; parameters that are equal appear as zeros.
    """

    def __init__(self, folder: str | os.PathLike, base: BaseModel, provenance: Mapping | None = None):
        self.provenance = {"base": base.identity, "base_source": base.source, **(provenance or {})}
        self._base, self._checkpoint = TensorFolder(base.folder), TensorFolder(folder)
        if unknown := set(self._checkpoint.shapes) - set(self._base.shapes):
            raise InputError(
                f"{folder} has {len(unknown)} tensors that the base model lacks, {min(unknown)} among them"
            )
        for name, shape in self._checkpoint.shapes.items():
            if shape != self._base.shapes[name]:
                raise InputError(
                    f"{folder}: {name} is {tuple(shape)}, in the base model {tuple(self._base.shapes[name])}"
                )

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._checkpoint.shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        checkpoint = self._checkpoint[name]
        return checkpoint.float() - self._base[name].to(checkpoint.dtype).float()


class Part(TaskVector):
    """Some of the parameters of another task vector."""

    def __init__(self, vector: TaskVector, names: Iterable[str]):
        self._vector, self.provenance = vector, vector.provenance
        self._shapes = {name: vector.shapes[name] for name in names}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        return self._vector[name]


def without_zeros(vector: TaskVector) -> Part:
    """Return the parameters of a task vector that are not all zero, reading each once."""
    return Part(vector, [name for name, delta in vector.items() if delta.any()])


class TensorFolder(Mapping[str, torch.Tensor]):
    """The tensors of a model folder's safetensors files, read one at a time.

    `shapes` and `dtypes` (safetensors' own names, `F32`, `BF16` …) are known without reading any tensor.
    """

    def __init__(self, folder: str | os.PathLike):
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.dtypes: dict[str, str] = {}
        for path in _loaded_files(Path(folder)):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_slice(name)
                    self._files[name] = path
                    self.shapes[name], self.dtypes[name] = torch.Size(tensor.get_shape()), tensor.get_dtype()
        if not self._files:
            raise InputError(f"{folder} has no safetensors files")

    def __getitem__(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _loaded_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads; some folders also hold the weights under other names."""
    if (whole := folder / "model.safetensors").exists():
        return [whole]
    if (index := folder / "model.safetensors.index.json").exists():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))


class Scaled(TaskVector):
    """λ times another task vector."""

    def __init__(self, vector: TaskVector, scale: float):
        self._vector, self._scale, self.provenance = vector, scale, {**vector.provenance, "scale": scale}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._vector.shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._scale * self._vector[name]


def read(path: str | os.PathLike) -> TaskVector:
    """Open what `write` or `write_lora` wrote; a file that is truncated or none of theirs raises InputError."""
    metadata = _metadata(Path(path))
    if ADAPTER_KEY in metadata:
        return LoraAdapter(path, json.loads(metadata[ADAPTER_KEY]), json.loads(metadata[METADATA_KEY]))
    return ChangedTensors(path)


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{path} can't be read as safetensors ({error}): delete it and run again") from error
    if METADATA_KEY not in metadata:
        raise InputError(f"{path} has no provenance in its metadata: it is no task vector of this project")
    return metadata


def write(
    path: str | os.PathLike,
    shapes: Mapping[str, torch.Size],
    tensors: Iterable[tuple[str, torch.Tensor]],
    provenance: Mapping,
) -> None:
    """Write a task vector to one safetensors file, tensor by tensor, in fp32, with its provenance in the metadata.

    `shapes` fixes the order; the same tensors and provenance give the same bytes.
    """
    safetensors_stream.write(
        path,
        {name: (torch.Size(shape), torch.float32) for name, shape in shapes.items()},
        ((name, tensor.float()) for name, tensor in tensors),
        {METADATA_KEY: json.dumps(dict(provenance), sort_keys=True, ensure_ascii=False)},
    )


def write_lora(
    path: str | os.PathLike, factors: Mapping[str, torch.Tensor], config: Mapping, provenance: Mapping
) -> None:
    """Write a task vector as LoRA factors, in fp32: a file that PEFT reads, with the adapter's config in its metadata.

    `factors` has PEFT's names (`base_model.model.….lora_A.weight` and `lora_B`).
    """
    names = sorted(factors)
    safetensors_stream.write(
        path,
        {name: (factors[name].shape, torch.float32) for name in names},
        ((name, factors[name].float()) for name in names),
        {
            METADATA_KEY: json.dumps(dict(provenance), sort_keys=True, ensure_ascii=False),
            ADAPTER_KEY: json.dumps(dict(config), sort_keys=True),
        },
    )


def make_provenance(base: BaseModel, **facts: object) -> dict:
    """Return what a result's metadata says of its making: the base model, `facts`, library versions, project commit."""
    return {
        "base": base.identity,
        "base_source": base.source,
        "base_parameters": base.parameters,
        **facts,
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors")},
        "commit": _commit(),
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # there is no git
        return "unknown"
    return described.stdout.strip() or "unknown"
