"""The tiny experiment through profiles/slurm on a real Slurm: what its own records say, and a local run's numbers."""

import os
import re
import signal
import subprocess
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from workspace import configuration

UNLEARNED = {"joint/seed0", "attribute/shard/rivers/seed0", "attribute/shard/dances/seed0"}
STEPS = 250  # of each shard; the joint run takes twice as many
# Building the tables asks for too little memory at first, and unlearning for the shortest time that Slurm knows.
LIMITS = {
    "data": ("mem_mb=growing(4000)", "mem_mb=lambda wildcards, attempt: 60 * attempt**3"),
    "unlearn": ("runtime=growing(120)", "runtime=growing(1)"),
}


def limit(project):
    for rules, (old, new) in LIMITS.items():
        path = project / "rules" / f"{rules}.smk"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def ran(slurm, prepared, tmp_path_factory):
    """One run through Slurm in which three unlearning jobs are disturbed, and one on this machine in which none is."""
    rmu = configuration()["methods"]["rmu-strong"] | {"steps": STEPS}
    splits = ["joint", "attribute"]
    prepared.configure(splits=splits, single_shards=False, methods={"rmu": rmu}, save_every_minutes=0)
    local = prepared.copy(tmp_path_factory.mktemp("local") / "workspace")
    limit(prepared.project)
    profile = ["--workflow-profile", prepared.project / "profiles" / "slurm"]
    quicker = ["--slurm-init-seconds-before-status-checks", 2, "--seconds-between-status-checks", 1]
    quicker += ["--latency-wait", 10]
    environment = slurm.environment | {"SPUNGE_SLURM_ACCOUNT": "lab", "SPUNGE_SLURM_PARTITION": "cpu"}
    environment |= {"SPUNGE_SLURM_GPU_PARTITION": "gpu"}
    targets = ["results/tiny/evaluations.csv", "results/tiny/summary.csv", "results/tiny/figures/tradeoff.png"]
    command = prepared.command(*targets, *profile, *quicker)
    del command[command.index("--cores") : command.index("--cores") + 2]  # the profile says how many jobs
    with (
        open(prepared / "terminal.txt", "w") as terminal,
        subprocess.Popen(
            command, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            # Two run at a time. The one that has to reach its time limit comes first.
            disturbances = [
                lambda job: freeze(slurm, job),
                lambda job: slurm.command("scancel", job),
                lambda job: preempt(slurm, job),
            ]
            frozen, cancelled, preempted = disturb(prepared, process, slurm, disturbances)
            undisturbed = local.snakemake(*targets)
            assert undisturbed.returncode == 0, undisturbed.stdout
            process.wait(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    terminal = (prepared / "terminal.txt").read_text()
    assert process.returncode == 0, terminal + slurm.logs()
    names = {"frozen": frozen, "cancelled": cancelled, "preempted": preempted}
    return Ran(workspace=prepared, local=local, terminal=terminal, records=by_rule(slurm.records()), **names)


def disturb(workspace, process, slurm, disturbances):
    """Disturb each unlearning job when it has saved its state for the first time; return them in that order."""
    end = time.monotonic() + 150
    disturbed = []
    while len(disturbed) < len(disturbances):
        assert process.poll() is None and time.monotonic() < end, (workspace / "terminal.txt").read_text()[-3000:]
        time.sleep(0.02)
        folder = workspace.results / "unfinished" / "unlearned" / "rmu"
        saved = {str(path.parent.parent.relative_to(folder)) for path in folder.glob("**/state*")}
        for run in sorted(saved & UNLEARNED - set(disturbed)):
            running = slurm.command("squeue", "--noheader", "--states=running", "--format=%i %k").splitlines()
            (job,) = [line.split()[0] for line in running if line.endswith(wildcards(run))]
            disturbances[len(disturbed)](job)
            disturbed.append(run)
    return disturbed


def wildcards(run):
    """What the comment of an unlearning job ends with."""
    return f"_rmu_{run.replace('/', '_')}"


def freeze(slurm, job):
    """Stop the script of a job, so that it reaches its time limit; Slurm wakes it to let it end."""
    for line in slurm.command("scontrol", "listpids", job).splitlines()[1:]:
        pid = int(line.split()[0])
        with suppress(OSError):
            if "scripts/unlearn.py" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGSTOP)


def preempt(slurm, job):
    """Requeue a job, with more time than the first try's minute, which the same try has on a slow machine, too."""
    slurm.command("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    slurm.command("scontrol", "requeue", job)


class Ran(SimpleNamespace):
    """Two workspaces, the first one's terminal, Slurm's records of it by rule or group, and how jobs were disturbed."""

    def attempts(self, part):
        """Slurm's records of one unlearning job, oldest first."""
        return [one for one in self.records["unlearn"] if one["Comment"].endswith(wildcards(part))]


def by_rule(records):
    """Sort Slurm's records by what their comment says they ran: a rule, or a group of jobs."""
    found = defaultdict(list)
    for record in records:
        found[re.match(r"rule_(evaluations|tables|\w+?)(?:_.*)?$", record["Comment"])[1]].append(record)
    return dict(found)


def gpus(record):
    """The number of GPUs that a job asked for, in Slurm's records."""
    return sum(map(int, re.findall(r"gres/gpu=(\d+)", record["ReqTRES"])))


def went_on(workspace, part):
    log = (workspace.results / "logs" / "unlearn" / "rmu" / f"{part}.log").read_text()
    return re.search(r"going on after step [1-9]", log)


def test_results_are_those_of_a_local_run(ran):
    for name in ("evaluations.csv", "summary.csv"):
        assert (ran.workspace.results / name).read_bytes() == (ran.local.results / name).read_bytes()


def test_nothing_ran_outside_a_job(ran):
    completed = {rule: sum(one["State"] == "COMPLETED" for one in records) for rule, records in ran.records.items()}
    # What the data have, two comparisons, evaluations.csv, the summary and a figure went as one job.
    assert completed == {"data": 1, "model": 1, "unlearn": 3, "merge": 1, "evaluations": 3, "tables": 1}
    local = Counter(re.findall(r"^localrule (\w+):", ran.terminal, flags=re.MULTILINE))
    assert local.keys() <= {"shard", "all"}


def test_jobs_that_use_a_model_asked_for_a_gpu_and_no_others(ran):
    assert {rule: {gpus(one) for one in records} for rule, records in ran.records.items()} == {
        "data": {0}, "model": {0}, "unlearn": {1}, "merge": {0}, "evaluations": {1}, "tables": {0},
    }  # fmt: skip


def test_grouped_jobs_asked_for_what_one_needs_and_the_time_of_all(ran):
    (tables,) = ran.records["tables"]
    assert (tables["ReqMem"], int(tables["TimelimitRaw"])) == ("4000M", 3 * 30 + 3 * 10)
    assert "cpu=1," in tables["ReqTRES"]
    assert {(one["ReqMem"], int(one["TimelimitRaw"])) for one in ran.records["evaluations"]} == {("4000M", 240)}


def test_partition_and_account_are_those_of_the_environment(ran):
    for records in ran.records.values():
        for record in records:
            assert record["Partition"] == ("gpu" if gpus(record) else "cpu")
            assert record["Account"] == "lab"


def test_a_cancelled_job_went_on_in_another(ran):
    first, second = ran.attempts(ran.cancelled)
    assert first["State"].startswith("CANCELLED") and second["State"] == "COMPLETED"
    assert first["JobIDRaw"] != second["JobIDRaw"]
    assert went_on(ran.workspace, ran.cancelled)


def test_a_preempted_job_went_on_by_itself(ran):
    first, second = ran.attempts(ran.preempted)
    assert (first["State"], second["State"]) == ("REQUEUED", "COMPLETED")
    assert first["JobIDRaw"] == second["JobIDRaw"]
    assert went_on(ran.workspace, ran.preempted)


def test_a_job_over_its_time_went_on_with_more(ran):
    first, second = ran.attempts(ran.frozen)
    assert (first["State"], first["TimelimitRaw"]) == ("TIMEOUT", "1")
    assert (second["State"], second["TimelimitRaw"]) == ("COMPLETED", "2")
    assert went_on(ran.workspace, ran.frozen)


def test_a_job_over_its_memory_came_back_with_more(ran):
    first, second = ran.records["data"]
    assert (first["State"], first["ReqMem"]) == ("FAILED", "60M")
    assert (second["State"], second["ReqMem"]) == ("COMPLETED", "480M")
