import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from spunge.experiment import configuration

PROJECT = Path(__file__).parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), *PROJECT.glob("*/README.md")])
EXPERIMENTS = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("*.yaml"))]

specification = importlib.util.spec_from_file_location("generate_documentation", PROJECT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(specification)
specification.loader.exec_module(generate)


def test_configuration_page_is_as_generated():
    assert (PROJECT / "docs" / "configuration.md").read_text() == generate.configuration(), (
        "run python docs/generate.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
