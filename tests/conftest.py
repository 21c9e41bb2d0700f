"""How tests are dealt out to several workers: `pytest --numprocesses=2 --dist=loadgroup`, as `make test` does."""

from pathlib import Path

import pytest

WORKFLOW = Path(__file__).parent / "workflow"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests of the workflow together, since they share workspaces in which whole runs took minutes."""
    for item in items:
        if WORKFLOW in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("workflow"))
