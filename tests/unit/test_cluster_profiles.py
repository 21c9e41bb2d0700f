"""What the cluster profiles say of the rules holds of the rules as they are."""

import re
from pathlib import Path

import pytest
import yte

PROJECT = Path(__file__).parents[2]
RULES = {
    name: text
    for path in (PROJECT / "rules").glob("*.smk")
    for name, text in re.findall(r"^(?:rule|checkpoint) (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S)
}


def profile(name):
    return yte.process_yaml((PROJECT / "profiles" / name / "profile.yaml").read_text(), require_use_yte=True)


@pytest.fixture
def slurm(monkeypatch):
    monkeypatch.setenv("SPUNGE_SLURM_ACCOUNT", "lab")
    monkeypatch.setenv("SPUNGE_SLURM_PARTITION", "cpu")
    monkeypatch.setenv("SPUNGE_SLURM_GPU_PARTITION", "gpu")
    return profile("slurm")


def test_rules_that_may_use_a_gpu_go_to_its_partition(slurm):
    on_gpu = {name for name, text in RULES.items() if re.search(r"^ +gpu=", text, re.M)}
    asked = {name for name, one in slurm["set-resources"].items() if one.get("slurm_partition") == "gpu"}
    assert asked == on_gpu
    assert slurm["default-resources"]["slurm_partition"] == "cpu"
    assert slurm["default-resources"]["slurm_account"] == "lab"


def test_each_scheduler_is_asked_as_it_wants_to_be(slurm):
    assert slurm["default-resources"]["nodes"] == 1, "GPUs of several nodes are no use to one job"
    assert profile("kubernetes")["default-resources"]["scale"] == 0, "a pod's GPU needs a limit"
    # Grid Engine's times have three numbers: sge_types(1).
    assert "h_rt=0:{resources.runtime}:00 " in (PROJECT / "profiles/cluster-generic/profile.yaml").read_text()


def test_named_rules_are_there(slurm):
    assert slurm["groups"].keys() <= RULES.keys()
    assert slurm["set-resources"].keys() <= RULES.keys()


def test_jobs_of_a_group_share_what_one_needs(slurm):
    assert {slurm["set-resources"][rule]["in_turn"] for rule in slurm["groups"]} == {slurm["resources"]["in_turn"]}
    assert slurm["set-resource-scopes"] == {"in_turn": "local"}


def test_without_names_the_cluster_decides(monkeypatch):
    for name in ("ACCOUNT", "PARTITION", "GPU_PARTITION"):
        monkeypatch.delenv(f"SPUNGE_SLURM_{name}", raising=False)
    slurm = profile("slurm")
    assert not {"slurm_account", "slurm_partition"} & slurm["default-resources"].keys()
    assert all("slurm_partition" not in one for one in slurm["set-resources"].values())


def test_retries_are_the_profiles(slurm):
    """Those of a rule would happen within one Slurm job; the downloads of `wheel` run where Snakemake does."""
    assert {name for name, text in RULES.items() if "retries:" in text} <= {"wheel"}
    assert all(profile(name)["retries"] > 0 for name in ("slurm", "kubernetes", "cluster-generic"))
