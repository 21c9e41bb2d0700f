"""The one command for a GPU, rehearsed where nothing but its own packages is installed, and what its numbers become."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from safetensors.torch import load_file

from benchmarks import gpu_results, results
from benchmarks.gpu.__main__ import PARTS
from spunge.core.errors import InputError

PROJECT = Path(__file__).parents[2]
PACKAGES = ["torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "pandas", "pyarrow", "scipy"]
PACKAGES += ["matplotlib", "psutil", "tqdm", "pip"]
PAGES = ("docs/speed.md", "benchmarks/README.md", "docs/plan.md")


def needed(packages):
    """Return the installed distributions that some packages need, themselves among them."""
    found, waiting = {}, list(packages)
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        if distribution.name not in found:
            found[distribution.name] = distribution
            requirements = map(Requirement, distribution.requires or [])
            waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found.values()


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of an environment with those packages alone, linked from this one, but an older transformers."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    pins = PROJECT / "benchmarks" / "bare-machine.txt"
    older = {line.partition("==")[0] for line in pins.read_text().splitlines()}
    for distribution in needed(PACKAGES):
        if distribution.name in older:
            continue
        for name in {Path(file).parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(distribution.locate_file(name))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*command, str(packages), "--requirement", str(pins)], check=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def rehearsal(bare, tmp_path_factory):
    """The folder of a rehearsal's gpu.json and gpu.log."""
    folder = tmp_path_factory.mktemp("rehearsal")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = ["bash", str(PROJECT / "benchmarks" / "gpu.sh"), "--rehearse", "--minutes", "20", "--output", str(folder)]
    done = subprocess.run(command, env={**variables, "PYTHON": str(bare)}, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return folder


def test_nothing_else_is_there(bare):
    for module in ("snakemake", "lm_eval", "datasets", "gguf", "seaborn"):
        assert subprocess.run([bare, "-c", f"import {module}"], capture_output=True).returncode, module


def test_every_part_comes_to_its_end(rehearsal):
    record = json.loads((rehearsal / "gpu.json").read_text())
    assert list(record["parts"]) == [part.name for part in PARTS]
    assert {name: part["status"] for name, part in record["parts"].items() if part["status"] != "done"} == {}
    assert all(part["measured"] for part in record["parts"].values())
    assert record["parts"]["machine"]["measured"]["transformers"] == "5.17.0"


def test_both_ways_of_rmu_have_the_same_losses(rehearsal):
    measured = json.loads((rehearsal / "gpu.json").read_text())["parts"]["rmu_7b"]["measured"]
    assert len(measured["reference losses"]) == 3
    for kind in ("first", "cached"):
        for ours, plain in zip(measured[f"{kind} losses"], measured["reference losses"], strict=True):
            assert ours == pytest.approx(plain, rel=0.01, abs=1e-6)


@pytest.fixture
def project(tmp_path):
    """A copy of the tables and pages that numbers are folded into."""
    for name in (*PAGES, "benchmarks/results.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def test_numbers_are_folded_into_tables_and_pages(rehearsal, project):
    record = json.loads((rehearsal / "gpu.json").read_text())
    measured = {name: part["measured"] for name, part in record["parts"].items()}
    measured["machine"].update(name="a card", matmul_rate=2e14)
    measured["rmu_7b"].update(
        {"first step": 0.05, "cached step": 0.025, "reference step": 0.3, "first peak": 9e9, "reference peak": 45e9}
    )
    measured["rmu_7b"].update({"first operations": 2e13, "cached operations": 1e13, "reference operations": 1e14})
    row = {"planned": 8e9, "measured": 9e9, "unit": "bytes", "within": 1.1, "near": False}
    measured["plan"] = record["parts"]["plan"]["measured"] = {"rmu_7b: first peak": row}
    with pytest.raises(InputError, match="a rehearsal's"):
        gpu_results.fold(record, project)
    for _ in range(2):  # a second time takes the place of the first
        gpu_results.fold({**record, "rehearsal": False}, project)
    table = results.read(project / "benchmarks" / "results.csv").set_index(["machine", "name", "metric"])
    of_card = table.loc["a card"]
    assert of_card.loc[("rmu_step_7b_gpu", "time per step"), "ratio"] == 6
    assert of_card.loc[("rmu_step_7b_gpu", "time per step, states at hand"), "ratio"] == 12
    assert of_card.loc[("rmu_memory_7b_gpu", "peak memory")][["ours", "reference"]].tolist() == [9000, 45000]
    share = "needed operations, share of the measured rate, states at hand"  # 1e13 in 0.025 s of 2e14 a second
    assert of_card.loc[("rmu_step_7b_gpu", share), "ours"] == 200
    before = results.read(PROJECT / "benchmarks" / "results.csv")
    assert len(table) == len(before) + len(of_card)
    speed, benchmarks, plan = ((project / name).read_text() for name in PAGES)
    assert "No GPU row has been measured yet" not in speed
    assert "| rmu_step_7b_gpu: time per step | 0.05 s | 0.3 s | 6 | 5 |" in speed
    assert "| | first step | 0.05 |" in benchmarks
    assert "| rmu_7b: first peak | 8 GB | 9 GB | 1.12 | 1.1 ×: **no** |" in plan


def test_the_page_says_whether_a_gpu_was_measured():
    names = pd.read_csv(PROJECT / "benchmarks" / "results.csv")["name"]
    said = "No GPU row has been measured yet" in (PROJECT / "docs" / "speed.md").read_text()
    assert said != names.str.endswith("_gpu").any()


def test_a_part_that_takes_too_long_costs_only_itself(tmp_path, monkeypatch):
    from benchmarks.gpu import __main__ as command

    parts = [part for part in PARTS if part.name in ("rmu_7b", "leases")]
    monkeypatch.setattr(command, "PARTS", [command.Part(**{**vars(parts[0]), "seconds": 0.2}), parts[1]])
    monkeypatch.setattr(command, "_forked_can_use_gpu", lambda: False)  # so it starts Python anew for each
    assert command.main(["--rehearse", "--output", str(tmp_path)]) == 1
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["status"] for name, part in record["parts"].items()} == {
        "rmu_7b": "out of time",
        "leases": "done",
    }


def test_a_model_that_a_killed_part_half_wrote_costs_no_other_part(tmp_path):
    from benchmarks.gpu import machine

    (tmp_path / "seven.partial").mkdir()
    (tmp_path / "seven.partial" / "model.safetensors").write_text("half a model")
    base = machine.Machine("cpu", machine.REHEARSAL, tmp_path, {}, lambda *_: None).seven()
    names = load_file(base.folder / "model.safetensors").keys()
    assert "model.layers.7.mlp.down_proj.weight" in names and not (tmp_path / "seven.partial").exists()
