"""A Slurm of its own, and a workspace in which the tiny experiment ran through it while jobs were killed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import one_node_slurm
import tiny_model
from workspace import Workspace, copy_workflow, write_tables


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if missing := one_node_slurm.missing():
        pytest.skip(f"no Slurm: {missing}")
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="no Slurm plugin: see requirements-slurm.txt")
    with one_node_slurm.Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A workspace in which nothing has run yet."""
    project = copy_workflow(tmp_path_factory.mktemp("project") / "spunge")
    workspace = Workspace(tmp_path_factory.mktemp("prepared") / "workspace", project)
    write_tables(workspace / "tables")
    tiny_model.build(workspace / "model")
    return workspace
