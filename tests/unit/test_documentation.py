import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from spunge.experiment import configuration
from spunge.report import figures

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *PROJECT.glob("*/README.md")])
EXPERIMENTS = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("*.yaml"))]


def script(path):
    """Import a script that lies in no package."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_configuration_page_is_as_generated():
    written = script(PROJECT / "docs" / "generate.py").configuration()
    assert (PROJECT / "docs" / "configuration.md").read_text() == written, "run python docs/generate.py"


def test_gallery_is_as_generated_and_shows_every_figure():
    page = (PROJECT / "docs" / "gallery.md").read_text()
    gallery = script(PROJECT / "docs" / "gallery.py")
    assert page == gallery.page(), "run python docs/gallery.py"
    assert re.findall("^## (.+)$", page, re.MULTILINE) == figures.known()
    assert set(figures.known()) - set(gallery.SHOWN) == {"toxicity_tradeoff"}  # that is without budgets: never run here
    pictures = re.findall(r"!\[.*\]\((.+)\)", page)
    assert {f"gallery/{path.name}" for path in (PROJECT / "docs" / "gallery").iterdir()} <= set(pictures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_lists_are_read_alike_on_the_forge_and_on_the_site(page):
    """A list in a list is indented by four spaces: fewer are enough for the forge, and not for the site."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^ {1,3}[-*] .*", text, re.MULTILINE)


def test_hooks_before_a_commit_lint_as_make_test_does():
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = re.search(r"^test:.*\n((?:\t.+\n)+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    commands = [command.replace("$(LINTED)", "Snakefile rules") for command in commands]
    assert [hook["entry"] for hook in hooks] == commands[:-1]
    assert "pytest" in commands[-1]


def test_issue_form_asks_for_configuration_plan_and_log():
    form = yaml.safe_load((PROJECT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    required = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert {"configuration", "plan", "log", "versions"} <= required


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_follow_the_schema_and_have_names_of_their_own(path):
    experiment = yaml.safe_load(path.read_text())
    configuration.check(experiment)
    names = [yaml.safe_load(other.read_text())["experiment"] for other in EXPERIMENTS]
    assert names.count(experiment["experiment"]) == 1


def test_rule_graph_shows_the_rules():
    rules = "\n".join(path.read_text() for path in (PROJECT / "rules").glob("*.smk"))
    # The checkpoint is only there where the attributes aren't listed, and some rules depend on the configuration.
    declared = set(re.findall(r"^rule (\w+):", rules, re.MULTILINE)) | {"all"}
    declared.remove("generate")  # with vLLM, and with nothing else
    declared.remove("plan")  # has neither inputs from other rules nor outputs
    drawn = set(re.findall(r">(\w+)</text>", (PROJECT / "docs" / "rulegraph.svg").read_text()))
    assert drawn and drawn == declared, "draw docs/rulegraph.svg again: CONTRIBUTING.md says how"
