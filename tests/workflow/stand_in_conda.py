"""A stand-in for conda, where none can be had: enough of its commands for Snakemake to run jobs in environments.

`conda env create` makes a virtual environment of this Python and installs the file's `pip:` list into it. Channels and
conda packages are not looked at, so nothing here shows that conda-forge would solve them.
"""

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

import yaml


def install(folder: Path) -> Path:
    """Make `folder` look like a conda installation and return its `bin`, for PATH."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text('export PATH="$1/bin:$PATH"\n')
    (binaries / "conda").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "{folder}" "$@"\n')
    (binaries / "conda").chmod(0o755)
    return binaries


def create(file: str, prefix: str) -> None:
    """Do what `conda env create --file FILE --prefix PREFIX` does, with pip alone."""
    dependencies = yaml.safe_load(Path(file).read_text())["dependencies"]
    pins = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    venv.create(prefix, with_pip=True)
    pip = [str(Path(prefix) / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *pins], check=True)


def main(folder: str, *command: str) -> int:
    """Answer one conda command."""
    if command[0] == "--version":
        print("conda 24.11.0")
    elif command[0] == "info":
        print(json.dumps({"conda_prefix": folder, "platform": "linux-64"}))
    elif command[0] == "config":
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif command[:2] == ("env", "create"):
        parser = argparse.ArgumentParser()
        parser.add_argument("--file", required=True)
        parser.add_argument("--prefix", required=True)
        create(**vars(parser.parse_known_args(command[2:])[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
