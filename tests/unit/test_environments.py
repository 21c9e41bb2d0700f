import importlib.util
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

specification = importlib.util.spec_from_file_location("generate_environments", PROJECT / "envs" / "generate.py")
generate = importlib.util.module_from_spec(specification)
specification.loader.exec_module(generate)

ENVIRONMENTS = generate.environments()
# The rest of what snakemake itself runs and reads: pinned, but in no rule's environment.
WORKFLOW = {"snakemake", "snakemake-logger-plugin-rich", "jsonschema", "PyYAML"}
TOOLS = {"ruff", "snakefmt", "import-linter", "pytest-xdist"}


def test_every_environment_has_a_rule_and_every_script_an_environment():
    assert {path.name for path in (PROJECT / "envs").glob("*.yaml")} == set(ENVIRONMENTS)
    scripts = {script for scripts in ENVIRONMENTS.values() for script in scripts}
    assert scripts == set((PROJECT / "scripts").glob("*.py")) - {PROJECT / "scripts" / "__init__.py"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environment_files_are_as_generated(environment):
    text = (PROJECT / "envs" / environment).read_text()
    assert text == generate.write(environment, ENVIRONMENTS[environment]), "run python envs/generate.py"


def test_the_computed_needs_are_those_known_by_reading():
    assert generate.needed([PROJECT / "scripts" / "gather.py"]) == {"pandas"}
    figure = generate.needed([PROJECT / "scripts" / "figure.py"])
    assert {"matplotlib", "pandas"} <= figure
    assert not figure & {"torch", "transformers", "datasets"}
    assert {"torch", "lm_eval", "accelerate", "transformers", "safetensors", "pyarrow"} <= generate.needed(
        [PROJECT / "scripts" / "evaluate.py"]
    )


def test_imports_in_functions_and_named_at_run_time_are_seen(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json\n"
        "def work():\n"
        "    import numpy as np\n"
        "    from importlib import import_module\n"
        "    frame.to_markdown()\n"
        "    read(path, gguf_file='x')\n"
        "    return import_module(f'spunge.report.figures.{name}')\n"
    )
    assert {"numpy", "tabulate", "gguf", "matplotlib"} <= generate.needed([script])
    script.write_text("import importlib\nimportlib.import_module(name)\n")
    with pytest.raises(ValueError, match="doesn't tell the package"):
        generate.needed([script])


def test_every_pin_is_needed():
    pinned = generate.pins()
    in_rules = set().union(*map(generate.needed, ENVIRONMENTS.values()))
    assert set(pinned) == in_rules | WORKFLOW
    of_tests = {
        **generate.pins(PROJECT / "requirements-test.txt"),
        **generate.pins(PROJECT / "requirements-mergekit.txt"),
    }
    tests = "\n".join(path.read_text() for path in (PROJECT / "tests").rglob("*.py"))
    unused = {
        name
        for name in set(of_tests) - TOOLS
        if not re.search(rf"^\s*(import|from) {name}\b|importorskip\(\"{name.replace('-', '_')}\"", tests, re.MULTILINE)
    }
    assert not unused
    site = (PROJECT / "mkdocs.yml").read_text() + (PROJECT / "docs" / "site_hook.py").read_text()
    uses = {"mkdocs": "from mkdocs.", "mkdocs-material": "name: material", "pymdown-extensions": "pymdownx."}
    assert set(generate.pins(PROJECT / "requirements-docs.txt")) == set(uses)
    assert all(use in site for use in uses.values())


def test_the_workflow_imports_what_is_pinned_for_it():
    rules = "\n".join(path.read_text() for path in [PROJECT / "Snakefile", *(PROJECT / "rules").glob("*.smk")])
    imported = set(re.findall(r"^(?:import|from) (\w+)", rules, re.MULTILINE)) - set(sys.stdlib_module_names)
    assert imported == {"snakemake", "spunge"}
    assert generate.needed([PROJECT / "spunge" / "experiment" / "configuration.py"]) == {"jsonschema", "PyYAML"}


def test_the_container_has_the_environments_python_and_all_pins():
    recipe = (PROJECT / "envs" / "container.def").read_text()
    assert f"From: python:{generate.PYTHON}-slim\n" in recipe
    files = dict(re.findall(r"^    (requirements\S+) (/opt/\S+)$", recipe, re.MULTILINE))
    assert set(files) == {"requirements.txt", "requirements.lock"}
    locked, required = files["requirements.lock"], files["requirements.txt"]
    assert f"pip install --no-cache-dir --constraint {locked} --requirement {required}\n" in recipe


def test_every_rule_has_an_environment():
    for path in sorted((PROJECT / "rules").glob("*.smk")):
        rules = re.split(r"^ *(?:rule|checkpoint) (?=\w+:$)", path.read_text(), flags=re.MULTILINE)[1:]
        assert [rule for rule in rules if "conda:" not in rule] == []


def test_the_lock_holds_every_pin_and_nothing_of_one_machine():
    lock = (PROJECT / "requirements.lock").read_text()
    locked = {
        re.sub("[-_.]+", "-", name).lower(): pin for name, pin in generate.pins(PROJECT / "requirements.lock").items()
    }
    for requirements in PROJECT.glob("requirements*.txt"):
        for name, pin in generate.pins(requirements).items():
            own = locked[re.sub("[-_.]+", "-", name).lower()]
            assert own.partition("==")[2] == pin.partition("==")[2]
    assert not re.search(r"\+|://| @ ", lock)
