"""A Python for the jobs of all tests that starts at once."""

import os
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: more threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import forked_python

# With the first, jobs would compile all that they import anew.
for variable in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
    os.environ.pop(variable, None)


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory):
    """The path of a `python` whose processes are forks, since most of a tiny job's time is that of its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        with forked_python.started() as python:
            yield python
