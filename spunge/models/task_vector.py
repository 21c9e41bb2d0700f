"""Task vectors: what unlearning changed, parameter by parameter, read lazily (Ilharco et al. 2022, arXiv 2212.04089).

A task vector maps parameter names to the difference from the base model, in fp32. It is held in one of four ways: the
changed tensors alone, a PEFT LoRA adapter, a whole checkpoint minus its base, or a merge's recipe, which
`spunge.merging.recipe` reads.
"""

import copy
import json
import os
import re
import subprocess
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from spunge.core import safetensors_writer
from spunge.core.errors import InputError
from spunge.core.files import INDEX, json_object, weight_map, weights_of
from spunge.models.matrix_products import by_mkl

FLOATS = {"F64", "F32", "F16", "BF16"}
METADATA_KEY = "spunge"
ADAPTER_KEY = "adapter_config"
RECIPE_KEY = "recipe"
PEFT_PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of PEFT's LoraConfig (0.21) that leave the model base + scaling · B · A, whatever they say: which modules are
# adapted, what the scaling is (read below), how it was trained. With any other field set, it may be something else.
LORA_FIELDS = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
LORA_FIELDS |= {"inference_mode", "r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "fan_in_fan_out"}
LORA_FIELDS |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"}
LORA_FIELDS |= {"init_lora_weights", "eva_config", "loftq_config", "corda_config", "lora_ga_config"}
LORA_FIELDS |= {"megatron_core", "qalora_group_size"}
# The other initialisations subtract the first B · A from the base's own weights, or quantize these.
LORA_INITS = {"true", "false", "none", "gaussian", "orthogonal", "eva", "mica"}
ROWS = 16  # of the product of an adapter's factors that are computed at once


@dataclass(frozen=True)
class BaseModel:
    """A model folder as `spunge.models.base_model.prepare` leaves it: Hugging Face files and a manifest.

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
        manifest = json_object(manifest_path)
        try:
            sizes = {name: file["bytes"] for name, file in manifest["weights"].items()}
            base = cls(folder, manifest["source"], manifest["identity"], manifest["parameters"], tuple(sizes))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{manifest_path} is no whole manifest: delete {folder} and run again") from error
        for name, size in sizes.items():
            path = folder / name
            actual_size = path.stat().st_size if path.exists() else 0
            if actual_size != size:
                raise InputError(
                    f"{path} has {actual_size} bytes where its manifest says {size}: delete {folder} and run again"
                )
        return base


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

    def entries(self, name: str) -> Callable[[int, int], torch.Tensor]:
        """Return what reads a parameter's flat entries from a first to before a last one, of shape (last - first,).

        What was read is valid until more is read.
        """
        flat = self[name].flatten()
        return lambda first, last: flat[first:last]

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
        self.provenance = facts(self.path)
        with opened(self.path) as file:
            self._shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        with opened(self.path) as file:
            return file.get_tensor(name).float()


class LoraAdapter(TaskVector):
    """A PEFT LoRA adapter read as ΔW = scaling · B · A (Hu et al. 2021, arXiv 2106.09685).

    `weights` is the adapter's safetensors file with PEFT's names, `config` the contents of its adapter_config.json;
    `ranks` are those of its parameters. Raises InputError for an adapter that is anything else, and for a broken one.
    """

    def __init__(self, weights: str | os.PathLike, config: Mapping, provenance: Mapping):
        self.path, self.config, self.provenance = Path(weights), dict(config), dict(provenance)
        self._check_fields()
        self.transposed = bool(config.get("fan_in_fan_out"))
        self._shapes, self._scaling = {}, {}
        self.ranks: dict[str, int] = {}
        with opened(self.path) as file:
            factors = {key: torch.Size(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
        for key in factors:
            if not key.startswith(PEFT_PREFIX) or not key.endswith((LORA_A, LORA_B)):
                raise InputError(
                    f"{weights} also holds {key}: it is no plain LoRA adapter, so ΔW = B·A is not all of it"
                )
        for module in sorted({key.removesuffix(LORA_A).removesuffix(LORA_B) for key in factors}):
            a, b = (factors.get(module + factor, torch.Size()) for factor in (LORA_A, LORA_B))
            name = module.removeprefix(PEFT_PREFIX)
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                described = " and ".join(str(tuple(shape)) if shape else "absent" for shape in (a, b))
                raise InputError(
                    f"{weights}: the factors A and B of {name} should be (r, inputs) and (outputs, r); they are "
                    f"{described}"
                )
            self._scaling[name] = self._scaling_of(name, rank=a[0])
            self.ranks[f"{name}.weight"] = a[0]
            self._shapes[f"{name}.weight"] = torch.Size((a[1], b[0]) if self.transposed else (b[0], a[1]))
        if not self._shapes:
            raise InputError(f"{weights} has no LoRA factors: it adapts nothing")

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, provenance: Mapping) -> "LoraAdapter":
        """Read a folder that PEFT's `save_pretrained` wrote."""
        folder = Path(folder)
        config = json_object(folder / ADAPTER_CONFIG)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise InputError(
                f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}: save the adapter in safetensors; "
                "other formats are not loaded, since they can run code"
            )
        return cls(folder / ADAPTER_WEIGHTS, config, provenance)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._shapes

    def factors(self) -> dict[str, torch.Tensor]:
        """Return the adapter's own tensors, A and B of every module, under PEFT's names."""
        with opened(self.path) as file:
            return {key: file.get_tensor(key) for key in sorted(file.keys())}

    def _check_fields(self) -> None:
        """Raise InputError unless the configuration says that the model is the base + scaling · B · A."""
        if self.config.get("peft_type") != "LORA":
            raise InputError(f"{self.path} is no plain LoRA adapter: its peft_type is {self.config.get('peft_type')!r}")
        init = self.config.get("init_lora_weights", True)
        if str(init).lower() not in LORA_INITS:
            raise InputError(
                f"{self.path} is no plain LoRA adapter: with init_lora_weights {init!r} the base's own weights change "
                "too; save it with PEFT's path_initial_model_for_weight_conversion, or as a whole checkpoint"
            )
        for field, value in self.config.items():
            if field not in LORA_FIELDS and value not in (None, False, [], "none"):
                raise InputError(
                    f"{self.path} is no plain LoRA adapter: its configuration has {field} {value!r}, so it may be more "
                    "than ΔW = scaling · B · A; give it merged into the base, as a whole checkpoint"
                )

    def _scaling_of(self, module: str, rank: int) -> float:
        """Return what B·A is multiplied by in a module; raise InputError where the configuration doesn't tell."""
        alpha, configured = (
            self._setting("lora_alpha", "alpha_pattern", module),
            self._setting("r", "rank_pattern", module),
        )
        if configured != rank or isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise InputError(
                f"{self.path}: the scaling of {module} can't be told: its configuration has rank {configured!r} and "
                f"lora_alpha {alpha!r}, and its factors have rank {rank}"
            )
        return alpha / rank**0.5 if self.config.get("use_rslora") else alpha / rank

    def _setting(self, field: str, patterns: str, module: str) -> object:
        """Return a module's own value; PEFT takes the first key of the patterns that matches the end of its name."""
        try:
            for pattern, value in (self.config.get(patterns) or {}).items():
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return value
        except (AttributeError, re.error) as error:
            raise InputError(
                f"{self.path}: {patterns} {self.config[patterns]!r} has no names to match: {error}"
            ) from error
        return self.config.get(field)

    def __getitem__(self, name: str) -> torch.Tensor:
        number = self._shapes[name][1 if self.transposed else 0]
        delta = self._rows(name)(0, number)
        return delta.T.contiguous() if self.transposed else delta

    def entries(self, name: str) -> Callable[[int, int], torch.Tensor]:
        """Return what TaskVector's does; it multiplies the rows that are asked for, few of which stay in the cache."""
        columns = self._shapes[name][1]
        if self.transposed or 1 in self._shapes[name]:
            return super().entries(name)
        rows = self._rows(name)

        def read(first: int, last: int) -> torch.Tensor:
            start = first // columns
            return rows(start, -(-last // columns)).view(-1)[first - start * columns : last - start * columns]

        return read

    def _rows(self, name: str) -> Callable[[int, int], torch.Tensor]:
        """Return what gives some rows of scaling · B · A, in memory that the next call takes again.

        It computes ROWS of them at once, whichever are asked for: how a row is rounded depends on how many there are.
        """
        a, b, scaling = self.factors_of(name)
        padded = torch.nn.functional.pad(b, (0, 0, 0, -len(b) % ROWS))
        kept = torch.empty(0)  # new memory for each product would take longer than the product

        def rows(start: int, end: int) -> torch.Tensor:
            first, last = start // ROWS * ROWS, -(-end // ROWS) * ROWS
            delta = kept.resize_(last - first, a.shape[1])
            with by_mkl():
                for left, product in zip(padded[first:last].split(ROWS), delta.split(ROWS), strict=True):
                    torch.mm(left, a, out=product)
            return delta[start - first : end - first].mul_(scaling)

        return rows

    def factors_of(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return A (rank, inputs) and B (outputs, rank) of a parameter, in fp32, and the scaling of their product."""
        if name not in self._shapes:
            raise KeyError(name)
        module = name.removesuffix(".weight")
        with opened(self.path) as file:
            a, b = (file.get_tensor(PEFT_PREFIX + module + factor).float() for factor in (LORA_A, LORA_B))
        return a, b, self._scaling[module]


class CheckpointMinusBase(TaskVector):
    """A whole Hugging Face checkpoint read as its difference from the base, for results of outside tools.

    A checkpoint in another precision is compared with the base rounded to it, so that rounding is no change; parameters
    that are equal appear as zeros. `names` maps the checkpoint's tensors to the base's, where these have other names;
    `tied` maps tensors to those that they are one with in the base: where a checkpoint holds both, the first is left
    out. Raises InputError where both differ, and for a tensor that the base lacks, in another shape or a quantized
    form. What the checkpoint lacks is for `spunge.models.base_model.check` to find.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        base: BaseModel,
        provenance: Mapping | None = None,
        names: Mapping[str, str] | None = None,
        tied: Mapping[str, str] | None = None,
    ):
        self.provenance = {"base": base.identity, "base_source": base.source, **(provenance or {})}
        self._base, self._checkpoint = TensorFolder(base.folder), TensorFolder(folder).renamed(names or {})
        twins = {name for name, other in (tied or {}).items() if name in self._checkpoint and other in self._checkpoint}
        for name in twins:
            if not torch.equal(self._checkpoint[name], self._checkpoint[tied[name]]):
                raise InputError(
                    f"{folder} has a {name} of its own, which in the base model is one tensor with {tied[name]}: "
                    "make them equal, or unlearn a base model whose weights are not tied"
                )
        self._shapes = {name: shape for name, shape in self._checkpoint.shapes.items() if name not in twins}
        if unknown := self._shapes.keys() - self._base.shapes.keys():
            raise InputError(
                f"{folder} has {len(unknown)} tensors that the base model lacks, {min(unknown)} among them"
            )
        for name, shape in self._shapes.items():
            if shape != self._base.shapes[name]:
                raise InputError(
                    f"{folder}: {name} is {tuple(shape)}, in the base model {tuple(self._base.shapes[name])}"
                )
            dtype, base_dtype = self._checkpoint.dtypes[name], self._base.dtypes[name]
            if dtype != base_dtype and dtype not in FLOATS:
                raise InputError(
                    f"{folder}: {name} is kept as {dtype}, in the base model as {base_dtype}: save it unquantized"
                )

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return self._shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        checkpoint = self._checkpoint[name]
        return checkpoint.float() - self._base[name].to(checkpoint.dtype).float()


class SelectedParameters(TaskVector):
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


def without_zeros(vector: TaskVector) -> SelectedParameters:
    """Return the parameters of a task vector that are not all zero, reading each once."""
    return SelectedParameters(vector, [name for name, delta in vector.items() if delta.any()])


class TensorFolder(Mapping[str, torch.Tensor]):
    """The tensors of a model folder's safetensors files, read one at a time.

    `shapes` and `dtypes` (safetensors' own names, `F32`, `BF16` …) are known without reading any tensor.
    """

    def __init__(self, folder: str | os.PathLike):
        folder = Path(folder)
        self._files: dict[str, Path] = {}
        self._stored: dict[str, str] = {}  # names in the files, where they are others
        self.shapes: dict[str, torch.Size] = {}
        self.dtypes: dict[str, str] = {}
        for path in weights_of(folder):
            with opened(path) as file:
                for name in file.keys():  # noqa: SIM118
                    if name in self._files:
                        raise InputError(f"{folder} has {name} twice, in {self._files[name].name} and {path.name}")
                    tensor = file.get_slice(name)
                    self._files[name] = path
                    self.shapes[name], self.dtypes[name] = torch.Size(tensor.get_shape()), tensor.get_dtype()
        if not self._files:
            raise InputError(f"{folder} has no safetensors files with tensors")
        if (folder / INDEX).is_file():
            for name, file in weight_map(folder).items():
                if self._files.get(name) != folder / file:
                    raise InputError(
                        f"{folder / INDEX} says that {name} is in {file}, which doesn't hold it: "
                        "fetch or save the folder again"
                    )

    def renamed(self, names: Mapping[str, str]) -> "TensorFolder":
        """Return the same tensors, under other names where `names` has one; raise InputError for one name of two."""
        other = copy.copy(self)
        other._stored, shown = {}, {}
        for name in self._files:
            new = names.get(name, name)
            if (first := shown.setdefault(new, name)) != name:
                raise InputError(
                    f"{self._files[name].parent} has {first} and {name}, which are one tensor in the model: "
                    "leave one out"
                )
            other._stored[new] = self._stored.get(name, name)
        for field in ("_files", "shapes", "dtypes"):
            setattr(other, field, {new: getattr(self, field)[old] for new, old in shown.items()})
        return other

    def __getitem__(self, name: str) -> torch.Tensor:
        with opened(self._files[name]) as file:
            return file.get_tensor(self._stored.get(name, name))

    def __contains__(self, name: object) -> bool:
        return name in self._files  # Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """Open a safetensors file; raise InputError where it can't be read or was cut off."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} can't be read as safetensors ({error}): delete it, then fetch it or run again"
        ) from error


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
    path = Path(path)
    if has(path, ADAPTER_KEY):
        return LoraAdapter(path, facts(path, ADAPTER_KEY), facts(path))
    if has(path, RECIPE_KEY):
        raise InputError(f"{path} is a merge's recipe and has no tensors: what is asked for is a shard's task vector")
    return ChangedTensors(path)


def has(path: Path, key: str) -> bool:
    """Tell whether a task vector's metadata has a key."""
    return key in _metadata(path)


def _metadata(path: Path) -> dict[str, str]:
    with opened(path) as file:
        return file.metadata() or {}


def facts(path: Path, key: str = METADATA_KEY) -> dict:
    """Return what a task vector's metadata says under a key, the provenance unless another is given; it is JSON."""
    metadata = _metadata(path)
    if METADATA_KEY not in metadata:
        raise InputError(f"{path} has no provenance in its metadata: it is no task vector of this project")
    try:
        return dict(json.loads(metadata[key]))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} has broken metadata ({error}): delete it and run again") from error


def write(
    path: str | os.PathLike,
    shapes: Mapping[str, torch.Size],
    tensors: Iterable[tuple[str, torch.Tensor]],
    provenance: Mapping,
) -> None:
    """Write a task vector to one safetensors file, tensor by tensor, in fp32, with its provenance in the metadata.

    `shapes` fixes the order; the same tensors and provenance give the same bytes. Raises InputError, and writes
    nothing, where a difference is not finite.
    """
    safetensors_writer.write(
        path,
        {name: (torch.Size(shape), torch.float32) for name, shape in shapes.items()},
        _finite((name, tensor.float()) for name, tensor in tensors),
        {METADATA_KEY: json.dumps(dict(provenance), sort_keys=True, ensure_ascii=False)},
    )


def write_lora(
    path: str | os.PathLike, factors: Mapping[str, torch.Tensor], config: Mapping, provenance: Mapping
) -> None:
    """Write a task vector as LoRA factors, in fp32: a file that PEFT reads, with the adapter's config in its metadata.

    `factors` has PEFT's names (`base_model.model.….lora_A.weight` and `lora_B`). Raises InputError, and writes nothing,
    where a factor is not finite.
    """
    names = sorted(factors)
    safetensors_writer.write(
        path,
        {name: (factors[name].shape, torch.float32) for name in names},
        _finite((name, factors[name].float()) for name in names),
        {
            METADATA_KEY: json.dumps(dict(provenance), sort_keys=True, ensure_ascii=False),
            ADAPTER_KEY: json.dumps(dict(config), sort_keys=True),
        },
    )


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise InputError for a difference that is not finite."""
    for _ in _finite(tensors):
        pass


def _finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors:
        if not is_finite(tensor):
            raise InputError(
                f"the change of {name} has entries that are not finite: the unlearning diverged, or what it was read "
                "from is broken; try a lower learning rate or fewer steps, or make the checkpoint again"
            )
        yield name, tensor


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether all entries are finite."""
    # NaN spreads to the extremes, and they are found ten times faster than all entries are looked through.
    return not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all())


def make_provenance(base: BaseModel, **facts: object) -> dict:
    """Return a result's provenance for its metadata: the base model, `facts`, library versions, project commit."""
    return {
        "base": base.identity,
        "base_source": base.source,
        "base_parameters": base.parameters,
        **facts,
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors")},
        "commit": commit(),
    }


def commit() -> str:
    """Return `git describe` of the project, `-dirty` where files were changed; `unknown` where git has no answer."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # there is no git
        return "unknown"
    return described.stdout.strip() or "unknown"
