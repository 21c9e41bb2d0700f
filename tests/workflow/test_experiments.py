"""Every experiment that the project ships plans a run from nothing, and no two mix."""

import re
import shutil
from itertools import product

import pytest
import yaml
import yte
from workspace import FORGET, PROJECT, Workspace, configuration

from spunge.core import slugs
from spunge.experiment.splits import GROUPED

EXPERIMENTS = ["config.yaml", *sorted(f"experiments/{path.name}" for path in (PROJECT / "experiments").glob("*.yaml"))]


@pytest.fixture
def empty(tmp_path, project):
    """A clone's own files and nothing computed or downloaded."""
    shutil.copytree(project / "examples", tmp_path / "clone" / "examples")
    return Workspace(tmp_path / "clone", project)


def planned_jobs(empty, configfile):
    """Return the number of jobs that `snakemake plan` prints, and leaves nothing but its log."""
    name = yaml.safe_load(configfile.read_text())["experiment"]
    printed = empty.snakemake("plan", configfile=configfile)
    assert printed.returncode == 0, printed.stdout
    left = [str(path.relative_to(empty.folder)) for path in empty.folder.glob("re*/**/*") if path.is_file()]
    assert left == [f"results/{name}/logs/plan.log"]
    plan = (empty / left[0]).read_text()
    assert plan in printed.stdout and f"Plan of {name}" in plan
    assert max(map(len, plan.splitlines())) <= 120
    return re.search(r"^all +((?:≥ )?[\d,]+)", plan, re.MULTILINE)[1]


def slurm_groups(project):
    """Return the options by which jobs go to Slurm together: no group may have to wait for itself."""
    profile = yte.process_yaml((project / "profiles/slurm/profile.yaml").read_text(), require_use_yte=True)
    options = {"--groups": profile["groups"], "--group-components": profile["group-components"]}
    return [text for option, given in options.items() for text in (option, *(f"{k}={v}" for k, v in given.items()))]


def test_what_is_tuned_anew_can_be_grouped(empty, project):
    """With the committed table taken away, trials come before what they choose for."""
    jobs = empty.dry_run(*slurm_groups(project), "--config", "tuning={file: null}", configfile=project / "config.yaml")
    assert jobs.count("Choose the options of each arm by the validation part") == 1


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_plans_a_whole_run_from_nothing(empty, project, experiment):
    config = yaml.safe_load((project / experiment).read_text())
    splits, merges = config.get("splits", ["joint", "attribute", "random"]), config.get("merges", {"ties": {}})
    forget = config["data"]["forget"]
    jobs = empty.dry_run(*slurm_groups(project), configfile=project / experiment)
    for requirement in config.get("wheels", {}):
        assert f"Download {requirement} as data" in jobs
    if forget == "all":
        assert "Discover the attributes to forget" in jobs, "the shards are known when it has run"
        assert planned_jobs(empty, project / experiment).startswith("≥")
        return
    undivided = ("joint", "balanced", "sequential")
    unlearned = dict.fromkeys(undivided, ("all",)) | {
        "attribute": slugs.slugs(forget).values(),
        "random": [f"part{i + 1}" for i in range(len(forget))],
    }
    for seed, method, split in product(config["seeds"], config["methods"], splits):
        section = config["methods"][method]
        assert f"Evaluate {method}/joint/seed{seed}" in jobs
        for part in unlearned[split]:
            job = f"Unlearn {method}/{split if split in undivided else f'{split}/shard/{part}'}/seed{seed}"
            assert (job in jobs) == ("scaled_from" not in section)
        if split in undivided or "scaled_from" in section:
            continue
        for merge in section.get("merges", merges):
            assert f"Merge {method}/{split}/merge/{merge}/seed{seed}" in jobs
    assert jobs.count("Gather all evaluations in one table") == 1
    assert not list(empty.folder.glob("re*/*")), "a dry run leaves nothing"
    assert planned_jobs(empty, project / experiment) == f"{len(jobs):,}", "the plan counts them by itself"


def test_experiment_names_differ():
    names = [yaml.safe_load((PROJECT / experiment).read_text())["experiment"] for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)


def test_configfile_takes_nothing_from_the_default(fresh, project):
    """Three seeds, two other attributes and three wheels of config.yaml stand beside the experiment in vain."""
    shutil.copy(project / "config.yaml", fresh / "config.yaml")
    jobs = fresh.dry_run()
    assert not [job for job in jobs if "Africa" in job or "seed1" in job or job.startswith("Download")]
    assert jobs.count("Prepare the model model") == 1
    methods = {job.split()[1].split("/")[0] for job in jobs if job.startswith("Unlearn")}
    assert methods == {"rmu", "rmu-strong"}
    printed = fresh.snakemake("--dry-run", "--printshellcmds").stdout
    assert '"scale": 1.0' not in printed and '"scale":1.0' not in printed, (
        "the default's factor on the merge is none of this experiment's"
    )


def test_default_is_read_where_no_other_is_named(fresh):
    (fresh / "experiment.yaml").rename(fresh / "config.yaml")
    jobs = fresh.dry_run(configfile=None)
    assert "Prepare the model model" in jobs
    assert not [job for job in jobs if "Africa" in job]


def test_single_shards_can_stay_out(fresh):
    evaluated = {job for job in fresh.dry_run() if job.startswith("Evaluate")}
    fresh.configure(single_shards=False)
    fewer = {job for job in fresh.dry_run() if job.startswith("Evaluate")}
    alone = {f"Evaluate {method}/attribute/shard/{part}/seed0" for method in ("rmu", "rmu-strong") for part in FORGET}
    assert evaluated - fewer == alone
    assert "Evaluate rmu/attribute/merge/ties/seed0" in fewer


def test_numbers_of_shards_add_grouped_splits_at_equal_compute(fresh):
    config = configuration()
    config["data"]["forget"] = ["rivers", "dances", "trees"]
    config["methods"]["rmu"]["shards"] = [2]
    del config["methods"]["rmu"]["cache_activations"]
    config["methods"]["npo"] = {"steps": 3, "warmup_steps": 2, "shards": [2]}
    config["methods"].pop("rmu-strong")
    fresh.configure(config, single_shards=False)
    jobs = fresh.dry_run()
    added, methods = [job for job in jobs if "-2" in job], ("rmu", "npo")
    groups, drawn = ["group1", "group2"], ["part1", "part2"]
    assert sorted(added) == sorted(
        [
            *(f"Unlearn {one}/attribute-2/shard/{part}/seed0" for part in groups for one in methods),
            *(f"Unlearn {one}/random-2/shard/{part}/seed0" for part in drawn for one in methods),
            *(f"Merge {one}/{split}-2/merge/ties/seed0" for split in GROUPED for one in methods),
            *(f"Evaluate {one}/{split}-2/merge/ties/seed0" for split in GROUPED for one in methods),
            "Cut the shards of the attribute-2 split",
            "Cut the shards of the random-2-seed0 split",
        ]
    )
    assert "Draw shards" in jobs and "Draw tradeoff" in jobs
    printed = fresh.snakemake("--dry-run", "--printshellcmds").stdout
    runs = re.findall(r'scripts/unlearn.py\' .*?"steps": (\d+).*?"candidate": "rmu/([^"]+)/seed0"', printed)
    warmed = re.findall(r'"steps": (\d+), "warmup_steps": (\d+).*?"candidate": "npo/([^"]+)/seed0"', printed)
    assert {run: (steps, 2 * int(steps) // 3) for steps, run in runs} == {
        run: (steps, int(warmup)) for steps, warmup, run in warmed
    }, "the same part of every run"
    assert {run: int(steps) for steps, run in runs} == {
        "joint": 9,
        **{f"attribute/shard/{part}": 3 for part in config["data"]["forget"]},
        **{f"random/shard/part{number}": 3 for number in (1, 2, 3)},
        "attribute-2/shard/group1": 6,
        "attribute-2/shard/group2": 3,
        "random-2/shard/part1": 6,
        "random-2/shard/part2": 3,
    }
