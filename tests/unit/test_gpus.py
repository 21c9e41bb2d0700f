"""Leases of GPUs: real processes that race, wait and die, on devices that a stand-in for nvidia-smi lists."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spunge import gpus
from spunge.gpus import Device, Lease

PROJECT = Path(__file__).parents[2]
SLOW = 600  # seconds after which a job that should have come to its end is taken to hang

# What a job does: it marks each of its devices as used, which fails if that is marked already, and takes the mark away.
ALONE = """
for device in $(echo $CUDA_VISIBLE_DEVICES | tr , ' '); do mkdir used-$device || exit 9; done
echo $CUDA_VISIBLE_DEVICES; {work}
for device in $(echo $CUDA_VISIBLE_DEVICES | tr , ' '); do rmdir used-$device; done
"""


class Machine:
    """A machine with GPUs of 15,625 MiB, which are 16,384 MB, and the folder in which jobs on it work."""

    def __init__(self, folder, devices, listing=None):
        self.folder, self.started = folder, []
        rows = "; ".join(f"echo {number}, GPU-{number}00-card, 15625" for number in range(devices))
        program = folder / "bin" / "nvidia-smi"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{listing or rows}\n")
        program.chmod(0o755)
        (folder / "temporary").mkdir()

    def start(self, command, gpus=1, memory=0, ignore=(), **variables):
        """Start a job that a shell's `command` describes; `ignore` are signals that it inherits as ignored."""
        kept = {key: value for key, value in os.environ.items() if not re.match("CUDA|SLURM|PBS|LSB|JOB|KUBE", key)}
        places = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(self.folder / "temporary")}
        lease = [sys.executable, "-P", "-m", "spunge.gpus", f"--gpus={gpus}", f"--memory={memory}", "--"]
        job = subprocess.Popen(
            [*lease, "sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**kept, **places, "PYTHONPATH": str(PROJECT), **variables},
            preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignore],
        )
        self.started.append(job)
        return job

    def run(self, command="echo $CUDA_VISIBLE_DEVICES", *arguments, **options):
        """Run a job to its end and return (exit code, what it printed, what its log has besides)."""
        job = self.start(command, *arguments, **options)
        printed, log = job.communicate(timeout=SLOW)
        return job.returncode, printed.strip(), log.strip()

    def holder(self, **options):
        """Start a job that has its devices until it is killed, and return it once it has them."""
        job = self.start("echo $CUDA_VISIBLE_DEVICES; exec sleep 600", **options)
        job.devices = job.stdout.readline().strip()
        return job

    def waiter(self, command="echo $CUDA_VISIBLE_DEVICES", *arguments, **options):
        """Start a job that has to wait, and return it once it says so."""
        job = self.start(command, *arguments, **options)
        job.waits = job.stderr.readline()
        assert job.waits.startswith("waiting for"), job.waits
        return job

    @property
    def leases(self):
        return list((self.folder / "temporary").glob("spunge-gpus-*/*.lease"))


def end(job):
    printed, log = job.communicate(timeout=SLOW)
    assert job.returncode == 0, log
    return printed.strip()


@pytest.fixture
def machine(tmp_path):
    made = []

    def make(devices, **options):
        made.append(Machine(tmp_path, devices, **options))
        return made[-1]

    yield make
    for job in (job for one in made for job in one.started):
        job.kill()
        job.communicate()


# Processes that race, wait and die


def test_twelve_jobs_on_three_devices_are_all_served_and_never_two_on_one(machine):
    three = machine(3)
    meet = "until test -e met; do test ! -d used-0 -o ! -d used-1 -o ! -d used-2 || touch met; sleep 0.01; done"
    jobs = [three.start(ALONE.format(work=meet)) for _ in range(12)]
    assert {end(job) for job in jobs} == {"0", "1", "2"}


def test_jobs_that_are_killed_at_random_free_their_devices(machine):
    two, chance = machine(2), random.Random(0)
    doomed = [two.start("exec sleep 600") for _ in range(8)]
    jobs = [two.start(ALONE.format(work="sleep 0.05")) for _ in range(6)]
    for job in doomed:
        time.sleep(chance.random() / 5)
        job.kill()
    assert {end(job) for job in jobs} <= {"0", "1"}


def test_a_killed_job_s_device_is_free_at_once_and_its_lease_goes(machine):
    one = machine(1)
    holder = one.holder()
    waiter = one.waiter()
    assert str(holder.pid) in waiter.waits
    holder.kill()
    assert end(waiter) == "0"
    three = one.holder()
    assert [path.stem for path in one.leases] == ["00000001"]  # those of the dead are gone, so counting starts anew
    three.kill()


def test_a_device_stays_leased_while_a_child_of_the_killed_job_uses_it(machine):
    one = machine(1)
    parent = one.start("sleep 600 & echo $!; wait")
    child = int(parent.stdout.readline())
    parent.kill()
    waiter = one.waiter()
    os.kill(child, signal.SIGKILL)
    assert end(waiter) == "0"


def test_jobs_of_two_devices_and_of_one_never_meet(machine):
    three = machine(3)
    jobs = [three.start(ALONE.format(work="sleep 0.1"), gpus=1 + number % 2) for number in range(8)]
    devices = [end(job).split(",") for job in jobs]
    assert [len(set(found)) for found in devices] == [1, 2] * 4


# Memory


def test_jobs_share_a_device_as_far_as_its_memory_goes(machine):
    one = machine(1)
    holders = [one.holder(memory=memory) for memory in (5000, 5000, 5000, 1384)]  # 16,384 MB in all
    assert [holder.devices for holder in holders] == ["0", "0", "0", "0"]
    waiter = one.waiter(memory=1)
    holders[1].kill()
    assert end(waiter) == "0"


def test_jobs_that_race_never_take_more_than_a_device_has(machine):
    """Those that come first meet: any two of them but the one for itself fit on a device, and none ends before."""
    two = machine(2)

    def start(memory):
        note = f"$CUDA_VISIBLE_DEVICES {memory or 16_384} >> notes"
        wait = "until test -e go; do sleep 0.01; done"
        return two.start(f"echo + {note}; echo $CUDA_VISIBLE_DEVICES; {wait}; echo - {note}", memory=memory)

    first = [start(memory) for memory in (6000, 0, 4000, 7000, 3000, 5000, 2000, 8000, 1000)]
    having = [job for job in first if job.stderr.readline().startswith("runs on GPU")]  # the others wait
    devices = [job.stdout.readline() for job in having]
    assert len(devices) > len(set(devices))
    late = [start(memory) for memory in (9000, 16_384, 0)]
    (two.folder / "go").touch()
    for job in first + late:
        end(job)
    used, notes = {"0": 0, "1": 0}, (two.folder / "notes").read_text().splitlines()
    assert len(notes) == 2 * len(first + late)
    for sign, device, memory in map(str.split, notes):
        used[device] += int(sign + memory)
        assert used[device] <= 16_384


def test_small_jobs_go_where_most_memory_is_left(machine):
    two = machine(2)
    assert [two.holder(memory=memory).devices for memory in (6000, 4000, 4000, 8000)] == ["0", "1", "1", "0"]


def test_a_job_of_its_own_device_shares_it_with_nobody(machine):
    one = machine(1)
    small = one.holder(memory=10)
    alone = one.waiter("echo $CUDA_VISIBLE_DEVICES; exec sleep 600")
    small.kill()
    assert alone.stdout.readline() == "0\n"
    later = one.waiter(memory=10)
    alone.kill()
    assert end(later) == "0"


def test_small_jobs_that_come_later_let_a_job_of_its_own_device_go_first(machine):
    one = machine(1)
    first = one.holder(memory=10)
    alone = one.waiter("echo alone >> order; sleep 0.1")
    later = [one.waiter("echo small >> order", memory=10) for _ in range(3)]
    first.kill()
    for job in (alone, *later):
        end(job)
    assert (one.folder / "order").read_text().split() == ["alone", "small", "small", "small"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 3}, "a job asks for 3 GPUs, but there are 0 (16384 MB), 1 (16384 MB): lower the method's `gpus`"),
        ({"memory": 16_385}, "a job asks for 1 GPU with 16385 MB of memory each, but there are 0 (16384 MB), 1"),
    ],
)
def test_more_than_there_is_is_refused_in_one_sentence(machine, options, message):
    code, printed, log = machine(2).run(**options)
    assert (code, printed) == (1, "")
    assert log.startswith(f"error: {message}") and "\n" not in log


def test_which_devices_a_job_can_take():
    def has(*devices, memory=0):
        return Lease(1, len(devices), memory, ["a", "b"], list(devices))

    def wants(number=1, memory=0, among="ab"):
        return Lease(2, number, memory, list(among), [])

    memory = {"a": 24, "b": 40}
    assert gpus.choose([], [wants()], memory) == ["a"]
    assert gpus.choose([], [wants(memory=10)], memory) == ["b"]  # where most is left
    assert gpus.choose([], [wants(2)], memory) == ["a", "b"]
    assert gpus.choose([has("a")], [wants(2)], memory) == []
    assert gpus.choose([has("a", memory=20)], [wants(memory=4, among="a")], memory) == ["a"]
    assert gpus.choose([has("a", memory=20)], [wants(memory=5, among="a")], memory) == []
    assert gpus.choose([has("a", memory=20)], [wants(2, memory=4)], memory) == ["b", "a"]
    # The first in the queue waits for `a` and `b`, so none is left; for `a`, which is less in use, so `b` is left.
    assert gpus.choose([has("a")], [wants(2), wants()], memory) == []
    shared = [has("a", memory=2), has("b", memory=4)]
    assert gpus.choose(shared, [wants(), wants(memory=2)], memory) == ["b"]
    assert gpus.choose(shared, [wants(), wants(memory=2, among="a")], memory) == []
    # How much a device of unknown size can take is unknown too.
    assert gpus.choose([], [wants(memory=2)], {"a": None, "b": None}) == ["a"]
    assert gpus.choose([has("a", memory=2)], [wants(memory=2, among="a")], {"a": None}) == []


# Devices that are set already


@pytest.mark.parametrize(
    ("setting", "seen"),
    [("1", "1"), ("2,1", "2"), ("GPU-2", "GPU-2"), ("", ""), ("-1", "-1"), ("7,0", "7,0"), ("MIG-5,0", "MIG-5")],
)
def test_devices_that_the_user_has_set_are_kept_to(machine, setting, seen):
    code, printed, _ = machine(3).run("echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER", CUDA_VISIBLE_DEVICES=setting)
    assert (code, printed) == (0, seen)


def test_a_device_is_the_same_by_number_and_by_uuid(machine):
    two = machine(2)
    holder = two.holder(CUDA_VISIBLE_DEVICES="GPU-100")
    assert [two.run()[1] for _ in range(2)] == ["0", "0"]
    waiter = two.waiter(CUDA_VISIBLE_DEVICES="1")
    holder.kill()
    assert end(waiter) == "1"


def test_devices_are_numbered_as_nvidia_smi_does(machine):
    assert machine(1).run("echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER")[1] == "0 PCI_BUS_ID"


@pytest.mark.parametrize("listing", ["exit 0", "echo No devices were found; exit 6"])
def test_without_a_device_the_command_runs_as_it_is(machine, listing):
    none = machine(0, listing=listing)
    code, printed, log = none.run('echo "${CUDA_VISIBLE_DEVICES-unset}"', gpus=4)
    assert (code, printed, none.leases) == (0, "unset", [])
    assert ("No devices were found" in log) == ("found" in listing)


def test_without_nvidia_smi_the_command_runs_as_it_is(machine):
    none = machine(1)
    (none.folder / "bin" / "nvidia-smi").unlink()
    assert none.run('echo "${CUDA_VISIBLE_DEVICES-unset}"', PATH=os.defpath) == (0, "unset", "")


def test_warnings_of_nvidia_smi_are_no_devices(machine):
    listing = "echo '0, GPU-000, [N/A]'; echo 'WARNING: infoROM is corrupted at gpu 0000:01:00.0'"
    assert machine(0, listing=listing).run(memory=5000)[1] == "0"


def test_a_job_that_asks_for_no_gpu_sees_none(machine):
    assert machine(2).run('echo "[$CUDA_VISIBLE_DEVICES]"', gpus=0, CUDA_VISIBLE_DEVICES="0") == (0, "[]", "")


def test_entries_of_cuda_visible_devices_are_read_as_cuda_does():
    devices = [Device("0", "GPU-abc", 24), Device("1", "GPU-abd", 40)]
    assert gpus.visible_devices(" 1 , 0", devices) == devices[::-1]
    assert gpus.visible_devices("0,5,1", devices) == devices[:1]  # nothing after what is no device
    assert gpus.visible_devices("GPU-ab", devices) == []  # which of the two?
    assert gpus.visible_devices("0,0,GPU-abc", devices) == devices[:1]
    assert gpus.visible_devices("MIG-1", devices) == [Device("MIG-1", "MIG-1", None)]


JOBS = {
    "Slurm": {"SLURM_JOB_ID": "7"},
    "PBS": {"PBS_JOBID": "7.server"},
    "LSF": {"LSB_JOBID": "7", "LSB_JOBINDEX": "0"},
    "Grid Engine": {"JOB_ID": "7", "SGE_TASK_ID": "undefined"},
    "Kubernetes": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
}


@pytest.mark.parametrize("scheduler", JOBS)
def test_a_scheduler_s_choice_is_left_alone(machine, scheduler):
    """As many devices as asked for, or fewer: each job may have a device 0 of its own, so none waits for another."""
    three, job = machine(3), JOBS[scheduler]
    given = [three.holder(CUDA_VISIBLE_DEVICES="0", **job) for _ in range(2)]
    assert [holder.devices for holder in given] == ["0", "0"]
    assert three.run(gpus=8, CUDA_VISIBLE_DEVICES="0,2", **job)[:2] == (0, "0,2")
    assert three.leases == []


@pytest.mark.parametrize("scheduler", JOBS)
def test_jobs_share_out_what_a_scheduler_gave_to_the_whole_workflow(machine, scheduler):
    three, job = machine(3), {**JOBS[scheduler], "CUDA_VISIBLE_DEVICES": "1,2"}
    assert [three.holder(**job).devices for _ in range(2)] == ["1", "2"]
    assert "in use by" in three.waiter(**job).waits


def test_leases_of_one_scheduler_job_mean_nothing_in_another(machine):
    two = machine(2)
    found = [two.holder(SLURM_JOB_ID=job, CUDA_VISIBLE_DEVICES="0,1").devices for job in ("7", "8", "7", "8")]
    assert found == ["0", "0", "1", "1"]


def test_a_variable_job_id_alone_is_no_scheduler_s(machine):
    one = machine(1)
    one.holder(JOB_ID="7")
    one.waiter(JOB_ID="8")


# The command


def test_the_command_takes_the_place_of_the_process(machine):
    job = machine(1).start("echo $$; exit 5")
    printed, log = job.communicate(timeout=SLOW)
    assert (job.returncode, printed, log) == (5, f"{job.pid}\n", "runs on GPU 0\n")


def test_a_user_s_own_files_are_no_modules_of_it(machine):
    one = machine(1)
    (one.folder / "json.py").write_text("raise SystemExit(3)")
    assert one.run()[:2] == (0, "0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ignored", [True, False])
def test_a_waiting_job_ends_at_once_on_a_signal_even_if_its_command_would_ignore_it(machine, number, ignored):
    one = machine(1)
    one.holder()
    waiter = one.waiter(ignore=[number] if ignored else [])
    waiter.send_signal(number)
    assert waiter.wait(timeout=SLOW) == -number
    assert waiter.stderr.read() == ""


def test_the_command_ignores_what_was_ignored(machine):
    job = machine(1).start("echo there; read line; echo done", ignore=[signal.SIGTERM])
    ignored = re.search(r"^SigIgn:\s*(\w+)$", Path(f"/proc/{started(job)}/status").read_text(), re.MULTILINE)[1]
    ignored = {number for number in range(1, 32) if int(ignored, 16) >> (number - 1) & 1}
    assert signal.SIGTERM in ignored
    assert ignored.isdisjoint({signal.SIGPIPE, signal.SIGXFSZ})  # which Python ignores


def started(job):
    assert job.stdout.readline() == "there\n"
    return job.pid


def test_a_command_that_is_not_there_is_named(machine):
    one = machine(1)
    job = [sys.executable, "-P", "-m", "spunge.gpus", "--gpus=0", "--", "no-such-program"]
    done = subprocess.run(job, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: no-such-program can't be started: No such file or directory\n")
    assert one.leases == []


@pytest.mark.parametrize("mischief", ["a link", "open to all", "a file"])
def test_a_folder_that_others_can_write_to_is_refused(machine, mischief):
    one = machine(1)
    folder = one.folder / "temporary" / f"spunge-gpus-{os.getuid()}"
    if mischief == "a link":
        folder.symlink_to(one.folder)
    elif mischief == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    code, printed, log = one.run()
    assert (code, printed) == (1, "")
    assert str(folder) in log and log.endswith("set TMPDIR to a folder of your own on a local disk") and "\n" not in log


# The rules


def rules():
    for path in sorted((PROJECT / "rules").glob("*.smk")):
        for text in re.split(r"^(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            yield text.partition(":")[0], text, "    localrule: True\n" in text


def test_rules_that_ask_for_a_gpu_lease_it_and_no_others_do():
    asking = {name for name, text, _ in rules() if re.search(r"^        gpu=", text, re.MULTILINE)}
    assert asking == {name for name, text, _ in rules() if "    shell:\n        on_gpus(" in text}
    assert asking == {name for name, text, _ in rules() if "        gpu_mem_mb=" in text}
    assert {"unlearn", "evaluate", "generate", "relearn"} <= asking


def test_rules_ask_for_more_memory_and_time_at_each_retry():
    """A job that a cluster kills for one of them comes back with more; rules that run where Snakemake does need not."""
    for name, text, local in rules():
        for resource in () if local else ("mem_mb", "runtime"):
            assert re.search(rf"^        {resource}=growing\(.*\),$", text, re.MULTILINE), name
