"""Every attack on unlearning, from the configuration to the figure, on a tiny model."""

import os
import re

import pandas as pd
import pytest
import yaml
from workspace import FORGET, NAMES, PLACES, RETAIN, configuration, refusal, sentences

RELEARNED = [f"relearned_{source}_{number}" for number in (1, 2) for source in ("forget", "other", "unrelated")]
NAMED = ["as_unlearned", *RELEARNED, "quantised_8", "quantised_4", "rephrased", "open_ended", "ablated"]
CANDIDATES = ["base", "rmu/joint/seed0", "rmu/attribute/merge/ties/seed0"]
DURABILITY = {"questions": 3, "quantise": [8, 4], "rephrase": True, "open_ended": True, "ablate": True}
DURABILITY |= {"relearn": {"texts": [1, 2], "batch_size": 2, "lora_rank": 4, "learning_rate": 0.01}}
PROSE = [f"On the {day} day it rained, and the post was late." for day in ("third", "fourth", "fifth")]
JOBS = {name: len(CANDIDATES) for name in ("as_unlearned", "relearn", "quantise", "rephrase", "ablate")}
JOBS |= {"draw_durability": 1, "base_activations": 1, "compare": 2 + len(NAMED), "evaluate": 4, "figure": 7}


def lasting(**changes):
    """Return an experiment with one method, without the random split, and with every attack."""
    config = configuration()
    config["splits"], config["single_shards"] = ["joint", "attribute"], False
    config["methods"] = {name: config["methods"]["rmu"] for name in ("rmu", "rmu-spared")}
    config["methods"]["rmu-spared"] = {"scaled_from": "rmu", "scale": 0.5, "merges": ["ties"]}
    rephrased = config["data"]["options"]["questions"] | {"path": "tables/rephrased.csv"}
    config["data"]["options"]["rephrased"] = rephrased
    config["evaluations"] = {"knowledge": {}, "fluency": {}, "durability": {**DURABILITY, **changes}}
    return config


@pytest.fixture(scope="module")
def unattacked(tmp_path_factory, prepared):
    """A workspace with a rephrased table and some prose to retain, in which nothing has run."""
    workspace = prepared.copy(tmp_path_factory.mktemp("lasting") / "workspace")
    rephrased = [
        {"question": f"Which place is {name} of?", **dict(zip("abcd", PLACES, strict=True))}
        | {"right": PLACES[number % 4], "topic": topic, "about": name}
        for topic in NAMES
        for number, name in enumerate(NAMES[topic])
    ]
    pd.DataFrame(rephrased).to_csv(workspace / "tables/rephrased.csv", index=False)
    retain = pd.concat([pd.read_csv(workspace / "tables/retain.csv"), pd.DataFrame({"text": PROSE})])
    retain.to_csv(workspace / "tables/retain.csv", index=False)
    workspace.configure(lasting())
    return workspace


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, unattacked):
    workspace = unattacked.copy(tmp_path_factory.mktemp("attacked") / "workspace")
    workspace.run = workspace.snakemake()
    assert workspace.run.returncode == 0, workspace.run.stdout
    return workspace


@pytest.fixture(scope="module")
def evaluations(attacked):
    return pd.read_csv(attacked.results / "evaluations.csv", keep_default_na=False, na_values={"value": ["", "nan"]})


@pytest.fixture
def fresh(tmp_path, unattacked):
    return unattacked.copy(tmp_path / "workspace")


def refused(workspace, config, *targets):
    workspace.configure(config)
    done = workspace.snakemake(*targets)
    assert done.returncode != 0
    return done.stdout


@pytest.mark.slow
def test_every_attack_runs_once_for_every_attacked_candidate(attacked):
    planned = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", attacked.run.stdout, re.MULTILINE)}
    assert {rule: planned[rule] for rule in JOBS} == JOBS | {"evaluate": 5}
    for name in NAMED:
        for candidate in CANDIDATES:
            assert (attacked.results / f"evaluations/{candidate}/{name}.csv").stat().st_size
        assert (attacked.results / f"comparisons/{name}.csv").stat().st_size
    found = attacked.results.glob("evaluations/*spared*/**/as_unlearned.csv")
    assert not list(found), "a method that takes the runs of another is attacked only where it is named"
    for suffix in ("pdf", "png"):
        assert (attacked.results / f"figures/durability.{suffix}").stat().st_size > 10_000


@pytest.mark.slow
def test_a_gpu_gives_the_same_numbers(attacked, fresh, monkeypatch):
    """The GPU is a stand-in: what a job leaves on the wrong device it refuses, and it computes as the CPU does."""
    monkeypatch.setenv("STAND_IN_GPU", "1")
    folder = f"results/tiny/evaluations/{CANDIDATES[-1]}"
    names = ["knowledge", "fluency", *NAMED]
    done = fresh.snakemake(*(f"{folder}/{name}.csv" for name in names))
    assert done.returncode == 0, done.stdout
    for name in names:
        on_gpu, on_cpu = (pd.read_parquet(workspace / folder / f"{name}.parquet") for workspace in (fresh, attacked))
        pd.testing.assert_frame_equal(on_gpu, on_cpu, rtol=1e-4, atol=1e-6)  # attention is computed in another way
    logs = [log for rule in ("unlearn", "evaluate", "relearn") for log in fresh.results.glob(f"logs/{rule}/**/*.log")]
    assert len(logs) == 4 and all("sees a stand-in for a GPU" in log.read_text() for log in logs)


@pytest.mark.slow
def test_rows_reach_the_one_table(evaluations):
    means = ["forget mean", "retain mean", "retain minus forget", "forget worst"]
    for name in NAMED:
        rows = evaluations[evaluations["evaluation"] == name]
        accuracy = rows[rows["metric"] == "accuracy"]
        assert set(accuracy["candidate"]) == {*CANDIDATES, "rmu/joint", "rmu/attribute/merge/ties"}
        for _, own in accuracy.groupby("candidate"):
            assert list(own["attribute"]) == [*FORGET, *RETAIN, *means]
        assert accuracy[~accuracy["attribute"].isin(means)]["value"].between(0, 1).all()
        assert set(rows.loc[rows["candidate"] == "rmu/attribute/merge/ties", "metric"]) == {
            "accuracy",
            "accuracy_minus_base",
            "accuracy_minus_joint",
        }
    drawn = evaluations[evaluations["evaluation"] == "durability"].set_index(["attribute", "metric"])["value"]
    for topic in (*FORGET, *RETAIN):
        left_out = drawn[topic, "left_out"]
        assert left_out in ((2, 3, 4) if topic in FORGET else (0,))  # two names, and others of their places
        assert drawn[topic, "questions"] == min(3, len(NAMES[topic]) - left_out)
        assert drawn[topic, "chance"] == 0.25


@pytest.mark.slow
def test_what_is_asked_is_neither_taught_nor_different_between_attacks(attacked):
    drawn = attacked.results / "data/durability"
    taught = pd.read_parquet(drawn / "relearned.parquet")
    asked = pd.read_parquet(drawn / "questions.parquet")
    assert taught["attribute"].value_counts().to_dict() == dict.fromkeys([*FORGET, ""], 2)
    assert set(taught.loc[taught["attribute"] == "", "text"]) <= set(PROSE)
    assert not [name for name in asked["subject"] for text in taught["text"] if name in text]
    for candidate in CANDIDATES:
        folder = attacked.results / "evaluations" / candidate
        knowledge = pd.read_parquet(folder / "knowledge.parquet")
        before = pd.read_parquet(folder / "as_unlearned.parquet")
        assert before["accuracy"].tolist() == knowledge["accuracy"].iloc[asked["row"]].tolist()
        for name in NAMED:
            scores = pd.read_parquet(folder / f"{name}.parquet")
            assert scores["subject"].tolist() == asked["subject"].tolist(), name
    # Nothing was unlearned from the base model, so there is no direction to take out of it.
    plain, ablated = (
        pd.read_parquet(attacked.results / f"evaluations/base/{name}.parquet")["accuracy"].tolist()
        for name in ("as_unlearned", "ablated")
    )
    assert plain == ablated


@pytest.mark.slow
def test_nothing_of_a_text_is_in_what_people_see(attacked):
    texts = {text for topic in (*FORGET, *RETAIN) for text in sentences(topic)} | set(PROSE)
    texts |= {f"Which place is {name} of?" for names in NAMES.values() for name in names}
    shown = {"terminal": attacked.run.stdout.encode()} | attacked.files() | attacked.files(".snakemake")
    leaks = [
        path
        for path, content in shown.items()
        if not path.endswith(".parquet")
        for text in texts
        if text.encode() in content
    ]
    assert len(shown) > 100 and not leaks


@pytest.mark.slow
def test_second_run_does_nothing_and_an_attack_reruns_alone(attacked, tmp_path):
    again = attacked.copy(tmp_path / "workspace")
    assert again.dry_run() is None
    config = lasting(relearn={**DURABILITY["relearn"], "learning_rate": 0.02})
    again.configure(config)
    jobs = again.dry_run()
    assert [job for job in jobs if job.startswith("Let ")] == sorted(f"Let {one} relearn" for one in CANDIDATES)
    assert not [job for job in jobs if job.startswith(("Evaluate", "Quantise", "Ask", "Ablate", "Unlearn", "Draw the"))]
    os.remove(again.results / "evaluations/base/activations.safetensors")


@pytest.mark.slow
def test_attacks_begin_at_the_middle_budget(fresh):
    config = lasting()
    del config["methods"]["rmu-spared"]
    config["evaluations"]["durability"] = {"quantise": [8], "questions": 3}
    fresh.configure(config, budgets={"kl": [0.0001, 0.001, 0.01]})
    done = fresh.snakemake()
    assert done.returncode == 0, done.stdout
    table = pd.read_csv(fresh.results / "evaluations.csv", keep_default_na=False)
    for name in ("as_unlearned", "quantised_8"):
        at = table[table["evaluation"] == name].groupby("candidate")["budget"].unique().map(set).to_dict()
        seedless = {"rmu/joint", "rmu/attribute/merge/ties"}
        assert at == {"base": {""}, **{one: {"kl=0.001", "all"} for one in (*CANDIDATES[1:], *seedless)}}
    folder = fresh.results / "evaluations/rmu/joint/seed0"
    asked = pd.read_parquet(fresh.results / "data/durability/questions.parquet")["row"]
    knowledge = pd.read_parquet(folder / "knowledge.parquet").query("budget == 'kl=0.001'")
    before = pd.read_parquet(folder / "as_unlearned.parquet")
    assert before["accuracy"].tolist() == knowledge["accuracy"].iloc[asked].tolist()
    assert "attacked at equal damage, a KL of 0.001 per token" in (fresh.results / "findings.html").read_text()


def test_more_texts_than_leave_questions(fresh):
    told = refused(fresh, lasting(relearn={"texts": [6]}), "results/tiny/data/durability/questions.parquet")
    assert "relearn.texts is 6, but only 3 retain texts name no subject of a question: take fewer" in told
    pd.DataFrame({"text": [f"It is {n} past noon." for n in range(9)]}).to_csv(fresh / "tables/retain.csv", index=False)
    told = refused(fresh, lasting(relearn={"texts": [6]}), "results/tiny/data/durability/questions.parquet")
    assert "takes texts that tell the subject, cluster or answer of every question about rivers" in told


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quantise": [3]}, "durability.quantise.0 is 3; it can be 8, 4"),
        ({"methods": ["tvn"], "ablate": True}, "durability.methods names tvn; there are rmu, rmu-spared"),
        ({}, "durability names no attack; name relearn, quantise, rephrase, open_ended or ablate"),
        ({"relearn": {"text": 3}}, "durability.relearn has an unknown key `text`; did you mean `texts`?"),
    ],
)
def test_configurations_that_are_refused(section, message):
    config = lasting()
    config["evaluations"]["durability"] = section
    assert message in refusal(config)


def test_durability_without_knowledge():
    config = lasting()
    del config["evaluations"]["knowledge"]
    assert "evaluations.durability needs evaluations.knowledge beside it" in refusal(config)


def test_rephrased_that_the_data_lack(fresh):
    config = lasting()
    del config["data"]["options"]["rephrased"]
    told = refused(fresh, config, "results/tiny/data/forget.parquet")
    assert "data set table gives no rephrased here, which evaluations.durability.rephrase needs" in told


def test_named_methods_are_attacked_and_no_others(fresh):
    fresh.configure(lasting(methods=["rmu-spared"]))
    jobs = [job for job in fresh.dry_run() if job.startswith("Quantise")]
    assert jobs == sorted(
        f"Quantise {one}" for one in ("base", "rmu-spared/joint/seed0", "rmu-spared/attribute/merge/ties/seed0")
    )


def test_only_what_is_named_is_planned(fresh):
    config = lasting()
    config["evaluations"]["durability"] = {"quantise": [4]}
    fresh.configure(config)
    done = fresh.snakemake("--dry-run")
    planned = set(re.findall(r"^(\w+) +\d+$", done.stdout, flags=re.MULTILINE))
    assert {"draw_durability", "as_unlearned", "quantise"} <= planned
    assert not planned & {"relearn", "rephrase", "base_activations", "ablate"}
    assert yaml.safe_load((fresh / "experiment.yaml").read_text())["evaluations"]["durability"] == {"quantise": [4]}
