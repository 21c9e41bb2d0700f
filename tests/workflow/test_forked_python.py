"""What the forks that other tests' jobs run in say and do is what a Python of their own would."""

import os
import select
import signal
import subprocess
import sys

import pytest
from workspace import Workspace

SCRIPT = """
import os, signal, sys, helper
what, code = sys.argv[1], sys.argv[2:]
print(__name__, sys.argv, os.getcwd(), sys.path[:2], helper.__file__, os.environ.get("ABOVE"))
print(sys.stdin.read(), open("/dev/fd/3").read(), file=sys.stderr)
print([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)], flush=True)
if what == "fail":
    raise ValueError("so it fails")
if what == "wait":
    print("torch" in sys.modules, os.getpid(), flush=True)
    signal.pause()
sys.exit(*map(eval, code))
"""


@pytest.fixture
def script(tmp_path):
    folder = tmp_path / "a folder" / "scripts"
    folder.mkdir(parents=True)
    (folder / "helper.py").touch()
    (folder / "script.py").write_text(SCRIPT)
    return folder / "script.py"


def start(script, python, *arguments, **variables):
    """Start Python in a shell that ignores SIGHUP, with a file of the shell's own as number 3."""
    return subprocess.Popen(
        ["bash", "-c", 'trap "" HUP; exec "$0" "$@" 3< <(echo in the file)', python, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=script.parent.parent,
        env=os.environ | {"PYTHONPATH": str(script.parent), "ABOVE": "é"} | variables,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["scripts/script.py", "end"],
        ["scripts/script.py", "a b  $c", "3"],
        ["scripts/script.py", "end", "'a sentence'"],
        ["-m", "scripts.script", "end"],
        ["-P", "-m", "this"],
        ["-u", "scripts/script.py", "end"],
        ["-c", "import sys; sys.exit(4)"],
    ],
)
def test_a_fork_ends_as_python_does(script, arguments):
    found = []
    for python in (sys.executable, Workspace.python):
        process = start(script, python, *arguments)
        found.append((*process.communicate("in the pipe"), process.returncode))
    assert found[0] == found[1]


def test_an_error_that_nobody_caught_is_told(script):
    process = start(script, Workspace.python, "scripts/script.py", "fail")
    _, told = process.communicate("in the pipe")
    assert process.returncode == 1 and told.endswith("\nValueError: so it fails\n")


def waiting(script, **variables):
    """Start a script that waits, and return it with whether it is a fork and the number of its process."""
    process = start(script, Workspace.python, "scripts/script.py", "wait", **variables)
    process.stdin.close()
    forked, number = next(line.split() for line in process.stdout if line.startswith(("True", "False")))
    return process, forked == "True", int(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_both(script, number):
    process, forked, fork = waiting(script)
    assert forked and fork != process.pid
    gone = os.pidfd_open(fork)
    process.send_signal(number)
    assert process.wait(60) == -number
    assert select.select([gone], [], [], 60)[0]
    os.close(gone)


def test_other_variables_that_libraries_read_get_a_python_of_their_own(script):
    process, forked, own = waiting(script, HF_HOME="elsewhere")
    assert not forked and own == process.pid
    process.kill()
