"""The commands of docs/tutorial.md as they stand there, on a tiny model and with few steps."""

import os
import re
from pathlib import Path

import pytest
import tiny_model
import yaml
from workspace import PROJECT, copy_workflow, run

PAGE = (PROJECT / "docs" / "tutorial.md").read_text()
COMMANDS = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.slow
def test_the_commands_run_and_leave_what_the_page_names(tmp_path, quick_python):
    folder = copy_workflow(tmp_path / "spunge")
    tiny_model.build(folder / "model")
    experiment = folder / "experiments" / "own-data.yaml"
    config = yaml.safe_load(experiment.read_text())
    config["model"] = {"source": "model"}
    del config["wheels"]
    config["methods"]["rmu"] |= {"steps": 3, "layer_id": 2, "trained_layers": [1, 2]}
    experiment.write_text(yaml.safe_dump(config))
    programs = tmp_path / "bin"
    programs.mkdir()
    snakemake = programs / "snakemake"
    snakemake.write_text(f'#!/bin/sh\nexec "{quick_python}" -m snakemake "$@"\n')
    snakemake.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(quick_python).parent), os.environ["PATH"]])
    done = run(["bash", "-euxo", "pipefail", "-c", COMMANDS], cwd=folder, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stdout
    named = set(re.findall(r"results/own-data/[\w./]+\w", PAGE))
    named |= {f"results/own-data/{name}" for name in re.findall(r"`(\w+\.html|figures)/?`", PAGE)}
    assert {"results/own-data/report.html", "results/own-data/findings.html", "results/own-data/figures"} <= named
    assert [path for path in named if not (folder / path).exists()] == []
