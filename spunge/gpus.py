"""Lease GPUs to one command, so that jobs on one machine don't take the same one.

python -P -m spunge.gpus --gpus 1 --memory 0 -- COMMAND …

Snakemake limits how many jobs use a GPU and doesn't say which one. Here a job waits for as many devices as it asks for,
and becomes COMMAND, which sees those alone. A lease is a locked file (flock) whose descriptor COMMAND inherits: the
kernel frees it, however the process ends. Standard library only, since this runs before every job that uses a model.
"""

import argparse
import fcntl
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from spunge.core import errors

VISIBLE = "CUDA_VISIBLE_DEVICES"
# What tells one job of a scheduler from another on the same machine; the scheduler has chosen the job's devices.
# Grid Engine sets both of its variables for every job; JOB_ID alone may be anybody's.
SCHEDULERS = ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID LSB_JOBINDEX", "JOB_ID SGE_TASK_ID", "KUBERNETES_SERVICE_HOST"]


class Device(NamedTuple):
    """A GPU: what CUDA_VISIBLE_DEVICES calls it, the key that it is leased by, and its memory in MB if known."""

    name: str  # a number where nobody has set another: not every library takes UUIDs
    key: str  # the UUID
    memory: int | None


class Lease(NamedTuple):
    """What a job asks for, and which devices it has: none while it waits."""

    process: int
    gpus: int
    memory: int  # MB on each of the devices; 0 is a device for itself
    among: list[str]  # keys of the devices that it may have
    devices: list[str]  # keys of those that it has


def installed() -> list[Device]:
    """Return this machine's devices as nvidia-smi lists them, by PCI address; none where there is no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=120)
    except (FileNotFoundError, PermissionError):
        return []
    except subprocess.TimeoutExpired:
        raise errors.InputError("nvidia-smi gave no answer in two minutes; look at the GPUs and their driver") from None
    if done.returncode:
        answer = " ".join((done.stdout + done.stderr).split())
        print(f"nvidia-smi found no GPU that works ({answer}), so the job takes what it sees", file=sys.stderr)
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    # Rows of another length are warnings. A GPU that has no memory of its own says [N/A], the others say MiB.
    megabytes = {row[1]: int(row[2]) * 2**20 // 10**6 for row in rows if len(row) == 3 and row[2].isdigit()}
    return [Device(row[0], row[1], megabytes.get(row[1])) for row in rows if len(row) == 3]


def visible_devices(setting: str, devices: Sequence[Device]) -> list[Device]:
    """Return the devices that a value of CUDA_VISIBLE_DEVICES names, each under the name that is used there.

    As for CUDA, the first entry that names no device ends the list. What nvidia-smi doesn't list (a MIG slice) is
    leased under its own name, its memory unknown.
    """
    named: dict[str, Device] = {}
    for name in map(str.strip, setting.split(",")):
        matching = [device for device in devices if device.name == name]
        matching = matching or [device for device in devices if name and device.key.startswith(name)]
        matching = matching or [Device(name, name, None)] * name.startswith("MIG-")
        if len(matching) != 1:
            break
        named.setdefault(matching[0].key, matching[0]._replace(name=name))
    return list(named.values())


def choose(having: Sequence[Lease], waiting: Sequence[Lease], memory: Mapping[str, int | None]) -> list[str]:
    """Return the devices that the last of `waiting` can take now, none if it must go on waiting.

    `waiting` stand in the order in which they came, and `memory` is each device's in MB. Those before have a claim on
    the devices where they will soonest have room: nobody who came later gets those. So a job that wants a device for
    itself gets one even if small ones come without end, and the other devices are in use meanwhile.
    """
    used: dict[str, float] = {}
    for lease in having:
        for key in lease.devices:
            used[key] = used.get(key, 0) + (lease.memory or math.inf)
    claimed: set[str] = set()
    for lease in waiting:
        # A device for itself, or one of unknown size, has room for a job only while nobody uses it.
        sizes = {key: memory.get(key) if lease.memory else None for key in lease.among}
        room = {key: (size - lease.memory if size is not None else 0) - used.get(key, 0) for key, size in sizes.items()}
        chosen = sorted(room.keys() - claimed, key=lambda key: (-room[key], lease.among.index(key)))[: lease.gpus]
        claimed.update(chosen)
    return chosen if len(chosen) == lease.gpus and all(room[key] >= 0 for key in chosen) else []


@contextmanager
def locked_leases(folder: Path) -> Iterator[dict[int, Lease]]:
    """Yield the leases of living jobs by number, their folder locked; one that is open to others raises InputError."""
    mend, use = "remove it, or set TMPDIR to a folder of your own on a local disk", "hold the leases of GPUs"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        status = os.fstat(directory)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise errors.InputError(f"{folder} is open to other users or belongs to one; {mend}")
        use = "be locked"
        fcntl.flock(directory, fcntl.LOCK_EX)
    except OSError as error:
        raise errors.InputError(f"{folder} can't {use} ({error.strerror}); {mend}") from None
    leases = {}
    for path in sorted(folder.glob("*.lease")):
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()  # its job is dead
            except BlockingIOError:
                os.utime(path)  # what removes old files from /tmp sees that this one is in use
                leases[int(path.stem)] = Lease(**json.load(file))
    try:
        yield leases
    finally:
        os.close(directory)


def take(devices: Sequence[Device], gpus: int, memory: int, job: str) -> list[Device]:
    """Wait until `gpus` of `devices` have room, lease them until this process and its heirs end, and return them.

    `memory` is in MB on each, 0 for devices that nobody shares. Within a scheduler's `job` the jobs share out what that
    one was given, so the same names mean nothing outside it. More than there is raises InputError.
    """
    wanted = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    fitting = [device for device in devices if device.memory is None or device.memory >= memory]
    by_key = {f"{job} {device.key}".strip(): device for device in fitting}
    if len(by_key) < gpus:
        each = f" with {memory} MB of memory each" if memory else ""
        have = ", ".join(device.name + (f" ({device.memory} MB)" if device.memory else "") for device in devices)
        raise errors.InputError(
            f"a job asks for {wanted}{each}, but there are {have}: lower the method's `gpus` or `gpu_memory`, "
            "or the rule's `gpu` or `gpu_mem_mb` (--set-resources)"
        )
    folder = Path(tempfile.gettempdir()) / f"spunge-gpus-{os.getuid()}"
    with locked_leases(folder) as leases:
        number = max(leases, default=0) + 1
        descriptor = os.open(folder / f"{number:08d}.lease", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.set_inheritable(descriptor, True)  # so the lease lasts until COMMAND and its children end
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        lease = Lease(os.getpid(), gpus, memory, list(by_key), [])
        os.pwrite(descriptor, json.dumps(lease._asdict()).encode(), 0)
    for poll in itertools.count():
        with locked_leases(folder) as leases:
            having = [other for other in leases.values() if other.devices]
            waiting = [other for place, other in leases.items() if not other.devices and place < number]
            chosen = choose(having, [*waiting, leases[number]], {key: device.memory for key, device in by_key.items()})
            if chosen:
                os.pwrite(descriptor, json.dumps(lease._replace(devices=chosen)._asdict()).encode(), 0)
                return [by_key[key] for key in chosen]
        if poll % 120 == 0:
            near = [other for other in having + waiting if not by_key.keys().isdisjoint(other.devices or other.among)]
            users = ", ".join(str(other.process) for other in near if other.devices)
            waiters = ", ".join(str(other.process) for other in near if not other.devices)
            reasons = [f"in use by process {users}"] * bool(users) + [f"before this job came {waiters}"] * bool(waiters)
            print(f"waiting for {wanted}: {'; '.join(reasons)}", file=sys.stderr)
        time.sleep(0.5)


def variables(gpus: int, memory: int) -> dict[str, str]:
    """Return the environment variables with which a job of `gpus` devices sees what it may use, and nothing else."""
    if not gpus:
        return {VISIBLE: ""}
    devices, setting = installed(), os.environ.get(VISIBLE)
    among = devices if setting is None else visible_devices(setting, devices)
    schedulers = [names for names in map(str.split, SCHEDULERS) if all(map(os.environ.get, names))]
    job = " ".join(f"{name}={os.environ[name]}" for names in schedulers[:1] for name in names)
    # A scheduler may call the device of every job 0, so what it gave a job is left alone, whatever its name is.
    if not among or (job and len(among) <= gpus):
        return {}
    names = [device.name for device in take(among, gpus, memory, job)]
    print(f"runs on GPU {', '.join(names)}", file=sys.stderr)
    # CUDA numbers devices by speed unless it is told to number them as nvidia-smi does.
    return {VISIBLE: ",".join(names)} | ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if setting is None else {})


def main() -> int:
    """Parse the command line, lease, and become the command; return the exit code where it can't be started."""
    parser = argparse.ArgumentParser(prog="python -P -m spunge.gpus", description=__doc__.partition(":")[0])
    parser.add_argument("--gpus", type=int, required=True, help="devices that the command needs; 0 hides all of them")
    parser.add_argument("--memory", type=int, default=0, help="MB that it needs on each; 0 takes the device alone")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    arguments = parser.parse_args()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers |= {signal.SIGPIPE: signal.SIG_DFL, signal.SIGXFSZ: signal.SIG_DFL}  # which Python ignores

    def start() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever waits ends at once; errors.run does it for SIGTERM
        environment = os.environ | variables(arguments.gpus, arguments.memory)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        try:
            os.execvpe(arguments.command[0], arguments.command, environment)
        except OSError as error:
            raise errors.InputError(f"{arguments.command[0]} can't be started: {error.strerror}") from None

    return errors.run(start)


if __name__ == "__main__":
    sys.exit(main())
