"""A merged candidate of the finished workspace, published by name in a stand-in for the hub."""

import json

import hub_stand_in
import pytest
from huggingface_hub import ModelCard

from spunge.report.results_table import read

CANDIDATE = "rmu/attribute/merge/ties/seed0"
TARGET = f"results/tiny/published/{CANDIDATE}.json"
REPOSITORY = "lab/tiny-rmu-attribute-merge-ties-seed0"
TOKEN = "hf_of_the_environment"


@pytest.mark.slow
def test_a_candidate_is_published_when_asked_for(changing, monkeypatch):
    changing.configure(publish={"repository": "lab/{experiment}-{candidate}"})
    jobs = [f"Export {CANDIDATE} as a Hugging Face folder", f"Publish {CANDIDATE} in {REPOSITORY}"]
    assert changing.dry_run() is None, "no part of `all`"
    assert changing.dry_run(TARGET) == jobs

    with hub_stand_in.standing_in(TOKEN) as (hub, address):
        for name, value in hub_stand_in.environment(address).items():
            monkeypatch.setenv(name, value)
        refused = changing.snakemake(TARGET)
        assert refused.returncode != 0 and "error: HF_TOKEN is not set" in refused.stdout
        assert not hub.requests and not (changing / TARGET).exists()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        done = changing.snakemake(TARGET, "--printshellcmds", "--verbose")
        assert done.returncode == 0, done.stdout

    repository = hub.repositories[REPOSITORY]
    assert repository["private"]
    record = json.loads((changing / TARGET).read_text())
    assert record["repository"] == REPOSITORY and record["revision"] == repository["commits"][-1]
    exported = changing.files(f"results/tiny/exports/{CANDIDATE}")
    assert exported.pop(".snakemake_timestamp") == b"", "which Snakemake leaves in the folder"
    assert exported.pop("mergekit.yaml"), "which names the base model's folder, and isn't published"
    assert record["files"].keys() == exported.keys()
    assert {name for name in exported if repository["files"][name] != exported[name]} == {"README.md"}

    rows = read(changing.results / "evaluations.csv").set_index(["candidate", "evaluation", "attribute", "metric"])
    entries = ModelCard(repository["files"]["README.md"].decode()).data.eval_results
    assert {one.dataset_type for one in entries} == {"knowledge", "fluency"} and len(entries) > 8
    for one in entries:
        row = rows.loc[(CANDIDATE, one.dataset_type, one.dataset_config or "", one.metric_type)]
        assert one.metric_value == row["value"] and one.metric_args["n"] == row["n"]
        assert [one.metric_args["low"], one.metric_args["high"]] == [row["low"], row["high"]]

    kept = {**changing.files("."), "terminal": done.stdout.encode()}
    assert f"results/tiny/logs/publish/{CANDIDATE}.log" in kept and any(".snakemake/metadata/" in path for path in kept)
    assert [path for path, content in kept.items() if TOKEN.encode() in content] == []
    assert changing.dry_run(TARGET) is None
    changing.configure(publish={"repository": "lab/other", "private": False})
    assert changing.dry_run(TARGET) == [f"Publish {CANDIDATE} in lab/other"]


NOWHERE = "publish.repository is null, so there is nowhere to publish; name one, as in OWNER/{experiment}-{candidate}"
AT_BUDGETS = "nothing is measured; set export.budget to one of kl=0.01, or budgets.as_trained to true"


@pytest.mark.parametrize(
    ("changes", "said"),
    [({}, NOWHERE), ({"publish": {"repository": "lab/model"}, "budgets": {"kl": [0.01]}}, AT_BUDGETS)],
)
def test_what_can_not_be_published_is_told_before_anything_runs(fresh, changes, said):
    fresh.configure(**changes)
    done = fresh.snakemake("--dry-run", TARGET)
    assert done.returncode != 0 and said in " ".join(done.stdout.split())
    assert "most recent call" not in done.stdout


def test_an_export_at_a_budget_waits_for_its_strength_and_another_for_no_evaluation(fresh):
    target, evaluated = f"results/tiny/exports/{CANDIDATE}", f"Evaluate {CANDIDATE}"
    fresh.configure(budgets={"kl": [0.01, 0.1]})
    assert evaluated not in fresh.dry_run(target)
    fresh.configure(budgets={"kl": [0.01, 0.1]}, export={"budget": "kl=0.1"}, publish={"repository": "lab/model"})
    assert evaluated in fresh.dry_run(target)
    assert f"Publish {CANDIDATE} in lab/model" in fresh.dry_run(TARGET)
