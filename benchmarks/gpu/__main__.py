"""Run the parts one after another, each in a process of its own, which frees the GPU however it ends.

`gpu.json` is written anew whenever something was measured, so a part that fails or takes too long costs only itself.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from spunge.core import errors
from spunge.core.errors import InputError
from spunge.core.files import whole_file

POLL_SECONDS = 0.1
ROOM = 45e9  # bytes on the disk: a 7B and eight layers of a 70B model in bf16, and eight task vectors


@dataclass(frozen=True)
class Part:
    """A part: the module and the function that do it, and the seconds that it may take on a GPU."""

    name: str
    module: str
    function: str
    seconds: int


PARTS = (
    Part("machine", "limits", "limits", 30),
    Part("rmu_7b", "training", "rmu_7b", 120),
    Part("rmu_70b", "training", "rmu_70b", 75),
    Part("gradient_7b", "training", "gradient_7b", 150),
    Part("plan", "arithmetic", "plan", 10),
    Part("ties", "merging", "ties", 90),
    Part("generation", "writing", "continuations", 90),
    Part("correctness", "correctness", "correctness", 60),
    Part("leases", "leases", "leases", 40),
    Part("default_experiment", "default_experiment", "default_experiment", 90),
)
MINUTES = 9


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; return 1 where a part failed or ran out of time."""
    parser = argparse.ArgumentParser(prog="bash benchmarks/gpu.sh", description=__doc__.partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a GPU or a CPU")
    parser.add_argument("--pack", action="store_true", help="gather what is carried to a machine without a network")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="some of the parts")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--output", type=Path, default=Path(), help="the folder of gpu.json and gpu.log")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        _import_libraries()
        return _work(**arguments.child)
    if arguments.pack:
        from benchmarks.gpu import default_experiment

        return errors.run(default_experiment.pack)
    failed: list[str] = []
    code = errors.run(lambda: failed.extend(_run(arguments)))
    if failed:
        print(f"not measured: {', '.join(failed)}; gpu.log says why", file=sys.stderr)
    return code or bool(failed)


def _run(arguments: argparse.Namespace) -> list[str]:
    """Run the parts and return the names of those that have not come to their end."""
    started = time.monotonic()
    _import_libraries()
    from spunge.models import task_vector

    forks = _forked_can_use_gpu()
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = {
        "commit": task_vector.commit(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "rehearsal": arguments.rehearse,
        "parts": {},
    }
    with (
        tempfile.TemporaryDirectory(dir=_roomiest(arguments.rehearse), prefix="spunge-gpu-") as folder,
        open(arguments.output / "gpu.log", "w") as log,
    ):
        for part in PARTS:
            if arguments.parts and part.name not in arguments.parts:
                continue
            left = 60 * arguments.minutes - (time.monotonic() - started)
            entry = record["parts"][part.name] = {"status": "out of time", "seconds": 0.0, "measured": {}}
            if left > 1:
                print(f"{part.name} …", file=sys.stderr, flush=True)
                _run_part(part, min(left, part.seconds), entry, record, arguments, Path(folder), log, forks)
            _write(record, arguments.output / "gpu.json")
    return [name for name, entry in record["parts"].items() if entry["status"] != "done"]


def _import_libraries() -> None:
    """Import what all parts need, once; nothing of it may touch the GPU, which processes made by fork could not use."""
    import accelerate  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import PreTrainedModel
    from transformers.models.llama import modeling_llama  # noqa: F401

    from benchmarks.gpu import machine  # noqa: F401

    if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):  # its name in transformers 5.17
        PreTrainedModel.activation_checkpointing_enable = PreTrainedModel.gradient_checkpointing_enable


def _forked_can_use_gpu() -> bool:
    """Return whether a process made by fork can use the GPU: it can't where importing a library has touched it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            import torch

            if torch.cuda.is_available():
                torch.zeros(1, device="cuda")
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1] == 0


def _run_part(part: Part, seconds: float, entry: dict, record: dict, arguments, folder: Path, log, forks: bool) -> None:
    reports = folder / f"{part.name}.jsonl"
    reports.touch()
    log.write(f"\n=== {part.name} ===\n")
    log.flush()
    started = time.monotonic()
    given = {
        "module": part.module,
        "function": part.function,
        "measured": {name: part["measured"] for name, part in record["parts"].items()},
        "rehearse": arguments.rehearse,
        "folder": str(folder),
        "reports": str(reports),
    }
    process = os.fork()
    if process == 0:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with the process that started it
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        if not forks:
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", "--child", json.dumps(given)])
        os._exit(_work(**given))
    code, seen = None, 0
    while code is None:
        time.sleep(POLL_SECONDS)
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() - started > seconds:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            break
        if reports.stat().st_size != seen:
            seen = reports.stat().st_size
            entry["measured"] = _read(reports)
            _write(record, arguments.output / "gpu.json")
    entry["status"] = {None: "out of time", 0: "done"}.get(code, "failed")
    entry["seconds"] = round(time.monotonic() - started, 2)
    entry["measured"] = _read(reports)


def _work(module: str, function: str, measured: dict, rehearse: bool, folder: str, reports: str) -> int:
    """Do a part's work, in a process of its own; return its exit code."""
    try:
        from importlib import import_module

        import torch

        from benchmarks.gpu import machine
        from spunge.models import base_model

        base_model.quiet()
        sizes = machine.REHEARSAL if rehearse else machine.GPU
        device = base_model.device()
        if device == "cpu" and not rehearse:
            raise InputError("no GPU is visible; --rehearse does without one")
        if rehearse:
            torch.set_num_threads(1)  # threads that wait for each other on a busy machine take a hundred times as long
        work = getattr(import_module(f"benchmarks.gpu.{module}"), function)
        report = machine.reporter(Path(reports))
        work(machine.Machine(device, sizes, Path(folder), measured, report, rehearse))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _read(reports: Path) -> dict:
    """Return what a part reported, up to a line that is being written."""
    lines = reports.read_text().splitlines(keepends=True)
    return dict(json.loads(line) for line in lines if line.endswith("\n"))


def _write(record: dict, path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _roomiest(rehearse: bool) -> str | None:
    """Return the folder for the models: in memory where that has room for them twice, else on the disk."""
    import psutil

    memory = "/dev/shm"
    if rehearse:
        return None
    in_memory = shutil.disk_usage(memory).free if os.path.isdir(memory) else 0
    if in_memory >= ROOM and psutil.virtual_memory().available >= 2 * ROOM:
        return memory
    on_disk = shutil.disk_usage(tempfile.gettempdir()).free
    if on_disk < ROOM:
        raise InputError(
            f"{tempfile.gettempdir()} has {on_disk / 1e9:.0f} GB free, and the models take {ROOM / 1e9:.0f}"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
