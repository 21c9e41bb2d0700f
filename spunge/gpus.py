"""Lease GPUs to one command, so that jobs on one machine don't take the same one.

python -P -m spunge.gpus --gpus 1 --memory 0 -- COMMAND …

Snakemake limits how many jobs use a GPU and doesn't say which one. Here a job takes as many devices as it asks for,
waits while they are in use, and becomes COMMAND, which sees those devices and no others. A lease is a locked file
(flock) whose descriptor COMMAND inherits, so it lasts exactly as long as the process: the kernel frees it, however that
ends.

Standard library only, since it runs before every job that uses a model.
"""

import argparse
import contextlib
import fcntl
import json
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spunge import errors
from spunge.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"

# What tells one job of a scheduler from another on the same machine; the scheduler has chosen the job's devices.
SCHEDULERS = (
    ("SLURM_JOB_ID",),
    ("PBS_JOBID",),
    ("LSB_JOBID", "LSB_JOBINDEX"),
    ("JOB_ID", "SGE_TASK_ID"),  # Grid Engine sets both for every job; JOB_ID alone may be anybody's
    ("KUBERNETES_SERVICE_HOST",),
)

POLL_SECONDS = 0.5
TELL_SECONDS = 60


@dataclass(frozen=True)
class Device:
    """A GPU: what CUDA_VISIBLE_DEVICES calls it, the key that it is leased by, and its memory in MB if known."""

    name: str
    key: str
    memory: int | None


@dataclass
class Lease:
    """What a job asks for, and which devices it has: none while it waits."""

    process: int
    gpus: int
    memory: int  # MB on each of the devices; 0 is a device for itself
    among: list[str]  # keys of the devices that it may have
    devices: list[str]  # keys of those that it has


def installed() -> list[Device]:
    """Return this machine's devices as nvidia-smi lists them, by PCI address; none where there is no nvidia-smi.

    They are leased by their UUID and named by number: not every library takes UUIDs in CUDA_VISIBLE_DEVICES.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=120)
    except (FileNotFoundError, PermissionError):
        return []
    except subprocess.TimeoutExpired:
        raise InputError("nvidia-smi gave no answer in two minutes; look at the GPUs and their driver") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        say(f"nvidia-smi found no GPU that works ({said}), so the job takes what it sees")
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    # Warnings stand among the rows; a GPU that has no memory of its own says [N/A], the others say MiB.
    return [
        Device(index, uuid, int(memory) * 2**20 // 10**6 if memory.isdigit() else None)
        for index, uuid, memory in (row for row in rows if len(row) == 3)
    ]


def given(setting: str, devices: Sequence[Device]) -> list[Device]:
    """Return the devices that a value of CUDA_VISIBLE_DEVICES names, each by the very name that is used there.

    As for CUDA, the first entry that names no device ends the list. What nvidia-smi doesn't list (a MIG slice) is
    leased under its own name, its memory unknown.
    """
    by_number = {device.name: device for device in devices}
    found = {}
    for name in map(str.strip, setting.split(",")):
        of_uuid = [device for device in devices if name and device.key.startswith(name)]
        if name in by_number or len(of_uuid) == 1:
            device = by_number.get(name) or of_uuid[0]
            found.setdefault(device.key, Device(name, device.key, device.memory))
        elif name.startswith("MIG-"):
            found.setdefault(name, Device(name, name, None))
        else:
            break
    return list(found.values())


def scheduler_job(environment: Mapping[str, str] = os.environ) -> str:
    """Return a name of the scheduler's job in which this runs, or "" where none does."""
    for keys in SCHEDULERS:
        if all(environment.get(key) for key in keys):
            return " ".join(f"{key}={environment[key]}" for key in keys)
    return ""


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
        room = {key: _room(lease.memory, memory.get(key), used.get(key, 0)) for key in lease.among}
        chosen = sorted(room.keys() - claimed, key=lambda key: (-room[key], lease.among.index(key)))[: lease.gpus]
        claimed.update(chosen)
    fits = len(chosen) == lease.gpus and all(room[key] >= 0 for key in chosen)
    return chosen if fits else []


def _room(wanted: int, memory: int | None, used: float) -> float:
    """Return the MB left on a device once a job is there, below 0 if it doesn't fit.

    A device for itself, or one of unknown size, has room for a job only while nobody uses it.
    """
    return memory - used - wanted if wanted and memory is not None else -used


class Ledger:
    """A folder of leases: a locked file for each job that has devices or waits for some, unlocked once it is dead."""

    def __init__(self, folder: Path):
        """Open the user's folder, made where it is missing; one that others can write to raises InputError."""
        self.folder = folder
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise InputError(f"{folder} can't hold the leases of GPUs ({error.strerror}); {self._mend}") from None
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise InputError(f"{folder} is open to other users or belongs to one; {self._mend}")

    _mend = "remove it, or set TMPDIR to a folder of your own on a local disk"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other jobs from reading and writing leases for a moment."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(f"{self.folder} can't be locked ({error.strerror}); {self._mend}") from None
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def enter(self, lease: Lease) -> int:
        """Put a lease at the end of the queue; it stays until the returned descriptor and all its copies are closed."""
        with self.alone():
            number = max((int(path.stem) for path in self._living()), default=0) + 1
            descriptor = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _write(descriptor, lease)
        self._number = number
        return descriptor

    def take(self, descriptor: int, memory: Mapping[str, int | None]) -> tuple[Lease, list[Lease]]:
        """Give the lease of `descriptor` its devices, if it can have them now; return it and those it waits for."""
        with self.alone():
            leases = {int(path.stem): Lease(**json.loads(path.read_text())) for path in self._living()}
            own = leases[self._number]
            having = [lease for lease in leases.values() if lease.devices]
            waiting = [lease for number, lease in leases.items() if not lease.devices and number <= self._number]
            own.devices = choose(having, waiting, memory)
            if own.devices:
                _write(descriptor, own)
        return own, [*having, *waiting[:-1]]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.lease"

    def _living(self) -> list[Path]:
        """Return the files of jobs that live, in the order in which these came, and remove all others."""
        found = []
        for path in sorted(self.folder.glob("*.lease")):
            with open(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.utime(path)  # what removes old files from /tmp sees that this one is in use
                    found.append(path)
                else:
                    path.unlink()
        return found


def _write(descriptor: int, lease: Lease) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(lease)).encode(), 0)


def lease(devices: Sequence[Device], gpus: int, memory: int, job: str) -> list[Device]:
    """Wait until `gpus` of `devices` have room, lease them until this process and its heirs end, and return them.

    `memory` is in MB on each, 0 for devices that nobody shares. Within a scheduler's `job` the jobs share out what that
    one was given, so the same names mean nothing outside it. More than there is raises InputError.
    """
    among = [device for device in devices if device.memory is None or device.memory >= memory]
    if len(among) < gpus:
        each = f" with {memory} MB of memory each" if memory else ""
        have = ", ".join(f"{device.name}" + (f" ({device.memory} MB)" if device.memory else "") for device in devices)
        raise InputError(
            f"a job asks for {_number(gpus)}{each}, but there are {have}: lower the method's `gpus` or `gpu_memory`, "
            "or the rule's `gpu` or `gpu_mem_mb` (--set-resources)"
        )
    by_key = {f"{job} {device.key}".strip(): device for device in among}
    sizes = {key: device.memory for key, device in by_key.items()}
    ledger = Ledger(Path(tempfile.gettempdir()) / f"spunge-gpus-{os.getuid()}")
    descriptor = ledger.enter(Lease(os.getpid(), gpus, memory, list(by_key), []))
    told = -math.inf
    while True:
        own, others = ledger.take(descriptor, sizes)
        if own.devices:
            os.set_inheritable(descriptor, True)
            return [by_key[key] for key in own.devices]
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            say(f"waiting for {_number(gpus)}: {_who(others, by_key)}")
        time.sleep(POLL_SECONDS)


def _who(leases: Sequence[Lease], keys: Collection[str]) -> str:
    """Say which processes have or wait for some of these devices."""
    near = [lease for lease in leases if not {*keys}.isdisjoint(lease.devices or lease.among)]
    having = [str(lease.process) for lease in near if lease.devices]
    waiting = [str(lease.process) for lease in near if not lease.devices]
    queue = f"; before this job came {', '.join(waiting)}" if waiting else ""
    return f"in use by process {', '.join(having)}{queue}" if having else f"before this job came {', '.join(waiting)}"


def _number(gpus: int) -> str:
    return f"{gpus} GPU{'s' if gpus > 1 else ''}"


def say(line: str) -> None:
    """Print a line that goes into the job's log at once."""
    print(line, file=sys.stderr, flush=True)


def choose_devices(gpus: int, memory: int) -> dict[str, str]:
    """Return the environment variables with which a job of `gpus` devices sees what it may use, and nothing else."""
    if not gpus:
        return {VISIBLE: ""}
    devices, setting, job = installed(), os.environ.get(VISIBLE), scheduler_job()
    among = devices if setting is None else given(setting, devices)
    # A scheduler may call the device of every job 0, so what it gave a job is left alone, whatever its name is.
    if not among or (job and len(among) <= gpus):
        return {}
    leased = lease(among, gpus, memory, job)
    say(f"runs on GPU {', '.join(device.name for device in leased)}")
    # CUDA numbers devices by speed unless it is told to number them as nvidia-smi does.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if setting is None else {}
    return {VISIBLE: ",".join(device.name for device in leased), **order}


def main(inherited: dict[int, object]) -> None:
    """Lease and start the command, with the signals' handlers that this process `inherited`."""
    parser = argparse.ArgumentParser(prog="python -P -m spunge.gpus", description=__doc__.partition(":")[0])
    parser.add_argument("--gpus", type=int, required=True, help="devices that the command needs; 0 hides all of them")
    parser.add_argument("--memory", type=int, default=0, help="MB that it needs on each; 0 takes the device alone")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    arguments = parser.parse_args()

    # Whoever waits is to end at once when told to, also where the shell ignores that signal for the command's sake.
    for number in inherited:
        signal.signal(number, signal.SIG_DFL)
    variables = choose_devices(arguments.gpus, arguments.memory)
    for number, handler in inherited.items():
        signal.signal(number, handler)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvpe(arguments.command[0], arguments.command, {**os.environ, **variables})
    except OSError as error:
        raise InputError(f"{arguments.command[0]} can't be started: {error.strerror}") from None


if __name__ == "__main__":
    came_with = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.exit(errors.run(lambda: main(came_with)))  # which lets SIGTERM end the process
