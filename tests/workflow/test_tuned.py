"""A run in which every arm is tuned, attributes are held out, and questions divided."""

import json
import shutil

import hub_stand_in
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load, load_file
from workspace import RETAIN, configuration, sentences

from benchmarks import recompute
from spunge.experiment import tuning
from spunge.models import task_vector

ARMS = ("joint", "balanced", "sequential", "attribute", "random")
STEPS, DENSITIES = [2, 3], [0.3, 1.0]
MERGED = ("attribute", "random")


def tuned(**changes):
    """The tiny experiment with one method, tuned by its steps; one topic is retained, another one held out."""
    config = configuration()
    del config["methods"]["rmu-strong"]
    config["methods"]["rmu"]["tune"] = {"steps": STEPS, "merge.density": DENSITIES}
    config["data"] |= {"validation": 0.34, "held_out": RETAIN[1:]}
    config |= {"splits": list(ARMS), "budgets": {"kl": [0.0001, 0.001, 0.01]}, "single_shards": False}
    return config | {"tuning": {"seeds": [7]} | changes}


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    workspace = prepared.copy(tmp_path_factory.mktemp("tuned") / "my work")
    retain = [(text, topic) for topic in RETAIN for text in sentences(topic)]
    pd.DataFrame(retain, columns=["text", "attribute"]).to_csv(workspace / "tables/retain.csv", index=False)
    workspace.configure(tuned())
    done = workspace.snakemake()
    assert done.returncode == 0, done.stdout
    return workspace


@pytest.fixture(scope="module")
def table(whole):
    return tuning.read(whole.results / "tuning.csv")


@pytest.mark.slow
def test_every_arm_has_the_same_trials_and_takes_the_best(whole, table):
    assert set(table["split"]) == set(ARMS)
    for arm, of_arm in table.groupby("split"):
        tried = [{"steps": steps, "merge.density": density} for steps in STEPS for density in DENSITIES]
        if arm not in MERGED:
            tried = [{"steps": steps} for steps in STEPS]
        assert of_arm["options"].map(json.loads).tolist() == tried
        chosen = of_arm[of_arm["chosen"] == 1]
        assert chosen["value"].tolist() == [of_arm["value"].min()]
        # Two attributes: all at once take twice a shard's steps, which stand in the run's table of losses.
        options = json.loads(chosen["options"].iloc[0])
        steps = options["steps"]
        if arm in MERGED:
            merged = task_vector.read(whole.results / "merged/rmu" / arm / "merge/ties/seed0/task_vector.safetensors")
            assert merged.provenance["options"]["density"] == options["merge.density"]
        of_arm_runs = list((whole.results / "unlearned/rmu" / arm).rglob("seed0/training.csv"))
        taken = [pd.read_csv(path).query("metric == 'forget_loss'")["n"].max() for path in of_arm_runs]
        assert taken == ([steps] * 2 if arm in MERGED else [2 * steps])
    # Trials that differ by the merge alone share their runs.
    assert table.groupby("split")["steps"].sum().to_dict() == dict.fromkeys(ARMS, 2 * sum(STEPS))


@pytest.mark.slow
def test_trials_are_judged_by_other_questions_than_those_reported(whole, table):
    asked = {}
    for part, path in {"test": "seed0", "validation": "seed7/trial0"}.items():
        scores = pd.read_parquet(whole.results / "evaluations/rmu/joint" / path / "knowledge.parquet")
        asked[part] = set(scores["subject"])
        if part == "validation":
            joint = table[(table["split"] == "joint") & (table["trial"] == 0)].iloc[0]
            forget = scores[scores["attribute"].isin(["rivers", "dances"])]
            assert joint["value"] == pytest.approx(forget.groupby("attribute")["accuracy"].mean().mean())
            assert set(scores["budget"]) == {"kl=0.001"}
    assert asked["test"] and asked["validation"] and not asked["test"] & asked["validation"]
    evaluations = pd.read_csv(whole.results / "evaluations.csv", keep_default_na=False)
    assert not evaluations["candidate"].str.contains("trial|seed7").any()
    assert set(evaluations.loc[evaluations["evaluation"] == "tuning", "split"]) == set(ARMS)


@pytest.mark.slow
def test_what_is_held_out_is_not_trained_on_and_told_apart(whole):
    retained = pd.read_parquet(whole.results / "data/retain.parquet")
    assert set(retained["attribute"]) == {RETAIN[0]}
    page = (whole.results / "findings.html").read_text(encoding="utf-8")
    assert "keep, held out" in page and "Every arm was tuned alike" in page
    assert f"held out: {RETAIN[1]}" in (whole.results / "summary.md").read_text(encoding="utf-8")


def test_shards_that_only_the_data_know_are_tuned_too(prepared, tmp_path):
    workspace = prepared.copy(tmp_path / "my work")
    config = tuned()
    config["data"] |= {"forget": "all", "held_out": []}
    workspace.configure(config)
    done = workspace.snakemake("results/tiny/data/discovered.json")
    assert done.returncode == 0, done.stdout
    jobs = workspace.dry_run("results/tiny/tuning.csv")
    assert [job for job in jobs if job.startswith("Choose")]
    # Of each trial joint, balanced and one after another are one run, the two others two shards each.
    assert len([job for job in jobs if job.startswith("Unlearn") and "trial" in job]) == len(STEPS) * 7
    # A table that is named is never written, though it lies where this run would write its own.
    workspace.configure(config, tuning={"file": "results/tiny/tuning.csv"})
    told = workspace.snakemake("--dry-run", "--force", "results/tiny/tuning.csv").stdout
    assert "No rule to produce results/tiny/tuning.csv" in told


@pytest.mark.slow
def test_a_table_of_an_earlier_run_gives_the_same_numbers_without_trials(whole, tmp_path):
    again = whole.copy(tmp_path / "my work")
    kept = again / "my tuning.csv"
    shutil.copy(again.results / "tuning.csv", kept)
    before = (again.results / "evaluations.csv").read_bytes()
    shutil.rmtree(again / "results")
    again.configure(tuned(file=kept.name))
    jobs = again.dry_run()
    assert not [job for job in jobs if "trial" in job or job.startswith("Choose")]
    done = again.snakemake()
    assert done.returncode == 0, done.stdout
    assert (again.results / "evaluations.csv").read_bytes() == before
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(line for line in lines if ",balanced," not in line))
    (again.results / "unlearned/rmu/balanced/seed0/task_vector.safetensors").unlink()
    told = again.snakemake("results/tiny/unlearned/rmu/balanced/seed0/task_vector.safetensors").stdout
    assert "my tuning.csv has 0 choices for rmu/balanced, and one is needed" in told


@pytest.mark.slow
def test_plain_pytorch_gives_the_same_numbers_at_each_budget(whole, capsys):
    assert recompute.main([str(whole.results), "rmu/attribute/merge/ties/seed0"]) == 0, capsys.readouterr().out
    table = capsys.readouterr().out
    for budget in ("kl=0.0001", "kl=0.001", "kl=0.01"):
        for number in ("kl", "kl_held_out", "perplexity_ratio", "questions of accuracy_norm"):
            assert f"{budget}, {number}" in table


@pytest.mark.slow
def test_a_candidate_is_exported_and_published_at_a_budget(whole, tmp_path, monkeypatch):
    """Weights and card are those of one λ, which was found for the budget, not of the configured one."""
    candidate, budget = "rmu/joint/seed0", "kl=0.001"
    scale = json.loads((whole.results / f"evaluations/{candidate}/strengths.json").read_text())[budget]
    workspace = whole.copy(tmp_path / "my work")
    workspace.configure(tuned() | {"export": {"budget": budget}, "publish": {"repository": "lab/model"}})
    with hub_stand_in.standing_in("hf_token") as (hub, address):
        for name, value in (hub_stand_in.environment(address) | {"HF_TOKEN": "hf_token"}).items():
            monkeypatch.setenv(name, value)
        done = workspace.snakemake(f"results/tiny/published/{candidate}.json")
        assert done.returncode == 0, done.stdout
    files = hub.repositories["lab/model"]["files"]
    found, before = load(files["model.safetensors"]), load_file(workspace / "resources/models/model/model.safetensors")
    change = task_vector.read(whole.results / f"unlearned/{candidate}/task_vector.safetensors")
    assert scale not in (None, 1) and set(change.shapes) <= set(found)
    for name in change.shapes:
        torch.testing.assert_close(found[name], before[name] + scale * change[name], rtol=0, atol=1e-7)

    table = pd.read_csv(whole.results / "evaluations.csv", keep_default_na=False, dtype={"budget": str})
    rows = table[(table["candidate"] == candidate) & (table["budget"] == budget)]
    values = {(row.evaluation, row.attribute, row.metric): float(row.value) for row in rows.itertuples()}
    entries = ModelCard(files["README.md"].decode()).data.eval_results
    told = {(one.dataset_type, one.dataset_config or "", one.metric_type): one.metric_value for one in entries}
    assert told == {key: values[key] for key in told}
    assert {("knowledge", "forget mean", "accuracy"), ("fluency", "", "perplexity")} <= told.keys()
