"""Every candidate's numbers lead back to the files they were made from, and a file that changed since is found out."""

import os
import subprocess

import pytest
from workspace import PROJECT


def trace(workspace, *arguments):
    command = [workspace.python, "-m", "spunge.export.provenance", *arguments]
    return subprocess.run(
        command, cwd=workspace.folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}
    )


@pytest.mark.parametrize(
    ("candidate", "vectors", "shards"),
    [
        ("rmu/joint/seed0", 1, ["joint/all"]),
        ("rmu/attribute/shard/rivers/seed0", 1, ["attribute/rivers"]),
        ("rmu/attribute/merge/ties/seed0", 3, ["attribute/rivers", "attribute/dances"]),
        ("rmu/random/merge/ties/seed0", 3, ["random-seed0/part1", "random-seed0/part2"]),
    ],
)
def test_a_candidate_leads_back_to_its_data(finished, candidate, vectors, shards):
    done = trace(finished, finished.results, candidate)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("task_vector.safetensors") == vectors
    for shard in shards:
        (line,) = [line for line in done.stdout.splitlines() if f"shards/{shard}.parquet" in line]
        assert "as recorded" in line
    assert "resources/models/" in done.stdout and "DIFFERS" not in done.stdout
    told = trace(finished, finished.results, candidate, "--provenance").stdout
    assert '"forget"' in told and '"commit"' in told


def test_a_file_that_changed_since_is_found_out(changing):
    shard = changing.results / "shards/attribute/rivers.parquet"
    shard.write_bytes((changing.results / "shards/attribute/dances.parquet").read_bytes())
    done = trace(changing, changing.results, "rmu/attribute/merge/ties/seed0")
    assert done.returncode != 0
    assert "shards/attribute/rivers.parquet DIFFERS from what was recorded" in done.stderr
    (changing.results / "unlearned/rmu/attribute/shard/dances/seed0/task_vector.safetensors").unlink()
    done = trace(changing, changing.results, "rmu/attribute/shard/dances/seed0")
    assert done.returncode != 0 and "Traceback" not in done.stderr


def test_an_unknown_candidate_is_told_with_those_that_there_are(finished):
    done = trace(finished, finished.results, "rmu/attribute/merge/linear/seed0")
    assert done.returncode != 0
    assert "has no candidate 'rmu/attribute/merge/linear/seed0' of one seed; it has rmu/joint/seed0" in done.stderr
