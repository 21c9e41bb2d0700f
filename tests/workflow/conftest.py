"""One workspace in which the whole workflow has run, shared by all tests; all paths have a space."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny_model
from workspace import Workspace, copy_workflow, write_tables


@pytest.fixture(scope="session", autouse=True)
def quick_snakemake(quick_python):
    """Let Snakemake and its jobs be forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "python", quick_python)
        yield


@pytest.fixture
def real_python(monkeypatch):
    """Processes of their own, where it matters how they live and end."""
    monkeypatch.setattr(Workspace, "python", sys.executable)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    return copy_workflow(tmp_path_factory.mktemp("project") / "my projects" / "spunge")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, project):
    """A workspace in which nothing has run yet; tests copy it."""
    workspace = Workspace(tmp_path_factory.mktemp("prepared") / "my work", project)
    write_tables(workspace / "tables")
    tiny_model.build(workspace / "model")
    workspace.configure()
    return workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory, prepared):
    """A workspace in which everything has run, minutes of work: tests read it or copy it, and never write into it."""
    workspace = prepared.copy(tmp_path_factory.mktemp("finished") / "my work")
    workspace.run = workspace.snakemake()
    assert workspace.run.returncode == 0, workspace.run.stdout
    return workspace


@pytest.fixture
def fresh(tmp_path, prepared):
    """A workspace of the test's own in which nothing has run."""
    return prepared.copy(tmp_path / "my work")


@pytest.fixture
def changing(tmp_path, finished):
    """A workspace of the test's own in which everything has run."""
    return finished.copy(tmp_path / "my work")
