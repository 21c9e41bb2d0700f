"""Files that appear whole or not at all, and errors in one sentence."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from spunge.core import errors, parquet
from spunge.core.errors import InputError
from spunge.core.files import sha256, whole_file, whole_folder
from spunge.core.progress import Progress
from spunge.training import processes

ROOT = Path(__file__).parents[2]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "table.csv"
    with whole_file(path) as temporary:
        temporary.write_text("a,b\n")
        assert temporary.parent == path.parent and temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "a,b\n"
    assert names(path.parent) == {"table.csv"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_error(tmp_path, error):
    with pytest.raises(error), whole_file(tmp_path / "table.csv") as temporary:
        temporary.write_text("half of")
        raise error
    assert names(tmp_path) == set()


def test_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    before = path.stat().st_ino
    with pytest.raises(ValueError), whole_file(path) as temporary:
        temporary.write_text("half of")
        raise ValueError
    assert path.read_text() == "old"
    with open(path) as reader:  # a reader that began before the replacement goes on with what it opened
        with whole_file(str(path)) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_ino != before
    assert names(tmp_path) == {"table.csv"}


def test_a_folder_takes_the_old_ones_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "shards"
    path.mkdir()
    (path / "old").write_text("")
    with pytest.raises(ValueError), whole_folder(path) as folder:
        (folder / "half").write_text("")
        raise ValueError
    assert [one.name for one in tmp_path.rglob("*")] == ["shards", "old"]
    with whole_folder(path) as folder:
        (folder / "new").write_text("")
    assert [one.name for one in tmp_path.rglob("*")] == ["shards", "new"]


def test_file_that_nobody_wrote_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "table.csv"):
        pass
    assert names(tmp_path) == set()


def test_killed_writer_leaves_no_file_under_the_final_name(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from spunge.core.files import whole_file\n"
        "with whole_file(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half of')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "table.csv"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    with whole_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256_of_files_of_any_size(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    assert sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_sha256_of_the_standards_example(tmp_path):
    (tmp_path / "x").write_text("abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Errors


def raising(error):
    def main():
        raise error

    return main


def test_users_mistake_is_one_sentence_and_exit_code_1(capsys):
    assert errors.run(raising(InputError("attribute Atlantis is not in the data"))) == 1
    output = capsys.readouterr()
    assert output.err == "error: attribute Atlantis is not in the data\n"
    assert output.out == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_sentence_with_the_file(capsys, number):
    assert errors.run(raising(OSError(number, os.strerror(number), "results/table.csv"))) == 1
    expected = "error: no space is left on the disk while writing results/table.csv; free some and run again\n"
    assert capsys.readouterr().err == expected
    assert errors.run(raising(OSError(number, os.strerror(number)))) == 1
    assert capsys.readouterr().err == "error: no space is left on the disk; free some and run again\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_really_full_device(capsys):
    def main():
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    assert errors.run(main) == 1
    assert "no space is left on the disk" in capsys.readouterr().err


def test_full_memory_is_one_sentence(capsys):
    on_gpu = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB."
    )
    for error, said in (
        (
            on_gpu,
            "CUDA out of memory. Tried to allocate 2.00 GiB; lower batch_size or max_tokens, or give the job more ",
        ),
        (MemoryError(), "the memory is full; lower batch_size or max_tokens"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: …"), "the memory is full; lower"),
    ):
        assert errors.run(raising(error)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {said}")


def test_a_table_that_was_cut_off_is_told(tmp_path):
    pd.DataFrame({"accuracy": [1.0] * 99}).to_parquet(tmp_path / "scores.parquet")
    whole = (tmp_path / "scores.parquet").read_bytes()
    assert len(parquet.read(tmp_path / "scores.parquet")) == 99
    (tmp_path / "scores.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"scores.parquet is truncated: delete it and run again$"):
        parquet.read(tmp_path / "scores.parquet")


def test_of_several_processes_the_first_alone_removes_what_all_write_to(tmp_path, monkeypatch):
    with processes.scratch_folder(tmp_path / "scratch") as scratch:
        scratch.mkdir()
        monkeypatch.setenv("RANK", "1")
        with processes.scratch_folder(tmp_path / "scratch") as other:
            assert other == scratch and scratch.is_dir()
        assert scratch.is_dir()
    assert not scratch.exists()


@pytest.mark.parametrize("error", [ValueError("a bug"), PermissionError(errno.EACCES, "Permission denied", "x")])
def test_everything_else_keeps_its_stack_trace(error):
    with pytest.raises(type(error)):
        errors.run(raising(error))


def test_success_is_exit_code_0_and_silent(capsys):
    assert errors.run(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


# Progress


def test_progress_prints_now_and_then_and_always_at_the_end(capsys):
    progress = Progress("rmu/joint/seed0", total=100, interval=3600)
    for step in range(1, 101):
        progress.step(step, forget_loss=12.3456, retain_loss=0.0001)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    for part in ("rmu/joint/seed0", "100/100", "forget_loss 12.35", "retain_loss 0.0001"):
        assert part in lines[0]
    progress = Progress("rmu", total=4, interval=0)
    for step in range(1, 5):
        progress.step(step)
    lines = capsys.readouterr().err.splitlines()
    assert [f"{step}/4" in line for step, line in enumerate(lines, start=1)] == [True] * 4
