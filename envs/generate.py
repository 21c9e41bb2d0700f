"""Write envs/*.yaml, the rules' conda environments, from what the rules' scripts import and from requirements.txt.

python envs/generate.py

An environment holds the pinned packages that its rules' scripts import, directly or through `spunge`, at the top or
inside a function. Nothing of the project is executed to find out.
"""

import ast
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from spunge.experiment.sources import project_files  # noqa: E402

PYTHON = "3.11"

# Packages that a call needs though nobody imports them here: by the name of an attribute or a keyword argument.
CALLS = {
    "read_parquet": "pyarrow",
    "to_parquet": "pyarrow",
    "to_markdown": "tabulate",
    "to_latex": "Jinja2",
    "from_template": "Jinja2",
    "gguf_file": "gguf",
    "device_map": "accelerate",
    "HFLM": "accelerate",
}
# Packages whose module has another name.
MODULES = {"yaml": "PyYAML", "jinja2": "Jinja2", "profanity_check": "alt-profanity-check"}

# Imported where the user has installed it, or in an environment of its own: what that has on top, by its file.
OPTIONAL = {"vllm", "mergekit"}
ON_TOP = {"mergekit.yaml": PROJECT / "requirements-mergekit.txt"}

TEMPLATE = """\
# Written by `python envs/generate.py` from requirements.txt and the imports of the scripts; change those.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={python}
  - pip
  - pip:
{pins}
"""


def pins(path: Path = PROJECT / "requirements.txt") -> dict[str, str]:
    """Return {package: `package==version`} of a requirements file, in its order."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {line.partition("==")[0]: line for line in lines if line and not line.startswith("-")}


def environments() -> dict[str, list[Path]]:
    """Return the scripts that run in each environment, as the rules say: {file name of the environment: scripts}."""
    scripts: dict[str, list[Path]] = {}
    for path in sorted((PROJECT / "rules").glob("*.smk")):
        for rule in re.split(r"^(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            script = re.search(r'SCRIPTS / "([^"]+)"', rule)
            for environment in re.findall(r'ENVS / "([^"]+)"', rule) if script else ():
                scripts.setdefault(environment, []).append(PROJECT / "scripts" / script[1])
    return scripts


def needed(files: list[Path]) -> set[str]:
    """Return the packages from outside that Python files need, themselves or through the project's modules."""
    todo, done, packages = list(files), set(), set()
    while todo:
        path = todo.pop()
        if path in done:
            continue
        done.add(path)
        modules, called = uses(path)
        for module in modules:
            top = module.partition(".")[0]
            if top == "spunge":
                todo += project_files(module)
            elif top not in sys.stdlib_module_names:
                packages.add(MODULES.get(top, top))
        packages |= called
    return packages - OPTIONAL


def uses(path: Path) -> tuple[set[str], set[str]]:
    """Return the modules that one file imports (`package.*` for any of a package) and the packages its calls need."""
    modules, called = set(), set()
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # What follows `import` may be a module or a name in one.
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            called |= {CALLS[alias.name] for alias in node.names if alias.name in CALLS}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            modules.add(named_at_run_time(node.args[0], path))
        elif isinstance(node, ast.Attribute) and node.attr in CALLS:
            called.add(CALLS[node.attr])
        elif isinstance(node, ast.keyword) and node.arg in CALLS:
            called.add(CALLS[node.arg])
    return modules, called


def named_at_run_time(argument: ast.expr, path: Path) -> str:
    """Return `package.*` for the argument of `import_module(f"package.{name}")`; anything else is a ValueError."""
    text = ast.unparse(argument)
    match = re.fullmatch(r"f'(?P<package>[\w.]+|\{__name__\})\.\{[\w.]+\}'", text)
    if not match:
        raise ValueError(
            f"{path}: import_module({text}) doesn't tell the package; write import_module(f'package.{{name}}')"
        )
    package = match["package"]
    return (module_name(path) if package == "{__name__}" else package) + ".*"


def module_name(path: Path) -> str:
    """Return the dotted name of a module of the project."""
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def write(environment: str, scripts: list[Path]) -> str:
    """Return the text of one environment file; a package that isn't pinned in requirements.txt is a ValueError."""
    packages, pinned = needed(scripts), pins()
    if missing := sorted(packages - set(pinned)):
        raise ValueError(f"envs/{environment} needs {', '.join(missing)}: pin it in requirements.txt")
    chosen = [pin for package, pin in pinned.items() if package in packages]
    chosen += pins(ON_TOP[environment]).values() if environment in ON_TOP else []
    lines = [f"      - {pin}" for pin in chosen]
    return TEMPLATE.format(python=PYTHON, pins="\n".join(lines))


if __name__ == "__main__":
    for environment, scripts in environments().items():
        (PROJECT / "envs" / environment).write_text(write(environment, scripts))
