"""SIGKILL in the middle: nothing half made under a final name, and the next run gives an undisturbed run's bytes."""

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from workspace import configuration

from spunge import task_vector

pytestmark = pytest.mark.slow
UNLEARNED = "results/tiny/unlearned/rmu-strong/joint/all/seed0"
MERGED = "results/tiny/merged/rmu/attribute/ties/seed0"
VECTOR = "task_vector.safetensors"
STEPS = 1200  # the joint run takes twice as many
TENSORS = 60


@contextmanager
def started(workspace, target):
    """Run snakemake in a session of its own, of which nothing survives."""
    with (
        open(workspace / "terminal.txt", "w") as terminal,
        subprocess.Popen(
            workspace.command(target),
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


def wait_for(what, seconds=180):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)
    return found


def python_of(workspace, script):
    """Return the process numbers of a script that runs for this workspace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end while we look
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            named = arguments[1:2] and arguments[1].endswith(f"scripts/{script}.py".encode())
            if named and (folder / "cwd").resolve() == workspace.folder:
                found.append(int(folder.name))
    return found


def trains(workspace):
    log = workspace.results / "logs/unlearn/rmu-strong/joint/all/seed0.log"
    return log.is_file() and f"/{2 * STEPS} [" in log.read_text()


def writes(workspace):
    return [path for path in (workspace / MERGED).glob(".*") if path.stat().st_size > 2_000_000]


def finishes(workspace, target, bytes_by_path):
    done = workspace.snakemake(target)
    assert done.returncode == 0, done.stdout
    folder = str(Path(target).parent)
    assert workspace.files(folder) == bytes_by_path, "the same bytes, and nothing else beside them"


@pytest.fixture(scope="module")
def long_unlearning(finished, tmp_path_factory):
    """A workspace that has one run to do, of some ten seconds; and what it gives undisturbed."""
    workspace = finished.copy(tmp_path_factory.mktemp("unlearning") / "workspace")
    config = configuration()
    config["methods"]["rmu-strong"]["steps"] = STEPS
    workspace.configure(config)
    undisturbed = workspace.copy(workspace.folder.with_name("undisturbed"))
    assert undisturbed.snakemake(f"{UNLEARNED}/{VECTOR}").returncode == 0
    return workspace, undisturbed.files(UNLEARNED)


@pytest.fixture(scope="module")
def long_merge(finished, tmp_path_factory):
    """A workspace with one merge to do, of large task vectors of our own; and what it gives undisturbed."""
    workspace = finished.copy(tmp_path_factory.mktemp("merge") / "workspace")
    generator = torch.Generator().manual_seed(0)
    for shard in ("rivers", "dances"):
        path = workspace / f"results/tiny/unlearned/rmu/attribute/{shard}/seed0/{VECTOR}"
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
        assert snakemake.wait(60) != 0
    assert not (workspace / UNLEARNED / VECTOR).exists()
    assert not (workspace / UNLEARNED / "training.csv").exists()
    finishes(workspace, f"{UNLEARNED}/{VECTOR}", expected)


def test_killed_merge(long_merge, tmp_path):
    workspace, expected = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{MERGED}/{VECTOR}") as snakemake:
        wait_for(lambda: writes(workspace))
        (python,) = python_of(workspace, "merge")
        os.kill(python, signal.SIGKILL)
        assert snakemake.wait(60) != 0
    (left,) = writes(workspace)
    assert left.stat().st_size < len(expected[VECTOR]), "in the middle"
    assert not (workspace / MERGED / VECTOR).exists()
    assert not (workspace / MERGED / "diagnostics.csv").exists()
    finishes(workspace, f"{MERGED}/{VECTOR}", expected)


def test_killed_merge_of_a_script_alone_leaves_the_old_result(long_merge, finished, tmp_path):
    """Without Snakemake, which takes old output away: what lay under the final name stays whole."""
    workspace, _ = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    described = {"experiment": "tiny", "candidate": "rmu/attribute/ties/seed0", "method": "rmu", "split": "attribute"}
    vectors = [f"results/tiny/unlearned/rmu/attribute/{shard}/seed0/{VECTOR}" for shard in ("rivers", "dances")]
    command = workspace.script_command(
        "merge",
        "--merge=spunge/merging/ties.py",
        "--options={}",
        '--shards=["rivers", "dances"]',
        f"--candidate={json.dumps(described | {'shard': '', 'merge': 'ties', 'seed': '0'})}",
        "--task-vectors",
        *vectors,
        f"--output={MERGED}/{VECTOR}",
        f"--diagnostics={MERGED}/diagnostics.csv",
    )
    with subprocess.Popen(command, cwd=workspace.folder, env=workspace.environment()) as python:
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
        snakemake.wait(60)
        wait_for(lambda: not python_of(workspace, "merge"), 60)
    locked = workspace.snakemake(f"{MERGED}/{VECTOR}")
    assert locked.returncode != 0
    assert "Directory cannot be locked" in locked.stdout and "--unlock" in locked.stdout
    assert workspace.snakemake("--unlock").returncode == 0
    assert "Merge the attribute shards of rmu with ties, seed 0" in workspace.dry_run(f"{MERGED}/{VECTOR}")
    finishes(workspace, f"{MERGED}/{VECTOR}", expected)


def test_everything_killed_at_once(long_merge, tmp_path):
    """As when the power fails: Snakemake and its jobs."""
    workspace, expected = long_merge
    workspace = workspace.copy(tmp_path / "workspace")
    with started(workspace, f"{MERGED}/{VECTOR}") as snakemake:
        wait_for(lambda: writes(workspace))
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait(60)
    wait_for(lambda: not python_of(workspace, "merge"), 60)
    assert not (workspace / MERGED / VECTOR).exists()
    assert workspace.snakemake("--unlock").returncode == 0
    finishes(workspace, f"{MERGED}/{VECTOR}", expected)
