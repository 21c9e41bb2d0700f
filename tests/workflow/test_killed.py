"""Killed in the middle: nothing half made under a final name, and the next run gives an undisturbed run's bytes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from workspace import configuration

from spunge.models import task_vector

pytestmark = pytest.mark.slow
UNLEARNED = "results/tiny/unlearned/rmu-strong/joint/seed0"
UNFINISHED = "results/tiny/unfinished/unlearned/rmu-strong/joint/seed0/task_vector"
MERGED = "results/tiny/merged/rmu/attribute/merge/ties/seed0"
VECTOR = "task_vector.safetensors"
STEPS = 480  # the joint run takes twice as many
SAVE_EVERY = 0.0005  # minutes: some ten steps
TENSORS = 60


@contextmanager
def started(workspace, target):
    """Run snakemake and its jobs as real processes in a session of their own, of which nothing survives."""
    with (
        open(workspace / "terminal.txt", "w") as terminal,
        subprocess.Popen(
            [sys.executable, *workspace.command(target)[1:]],
            stdout=terminal,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(what, seconds=600):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)
    return found


def processes_in(workspace):
    """Return the arguments of the processes that run in this workspace, by their numbers."""
    arguments = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end while we look
            if (folder / "cwd").readlink() == workspace.folder:
                arguments[int(folder.name)] = (folder / "cmdline").read_bytes().split(b"\0")
    return arguments


def python_of(workspace, script):
    """Return the process numbers of a script that runs for this workspace."""
    path = str(workspace.project / "scripts" / f"{script}.py").encode()
    return [number for number, arguments in processes_in(workspace).items() if arguments[1:2] == [path]]


def unlearning_log(workspace):
    log = workspace.results / "logs/unlearn/rmu-strong/joint/seed0.log"
    return log.read_text() if log.is_file() else ""


def trains(workspace):
    return (workspace / UNFINISHED / "state").is_file()


def writes(workspace):
    return [path for path in (workspace / MERGED).glob(".*") if path.stat().st_size > 2_000_000]


def finishes(workspace, target, bytes_by_path):
    done = workspace.snakemake(target)
    assert done.returncode == 0, done.stdout
    folder = str(Path(target).parent)
    assert workspace.files(folder) == bytes_by_path, "the same bytes, and nothing else beside them"


@pytest.fixture(scope="module")
def long_unlearning(finished, tmp_path_factory):
    """A workspace that has one run to do, of some seconds, which saves its state all the time; and what it gives."""
    workspace = finished.copy(tmp_path_factory.mktemp("unlearning") / "workspace")
    config = configuration()
    config["methods"]["rmu-strong"]["steps"] = STEPS
    workspace.configure(config, save_every_minutes=SAVE_EVERY)
    undisturbed = workspace.copy(workspace.folder.with_name("undisturbed"))
    assert undisturbed.snakemake(f"{UNLEARNED}/{VECTOR}").returncode == 0
    return workspace, undisturbed.files(UNLEARNED)


@pytest.fixture(scope="module")
def long_merge(finished, tmp_path_factory):
    """A workspace with one merge to do, of large task vectors of our own; and what it gives undisturbed."""
    workspace = finished.copy(tmp_path_factory.mktemp("merge") / "workspace")
    generator = torch.Generator().manual_seed(0)
    for shard in ("rivers", "dances"):
        path = workspace / f"results/tiny/unlearned/rmu/attribute/shard/{shard}/seed0/{VECTOR}"
        provenance = task_vector.ChangedTensors(path).provenance
        tensors = {f"layer{number:02}": torch.randn(512, 512, generator=generator) for number in range(TENSORS)}
        task_vector.write(path, {name: one.shape for name, one in tensors.items()}, tensors.items(), provenance)
    undisturbed = workspace.copy(workspace.folder.with_name("undisturbed"))
    assert undisturbed.snakemake(f"{MERGED}/{VECTOR}").returncode == 0
    expected = undisturbed.files(MERGED)
    assert len(expected[VECTOR]) > TENSORS * 512 * 512 * 4
    return workspace, expected


def test_killed_unlearning(long_unlearning, tmp_path):
    workspace, expected = long_unlearning
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{UNLEARNED}/{VECTOR}") as snakemake:
        wait_for(lambda: trains(workspace))
        (python,) = python_of(workspace, "unlearn")
        os.kill(python, signal.SIGKILL)
        assert snakemake.wait(600) != 0
    assert not (workspace / UNLEARNED / VECTOR).exists()
    assert not (workspace / UNLEARNED / "training.csv").exists()
    shutil.rmtree(workspace / UNFINISHED)  # as before its first save: from the start
    finishes(workspace, f"{UNLEARNED}/{VECTOR}", expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_unlearning_that_is_told_to_stop_loses_no_step(long_unlearning, tmp_path, number):
    """The signal comes to all that the job consists of, as by a scheduler or Ctrl-C: shell, script and `tee`."""
    workspace, expected = long_unlearning
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{UNLEARNED}/{VECTOR}") as snakemake:
        wait_for(lambda: trains(workspace))
        os.killpg(snakemake.pid, number)
        assert snakemake.wait(600) != 0
    assert not (workspace / UNLEARNED / VECTOR).exists()
    line = rf"stopped by {number.name} at step (\d+) of {2 * STEPS}; what was done is kept, run again to go on"
    (step,) = re.findall(line, unlearning_log(workspace))
    assert (workspace / UNFINISHED).is_dir()
    finishes(workspace, f"{UNLEARNED}/{VECTOR}", expected)
    assert f"going on after step {step} of {2 * STEPS}" in unlearning_log(workspace)
    assert not (workspace / "results/tiny/unfinished").exists()


def test_ten_kills_in_a_row(long_unlearning, tmp_path):
    """At random moments, by SIGKILL or SIGTERM: in the middle of a step, or of a save.

    Each is a fork, which is killed a moment after its caller.
    """
    workspace, expected = long_unlearning
    workspace = workspace.copy(tmp_path / "workspace")
    printed = workspace.snakemake(f"{UNLEARNED}/{VECTOR}", "--dry-run", "--printshellcmds").stdout
    command = re.search(r"(python '[^']+/unlearn\.py' .+) 2>&1 \| \(trap", printed)[1]
    path = os.pathsep.join([str(Path(workspace.python).parent), os.environ["PATH"]])
    environment = {**workspace.environment(), "PATH": path, "SPUNGE_SAVE_EVERY": str(SAVE_EVERY)}
    drawn, log, gone_on = random.Random(0), workspace / "kills.txt", []
    for kill in range(10):
        with (
            open(log, "w") as told,
            subprocess.Popen(
                ["bash", "-c", f"trap '' TERM; exec {command}"],
                cwd=workspace.folder,
                env=environment,
                stdout=told,
                stderr=subprocess.STDOUT,
            ) as python,
        ):
            if kill:
                wait_for(lambda: "going on after" in log.read_text() or python.poll() is not None)
            else:
                wait_for(lambda: trains(workspace))
            time.sleep(drawn.uniform(0, 0.2))
            python.send_signal(drawn.choice([signal.SIGKILL, signal.SIGTERM]))
            assert python.wait(600) in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
        wait_for(lambda: not processes_in(workspace))
        gone_on += map(int, re.findall(r"going on after step (\d+) of", log.read_text()))
    assert len(gone_on) == 9 and gone_on == sorted(gone_on) and gone_on[0] < gone_on[-1] < 2 * STEPS
    finishes(workspace, f"{UNLEARNED}/{VECTOR}", expected)
    assert f"of {2 * STEPS}" in unlearning_log(workspace) and "going on after step" in unlearning_log(workspace)


def test_killed_merge(long_merge, tmp_path):
    workspace, expected = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{MERGED}/{VECTOR}") as snakemake:
        wait_for(lambda: writes(workspace))
        (python,) = python_of(workspace, "merge")
        os.kill(python, signal.SIGKILL)
        assert snakemake.wait(600) != 0
    (left,) = writes(workspace)
    assert left.stat().st_size < len(expected[VECTOR]), "in the middle"
    assert not (workspace / MERGED / VECTOR).exists()
    assert not (workspace / MERGED / "diagnostics.csv").exists()
    finishes(workspace, f"{MERGED}/{VECTOR}", expected)


def test_killed_merge_of_a_script_alone_leaves_the_old_result(long_merge, finished, tmp_path):
    """Without Snakemake, which takes old output away: what lay under the final name stays whole."""
    workspace, _ = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    described = {
        "experiment": "tiny",
        "candidate": "rmu/attribute/merge/ties/seed0",
        "method": "rmu",
        "split": "attribute",
    }
    vectors = [f"results/tiny/unlearned/rmu/attribute/shard/{shard}/seed0/{VECTOR}" for shard in ("rivers", "dances")]
    (workspace / "options.json").write_text("{}")
    _, *command = workspace.script_command(
        "merge",
        "--merge=ties",
        "--options=options.json",
        "--attributes=results/tiny/data/attributes.json",
        f"--candidate={json.dumps(described | {'shard': '', 'merge': 'ties', 'seed': '0', 'budget': ''})}",
        "--task-vectors",
        *vectors,
        f"--output={MERGED}/{VECTOR}",
        f"--diagnostics={MERGED}/diagnostics.csv",
    )
    with subprocess.Popen([sys.executable, *command], cwd=workspace.folder, env=workspace.environment()) as python:
        wait_for(lambda: writes(workspace))
        python.kill()
    before = finished.files(MERGED)
    assert {path: content for path, content in workspace.files(MERGED).items() if path in before} == before


def test_killed_snakemake(long_merge, tmp_path):
    """The folder stays locked; unlocked, the job whose end nobody saw is done again."""
    workspace, expected = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{MERGED}/{VECTOR}") as snakemake:
        wait_for(lambda: writes(workspace))
        os.kill(snakemake.pid, signal.SIGKILL)
        snakemake.wait(600)
        wait_for(lambda: not python_of(workspace, "merge"))
    locked = workspace.snakemake(f"{MERGED}/{VECTOR}")
    assert locked.returncode != 0
    assert "Directory cannot be locked" in locked.stdout and "--unlock" in locked.stdout
    assert workspace.snakemake("--unlock").returncode == 0
    assert "Merge rmu/attribute/merge/ties/seed0" in workspace.dry_run(f"{MERGED}/{VECTOR}")
    finishes(workspace, f"{MERGED}/{VECTOR}", expected)


def test_everything_killed_at_once(long_merge, tmp_path):
    """As when the power fails: Snakemake and its jobs."""
    workspace, expected = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{MERGED}/{VECTOR}") as snakemake:
        wait_for(lambda: writes(workspace))
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait(600)
    wait_for(lambda: not python_of(workspace, "merge"))
    assert not (workspace / MERGED / VECTOR).exists()
    assert workspace.snakemake("--unlock").returncode == 0
    finishes(workspace, f"{MERGED}/{VECTOR}", expected)
