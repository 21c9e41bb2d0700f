"""Files that appear whole under their final name, or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spunge.core.errors import InputError

# The files of a model folder besides its weights.
MODEL_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*"]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@contextmanager
def whole_file(path: str | os.PathLike, flush: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    The temporary name keeps the suffix, since many writers choose the format by it, and is always the same, so that
    what a killed run left is overwritten. Two writers of one path at a time are not foreseen: Snakemake has one. With
    `flush` the file and its name are on the disk afterwards, even if the power fails.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        if flush:
            _flush(temporary)
        os.replace(temporary, path)
        if flush:
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it takes the place of `path`, on any error it is removed."""
    path = Path(path)
    with scratch_folder(path.with_name(f".{path.name}.partial")) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)


@contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path for a folder, which is removed afterwards, and before if a killed run left one."""
    path = Path(path)
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it as a stream."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def weights_of(folder: str | os.PathLike) -> list[Path]:
    """Return the weight files of a model folder, those that transformers loads, by name; [] without safetensors.

    Some folders hold their weights under other names too. Raises InputError where files are lost, or where it isn't
    clear which are meant.
    """
    folder = Path(folder)
    whole, index = folder / WEIGHTS, folder / INDEX
    if index.is_file():
        named = {folder / name for name in weight_map(folder).values()}
        if whole.is_file() and named != {whole}:
            raise InputError(
                f"{folder} has {WEIGHTS} and {INDEX}, which names other files: remove the one that is not meant, "
                "of a hub's model in a local copy"
            )
        if lost := sorted(path.name for path in named if not path.is_file()):
            raise InputError(
                f"{index} names {len(named)} files, of which {len(lost)} are not there, {lost[0]} among them: "
                "fetch or save the folder again"
            )
        return sorted(named)
    if whole.is_file():
        return [whole]
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        raise InputError(
            f"{folder} has {others[0]}, but neither {WEIGHTS} nor {INDEX}, by which transformers finds weights: "
            "fetch or save the folder again"
        )
    return []


def weight_map(folder: Path) -> dict[str, str]:
    """Return which file of a model folder holds which tensor, as its index says; raise InputError for a broken one."""
    named = json_object(folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(map(_is_file_name, named.values())):
        raise InputError(
            f"{folder / INDEX} has no `weight_map` of tensors and the folder's files: fetch or save it again"
        )
    return named


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def json_object(path: str | os.PathLike) -> dict:
    """Return the object in a JSON file; raise InputError where it can't be read or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON ({error}): fetch or save it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a JSON {type(content).__name__}, not an object: fetch or save it again")
    return content


def read_json(path: str | os.PathLike) -> object:
    """Return the content of a JSON file, or of a pipe, as a list of attributes may be too long for a command line."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def attributes_to_forget(path: str | os.PathLike) -> list[str]:
    """Return the attributes to forget, in their order, from results/…/data/attributes.json."""
    return [entry["attribute"] for entry in read_json(path)]


def of_model(folder: str | os.PathLike) -> list[Path]:
    """Return the files of a Hugging Face model folder that make the model, by name; none of no such folder."""
    folder = Path(folder)
    try:
        weights = weights_of(folder)
    except InputError:  # the `model` rule refuses it, and shall see when it is mended
        weights = list(folder.glob("*.safetensors"))
    others = {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in {*weights, *others} if path.name != "manifest.json")


def is_local(source: str) -> bool:
    """Tell whether a configured model source is a folder of this machine rather than a hub id."""
    return source.startswith(("/", "./", "../", "~")) or Path(source).is_dir()
