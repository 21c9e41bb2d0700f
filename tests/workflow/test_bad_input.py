"""Mistakes: one clear sentence, a non-zero exit, no file half made, and nothing of what was there before lost."""

import json
import os
import zipfile

import pandas as pd
import pytest
import tiny_model
from workspace import FORGET, configuration, refusal, sentences

from spunge.experiment.configuration import workflow_keys

TABLES = ("forget", "retain", "questions", "fluency")


def sentence(done):
    """Return the one line that says what is wrong."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout
    told = {line for line in done.stdout.splitlines() if line.startswith("error: ")}
    assert len(told) == 1, done.stdout
    assert not [text for topic in FORGET for text in sentences(topic) if text in done.stdout]
    return told.pop()


def nothing_half_made(workspace):
    return not [path for path in workspace.folder.rglob("*") if "partial" in path.name]


def lost(workspace, before):
    """Return the results that are gone or changed, but for logs and benchmarks."""
    after = workspace.files()
    return {
        path for path in before if after.get(path) != before[path] and "/logs/" not in path and "/bench" not in path
    }


def build_tables(workspace, forget=FORGET, minimum=1):
    outputs = [f"--{table}-output=out/{table}.parquet" for table in TABLES]
    for name, given in (("options", configuration()["data"]["options"]), ("forget", forget), ("tasks", [])):
        (workspace / f"{name}.json").write_text(json.dumps(given))
    return workspace.script(
        "build_tables",
        "--dataset=table",
        "--options=options.json",
        "--forget=forget.json",
        "--tasks=tasks.json",
        f"--minimum-texts={minimum}",
        *outputs,
        "--attributes-output=out/attributes.json",
    )


def unlearn(workspace, **options):
    own = {key: value for key, value in configuration()["methods"]["rmu-strong"].items() if key not in workflow_keys()}
    described = {
        "experiment": "tiny",
        "candidate": "rmu/attribute/shard/rivers/seed0",
        "method": "rmu",
        "split": "attribute",
    }
    return workspace.script(
        "unlearn",
        f"--method={workspace.project}/spunge/methods/rmu.py",
        f"--options={json.dumps(own | options)}",
        f"--run={json.dumps(described | {'shard': 'rivers', 'merge': '', 'seed': '0', 'budget': ''})}",
        "--base=resources/models/model",
        "--forget=results/tiny/shards/attribute/rivers.parquet",
        "--retain=results/tiny/data/retain.parquet",
        "--attributes=results/tiny/data/attributes.json",
        "--task-vector=out/task_vector.safetensors",
        "--training=out/training.csv",
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sedes": [1]}, "configuration has an unknown key `sedes`; did you mean `seeds`?"),
        ({"seeds": 1}, "configuration: seeds is 1; it must be array"),
        ({"seeds": ["one"]}, "configuration: seeds.0 is 'one'; it must be integer"),
        ({"splits": ["by attribute"]}, "'by attribute'; it can be 'joint', 'balanced', 'sequential', 'attribute'"),
        ({"methods": {"rmv": {"steps": 3}}}, "rmv"),
        ({"methods": {"mine": {"method": "rmv", "steps": 3}}}, "configuration: methods.mine.method is 'rmv'"),
        ({"methods": {"rmu": {"steps": 3, "learning_rte": 1}}}, "`learning_rte`; did you mean `learning_rate`?"),
        ({"experiment": "../elsewhere"}, "experiment"),
    ],
)
def test_wrong_configuration(changes, told):
    assert told in refusal(configuration() | changes)


def test_wrong_configuration_stops_snakemake(changing):
    before = changing.files()
    changing.configure(sedes=[1])
    done = changing.snakemake()
    assert done.returncode != 0
    assert "configuration has an unknown key `sedes`; did you mean `seeds`?" in done.stdout
    assert "Traceback" not in done.stdout and "Job stats" not in done.stdout, "before the DAG is built"
    assert lost(changing, before) == set()


def test_configuration_that_is_no_yaml(fresh):
    (fresh / "experiment.yaml").write_text("experiment: [tiny")
    done = fresh.snakemake()
    assert done.returncode != 0 and "Config file is not valid JSON or YAML" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_key_that_stands_twice(fresh):
    path = fresh / "experiment.yaml"
    path.write_text(path.read_text() + "seeds: [1]\n")
    done = fresh.snakemake("--dry-run")
    assert done.returncode != 0 and "Traceback" not in done.stdout
    line = len(path.read_text().splitlines())
    assert f"{path}, line {line}: the key `seeds` stands there again, after line 2" in done.stdout


def test_attribute_that_the_data_lack(changing):
    """Through snakemake: the sentence reaches the terminal and the log, and what was computed stays."""
    before = changing.files()
    config = configuration()
    config["data"]["forget"] = ["rivers", "danses"]
    changing.configure(config)
    done = changing.snakemake()
    told = sentence(done)
    assert told == "error: tables/forget.csv has no attribute danses; it has dances, rivers"
    assert told in (changing.results / "logs" / "data.log").read_text()
    assert nothing_half_made(changing)
    # Snakemake takes a job's own old output away before it starts; everything else is still there.
    tables = {f"tiny/data/{table}.parquet" for table in TABLES} | {"tiny/data/attributes.json"}
    assert lost(changing, before) <= tables


def test_shard_below_the_minimum(fresh):
    config = configuration()
    config["data"]["minimum_texts"] = 13
    fresh.configure(config)
    told = sentence(fresh.snakemake("results/tiny/shards/attribute"))
    assert told == "error: shard 'rivers' has 12 texts, the minimum is 13; add texts or lower minimum_texts"
    assert fresh.files("results", "*.parquet") == {}


def test_wheel_with_another_checksum(fresh, tmp_path, monkeypatch):
    """Through snakemake and the real pip, from a folder instead of an index."""
    (tmp_path / "index").mkdir()
    with zipfile.ZipFile(tmp_path / "index" / "toy_data-1.0-py3-none-any.whl", "w") as archive:
        about = "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n"
        archive.writestr("toy_data-1.0.dist-info/METADATA", about)
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    config = configuration()
    config["data"]["wheels"] = ["toy-data==1.0"]
    fresh.configure(config, wheels={"toy-data==1.0": "0" * 64})
    told = sentence(fresh.snakemake("resources/wheels/toy-data==1.0.whl"))
    assert told.startswith("error: toy-data==1.0 has SHA-256 ") and "0" * 64 in told and "removed" in told
    assert set(fresh.files("resources")) == {"logs/wheel/toy-data==1.0.log"}


def test_truncated_weights(fresh):
    """Where the model comes from, through snakemake; and after it was prepared, when it is to be unlearned."""
    weights = fresh / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    told = sentence(fresh.snakemake("resources/models/model"))
    assert (
        "model/model.safetensors can't be read as safetensors" in told
        and "delete it, then fetch it or run again" in told
    )
    assert set(fresh.files("resources")) == {"logs/model/model.log"}
    weights.write_bytes(whole)
    targets = ["resources/models/model", "results/tiny/shards/attribute"]
    assert fresh.snakemake(*targets).returncode == 0
    weights.write_bytes(whole[:-100])
    told = sentence(unlearn(fresh))
    assert f"model.safetensors has {len(whole) - 100} bytes where its manifest says {len(whole)}" in told
    assert "run again" in told
    assert not (fresh / "out").exists()


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        ("forget", lambda rows: rows.drop(columns="sentence"), "has no column sentence; it has topic, about"),
        ("forget", lambda rows: rows.drop(columns="topic"), "has no column topic; it has sentence, about"),
        ("forget", lambda rows: rows.assign(sentence=[*rows["sentence"][:-1], "  "]), "column sentence: 1 of 24 rows"),
        ("forget", lambda rows: rows.assign(sentence=[None, *rows["sentence"][1:]]), "column sentence: 1 of 24 rows"),
        ("forget", lambda rows: rows.assign(topic=[float("nan")] * len(rows)), "column topic: 24 of 24 rows"),
        ("forget", lambda rows: rows[:0], "has no rows"),
        ("retain", lambda rows: rows.rename(columns={"text": "Text"}), "has no column text; it has Text"),
        ("questions", lambda rows: rows.assign(right="Nowhere"), "column answer: 20 of 20 rows"),
        ("prose", lambda rows: rows.assign(text=sentences("rivers")[: len(rows)]), "must not be trained on"),
    ],
)
def test_wrong_tables(fresh, table, change, told):
    path = fresh / "tables" / f"{table}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    assert told in sentence(build_tables(fresh))
    assert not (fresh / "out").exists()


def test_table_that_is_not_there(fresh):
    """Snakemake itself sees that; the sentence is its own."""
    os.remove(fresh / "tables" / "retain.csv")
    done = fresh.snakemake()
    assert done.returncode != 0 and "tables/retain.csv" in done.stdout and "Traceback" not in done.stdout


def test_loss_that_is_not_a_number(changing):
    """Through snakemake, which stops that method; all others' results and the old tables stay."""
    before = changing.files()
    config = configuration()
    config["methods"]["rmu-strong"]["learning_rate"] = 1e30
    changing.configure(config)
    target = "unlearned/rmu-strong/joint/seed0"
    told = sentence(changing.snakemake(f"results/tiny/{target}/task_vector.safetensors"))
    assert told.startswith("error: the loss of rmu-strong/joint/seed0 is ")
    assert "at step 2 of 6 with learning rate 1e+30: lower the learning rate" in told
    assert told in (changing.results / "logs/unlearn/rmu-strong/joint/seed0.log").read_text()
    assert lost(changing, before) == {f"tiny/{target}/task_vector.safetensors", f"tiny/{target}/training.csv"}
    assert nothing_half_made(changing)


def test_layer_that_the_model_lacks(changing):
    assert "layer_id is 9, but model has 4 layers" in sentence(unlearn(changing, layer_id=9))
    assert not (changing / "out").exists()


def test_task_vector_of_another_base_model(changing):
    tiny_model.build(changing / "other", seed=1)
    done = changing.script("prepare_model", "--source=./other", "--output=resources/models/other")
    assert done.returncode == 0, done.stdout
    identity = {
        name: json.loads((changing / f"resources/models/{name}/manifest.json").read_text())["identity"]
        for name in ("model", "other")
    }
    described = {"experiment": "tiny", "candidate": "rmu/joint/seed0", "method": "rmu", "split": "joint"}
    done = changing.script(
        "evaluate",
        '--evaluations={"fluency": {}}',
        "--dtype=float32",
        f"--candidate={json.dumps(described | {'shard': '', 'merge': '', 'seed': '0', 'budget': ''})}",
        "--base=resources/models/other",
        "--task-vector=results/tiny/unlearned/rmu/joint/seed0/task_vector.safetensors",
        "--data=results/tiny/data/fluency.parquet",
        "--attributes=results/tiny/data/attributes.json",
        "--scores=out/scores.parquet",
        "--rows=out/rows.csv",
    )
    told = sentence(done)
    assert f"was made from base model {identity['model'][:12]} (model)" in told
    assert f"not from {identity['other'][:12]} (./other)" in told
    assert not (changing / "out").exists()


def test_truncated_task_vector(changing):
    path = changing.results / "unlearned/rmu/attribute/shard/rivers/seed0/task_vector.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    done = changing.snakemake("results/tiny/merged/rmu/attribute/merge/ties/seed0/task_vector.safetensors")
    told = sentence(done)
    assert "rivers/seed0/task_vector.safetensors can't be read as safetensors" in told and "run again" in told


@pytest.mark.slow
def test_any_string_is_an_attribute(fresh):
    """All attributes of the data, found by the checkpoint, unlearned and merged; no name leads out of results/."""
    nasty = ["../x", "--help", "Côte d'{seed} C{sharp}", "$(touch pwned); ties", '🦊 "b"\n$HOME' + 300 * "y"]
    texts = pd.read_csv(fresh / "tables" / "forget.csv", dtype=str)
    shards = [texts[4 * number : 4 * number + 4].assign(topic=one) for number, one in enumerate(nasty)]
    few = texts[20:22].assign(topic="too few")
    pd.concat([*shards, few]).to_csv(fresh / "tables" / "forget.csv", index=False)
    config = configuration()
    config["data"]["forget"] = "all"
    config["methods"] = {"rmu": config["methods"]["rmu"] | {"steps": 2, "cache_activations": False}}
    fresh.configure(config, splits=["attribute"], evaluations={"fluency": {}})  # the questions ask about others
    beside = set(os.listdir(fresh.folder.parent))
    done = fresh.snakemake("results/tiny/merged/rmu/attribute/merge/ties/seed0/diagnostics.csv")
    assert done.returncode == 0, done.stdout
    attributes = json.loads((fresh.results / "data/discovered.json").read_text())
    assert attributes == [{"attribute": one, "texts": 4} for one in sorted(nasty)]
    folders = sorted(path.name for path in (fresh.results / "unlearned/rmu/attribute/shard").iterdir())
    assert len(folders) == len(nasty)
    for folder, start in zip(
        folders, ["Cote-d-seed-C-sharp-", "b-HOMEyyy", "help-", "touch-pwned-ties-", "x-"], strict=True
    ):
        assert folder.startswith(start)
        assert (fresh.results / f"unlearned/rmu/attribute/shard/{folder}/seed0/task_vector.safetensors").is_file()
    told = pd.read_csv(fresh.results / "merged/rmu/attribute/merge/ties/seed0/diagnostics.csv", keep_default_na=False)
    assert set(told["shard"]) == {*nasty, ""}
    assert set(os.listdir(fresh.folder.parent)) == beside
    assert set(os.listdir(fresh.folder)) == {"model", "tables", "experiment.yaml", ".snakemake", "results", "resources"}
