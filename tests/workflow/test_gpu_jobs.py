"""What jobs ask for of the machine, and the GPU that they are given."""

import os
import re

import pytest
from workspace import configuration


def sharing():
    """Return the tiny experiment with jobs that share GPUs."""
    config = configuration()
    config["model"] |= {"memory": 5000, "gpu_memory": 3000}
    config["methods"]["rmu-strong"] |= {"memory": 9000, "gpu_memory": 6000, "gpus": 2}
    return config


def asked(workspace, *arguments):
    """Return what each job that uses a model would lease: {message: (GPUs, MB on each)}."""
    done = workspace.snakemake("--dry-run", "--printshellcmds", *arguments)
    assert done.returncode == 0, done.stdout
    lease = r"python -P -m spunge\.gpus --gpus (\d+) --memory (\d+) -- python "
    jobs = re.findall(rf"^Job \d+: (.+)\nReason: .*\nShell command: .*? {lease}", done.stdout, flags=re.MULTILINE)
    return {message: (int(gpus), int(memory)) for message, gpus, memory in jobs}


def test_jobs_lease_what_the_configuration_says(fresh):
    fresh.configure(sharing())
    jobs = asked(fresh, "--resources", "gpu=4")
    strong = {message for message in jobs if message.startswith("Unlearn") and "rmu-strong" in message}
    assert {jobs.pop(message) for message in strong} == {(2, 6000)}
    assert set(jobs.values()) == {(1, 3000)}
    assert (len(strong), len(jobs)) == (5, 17)  # activations, five more runs, eleven evaluations
    assert set(asked(fresh, "--resources", "gpu=0").values()) == {(0, 3000), (0, 6000)}
    chosen = asked(fresh, "--resources", "gpu=4", "--set-resources", "evaluate:gpu_mem_mb=700")
    assert {chosen[message] for message in chosen if message.startswith("Evaluate")} == {(1, 700)}


@pytest.mark.slow
def test_a_job_runs_on_the_gpu_that_it_leased(changing, finished, tmp_path, monkeypatch, real_python):
    """The GPU is one that a stand-in for nvidia-smi lists, so the job runs on the CPU all the same."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 0, GPU-abc, 24000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for variable in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    changing.configure(sharing())
    assert changing.dry_run() is None  # what a job takes changes no result
    done = changing.snakemake("--force", "results/tiny/evaluations/base/knowledge.csv")
    assert done.returncode == 0, done.stdout
    log = (changing / "results/tiny/logs/evaluate/base.log").read_text()
    assert log.startswith("runs on GPU 0\n")
    assert "runs on GPU" not in (finished / "results/tiny/logs/evaluate/base.log").read_text()
    folder = "results/tiny/evaluations/base"
    assert changing.files(folder) == finished.files(folder)
