"""What all tests share: how they are spread over two workers, and a Python for jobs that starts at once."""

import gc
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: more threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import forked_python

# With the first, jobs would compile all that they import anew.
for variable in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
    os.environ.pop(variable, None)
BEFORE_IMPORTS = forked_python.read_by_libraries(os.environ)

SHARED = pytest.StashKey[str]()

# The files of tests/workflow that use the workspace in which everything has run (its conftest.py).
USING_FINISHED = ("bad_input", "exported_model", "gpu_jobs", "killed", "published_model", "reruns", "storage")
USING_FINISHED += ("tracing", "whole_run")


@pytest.hookimpl(optionalhook=True)  # of xdist, which pytest can do without
def pytest_xdist_make_scheduler(config, log):
    """Give each file to one worker, and all that use the finished workspace to the same, so that it is made once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "finished" if Path(file).stem.removeprefix("test_") in USING_FINISHED else file

    return Scheduling(config, log)


def pytest_collection_finish():
    """Undo what imports of the tests' modules did to the environment of jobs, which the shared `python` hasn't.

    And spare the garbage collector the half a million objects of the libraries: a tenth of the time of many tests.
    """
    for variable in forked_python.read_by_libraries(os.environ).keys() - BEFORE_IMPORTS.keys():
        del os.environ[variable]
    os.environ.update(BEFORE_IMPORTS)
    gc.freeze()
    gc.set_threshold(forked_python.ALLOCATIONS)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Let workers share the `python` of `quick_python`, which starts while they collect the tests."""
    if SHARED not in node.config.stash:
        context = ExitStack()
        node.config.add_cleanup(context.close)
        node.config.stash[SHARED] = context.enter_context(forked_python.starting())
    node.workerinput["python"] = node.config.stash[SHARED]


@pytest.fixture(scope="session")
def quick_python(request):
    """The path of a `python` whose processes are forks, since most of a tiny job's time is that of its imports."""
    with ExitStack() as context:
        worker = getattr(request.config, "workerinput", {})
        python = worker.get("python") or context.enter_context(forked_python.starting())
        forked_python.wait_for(python)
        patch = context.enter_context(pytest.MonkeyPatch.context())
        for variable, value in forked_python.used_by(python).items():
            patch.setenv(variable, value)
        yield python
