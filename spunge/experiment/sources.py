"""Which files of the library a Python file uses, by its import statements: a change in one of them reruns a rule.

python -m spunge.experiment.sources          writes rules/library.json

A method, evaluation, figure or data set is imported by its name at run time; a rule names the one that its job
uses, and what that one uses, besides its script.
"""

import ast
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from spunge.core.files import sha256, text_sha256

PROJECT = Path(__file__).parents[2]
LISTED = PROJECT / "rules" / "library.json"
CHOSEN = ("methods", "report/figures", "datasets", "evaluation")  # folders of which a job uses one file


class Source(NamedTuple):
    """What a Python file imports, by name, and whether it holds nothing but a docstring."""

    imports: tuple[str, ...]
    empty: bool


def read(path: Path) -> Source:
    """Read a Python file's imports, those inside functions as those at the top. Nothing is executed."""
    tree = ast.parse(path.read_text(), path)
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # What follows `import` may be a module or a name in one.
            modules += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return Source(tuple(modules), all(isinstance(node, ast.Expr) for node in tree.body))


def used(path: Path, read: Callable[[Path], Source] = read) -> list[Path]:
    """Return all files that a Python file uses, itself left out, in the order of their names.

    These are the library's files, and those that lie beside a file from outside of it. What a used file uses counts,
    too; files that hold nothing but a docstring don't.
    """
    imported, waiting = set(), [path]
    while waiting:
        new = set(_files(read(waiting.pop()), beside=path.parent)) - imported - {path}
        imported |= new
        waiting += new
    return sorted(file for file in imported if not read(file).empty)


def _files(source: Source, beside: Path) -> Iterator[Path]:
    for module in source.imports:
        of_library = module.partition(".")[0] == "spunge"
        yield from project_files(module) if of_library else module_files(module, beside)


def project_files(module: str) -> list[Path]:
    """Return the files that importing a module of the project executes: its packages' and its own, if it is one.

    `package.*` stands for every module of a package.
    """
    return module_files(module, PROJECT)


def module_files(module: str, folder: Path) -> list[Path]:
    """Return the files below a folder that importing a module executes; none where it lies elsewhere."""
    *parents, last = module.split(".")
    package = folder.joinpath(*parents)
    modules = package.glob("*.py") if last == "*" else [package / f"{last}.py", package / last / "__init__.py"]
    above = [folder.joinpath(*parents[:depth], "__init__.py") for depth in range(1, len(parents) + 1)]
    return [path for path in [*above, *modules] if path.is_file()]


def listed() -> dict[str, list[str]]:
    """Return what each script, and each file of which a job uses one, uses: paths below the project.

    Of spunge/merging only the script that merges does: others read what it made, which a change there makes again.
    """
    read_once = functools.cache(read)
    folders = [PROJECT / "scripts", *(PROJECT / "spunge" / folder for folder in CHOSEN)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    return {
        below_project(path): [
            below_project(file)
            for file in used(path, read_once)
            if file.parent.name != "merging" or path.name == "merge.py"
        ]
        for path in paths
    }


def below_project(path: Path) -> str:
    """Return a file's path below the project."""
    return path.relative_to(PROJECT).as_posix()


@functools.cache
def of(path: Path) -> list[Path]:
    """Return what `used` does; for the project's own files out of rules/library.json, which is quicker.

    Of a file that isn't there or isn't Python it is nothing; the job that needs it says so.
    """
    if path.is_relative_to(PROJECT) and (files := _read_listed().get(below_project(path))) is not None:
        return [PROJECT / file for file in files]
    try:
        return used(path)
    except (OSError, SyntaxError, ValueError):
        return []


@functools.cache
def fingerprint(path: Path) -> str:
    """Return a text that is another one where a file that this one uses has changed; the file itself doesn't count."""
    contents = "".join(map(sha256, of(path)))
    return f"what {path.name} imports: {text_sha256(contents)[:16]}"


@functools.cache
def _read_listed() -> dict[str, list[str]]:
    return json.loads(LISTED.read_text())


def text() -> str:
    """Return the text of rules/library.json, one line for each file."""
    lines = [f"{json.dumps(path)}: {json.dumps(files)}" for path, files in listed().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    LISTED.write_text(text())
