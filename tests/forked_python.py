"""A `python` that starts at once: a fork of a process that has imported the large libraries runs what it is to run.

fork_caller.py is that `python`, and this program the process. A fork has its caller's folder, environment, arguments,
standard files and ignored signals, and the workflow's code that its caller sees. It gets its caller's signals and dies
with it; the caller ends as its fork does. Who has other variables that those libraries read gets the real Python. All
forks have one seed of hashes. Where STAND_IN_GPU is set, scripts of the workflow see one GPU (stand_in_gpu.py).
"""

import atexit
import fcntl
import gc
import importlib
import io
import itertools
import json
import os
import pickle
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from fork_caller import FLAGS, SIGNALS

LIBRARIES = ["torch", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "peft"]
LIBRARIES += ["pandas", "pyarrow.parquet", "datasets", "lm_eval.models.huggingface", "matplotlib.pyplot", "seaborn"]
LIBRARIES += ["accelerate.commands.launch", "transformers.trainer"]
LIBRARIES += ["stand_in_gpu", "jinja2", "jsonschema", "lm_eval.evaluator", "smart_open", "snakemake.cli"]
VARIABLES = ("HF_", "MPL", "OMP_", "PYTHON", "TRANSFORMERS_")
ALLOCATIONS = 50_000  # between two rounds of the garbage collector: with as many objects as ours, 700 are few
# What Snakemake tells jobs of one thread.
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@contextmanager
def starting():
    """Yield the path of such a `python`, which can be used once its folder is there; beside it is an `accelerate`."""
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket has to be short
        python, caller = Path(folder) / "bin" / "python", Path(__file__).with_name("fork_caller.py")
        programs = {"python": f'"{sys.executable}" -IS "{caller}" "{folder}/socket" "$0"'}
        programs |= {"accelerate": '"${0%/*}/python" -m accelerate.commands.accelerate_cli'}
        made = python.parent.with_name("made")
        made.mkdir()
        for name, command in programs.items():
            (made / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (made / name).chmod(0o755)
        server = [sys.executable, __file__, f"{folder}/socket", made, python.parent]
        with subprocess.Popen(
            server, env=os.environ | THREADS | used_by(python), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            yield str(python)
            process.stdin.close()


def used_by(python):
    """Return the variables that a caller of such a `python` has to have: a cache of their own for all forks."""
    return {"HF_DATASETS_CACHE": str(Path(python).parents[1] / "cache")}


def task_index(python):
    """Return the path at which such a `python` keeps lm-eval's index of its tasks."""
    return Path(python).parents[1] / "tasks"


def wait_for(python):
    """Wait until such a `python` can be used."""
    end = time.monotonic() + 600
    while not Path(python).exists():
        assert time.monotonic() < end, "it never started"
        time.sleep(0.05)


def do_what_is_kept():
    """Let libraries do what they do once in a process, so that no fork has to: half of the time of a tiny job."""
    figure = importlib.import_module("matplotlib.figure").Figure(layout="constrained")
    figure.subplots().set_title("all that a font's subset needs")
    for form in ("pdf", "png"):
        figure.savefig(io.BytesIO(), format=form)
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
    importlib.import_module("snakemake.cli").get_argument_parser()  # finds the plug-ins that are installed


def share_task_index(path):
    """Let the first fork that needs lm-eval's index of its tasks, thousands of YAML files, keep it for all others."""
    tasks = importlib.import_module("lm_eval.tasks._index")
    build, folder = tasks.TaskIndex.build, Path(tasks.__file__).parent

    def shared(folders):
        folders = list(folders)
        others = [other for other in folders if other != folder]
        if len(others) == len(folders):
            return build(folders)
        with open(path, "ab+") as kept:
            fcntl.flock(kept, fcntl.LOCK_EX)  # others wait for the first
            kept.seek(0)
            if content := kept.read():
                return pickle.loads(content) | build(others)
            index = build([folder])
            kept.write(pickle.dumps(index))
        return index | build(others)

    tasks.TaskIndex.build = staticmethod(shared)


def read_by_libraries(environment):
    return {name: environment[name] for name in environment if name.startswith(VARIABLES) and name != "PYTHONPATH"}


def serve(address, made, shown):
    """Fork for every caller, and return in the fork: what it is to be, and the files that it was sent."""
    own = read_by_libraries(os.environ)  # some of them set variables
    for library in LIBRARIES:
        importlib.import_module(library)
    do_what_is_kept()
    share_task_index(task_index(f"{shown}/python"))
    gc.freeze()
    gc.set_threshold(ALLOCATIONS)
    selector, listener = selectors.DefaultSelector(), socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    for source in (sys.stdin.buffer.raw, listener):
        selector.register(source, selectors.EVENT_READ)
    os.rename(made, shown)
    while True:
        ready, _ = selector.select()[0]
        if ready.fileobj is sys.stdin.buffer.raw:
            os._exit(0)
        elif ready.fileobj is listener:
            caller, _ = listener.accept()
            _, sent, _, _ = socket.recv_fds(caller, 1, 250)
            line = caller.makefile().readline()
            wanted = json.loads(line) if line else None  # it was killed before it could say what
            if wanted and read_by_libraries(wanted["environment"]) == own:
                fork = os.fork()
                if fork == 0:
                    return wanted, sent
                with suppress(OSError):  # it was faster
                    os.setpgid(fork, fork)
                selector.register(caller, selectors.EVENT_READ, fork)
                selector.register(FileIO(os.pidfd_open(fork)), selectors.EVENT_READ, (fork, caller))
                with suppress(BrokenPipeError):
                    caller.sendall(b"%d\n" % fork)
            else:
                caller.close()
            for file in sent:
                os.close(file)
        elif isinstance(ready.data, int):  # a caller was killed
            selector.unregister(ready.fileobj)
            os.killpg(ready.data, signal.SIGKILL)
        else:
            fork, caller = ready.data
            selector.unregister(ready.fileobj)
            code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
            with suppress(KeyError, BrokenPipeError):
                selector.unregister(caller)
                caller.sendall(b"%d\n" % code)


def become(folder, environment, command, ignored, files, sent):
    """Run the command as the Python that it names would; `sent` are the copies of the caller's open `files`."""
    os.setpgid(0, 0)
    above = [fcntl.fcntl(file, fcntl.F_DUPFD, 256) for file in sent]  # in no other's way
    for file in sent:
        os.close(file)
    for number, file in zip(files, above, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in SIGNALS:
        given = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else given)
    sys.executable, *options = command
    flags = list(itertools.takewhile(FLAGS.__contains__, options))
    sys.argv = options[len(flags) :]
    if "-u" in flags:
        sys.stdout.reconfigure(write_through=True)
    first = os.getcwd() if "-m" in flags else os.path.dirname(os.path.realpath(sys.argv[0]))
    sys.path[:1] = ([] if "-P" in flags else [first]) + list(
        filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    )
    if "STAND_IN_GPU" in environment and "/scripts/" in sys.argv[0]:
        importlib.import_module("stand_in_gpu").install()
    if "-m" in flags:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    wanted, sent = serve(*sys.argv[1:])
    code = 0
    try:
        become(**wanted, sent=sent)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        code = end.code or 0
    # What Python does at its end, but for taking the libraries apart, which lasts half a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))
