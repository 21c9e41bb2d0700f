"""Files that appear whole under their final name, or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    The temporary name keeps the suffix, since many writers choose the format by it, and is always the same, so that
    what a killed run left is overwritten. Two writers of one path at a time are not foreseen: Snakemake has one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path where a folder may be made, which is removed afterwards; what a killed run left goes before."""
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


def of_model(folder: str | os.PathLike) -> list[Path]:
    """Return the files of a Hugging Face model folder that a model is loaded from, by name; none of no such folder."""
    found = {path for pattern in MODEL_FILES for path in Path(folder).glob(pattern)}
    return sorted(path for path in found if path.name != "manifest.json")


def is_local(source: str) -> bool:
    """Tell whether a configured model source is a folder of this machine rather than a hub id."""
    return source.startswith(("/", "./", "../", "~")) or Path(source).is_dir()
