"""Unlearning methods, one file each: a dataclass `Options` and a function `unlearn(run, options)`.

A method trains on the texts of one shard, starting from the base model, and returns what changed. The name in the
configuration is the file's name; a file of the user's own with the same two things is a method too (docs/methods.md).
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from spunge.core.errors import InputError
from spunge.core.files import sha256
from spunge.experiment.options import make
from spunge.models import task_vector
from spunge.training import resume
from spunge.training.run import Run, Unlearned


def known() -> list[str]:
    """Return the names of the methods that lie in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(method: str | Path) -> ModuleType:
    """Return a method's module: one of this folder by its name, any other by the path of its Python file.

    Raises InputError for an unknown name, a file that is not there, that can't be imported, or that lacks `Options`
    or `unlearn`.
    """
    path = Path(method)
    if path.suffix != ".py" or path.resolve().parent == Path(__file__).parent:
        if path.stem not in known():
            raise InputError(f"there is no method {path.stem}; known are {', '.join(known())}")
        return importlib.import_module(f"{__name__}.{path.stem}")
    if not path.is_file():
        raise InputError(f"{path} is not there: `file` of a method names the Python file that holds it")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise InputError(f"{path} can't be imported: {error}") from error
    for wanted in ("Options", "unlearn"):
        if not hasattr(module, wanted):
            raise InputError(
                f"{path} has no `{wanted}`: a method has a dataclass `Options` and `unlearn(run, options)`"
            )
    return module


def options(module: ModuleType, given: Mapping[str, object]) -> object:
    """Make the method's Options from configuration values; those given win over those of the `preset` they name.

    `dtype`, which the workflow gives to all, is left out where a method has no such option. Raises InputError for an
    unknown key or preset, with the known ones.
    """
    name, given = module.__name__.rpartition(".")[2], dict(given)
    presets = getattr(module, "PRESETS", {})
    if (preset := given.pop("preset", None)) is not None:
        if preset not in presets:
            raise InputError(f"{name} has no preset {preset}; it has {', '.join(presets) or 'none'}")
        given = {**presets[preset], **given}
    if "dtype" not in {field.name for field in dataclasses.fields(module.Options)}:
        given.pop("dtype", None)
    return make(name, module.Options, given)


def recorded(options: object) -> dict[str, object]:
    """Return a method's options for provenance: their fields, or what `recorded` gives where some are secrets."""
    return options.recorded() if hasattr(options, "recorded") else dataclasses.asdict(options)


def identity(run: Run, options: object, code: Iterable[str | Path], norms_of: str | Path | None) -> str:
    """Return the identity of a run's job, as `resume.identity` does; the run has to have its files.

    `code` are the job's own files and those that say how it is launched, `norms_of` the file of the run's `norms_of`,
    if it has one.
    """
    facts = {name: getattr(run, name) for name in ("seed", "split", "shard", "steps_of_shards", "device")}
    facts |= {"options": dataclasses.asdict(options), "attributes": run.all_attributes}
    large = filter(None, [run.activations, norms_of])
    return resume.identity(facts, run.base.folder, [*code, run.forget_file, run.retain_file], large)


def provenance(run: Run, method: Path, options: object) -> dict:
    """Return a task vector's provenance; the run has to have its files."""
    return task_vector.make_provenance(
        run.base,
        method=method.stem,
        method_sha256=sha256(method),
        options=recorded(options),
        seed=run.seed,
        run=run.label,
        data={"forget": sha256(run.forget_file), "retain": sha256(run.retain_file)},
    )


def write(unlearned: Unlearned, path: str | Path, provenance: Mapping) -> None:
    """Write what a method returned to one safetensors file, tensor by tensor."""
    delta = unlearned.delta
    try:
        if unlearned.adapter is not None:
            task_vector.write_lora(path, delta, unlearned.adapter, provenance)
            return
        shapes = getattr(delta, "shapes", None) or {name: tensor.shape for name, tensor in delta.items()}
        task_vector.write(path, shapes, delta.items(), provenance)
    except InputError as error:
        raise InputError(f"{error}{unlearned.kept}") from error
