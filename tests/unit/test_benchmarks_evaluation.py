"""lm-eval's own tasks out of a mirror: against lm-eval itself, in statistics, tables, pages and the figure."""

import copy
import json
import re
from pathlib import Path

import datasets
import forked_python
import lm_eval_mirror
import numpy
import pandas as pd
import pytest
import torch
import yaml
from evaluations_example import example
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from spunge.core.errors import InputError
from spunge.evaluation import benchmarks, descriptive_rows, statistics
from spunge.experiment import configuration
from spunge.experiment.records import Candidate
from spunge.models import base_model
from spunge.report import comparisons, findings, published, results_table, summary
from spunge.report.figures import attributes, overview, radar, tradeoff
from spunge.report.figures import benchmarks as figure

PROJECT = Path(__file__).parents[2]
TASKS = ("wmdp_bio", "wmdp_cyber", "mmlu_stem", "mmlu_virology", "arc_easy", "arc_challenge", "hellaswag", "winogrande")
TASKS += ("piqa", "openbookqa", "boolq", "truthfulqa_mc2", "gsm8k")
FORGET = {"bio": "wmdp_bio", "cyber": "wmdp_cyber"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Data sets are prepared in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module", autouse=True)
def manager(quick_python):
    """lm-eval's index of its tasks, which takes seconds to read, as forks have it; everybody gets a copy."""
    forked_python.share_task_index(forked_python.task_index(quick_python))
    built = TaskManager(include_path=benchmarks.TASKS)

    def copied(**_):
        manager = copy.copy(built)
        manager._index = dict(built._index)
        return manager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks.TaskManager", copied)
        yield copied


@pytest.fixture(scope="module")
def stem(manager):
    """The subtasks of mmlu_stem."""
    return sorted(manager().task_index["mmlu_stem_tasks"].tags)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory, stem):
    folder = tmp_path_factory.mktemp("mirror")
    lm_eval_mirror.write(folder, ["virology", *(name.removeprefix("mmlu_") for name in stem)])
    return folder


@pytest.fixture(scope="module")
def model(tiny_base):
    """With room for gsm8k's 256 new tokens after its examples."""
    model = base_model.load(tiny_base, torch.float32, "cpu")
    model.config.max_position_embeddings = 4096
    return model


@pytest.fixture(scope="module")
def options(mirror):
    return benchmarks.Options(TASKS, FORGET, str(mirror), {"mmlu_stem": 2})


@pytest.fixture(scope="module")
def scored(model, tokenizer, options):
    return benchmarks.score(model, tokenizer, options)


@pytest.fixture(scope="module")
def plain(model, tokenizer, mirror, manager):
    """lm-eval by itself: its own model and its own reader, which finds the mirror's folders under the hub's names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(mirror)
        asked = dict.fromkeys(TASKS) | {"mmlu_stem": 2}
        found = [
            simple_evaluate(
                HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
                tasks=[task for task in TASKS if asked[task] == fewshot],
                num_fewshot=fewshot,
                task_manager=manager(),
                verbosity="ERROR",
            )
            for fewshot in (2, None)
        ]
    return {key: found[0][key] | found[1][key] for key in ("results", "versions", "n-shot", "n-samples", "samples")}


def test_means_are_lm_evals(scored, plain, stem):
    """Of every task, group and subtask, with its standard error, versions and numbers."""
    scores, results = scored
    names = {task: attribute for attribute, task in FORGET.items()}
    asked = {*TASKS, *stem}
    means = scores.groupby("attribute")["accuracy"].mean()
    assert set(means.index) == {names.get(task, task) for task in asked}
    for task in asked:
        own = plain["results"][task]
        value = own.get("acc_norm,none", own.get("acc,none", own.get("exact_match,strict-match")))
        assert means[names.get(task, task)] == pytest.approx(value, abs=1e-4), task
        for key, expected in own.items():
            if isinstance(expected, float):
                assert results["results"][task][key] == pytest.approx(expected, abs=1e-4), (task, key)
        assert results["n-shot"][task] == plain["n-shot"][task]
    assert {results["n-shot"][task] for task in stem} == {2} and results["n-shot"]["gsm8k"] == 5
    assert results["versions"] == plain["versions"]
    assert results["n-samples"] == plain["n-samples"]
    # Sizes differ, so that a plain mean over the subjects would be another number.
    assert abs(means[stem].mean() - means["mmlu_stem"]) > 1e-3


def test_every_question_has_lm_evals_own_score(scored, plain):
    """To the last digit: the tiny model's likelihoods are all different."""
    scores, results = scored
    of_question = scores[scores["part_of"] == ""].set_index("subject")["accuracy"]
    for task, samples in plain["samples"].items():
        metric, reading = results["scored_by"][task].split(",")
        for sample in samples:
            if sample["filter"] == reading and task != "truthfulqa_mc2":  # whose score is a probability
                assert of_question[f"{task} {sample['doc_id']}"] == sample[metric], task
    assert not scores["accuracy"].isna().any() and results["not_finite"] == {}


def test_same_questions_were_asked(scored, plain):
    """By lm-eval's hashes of questions, prompts and targets: a mirror and examples change nothing else."""
    from lm_eval.utils import hash_string

    for task, samples in plain["samples"].items():
        hashes = "".join(sample[f"{part}_hash"] for sample in samples for part in ("doc", "prompt", "target"))
        assert scored[1]["task_hashes"][task] == hash_string(hashes)


def test_a_groups_questions_occur_twice(scored, stem):
    scores, results = scored
    assert set(scores["part_of"]) == {"", "mmlu_stem"}
    parts = scores[scores["part_of"] == "mmlu_stem"]
    assert list(parts["attribute"].unique()) == stem
    columns = ["subject", "accuracy", "cut"]
    whole = scores.loc[scores["attribute"] == "mmlu_stem", columns]
    pd.testing.assert_frame_equal(parts[columns].reset_index(drop=True), whole.reset_index(drop=True))
    assert not scores.duplicated(["attribute", "subject"]).any()
    assert results["results"]["mmlu_stem"]["sample_len"] == len(whole)
    assert scores["accuracy"].between(0, 1).all()


def test_the_robust_questions_of_wmdp_bio_by_category(model, tokenizer, mirror, manager):
    """As one task that asks about an attribute, and each category by itself; shortcut questions aren't asked."""
    asked = benchmarks.Options(("wmdp_bio_robust", "piqa"), {"bio": "wmdp_bio_robust"}, str(mirror))
    scores, results = benchmarks.score(model, tokenizer, asked)
    parts = scores[scores["part_of"] == "wmdp_bio_robust"]
    sizes = {f"wmdp_bio_robust_{name}": size for name, size in lm_eval_mirror.CATEGORIES.items()}
    assert parts["attribute"].value_counts().to_dict() == sizes
    whole = scores[scores["attribute"] == "bio"]
    assert sorted(whole["subject"]) == sorted(parts["subject"]) and set(whole["chance"]) == {0.25}
    assert results["results"]["wmdp_bio_robust"]["acc,none"] == pytest.approx(whole["accuracy"].mean())


def test_the_robust_questions_are_asked_as_lm_eval_asks_wmdp_bio(manager):
    """In all but the data, of which a commit is named."""
    from lm_eval.tasks._yaml_loader import load_yaml

    index = manager().task_index
    data = {"task", "dataset_path", "dataset_name", "dataset_kwargs", "test_split"}
    own = load_yaml(index["wmdp_bio"].yaml_path)
    wording = {key: value for key, value in own.items() if key not in data}
    for name in lm_eval_mirror.CATEGORIES:
        robust = load_yaml(index[f"wmdp_bio_robust_{name}"].yaml_path)
        assert robust["dataset_name"] == name and len(robust["dataset_kwargs"]["revision"]) == 40
        assert {key: robust.get(key) for key in wording} == wording


def test_each_category_may_ask_about_an_attribute_of_its_own(model, tokenizer, mirror):
    tasks = {name: f"wmdp_bio_robust_{name}" for name in lm_eval_mirror.CATEGORIES}
    asked = benchmarks.Options((*tasks.values(), "piqa"), tasks, str(mirror))
    scores, _ = benchmarks.score(model, tokenizer, asked)
    counts = scores["attribute"].value_counts().to_dict()
    assert counts == {**lm_eval_mirror.CATEGORIES, "piqa": 6} and set(scores["part_of"]) == {""}


def test_results_hold_no_text(scored, mirror, stem):
    written = json.dumps(scored[1], default=float)
    assert len(lm_eval_mirror.texts(mirror)) > 200
    assert not [text for text in lm_eval_mirror.texts(mirror) if json.dumps(text)[1:-1] in written]
    assert str(mirror) not in written
    assert scored[1]["configs"]["wmdp_bio"]["dataset_path"] == "cais/wmdp"
    normalised = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "openbookqa"]
    plain = ["wmdp_bio", "wmdp_cyber", "mmlu_virology", "winogrande", "boolq", "truthfulqa_mc2", *stem]
    assert scored[1]["scored_by"] == {
        **dict.fromkeys(normalised, "acc_norm,none"),
        **dict.fromkeys(plain, "acc,none"),
        "gsm8k": "exact_match,strict-match",
    }


def test_a_broken_models_answers_have_no_score(model, tokenizer, options):
    """Chosen or written: lm-eval would count the first choice, and a text of the first token."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    asked = benchmarks.Options(
        ("mmlu_stem", "arc_easy", "winogrande", "truthfulqa_mc2", "gsm8k"), {}, options.mirror, limit=1
    )
    scores, results = benchmarks.score(broken, tokenizer, asked)
    assert scores["accuracy"].isna().all() and not scores["cut"].any()
    assert set(results["not_finite"].values()) == {1}
    assert set(map(str, results["results"].values())) == {"{}"}


def test_questions_beyond_the_models_context_are_counted(tiny_base, tokenizer, options, capfd):
    short = base_model.load(tiny_base, torch.float32, "cpu")
    short.config.max_position_embeddings = 300
    asked = benchmarks.Options(("boolq", "gsm8k"), {}, options.mirror, limit=2)
    scores, _ = benchmarks.score(short, tokenizer, asked)
    assert scores["cut"].tolist() == [0, 0, 1, 1], "gsm8k has 5 examples, and 256 tokens to come"
    said = capfd.readouterr().err
    assert "gsm8k: 2 of 2 questions are longer than the model's context of 300 tokens" in said
    assert "boolq: " not in said.replace("boolq\n", "")


def test_limit_takes_the_first_questions(model, tokenizer, options, scored, capfd):
    fewer = benchmarks.Options(("wmdp_bio", "arc_easy"), {}, options.mirror, limit=2)
    scores, results = benchmarks.score(model, tokenizer, fewer)
    assert scores["attribute"].tolist() == ["wmdp_bio"] * 2 + ["arc_easy"] * 2, "by its own name, as it isn't mapped"
    whole = scored[0].set_index("subject")["accuracy"]
    assert (scores["accuracy"].to_numpy() == whole[scores["subject"]].to_numpy()).all()
    assert results["n-samples"]["wmdp_bio"] == {"original": 9, "effective": 2}
    said = "".join(capfd.readouterr())
    assert "wmdp_bio" in said and not [text for text in lm_eval_mirror.texts(options.mirror) if text in said]


def test_other_candidates_look_through_the_folders_of_the_tasks_alone(manager, options, monkeypatch):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", TaskManager)
    folders = benchmarks.folders_of(manager(), options)
    of_tasks = "arc gsm8k hellaswag mmlu/default openbookqa piqa super_glue/boolq truthfulqa winogrande wmdp"
    assert folders == of_tasks.split()
    few, whole = benchmarks.indexed(options, folders), manager()
    assert len(few.task_index) < 200 < len(whole.task_index)
    named = [part for name in options.tasks for part in benchmarks.parts(whole, name)]
    assert len(named) > 30 and named == [part for name in options.tasks for part in benchmarks.parts(few, name)]
    assert all(few.task_index[part] == whole.task_index[part] for part in named)
    own = benchmarks.Options(("wmdp_bio_robust",))
    assert benchmarks.folders_of(whole, own) == [], "its files are ours"
    assert set(benchmarks.parts(benchmarks.indexed(own, []), "wmdp_bio_robust")) > {"wmdp_bio_robust"}


def test_a_tag_of_tasks_in_several_folders_needs_all_of_them(manager, monkeypatch):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", TaskManager)
    assert benchmarks.folders_of(manager(), benchmarks.Options(("afrobench_lite",))) is None


def test_scores_are_the_same_from_the_folders_of_the_tasks(model, tokenizer, options, monkeypatch):
    fewer = benchmarks.Options(("arc_easy", "mmlu_stem"), {}, options.mirror, limit=2)
    scores, results = benchmarks.score(model, tokenizer, fewer)
    assert benchmarks.folders_known(results) == results["folders"] == ["arc", "mmlu/default"]
    monkeypatch.setattr("lm_eval.tasks.TaskManager", TaskManager)
    again, others = benchmarks.score(model, tokenizer, fewer, results["folders"])
    pd.testing.assert_frame_equal(again, scores)
    assert json.dumps(others, default=float) == json.dumps(results, default=float)
    assert benchmarks.folders_known(results | {"lm_eval_version": "0.4.0"}) is None


def test_answers_that_the_context_has_no_room_for(tiny_base, tokenizer, options):
    short = base_model.load(tiny_base, torch.float32, "cpu")  # of 256 tokens, all of which gsm8k's answers may take
    with pytest.raises(
        InputError, match="answers of up to 256 tokens are to be written, but the model's context has 256"
    ):
        benchmarks.score(short, tokenizer, benchmarks.Options(("gsm8k",), {}, options.mirror, limit=1))


def test_answers_need_an_end(model, tiny_base, options):
    tokenizer = base_model.load_tokenizer(tiny_base)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="the tokenizer has no eos_token, and lm-eval needs one where"):
        benchmarks.score(model, tokenizer, benchmarks.Options(("gsm8k",), {}, options.mirror, limit=1))


def told(**changes):
    with pytest.raises(InputError) as error:
        options = benchmarks.Options(**changes)
        benchmarks.load(benchmarks.indexed(options), options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_unknown_task(mirror):
    message = told(tasks=("wmdp_boi",), mirror=str(mirror))
    assert message.startswith("evaluations.benchmarks.tasks has wmdp_boi, which lm-eval has not; did you mean wmdp_bio")


def test_tag_is_no_task(mirror):
    message = told(tasks=("ai2_arc",), mirror=str(mirror))
    assert message.endswith("has ai2_arc, which stands for several of lm-eval's tasks: name arc_challenge, arc_easy")


def test_folder_that_the_mirror_lacks(tmp_path):
    folder = tmp_path / "cais/wmdp"
    assert told(tasks=("wmdp_bio",), mirror=str(tmp_path)) == (
        f"evaluations.benchmarks: the data of wmdp_bio are not in the mirror: {folder} is not there; get them with "
        f"internet by `hf download --repo-type dataset cais/wmdp --local-dir {folder}`"
    )
    assert "dataset EleutherAI/wmdp_bio_robust_mcqa --revision 6ec6af2c254" in told(
        tasks=("wmdp_bio_robust",), mirror=str(tmp_path)
    )


def test_folder_that_is_no_whole_copy(tmp_path):
    lm_eval_mirror.write(tmp_path)
    (tmp_path / "cais/wmdp/README.md").unlink()
    message = told(tasks=("wmdp_bio",), mirror=str(tmp_path))
    assert message.startswith("evaluations.benchmarks: the data of wmdp_bio could not be loaded; each folder in")


def test_subject_that_the_mirror_lacks(tmp_path):
    lm_eval_mirror.write(tmp_path, ["virology", "nutrition"])
    folder, start = tmp_path / "cais/mmlu", "evaluations.benchmarks: the data of"
    of_whole = f"could not be loaded; each folder in {tmp_path} must be a whole copy, README.md included:"
    assert told(tasks=("mmlu_other",), mirror=str(tmp_path)) == (
        f"{start} mmlu_business_ethics, which is part of mmlu_other, {of_whole} {folder}/README.md tells of no "
        "business_ethics, only of virology, nutrition"
    )
    (folder / "virology" / "dev-00000-of-00001.parquet").unlink()
    assert told(tasks=("mmlu_virology",), mirror=str(tmp_path)) == (
        f"{start} mmlu_virology {of_whole} {folder}/virology/dev-* is not there"
    )


def test_neither_mirror_nor_internet():
    message = told(tasks=("wmdp_bio",))
    assert message.startswith(
        "evaluations.benchmarks: the data of wmdp_bio could not be loaded; without internet, name"
    )


def test_task_asked_twice(mirror):
    message = told(tasks=("mmlu_stem", "mmlu_college_biology"), mirror=str(mirror))
    assert (
        message
        == "evaluations.benchmarks.tasks asks mmlu_college_biology twice, by itself and in a group; name one of both"
    )


def test_examples_that_a_task_has_no_place_for(mirror):
    message = told(tasks=("truthfulqa_mc2",), mirror=str(mirror), fewshot={"truthfulqa_mc2": 3})
    assert message == (
        "evaluations.benchmarks.fewshot: truthfulqa_mc2 is asked without examples by lm-eval's own definition; take 0"
    )


def test_attribute_that_all_did_not_find():
    """With `forget: all` the configuration can't be checked before the data are there."""
    options = benchmarks.Options(TASKS, FORGET)
    benchmarks.check_forgotten(options, ["cyber", "chem", "bio"])
    with pytest.raises(InputError, match="forget names cyber, which is not among the attributes to forget: bio, chem"):
        benchmarks.check_forgotten(options, ["bio", "chem"])


def test_group_whose_mean_is_of_other_things():
    class Task:
        def aggregation(self):
            from lm_eval.api.metrics import mean

            return {"acc": mean}

    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    group = Group("pair", aggregate_metric_list=[AggMetricConfig("acc", weight_by_size=False)])
    with pytest.raises(InputError, match="lm-eval's group pair has no mean over its questions; name its tasks"):
        benchmarks.accuracy_metric("pair", {"tasks": {"one": Task()}, "groups": {"pair": group}})
    group.aggregate_metric_list[0].weight_by_size = True
    assert benchmarks.accuracy_metric("pair", {"tasks": {"one": Task()}, "groups": {"pair": group}}) == "acc"


def test_means_over_what_is_kept_leave_subtasks_out(scored, stem):
    scores = scored[0].assign(
        experiment="tiny", candidate="base", method="", split="", shard="", merge="", seed="all", budget=""
    )
    scores = scores.assign(cluster=scores["subject"])
    attributes = statistics.attributes(scores, [{"attribute": "bio"}, {"attribute": "cyber"}])
    assert attributes.forget == ("bio", "cyber")
    assert attributes.retain == tuple(task for task in TASKS if task not in FORGET.values())
    rows = statistics.estimates(scores, "benchmarks", attributes)
    values = rows[rows["metric"] == "accuracy"].set_index("attribute")["value"]
    own = scores.groupby("attribute")["accuracy"].mean()
    assert values["retain mean"] == pytest.approx(own[list(attributes.retain)].mean())
    assert values["forget mean"] == pytest.approx(own[["bio", "cyber"]].mean())
    assert set(stem) <= set(values.index), "each is told all the same"
    told = descriptive_rows.tasks("tiny", scores.assign(at_chance=False), FORGET).set_index("attribute")
    assert told.loc["bio", ["metric", "shard", "n"]].tolist() == ["questions_wmdp_bio", "", 9]
    assert told.loc["mmlu_astronomy", "metric"] == "questions_mmlu_astronomy"
    assert set(told.index[told["shard"] == "mmlu_stem"]) == set(stem)
    assert told.loc[stem, "n"].sum() == told.loc["mmlu_stem", "n"]


def test_chance_is_what_guessing_gives(scored):
    chance = scored[0].groupby("attribute")["chance"].agg(["min", "max"])
    for task, choices in {"bio": 4, "piqa": 2, "boolq": 2, "winogrande": 2, "hellaswag": 4}.items():
        assert chance.loc[task].tolist() == [1 / choices] * 2
    assert chance.loc["gsm8k"].tolist() == [0, 0]
    # The score is the probability of two true answers among three to five.
    assert chance.loc["truthfulqa_mc2"].tolist() == pytest.approx([2 / 5, 2 / 3])


def guessed(**right):
    """Scores of a hundred questions of four choices each, of which so many are right."""
    rows = [
        (task, float(number < of_task), 0.25, "group" if task == "part" else "")
        for task, of_task in right.items()
        for number in range(100)
    ]
    return pd.DataFrame(rows, columns=["attribute", "accuracy", "chance", "part_of"])


def test_tasks_that_are_no_better_than_guessing():
    """Of 100 questions with four choices, 33 right are 25 within 1.98 standard errors (4.73 points), 36 aren't."""
    scores = guessed(bio=20, low=15, near=33, far=36, part=25)
    assert benchmarks.at_chance(scores, ["bio"]) == ["low", "near"]
    assert benchmarks.at_chance(guessed(bio=90, low=15, near=33), ["bio"]) == [], "else no mean would be left"
    broken = guessed(far=60, broken=20)
    broken.loc[broken["attribute"] == "broken", "accuracy"] = float("nan")
    assert benchmarks.at_chance(broken, []) == [], "a mean with it is no number, as it should be"


def test_what_is_guessed_counts_in_no_mean():
    scores = guessed(bio=20, low=15, far=40)
    scores = scores.assign(at_chance=scores["attribute"].isin(benchmarks.at_chance(scores, ["bio"])))
    assert statistics.attributes(scores, [{"attribute": "bio"}]).retain == ("far",)
    told = descriptive_rows.tasks("tiny", scores, {}).query("metric == 'at_chance'")
    assert told[["attribute", "value", "n"]].to_numpy().tolist() == [["low", 0.25, 100]]


# Configuration


@pytest.fixture
def config():
    config = yaml.safe_load((PROJECT / "config.yaml").read_text())
    config["data"]["forget"] = ["bio", "cyber"]
    del config["tuning"], config["methods"]["rmu"]["tune"]
    config["evaluations"] = {
        "fluency": {},
        "benchmarks": {"tasks": ["wmdp_bio", "wmdp_cyber", "mmlu"], "forget": FORGET},
    }
    return config


def checked(config, **changes):
    config = copy.deepcopy(config)
    config["evaluations"]["benchmarks"] |= changes
    configuration.check(config)
    return config["evaluations"]["benchmarks"]


def test_defaults_make_options(config):
    from spunge.experiment.options import make

    made = make("evaluations.benchmarks", benchmarks.Options, checked(config))
    assert made == benchmarks.Options(("wmdp_bio", "wmdp_cyber", "mmlu"), FORGET, None, {}, None, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"forget": {"bio": "wmdp_chem"}},
            "forget names wmdp_chem, which is not among its tasks: wmdp_bio, wmdp_cyber",
        ),
        (
            {"forget": {"chem": "wmdp_bio"}},
            "forget names chem, which is not among the attributes to forget: bio, cyber",
        ),
        ({"forget": {"bio": "mmlu", "cyber": "mmlu"}}, "forget has mmlu for several attributes"),
        ({"forget": {}}, "forget is empty, so nothing asks about what is forgotten"),
        ({"forget": {"bio": "wmdp_bio"}}, "forget has no task for cyber, so nothing asks whether it was forgotten"),
        ({"forget": FORGET | {"Retain  mean": "mmlu"}}, "forget has Retain  mean, a name that the results need"),
        ({"fewshot": {"mlmu": 5}}, "fewshot names mlmu, which is not among its tasks"),
        ({"tasks": ["wmdp_bio", "wmdp_cyber", "bio"]}, "tasks has bio, which is an attribute to forget too"),
        ({"tasks": []}, "tasks"),
        ({"limit": 0}, "limit"),
        ({"samples": 3}, "unknown key `samples`"),
    ],
)
def test_wrong_configuration(config, changes, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        checked(config, **changes)
    assert str(error.value).startswith("configuration: evaluations.benchmarks")


def test_tasks_may_leave_out_what_others_ask_about(config):
    config["evaluations"]["knowledge"] = {}
    checked(config, forget={"bio": "wmdp_bio"})


def test_benchmarks_alone(config):
    del config["evaluations"]["fluency"]
    with pytest.raises(InputError, match=r"needs evaluations\.fluency or evaluations\.knowledge"):
        checked(config)


# Tables, pages and figures

SHOWN = ["mmlu", "arc_easy", "hellaswag", "gsm8k"]
NEAR = ["mmlu_virology", "mmlu_college_biology", "mmlu_computer_security"]
FAR = [f"mmlu_subject_{number}" for number in range(12)]
SPLITS = {"joint": ("", -0.20), "random": ("ties", -0.15), "attribute": ("ties", -0.10)}


def asked(knowledge=False):
    """Two forgotten domains, four tasks and subjects of MMLU, each changed by its split's number times a factor."""
    table = example() if knowledge else example()[lambda rows: ~rows["evaluation"].isin(["knowledge", "data"])]
    rows = []

    def add(candidate, split, merge, seed, evaluation, attribute, metric, value, shard="", n=100):
        spread = (None, None) if evaluation in ("data", "task") else (value - 0.02, value + 0.02)
        method = "rmu" if split else ""
        rows.append(("example", candidate, method, split, shard, merge, seed, "", evaluation, attribute, metric, value))
        rows[-1] += (*spread, None, n)

    bases = {"bio": 0.64, "cyber": 0.44} | {name: 0.5 + 0.01 * number for number, name in enumerate(SHOWN + NEAR + FAR)}
    for attribute, value in bases.items():
        add("base", "", "", "all", "benchmarks", attribute, "accuracy", value)
        group = "mmlu" if attribute in NEAR + FAR else ""
        task = FORGET.get(attribute, attribute)
        add("base", "", "", "all", "task", attribute, f"questions_{task}", 100, group)
    kept = numpy.mean([bases[name] for name in SHOWN])
    lost = numpy.mean([bases["bio"], bases["cyber"]])
    means = {"forget mean": lost, "retain mean": kept, "retain minus forget": kept - lost}
    for attribute, value in means.items():
        add("base", "", "", "all", "benchmarks", attribute, "accuracy", value)
    if not knowledge:
        for attribute in FORGET:
            add("base", "", "", "all", "data", attribute, "forget_texts", 50)
    for split, (merge, change) in SPLITS.items():
        path = Candidate("rmu", split, merge=merge).path
        for seed in ("0", "all"):
            candidate = path if seed == "all" else f"{path}/seed{seed}"
            for attribute, value in (bases | means).items():
                own = change * (2 if attribute in (*FORGET, *NEAR) else 0.1)
                # The last subject falls most, the first least.
                own *= 1 + FAR.index(attribute) / 20 if attribute in FAR else 1
                add(candidate, split, merge, seed, "benchmarks", attribute, "accuracy", value + own)
                add(candidate, split, merge, seed, "benchmarks", attribute, "accuracy_minus_base", own)
                if split != "joint":
                    add(candidate, split, merge, seed, "benchmarks", attribute, "accuracy_minus_joint", 0.05)
                if split == "attribute":
                    add(candidate, split, merge, seed, "benchmarks", attribute, "accuracy_minus_random", 0.05)
    own = pd.DataFrame(rows, columns=table.columns).assign(experiment=table["experiment"].iloc[0])
    return pd.concat([table[table["method"].isin(["", "rmu"])], own], ignore_index=True)


def test_accuracy_comes_from_knowledge_or_else_from_open_questions_or_benchmarks():
    knowledge, answers, benchmarks = results_table.ASKED
    assert results_table.asked_by(asked()) == results_table.capability_from(asked()) == benchmarks
    both = asked(knowledge=True)
    assert (results_table.asked_by(both), results_table.capability_from(both)) == (knowledge, benchmarks)
    without = example()
    assert results_table.asked_by(without) == results_table.capability_from(without) == knowledge
    written = asked().replace({"evaluation": {"fluency": "answers"}})
    assert (results_table.asked_by(written), results_table.capability_from(written)) == (answers, benchmarks)
    assert results_table.retain_attributes(both) == results_table.retain_attributes(without)
    assert results_table.retain_attributes(asked()) == SHOWN, "and none of MMLU's subjects"
    assert results_table.tasks(asked())["bio"] == results_table.Task("wmdp_bio", "", 100)
    assert results_table.tasks(asked())["mmlu_virology"].group == "mmlu"


def test_benchmarks_beside_questions_tell_general_capability_and_what_was_kept_stays_with_the_questions():
    both = asked(knowledge=True)
    kept, general = comparisons.accuracies_kept(both)
    assert (kept.evaluation, general.evaluation, general.name) == ("knowledge", "benchmarks", "general capability")
    held_out = pd.DataFrame([{"evaluation": "data", "metric": "held_out", "attribute": "Oceania", "budget": ""}])
    costs = [
        measure.name for measure in comparisons.comparisons(pd.concat([both, held_out]))["as trained"].measures[1:]
    ]
    assert costs[-2:] == ["retain mean accuracy", "general capability"]
    attribute = results_table.retain_attributes(both)[0]
    costs = comparisons.comparisons(pd.concat([both, held_out.assign(attribute=attribute)]))["as trained"].measures
    assert (costs[-2].evaluation, costs[-2].attribute) == ("knowledge", attribute), "held out is asked by the questions"
    line = summary.table(both).set_index("candidate").loc["base"]
    assert line["general capability"] == pytest.approx(0.5 + 0.01 * (len(SHOWN) - 1) / 2)
    alone = summary.table(example()).set_index("candidate").loc["base"]
    assert line["accuracy: retain mean"] == alone["accuracy: retain mean"] != line["general capability"]
    assert "general capability" not in summary.table(asked()) and len(comparisons.accuracies_kept(asked())) == 1
    assert "No loss of general capability is shown" in str(findings.answers(both)[0])


def test_tables_and_figures_show_tasks_and_no_subtasks(tmp_path):
    table = asked()
    paths = [one.path for one in results_table.candidates(table)]
    assert paths == ["base", "rmu/joint", "rmu/random/merge/ties", "rmu/attribute/merge/ties"]
    numbers = summary.table(table).set_index("candidate")
    assert numbers.loc["base", "accuracy: bio"] == 0.64
    assert numbers.loc["rmu/attribute/merge/ties", "accuracy: bio"] == pytest.approx(0.44)
    assert not [column for column in numbers if "mmlu" in column]
    [text] = map(str, findings.answers(table))
    assert "is a weaker edit than unlearning everything at once, neither better nor worse (forget mean" in text
    page = findings.page(table, (PROJECT / "report" / "findings.html").read_text(), b"")
    assert "<td>hellaswag</td>" in page and "mmlu_virology" not in page and "published tasks" in page
    for module in (tradeoff, overview, attributes, radar):
        drawn = module.draw(table)
        said = " ".join(text.get_text() for text in drawn.findobj(lambda one: hasattr(one, "get_text")))
        assert "virology" not in said and "measured no" not in said, module.__name__


def test_figure_shows_neighbours_and_what_changed_most():
    table = asked()
    change = results_table.measured(table, "benchmarks", "accuracy_minus_base")
    forgotten, kept, near, others = figure.sections(table, change, results_table.candidates(table))
    assert forgotten == ("to forget", [("bio (wmdp_bio)", "bio"), ("cyber (wmdp_cyber)", "cyber")], True)
    assert kept == ("to keep", [(name, name) for name in SHOWN], False)
    assert [attribute for _, attribute in near[1]] == NEAR and near[2]
    assert near[1][1][0] == "college biology"
    assert [attribute for _, attribute in others[1]] == FAR[: -figure.MOST_CHANGED - 1 : -1]
    said = [text.get_text() for text in figure.draw(table).findobj(lambda one: hasattr(one, "get_text"))]
    assert "bio (wmdp_bio)  64" in said and "college biology  55" in said
    assert "joint (all at once)" in said and "attribute split (SPUNGE)" in said
    assert "mmlu: next to what is forgotten" in said


def test_figure_of_nothing():
    assert "no benchmark" in figure.draw(example()).texts[0].get_text()


def test_comparison_puts_published_numbers_beside_ours():
    anchors = published.read_anchors(PROJECT / "report" / "anchors.csv")
    ours = "HuggingFaceH4/zephyr-7b-beta"
    rows = {row.anchor_method: row for row in published.rows(asked(), anchors, ours) if row.model == ours}
    base = rows["base"]
    assert {name: base.ours[name][0] for name in ("WMDP-bio", "WMDP-cyber", "MMLU")} == {
        "WMDP-bio": "64.0",
        "WMDP-cyber": "44.0",
        "MMLU": "50.0",
    }
    assert base.published == {"WMDP-bio": "63.7", "WMDP-cyber": "44.0", "MMLU": "58.1"}
    assert base.sources == ["model card cais/Zephyr_RMU"]
    joint = rows["rmu"]
    assert joint.published["WMDP-bio"] == "31.2" and joint.ours["WMDP-bio"][0] == "24.0"
    assert rows["spunge rmu"].published.get("WMDP-bio", "") == "", "none is known"
