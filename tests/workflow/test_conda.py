"""With `--software-deployment-method conda`, in the stand-in for conda: pins install, rules run in them alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in_conda

PROJECT = Path(__file__).parents[2]
EXPERIMENT = PROJECT / "experiments" / "own-data.yaml"
ROWS = "results/own-data/data/data.csv"


@pytest.mark.parametrize(("form", "copied"), [("dockerfile", "COPY {} "), ("apptainer", "    {} ")])
def test_containerize_describes_an_image_with_every_environment(tmp_path, form, copied):
    merges = "merges={ties: {}, sce: {merge: mergekit, method: sce}}"
    command = [sys.executable, "-m", "snakemake", "--containerize", form, "--config", merges]
    path = os.pathsep.join([str(stand_in_conda.install(tmp_path / "conda")), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for file in sorted((PROJECT / "envs").glob("*.yaml")):
        assert copied.format(file.relative_to(PROJECT)) in done.stdout
    assert done.stdout.count("conda env create") == len(list((PROJECT / "envs").glob("*.yaml")))


# The one environment that is small; Snakemake makes those of all rules below a target, and the others hold torch.
@pytest.mark.slow
def test_rules_run_in_their_environment_alone(tmp_path):
    shutil.copytree(PROJECT / "examples", tmp_path / "examples")
    command = [sys.executable, "-m", "snakemake", ROWS, "--cores", "2", "--snakefile", str(PROJECT / "Snakefile")]
    command += ["--configfile", str(EXPERIMENT), "--software-deployment-method", "conda"]
    path = os.pathsep.join([str(stand_in_conda.install(tmp_path / "conda")), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / ROWS).is_file()
    (made,) = [folder for folder in (tmp_path / ".snakemake" / "conda").iterdir() if folder.is_dir()]
    assert f"Activating conda environment: {made.relative_to(tmp_path)}" in done.stderr
    there = subprocess.run([made / "bin" / "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert "pandas==" in there and "snakemake==" not in there
