"""Methods from outside the project, in one run: a Python file, a program, ready checkpoints; and a variant of one."""

import shlex

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM
from workspace import PROJECT, edited

from spunge.models import task_vector

METHOD = '''
"""Take a share of the weights of one layer away."""

import dataclasses
import sys

from spunge.methods import Unlearned
from spunge.models.task_vector import TensorFolder

sys.path.append(__file__.rpartition("/")[0])
import layers


@dataclasses.dataclass(frozen=True)
class Options:
    share: float
    layer: int = layers.FIRST


def unlearn(run, options):
    name = f"model.layers.{options.layer}.mlp.down_proj.weight"
    return Unlearned({name: -options.share * TensorFolder(run.base.folder)[name]}, [])
'''
# What `accelerate` starts on a GPU machine, with two processes on the CPU.
TWO_PROCESSES = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_machines: 1
machine_rank: 0
num_processes: 2
main_process_port: 0
mixed_precision: "no"
"""
LOOP = {"method": "gradient_difference", "steps": 2, "batch_size": 4, "learning_rate": 0.001}
DOWN = "model.layers.2.mlp.down_proj.weight"
TRAINER = PROJECT / "examples" / "external-trainer" / "train.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared):
    workspace = prepared.copy(tmp_path_factory.mktemp("doors") / "workspace")
    outside = tmp_path_factory.mktemp("elsewhere")
    (outside / "shrink.py").write_text(METHOD)
    (outside / "layers.py").write_text("FIRST = 1\n")
    (outside / "two.yaml").write_text(TWO_PROCESSES)
    model = AutoModelForCausalLM.from_pretrained(workspace / "model")
    for number, part in enumerate(("all", "rivers", "dances")):
        with torch.no_grad():
            model.get_parameter(DOWN).mul_(0.9 - 0.1 * number)
        model.save_pretrained(outside / f"ready-{part}")
    trainer = f"{shlex.quote(workspace.python)} {shlex.quote(str(TRAINER))} --model {{base}} --forget {{forget}}"
    trainer += " --retain {retain} --output {output} --steps {steps} --seed {seed} --learning-rate {rate}"
    workspace.configure(
        methods={
            "shrink": {"file": str(outside / "shrink.py"), "options": {"share": 0.5}},
            "shrink-less": {"scaled_from": "shrink", "scale": 0.5},
            "trainer": {"command": trainer, "steps": 2, "options": {"rate": 0.001}},
            "one-process": LOOP,
            "two-processes": LOOP | {"accelerate": str(outside / "two.yaml")},
            "ready": {"checkpoint": str(outside / "ready-{shard}")},
        },
        splits=["joint", "attribute"],
        evaluations={"fluency": {}},
    )
    done = workspace.snakemake("results/tiny/evaluations.csv")
    assert done.returncode == 0, done.stdout
    return workspace, outside


def test_every_door_ends_in_the_table(finished):
    rows = pd.read_csv(finished[0].results / "evaluations.csv", keep_default_na=False)
    perplexity = rows[(rows["evaluation"] == "fluency") & (rows["metric"] == "perplexity") & (rows["seed"] == "0")]
    runs = ("joint", "attribute/shard/rivers", "attribute/shard/dances", "attribute/merge/ties")
    methods = ("shrink", "shrink-less", "trainer", "ready", "one-process", "two-processes")
    assert set(perplexity["candidate"]) == {f"{method}/{run}/seed0" for method in methods for run in runs}
    trained = rows[rows["evaluation"] == "training"]
    assert set(trained["method"]) == {"one-process", "two-processes"}  # the doors tell no losses


def test_accelerate_starts_several_processes_with_the_same_result(finished):
    unlearned = finished[0].results / "unlearned"
    one, two = (
        task_vector.read(unlearned / f"{count}/joint/seed0/task_vector.safetensors")
        for count in ("one-process", "two-processes")
    )
    assert one.shapes == two.shapes and len(one) > 10
    for name, delta in one.items():
        torch.testing.assert_close(two[name], delta, rtol=1e-3, atol=1e-5)


def test_what_the_doors_changed(finished):
    workspace = finished[0]
    unlearned = workspace.results / "unlearned"
    original = AutoModelForCausalLM.from_pretrained(workspace / "model").state_dict()
    vector = task_vector.read(unlearned / "shrink/joint/seed0/task_vector.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    assert list(vector) == [name]
    assert torch.equal(vector[name], -0.5 * original[name])
    assert vector.provenance["method"] == "shrink"
    assert vector.provenance["options"] == {"share": 0.5, "layer": 1}
    vector = task_vector.read(unlearned / "ready/attribute/shard/rivers/seed0/task_vector.safetensors")
    assert list(vector) == [DOWN]
    torch.testing.assert_close(vector[DOWN], (0.9 * 0.8 - 1) * original[DOWN], rtol=1e-4, atol=1e-6)
    steps = [
        task_vector.read(unlearned / f"trainer/{run}/seed0/task_vector.safetensors").provenance["options"]["steps"]
        for run in ("joint", "attribute/shard/rivers")
    ]
    assert steps == [4, 2]


def test_what_a_file_of_the_users_imports_reruns_its_method_alone(finished):
    workspace, outside = finished
    with edited(outside / "layers.py", "1", "2"):
        jobs = workspace.dry_run("results/tiny/evaluations.csv")
    trained = [job for job in jobs if job.startswith("Unlearn")]
    runs = ("attribute/shard/dances", "attribute/shard/rivers", "joint")
    assert trained == [f"Unlearn shrink/{run}/seed0" for run in runs]
    assert workspace.dry_run("results/tiny/evaluations.csv") is None


def test_a_variant_costs_no_training_and_is_the_scaled_vector(finished):
    workspace, _ = finished
    assert not (workspace.results / "unlearned/shrink-less").exists()
    assert not (workspace.results / "merged/shrink-less").exists()
    workspace.configure(
        methods={
            "shrink": {"file": str(finished[1] / "shrink.py"), "options": {"share": 0.25}},
        },
        experiment="quarter",
        splits=["joint"],
        evaluations={"fluency": {}},
    )
    done = workspace.snakemake("results/quarter/evaluations/shrink/joint/seed0/fluency.csv")
    assert done.returncode == 0, done.stdout
    value = pd.read_csv(workspace / "results/quarter/evaluations/shrink/joint/seed0/fluency.csv")["value"]
    variant = pd.read_csv(workspace.results / "evaluations/shrink-less/joint/seed0/fluency.csv")["value"]
    full = pd.read_csv(workspace.results / "evaluations/shrink/joint/seed0/fluency.csv")["value"]
    assert variant.tolist() == value.tolist() != full.tolist()


def test_mergekit_merges_what_a_method_unlearned(finished):
    """Both shards are one vector here, of which Model Breadcrumbs leaves out the largest tenth and the smaller half."""
    pytest.importorskip("mergekit")
    workspace, outside = finished
    merge = {"merge": "mergekit", "method": "breadcrumbs", "density": 0.4, "gamma": 0.1, "weights": {"rivers": 2}}
    workspace.configure(
        methods={"shrink": {"file": str(outside / "shrink.py"), "options": {"share": 0.5}}},
        experiment="by-mergekit",
        merges={"breadcrumbs": merge},
        evaluations={"fluency": {}},
    )
    path = "merged/shrink/attribute/merge/breadcrumbs/seed0/task_vector.safetensors"
    done = workspace.snakemake(f"results/by-mergekit/{path}")
    assert done.returncode == 0, done.stdout
    merged = task_vector.read(workspace / "results/by-mergekit" / path)
    name = "model.layers.1.mlp.down_proj.weight"
    shard = "unlearned/shrink/attribute/shard/rivers/seed0/task_vector.safetensors"
    delta = task_vector.read(workspace / "results/by-mergekit" / shard)[name]
    kept = merged[name] != 0
    assert int(kept.sum()) == int(0.4 * delta.numel())
    torch.testing.assert_close(merged[name][kept], 3 * delta[kept])
    assert delta[kept].abs().max() < delta.abs().max() and delta[kept].abs().min() > delta.abs().quantile(0.45)
    assert merged.provenance["versions"]["mergekit"] and merged.provenance["options"]["gamma"] == 0.1


def test_the_order_of_batches_is_a_split_of_its_own(finished):
    workspace, _ = finished
    workspace.configure(
        methods={"loop": LOOP | {"steps": 3, "warmup_steps": 1, "steps_of_shards": "proportional"}},
        experiment="ordered",
        splits=["joint", "balanced", "sequential", "attribute"],
        single_shards=False,
        evaluations={"knowledge": {}, "fluency": {}},
    )
    done = workspace.snakemake("results/ordered/findings.html")
    assert done.returncode == 0, done.stdout
    results = workspace / "results/ordered"
    rows = pd.read_csv(results / "evaluations.csv", keep_default_na=False)
    spunge = rows[rows["candidate"] == "loop/attribute/merge/ties"]
    rivals = {"base", "joint", "balanced", "sequential"}
    assert {f"accuracy_minus_{rival}" for rival in rivals} <= set(spunge["metric"])
    visits = rows[rows["metric"] == "visits"].set_index(["split", "attribute"])
    assert visits["value"].astype(float).groupby("split").sum().to_dict() == dict.fromkeys(rivals - {"base"}, 24) | {
        "attribute": 24  # 6 steps of 4 texts for each
    }
    assert visits.loc["balanced", "value"].astype(float).tolist() == [12, 12]
    vectors = {
        task_vector.read(results / f"unlearned/loop/{split}/seed0/task_vector.safetensors")[DOWN].numpy().tobytes()
        for split in ("joint", "balanced", "sequential")
    }
    assert len(vectors) == 3
    assert "one after another" in (results / "findings.html").read_text()
