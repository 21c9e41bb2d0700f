"""As a module of another workflow, with its own data: our rules under a prefix, and a rule of its own on our rows."""

import pandas as pd
import pytest
import yaml
from workspace import Workspace, configuration, run

SNAKEFILE = """
configfile: "study.yaml"


module spunge:
    snakefile: "{project}/Snakefile"
    prefix: "unlearning"
    config: config["unlearning"]


use rule * from spunge as spunge_*


rule best:
    default_target: True
    input:
        "unlearning/results/tiny/evaluations.csv",
    output:
        "best.csv",
    shell:
        "grep -e ,accuracy, {{input}} > {{output}}"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, prepared):
    """Another's workflow: the tables and the model are his, and so is the configuration, of which ours is one key."""
    workspace = prepared.copy(tmp_path_factory.mktemp("study") / "workspace")
    config = configuration()
    ours = config | {"methods": {"rmu": config["methods"]["rmu"]}, "splits": ["joint"]}
    (workspace / "study.yaml").write_text(yaml.safe_dump({"unlearning": ours, "author": "somebody"}))
    (workspace / "experiment.yaml").unlink()
    (workspace / "Snakefile").write_text(SNAKEFILE.format(project=workspace.project))
    return Workspace(workspace.folder, workspace.project)


def snakemake(study, *arguments):
    return run([study.python, "-m", "snakemake", "--cores", "2", *arguments], cwd=study.folder)


@pytest.mark.slow
def test_a_rule_of_another_workflow_rests_on_our_evaluations(study):
    done = snakemake(study)
    assert done.returncode == 0, done.stdout
    rows = pd.read_csv(study / "unlearning" / "results" / "tiny" / "evaluations.csv", dtype=str)
    assert set(rows["candidate"].dropna()) >= {"base", "rmu/joint/seed0"}
    assert len((study / "best.csv").read_text().splitlines()) == (rows["metric"] == "accuracy").sum() > 0
    assert {path.name for path in study.folder.iterdir() if path.is_dir()} == {
        ".snakemake",
        "model",
        "tables",
        "unlearning",
    }
    again = snakemake(study, "--dry-run")
    assert "Nothing to be done" in again.stdout, again.stdout
