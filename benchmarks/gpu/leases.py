"""Leases of `spunge.gpus` on this machine's own devices, as nvidia-smi lists them: two jobs at a time."""

import json
import os
import subprocess
import sys
import time

from benchmarks.gpu.machine import Machine
from spunge import gpus
from spunge.core.errors import InputError

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MEETING_SECONDS = 20
# A job that is to meet another one waits for it while it holds its device; any other holds it for a moment.
JOB = """
import json, os, time
started, meeting, met = time.time(), os.environ["MEETING"], None
if meeting:
    open(os.path.join(meeting, str(os.getpid())), "w").close()
    while len(os.listdir(meeting)) < 2 and time.time() < started + float(os.environ["SECONDS_TO_MEET"]):
        time.sleep(0.02)
    met = len(os.listdir(meeting)) == 2
else:
    time.sleep(0.3)
print(json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), started, time.time(), met]))
"""
STAND_IN = "#!/bin/sh\necho '0, GPU-00000000-stand-in, 81920'\n"


def leases(machine: Machine) -> None:
    """Report what two jobs on one device get: one after the other alone, at once by memory, and what the user allows.

    A rehearsal lists one device by a stand-in for nvidia-smi, and says so.
    """
    environment = {key: value for key, value in os.environ.items() if key != gpus.VISIBLE}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [PROJECT, os.environ.get("PYTHONPATH")]))}
    environment |= {"TMPDIR": str(machine.folder), "SECONDS_TO_MEET": str(MEETING_SECONDS), "MEETING": ""}
    if machine.rehearsal:
        program = machine.folder / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(STAND_IN)
        program.chmod(0o755)
        environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        os.environ["PATH"] = environment["PATH"]
    devices = gpus.installed()
    machine.report("nvidia-smi", "a stand-in" if machine.rehearsal else "the machine's own")
    machine.report("devices", [[device.name, device.memory] for device in devices])
    if not devices:
        raise InputError("nvidia-smi lists no device")
    first = {gpus.VISIBLE: devices[0].name}
    half = (devices[0].memory or 2) // 2 - 1

    alone = _jobs(environment | first, memory=0)
    machine.report("alone: device, start, end", [job[:3] for job in alone])
    (machine.folder / "meeting").mkdir()
    shared = _jobs(environment | first | {"MEETING": str(machine.folder / "meeting")}, memory=half)
    machine.report("by memory: device, start, end", [job[:3] for job in shared])
    by_uuid = _jobs(environment | {gpus.VISIBLE: devices[0].key}, memory=0)
    machine.report("the user's CUDA_VISIBLE_DEVICES, a UUID", [job[0] == devices[0].key for job in by_uuid])
    none = _jobs(environment | {gpus.VISIBLE: ""}, memory=0)
    machine.report("the user's CUDA_VISIBLE_DEVICES, empty", [job[0] for job in none])
    (_, start, end, _), (_, other_start, other_end, _) = alone
    wrong = [
        *(["two jobs had the device alone at once"] if max(start, other_start) < min(end, other_end) else []),
        *([] if all(met for *_, met in shared) else ["two jobs of half the memory did not run at once"]),
        *([] if all(job[0] == devices[0].key for job in by_uuid) else ["a UUID was not kept"]),
        *([] if all(job[0] == "" for job in none) else ["a device came although the user allows none"]),
    ]
    if wrong:
        raise InputError("; ".join(wrong))


def _jobs(environment: dict[str, str], memory: int) -> list[list]:
    """Start two jobs at once; return for each its CUDA_VISIBLE_DEVICES, start, end, and whether it met the other."""
    command = [sys.executable, "-P", "-m", "spunge.gpus", "--gpus=1", f"--memory={memory}", "--", sys.executable, "-c"]
    started = time.time()
    jobs = [
        subprocess.Popen([*command, JOB], env=environment, stdout=subprocess.PIPE, text=True, cwd="/") for _ in range(2)
    ]
    answers = [json.loads(job.communicate()[0]) for job in jobs]
    return [[seen, round(begun - started, 2), round(ended - started, 2), met] for seen, begun, ended, met in answers]
