"""A rule's inputs must name the library files that its script uses, or a change in one would not rerun the rule."""

import ast
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "envs"))

import generate  # noqa: E402

from spunge import merging  # noqa: E402

ALWAYS = {"errors", "files"}  # what `library` itself adds
# Named by an input of their own: the one method, merge, figure, evaluation or data set that a job uses.
CHOSEN = re.compile(
    rf"methods/\w+|merging/({'|'.join(merging.KINDS)})|figures/\w+|evaluation/(knowledge|fluency)"
    r"|datasets/(country_capitals|table)"
)


def rules():
    for path in sorted((PROJECT / "rules").glob("*.smk")):
        for text in re.split(r"^(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            if script := re.search(r'SCRIPTS / "([^"]+)"', text):
                library = re.search(r"library=library\((.*?)\),\n", text, re.DOTALL)[1]
                listed = set(re.findall(r'"([\w/]+)"', library))
                yield pytest.param(PROJECT / "scripts" / script[1], listed, id=text.partition(":")[0])


def imported(path, nodes):
    """Return the project's files that the import statements among `nodes` execute."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "spunge":
            for alias in node.names:
                found.update(generate.project_files(f"{node.module}.{alias.name}"))
            found.update(generate.project_files(node.module))
    return found


@pytest.mark.parametrize(("script", "listed"), rules())
def test_a_rule_lists_the_library_files_of_its_script(script, listed):
    """What the script imports anywhere, and what those modules (and the merges) import at their top."""
    todo, needed = imported(script, ast.walk(ast.parse(script.read_text()))), set()
    if script.stem == "merge":
        todo |= {PROJECT / "spunge" / "merging" / f"{kind}.py" for kind in merging.KINDS}
    while todo:
        path = todo.pop()
        if path not in needed:
            needed.add(path)
            todo |= imported(path, ast.parse(path.read_text()).body)
    names = {path.relative_to(PROJECT / "spunge").with_suffix("").as_posix() for path in needed}
    missing = {name for name in names - listed - ALWAYS if not name.endswith("__init__") and not CHOSEN.fullmatch(name)}
    assert not missing


@pytest.mark.parametrize("kind", merging.KINDS)
def test_a_merge_imports_no_other_merge(kind):
    """Its own file is the one input of the rule that is a merge, so a change in another would go unseen."""
    path = PROJECT / "spunge" / "merging" / f"{kind}.py"
    others = {path.with_name(f"{other}.py") for other in merging.KINDS}
    assert not imported(path, ast.walk(ast.parse(path.read_text()))) & others


def test_the_rule_unlearn_lists_what_the_methods_import():
    listed = next(parameters.values[1] for parameters in rules() if parameters.id == "unlearn")
    todo, needed = set((PROJECT / "spunge" / "methods").glob("*.py")), set()
    while todo:
        path = todo.pop()
        needed.add(path)
        todo |= imported(path, ast.parse(path.read_text()).body) - needed
    names = {path.relative_to(PROJECT / "spunge").with_suffix("").as_posix() for path in needed}
    assert not {
        name for name in names - listed - ALWAYS if not name.endswith("__init__") and not CHOSEN.fullmatch(name)
    }
