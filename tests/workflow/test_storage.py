"""Jobs elsewhere: without a shared disk, each in a folder where nothing is but what Snakemake brings, and with one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from workspace import FORGET, Workspace, configuration, run

pytest.importorskip("snakemake_storage_plugin_fs", reason="requirements-test.txt is not installed")
pytest.importorskip("snakemake_executor_plugin_cluster_generic", reason="requirements-test.txt is not installed")
pytestmark = pytest.mark.skipif(not (shutil.which("rsync") and shutil.which("git")), reason="rsync or git is missing")

ELSEWHERE = ["--executor", "cluster-generic", "--jobs", "2", "--seconds-between-status-checks", "0"]
# A machine of its own for each job: an empty folder, and no variables but these.
SUBMIT = """#!/bin/bash
machine=$(mktemp -d {machines}/XXXXXX)
mkdir "$machine/work"
cp "${{@: -1}}" "$machine/script"
(
  cd "$machine/work"
  kept=(HF_DATASETS_CACHE="$HF_DATASETS_CACHE" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1)
  env -i PATH={path} HOME="$machine" "${{kept[@]}}" bash "$machine/script" > "$machine/output" 2>&1
  echo $? > "$machine/code.partial"
  mv "$machine/code.partial" "$machine/code"
) < /dev/null > /dev/null 2>&1 &
basename "$machine"
"""
STATUS = """#!/bin/bash
code={machines}/$1/code
if test ! -f "$code"; then echo running; elif test "$(cat "$code")" = 0; then echo success; else echo failed; fi
"""

# Snakemake waits for a job that was submitted ten times a second, and without a rest where nothing was.
SUBMIT_HERE = """#!/bin/bash
bash "${@: -1}" < /dev/null > /dev/null 2>&1 &
echo $!
"""

# Its merges are recipes, for which jobs need the shards' task vectors as well.
LORA = {"steps": 2, "trained": "lora", "batch_size": 4, "max_tokens_forget": 48}


class Cluster(Workspace):
    """A clone of the workflow with the user's files in it, a storage, and machines that share nothing but that."""

    def __init__(self, folder, project):
        super().__init__(folder / "clone", folder / "clone")
        shutil.copytree(project, self.folder)
        self.storage, self.machines = folder / "storage", folder / "machines"
        self.machines.mkdir()
        path = os.pathsep.join([str(Path(self.python).parent), os.environ["PATH"]])
        for name, text in (("submit", SUBMIT), ("status", STATUS)):
            (folder / name).write_text(text.format(machines=self.machines, path=path))
            (folder / name).chmod(0o755)
        self.plugins = [*ELSEWHERE, "--cluster-generic-submit-cmd", folder / "submit"]
        self.plugins += ["--cluster-generic-status-cmd", folder / "status"]
        self.plugins += ["--default-storage-provider", "fs", "--default-storage-prefix", self.storage]
        self.plugins += ["--shared-fs-usage", "none", "--job-deploy-sources"]

    def snakemake(self, *arguments):
        """Run snakemake in the clone to its end; an option --directory would reach the jobs."""
        command = [self.python, "-m", "snakemake", *arguments, "--cores", "2", "--configfile", "experiment.yaml"]
        return run([*command, *self.plugins], cwd=self.folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, prepared, project):
    made = Cluster(tmp_path_factory.mktemp("cluster"), project)
    for name in ("model", "tables"):
        shutil.copytree(prepared / name, made / name)
    config = configuration()
    made.configure(
        config,
        methods={"rmu-strong": config["methods"]["rmu-strong"], "tvn": LORA},
        splits=["joint", "attribute"],
        single_shards=False,
    )
    for command in (["init", "--quiet"], ["add", "."]):  # what git knows is what jobs are sent
        subprocess.run(["git", *command], cwd=made.folder, check=True)
    made.run = made.snakemake("results/tiny/evaluations.csv", "results/tiny/figures/radar.png")
    assert made.run.returncode == 0, made.run.stdout
    return made


@pytest.mark.slow
def test_results_are_in_the_storage_and_those_of_a_run_on_one_machine(cluster, changing):
    changing.configure(yaml.safe_load((cluster / "experiment.yaml").read_text()))
    assert changing.snakemake("results/tiny/evaluations.csv").returncode == 0
    there = cluster.storage / "results" / "tiny"
    assert (there / "evaluations.csv").read_bytes() == (changing.results / "evaluations.csv").read_bytes()
    assert (there / "figures" / "radar.png").is_file() and (there / "logs" / "gather.log").is_file()
    assert not (cluster / "results").exists() and not (cluster / "resources").exists()
    model = cluster.storage / "resources" / "models" / "model"
    assert not (model / "model.safetensors").is_symlink()
    assert (model / "model.safetensors").read_bytes() == (cluster / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_only_jobs_that_read_the_users_files_run_where_snakemake_does(cluster):
    """The others ran on machines of their own, and were told of no path but the storage's."""
    of_user = {"data", "model"}
    cut = {"shard"}  # local rules
    table = re.search(r"^Job stats:\n(.*?)^total", cluster.run.stdout, re.MULTILINE | re.DOTALL)[1]
    jobs = {rule: int(number) for rule, number in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    machines = sorted(cluster.machines.iterdir())
    assert len(machines) == sum(number for rule, number in jobs.items() if rule not in of_user | cut)
    for machine in machines:
        command = [line for line in (machine / "script").read_text().splitlines() if not line.startswith("#")]
        assert str(cluster.storage) in "\n".join(command) and str(cluster.folder) not in "\n".join(command)
        assert str(machine / "work") in (machine / "output").read_text()


@pytest.mark.slow
def test_nothing_runs_again(cluster):
    again = cluster.snakemake("--dry-run", "results/tiny/evaluations.csv", "results/tiny/figures/radar.png")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout, again.stdout


@pytest.mark.slow
def test_with_a_shared_disk_jobs_elsewhere_know_the_attributes_that_were_discovered(fresh, tmp_path):
    config = configuration()
    fresh.configure(
        config, data=config["data"] | {"forget": "all"}, methods={"rmu-strong": config["methods"]["rmu-strong"]}
    )
    merged = "results/tiny/merged/rmu-strong/attribute/merge/ties/seed0/task_vector.safetensors"
    submit = tmp_path / "submit"
    submit.write_text(SUBMIT_HERE)
    submit.chmod(0o755)
    done = fresh.snakemake(merged, *ELSEWHERE, "--cluster-generic-submit-cmd", submit)
    assert done.returncode == 0, done.stdout
    assert all((fresh.results / "shards" / "attribute" / f"{topic}.parquet").is_file() for topic in FORGET)
