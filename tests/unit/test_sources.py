"""A rule's parameters tell what its script imports, or a change in that would not rerun the rule."""

import json
import re
from pathlib import Path

import pytest

from spunge.experiment import sources

PROJECT = Path(__file__).resolve().parents[2]


def rules():
    for path in sorted((PROJECT / "rules").glob("*.smk")):
        for text in re.split(r"^(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            if script := re.search(r'SCRIPTS / "([^"]+)"', text):
                yield pytest.param(text, script[1], id=text.partition(":")[0])


@pytest.mark.parametrize(("rule", "script"), rules())
def test_a_rule_has_the_library_of_its_script(rule, script):
    assert f'library=library("{script}"' in rule.partition("params:")[2]


def test_the_lists_are_those_of_the_imports():
    """Where this fails: python -m spunge.experiment.sources."""
    assert (PROJECT / "rules" / "library.json").read_text() == sources.text()


def test_lists_by_hand():
    listed = json.loads((PROJECT / "rules" / "library.json").read_text())
    assert listed["scripts/gather.py"] == ["spunge/__init__.py", "spunge/core/errors.py", "spunge/core/files.py"]
    assert "spunge/evaluation/prefix_sharing_lm.py" in listed["scripts/quantise.py"]  # through functions of two modules
    assert "spunge/training/loop.py" in listed["spunge/methods/npo.py"]
    assert "spunge/report/figures/style.py" in listed["spunge/report/figures/radar.py"]
    assert "spunge/training/loop.py" not in [*listed["spunge/methods/rmu.py"], *listed["scripts/unlearn.py"]]


@pytest.fixture
def written(tmp_path):
    """Write files of a user's, by name, and return what one of them uses: paths below the project or its folder."""

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        folders = {PROJECT: "", tmp_path: "mine/"}

        def short(path):
            folder = next(one for one in folders if path.is_relative_to(one))
            return folders[folder] + path.relative_to(folder).as_posix()

        sources.of.cache_clear()
        return {short(path) for path in sources.of(tmp_path / "method.py")} - {"spunge/__init__.py"}

    return write


def test_what_a_file_of_the_users_uses(written):
    method = (
        "import json\nimport losses\nfrom spunge.core import errors\n\n\ndef unlearn(run, options):\n    import more\n"
    )
    others = {"losses": "import method\nrate = 1", "more": "from losses import rate", "another": "x = 1"}
    assert written(method=method, **others) == {"spunge/core/errors.py", "mine/losses.py", "mine/more.py"}
    assert written(method="import losses", losses="from spunge.core.slugs import slug") == {
        "spunge/core/slugs.py",
        "mine/losses.py",
    }


def test_packages_that_only_have_a_docstring_do_not_count(written):
    assert written(method="import here\nfrom spunge.evaluation import fluency", here='"""Nothing."""') >= {
        "spunge/evaluation/fluency.py"
    }
    assert "spunge/evaluation/__init__.py" not in written(method="from spunge.evaluation import fluency")


def test_a_fingerprint_changes_with_what_is_imported(written, tmp_path):
    written(method="import losses", losses="from more import rate", more="rate = 1")
    method, fingerprint = tmp_path / "method.py", sources.fingerprint.__wrapped__
    before = fingerprint(method)
    method.write_text("import losses\n\nchanged = True")  # an input of its own
    (tmp_path / "another.py").write_text("rate = 2")
    assert fingerprint(method) == before
    (tmp_path / "more.py").write_text("rate = 2")
    assert fingerprint(method) != before


def test_a_file_that_is_not_there_or_is_no_python_uses_nothing(written, tmp_path):
    assert written(method="import (") == set()
    assert sources.of(tmp_path / "none.py") == []
