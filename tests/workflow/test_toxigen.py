"""Both ToxiGen experiments as the project ships them, on harmless texts and tiny models: all of it but the size.

Nothing of a text may be seen, a broken model must not pass for a safe one, and only what a change concerns runs again.
"""

import html
import importlib.util
import re
import shutil
from itertools import product

import lm_eval_mirror
import pandas as pd
import pytest
import tiny_classifier
import tiny_model
import torch
import toxigen_mirror
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from workspace import PROJECT, Workspace

from spunge.report import figures

ZEPHYR, LLAMA = "toxigen-zephyr-7b", "toxigen-llama2-7b"
# Every run and every candidate takes seconds. So the second one, which differs in little (see the first test), has
# fewer groups, no random split and no TVN. It has a model without weights instead, and stores no texts.
GROUPS = {
    ZEPHYR: ["women", "muslim", "mexican", "lgbtq", "physical_disability"],
    LLAMA: ["women", "physical_disability"],
}
FAMILIES = {
    ZEPHYR: {"tvn": ("tvn", 1.0), "rmu": ("rmu", 1.0)},
    LLAMA: {"rmu": ("rmu", 1.0), "zeros": ("zeros", 1.0)},
}
SPLITS = {ZEPHYR: ["joint", "attribute", "random"], LLAMA: ["joint", "attribute"]}
MERGE = {ZEPHYR: "ties", LLAMA: "linear"}
FLAGS = {ZEPHYR: [], LLAMA: ["--config", "store_texts=False"]}
CLASSIFIERS = ["toxigen_roberta", "toxigen_hatebert"]
BENCHMARKS = ["arc_easy", "winogrande", "mmlu_virology"]  # of those that are shipped, one subject of mmlu
TEXTS, PROMPTS, PROSE = 12, 3, 8  # texts and prompts of each kind of a group, texts of prose
OF_A_CLASSIFIER = ["toxic_share", "mean_score", "expected_maximum_toxicity", "toxicity_probability"]
METRICS = [f"{metric}_{classifier}" for classifier, metric in product(CLASSIFIERS, OF_A_CLASSIFIER)]
LONG = 12  # characters: shorter texts may be anywhere
PAGES = ["evaluations.csv", "summary.csv", "summary.md", "summary.tex", "summary.html", "findings.html"]
PAGES += ["comparison.html"]
ALWAYS = ["toxicity_radar", "toxicity_overview", "training", "merging"]
FIGURES = {ZEPHYR: ["frontier", *ALWAYS], LLAMA: ["toxicity_tradeoff", "benchmarks", *ALWAYS]}
BUDGETS = ["kl=0.01", "kl=0.1"]
GATHERED = ["Gather all evaluations in one table", "Say what was found", "Write the summary table"]
GATHERED += ["Make the page to walk through the results"]
GATHERED += ["Put published numbers beside ours"]
TOXICITY = ["toxicity", "toxicity_neutral"]


def shipped(experiment):
    return yaml.safe_load((PROJECT / "experiments" / f"{experiment}.yaml").read_text())


def small(experiment):
    """Return an experiment of the project's, changed only where tiny models, local files and little time demand it."""
    config = shipped(experiment)
    config["seeds"] = [0]
    config["model"] = {"source": "model", "dtype": "float32"}
    config["data"] |= {"forget": GROUPS[experiment], "minimum_texts": TEXTS}
    wikitext = "mirror/wikitext-2-raw-v1/{}-00000-of-00001.parquet"
    config["data"]["options"] |= {
        "mirror": "mirror",
        "texts_per_group": TEXTS,
        "prompts_per_group": PROMPTS,
        "retain": {"path": wikitext.format("train")},
        "fluency": {"path": wikitext.format("validation")},
        "retain_texts": PROSE,
        "fluency_texts": PROSE,
    }
    config["splits"] = SPLITS[experiment]
    config["methods"]["tvn"] |= {"steps": 2, "batch_size": 8, "learning_rate": 0.02}
    config["methods"]["rmu"] |= {"steps": 2, "layer_id": 2, "trained_layers": [1, 2], "learning_rate": 0.01}
    config["methods"]["zeros"] = {"checkpoint": "zeros"}
    config["methods"] = {name: config["methods"][name] for name in FAMILIES[experiment]}
    if experiment == ZEPHYR:
        config["budgets"]["kl"] = [0.01, 0.1]
    else:
        del config["budgets"]  # as trained alone
    config["merges"] = {MERGE[experiment]: config["merges"][MERGE[experiment]]}
    toxicity = config["evaluations"]["toxicity"]
    toxicity["max_new_tokens"] = 32
    roberta, hatebert = (toxicity["classifiers"][name] for name in CLASSIFIERS)
    if experiment == ZEPHYR:
        del config["evaluations"]["benchmarks"]  # a job more for each candidate; the other experiment shows it
    else:
        config["evaluations"]["benchmarks"] |= {"tasks": BENCHMARKS, "mirror": "lm-eval"}
    roberta |= {"source": "roberta", "revision": None}
    hatebert |= {"source": "hatebert", "revision": None, "tokenizer": "characters"}
    return config


def compared(experiment, evaluations):
    """Return the jobs that follow new scores of these evaluations."""
    combined = [f"Combine the seeds and compare the candidates' {name}" for name in evaluations]
    return combined + GATHERED + [f"Draw {figure}" for figure in FIGURES[experiment]]


def candidates(experiment, methods=None):
    merged = [f"{split}/merge/{MERGE[experiment]}" for split in SPLITS[experiment] if split != "joint"]
    return [f"{method}/{end}/seed0" for method in methods or FAMILIES[experiment] for end in ["joint", *merged]]


def teach(folder, mirror, steps=120):
    """Train the tiny model on the mirror's texts, so that it writes such: a random one is worse than one that's broken.

    At random its perplexity is far above the number of its tokens, which is what a model without any weights has.
    """
    texts = [pd.read_parquet(path)["text"] for path in sorted((mirror / "prompts").glob("*.parquet"))]
    texts += [pd.read_parquet(next(mirror.glob("wikitext-2-raw-v1/train-*")))["text"]]
    texts += [pd.read_parquet(next(mirror.glob("train/*")))["generation"]]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ends = [text.replace("\\n", "\n") + tokenizer.eos_token for text in pd.concat(texts)]
    tokens = torch.tensor([token for text in tokenizer(ends)["input_ids"] for token in text])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - 128, (16,), generator=generator).tolist()
        batch = torch.stack([tokens[start : start + 128] for start in starts])
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def sentence(done):
    """Return the one line that says what is wrong."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout
    told = {line for line in done.stdout.splitlines() if line.startswith("error: ")}
    assert len(told) == 1, done.stdout
    assert not re.search(r"the gardener's|Visitors sat|Annotators looked", done.stdout), "beginnings of the texts"
    return told.pop()


def table(workspace, experiment, budget=""):
    """Return the rows at a budget; as trained without one."""
    path = workspace / f"results/{experiment}/evaluations.csv"
    rows = pd.read_csv(path, keep_default_na=False, dtype={"seed": str})
    return rows[rows["budget"] == budget]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, project):
    """A workspace with the mirror alone."""
    workspace = Workspace(tmp_path_factory.mktemp("mirrored") / "workspace", project)
    workspace.folder.mkdir()
    toxigen_mirror.write(workspace / "mirror")
    toxigen_mirror.write_wikitext(workspace / "mirror")
    return workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory, mirrored):
    """A workspace in which both experiments have run: tests read it or copy it, and never write into it."""
    workspace = mirrored.copy(tmp_path_factory.mktemp("toxigen") / "workspace")
    tiny_model.build(workspace / "model")
    teach(workspace / "model", workspace / "mirror")
    # By seeds that call some of what the model writes toxic and some not.
    for seed, name in ((19, "roberta"), (36, "hatebert")):
        tiny_classifier.build(workspace / name, seed)
        tiny_classifier.build_tokenizer(workspace / {"roberta": name, "hatebert": "characters"}[name])
    # What its own folder has is another model's, most of whose tokens it doesn't know.
    for path in (workspace / "model").glob("tokenizer*"):
        shutil.copy(path, workspace / "hatebert")
    (workspace / "zeros").mkdir()
    shutil.copy(workspace / "model/config.json", workspace / "zeros")
    nothing = {
        name: torch.zeros_like(tensor) for name, tensor in load_file(workspace / "model/model.safetensors").items()
    }
    save_file(nothing, workspace / "zeros/model.safetensors", metadata={"format": "pt"})
    lm_eval_mirror.write(workspace / "lm-eval")
    workspace.terminal = {}
    for experiment in (ZEPHYR, LLAMA):
        workspace.configure(small(experiment))
        done = workspace.snakemake(*FLAGS[experiment])
        assert done.returncode == 0, done.stdout
        workspace.terminal[experiment] = done.stdout
    return workspace


@pytest.fixture
def changing(tmp_path, finished):
    """A workspace of the test's own in which both have run."""
    return finished.copy(tmp_path / "workspace")


@pytest.fixture
def unbuilt(tmp_path, mirrored):
    """A workspace of the test's own with the mirror and a configuration."""
    workspace = mirrored.copy(tmp_path / "workspace")
    workspace.configure(small(ZEPHYR))
    return workspace


def test_the_two_experiments_differ_in_what_their_models_ask_for():
    zephyr, llama = shipped(ZEPHYR), shipped(LLAMA)
    for config in (zephyr, llama):
        for section, keys in (
            (config, ["experiment", "model"]),
            (config["methods"]["rmu"], ["preset", "steps"]),
            (config["evaluations"]["toxicity"], ["batch_size"]),
        ):
            assert [section.pop(key) for key in keys]
    assert zephyr == llama


@pytest.mark.parametrize("experiment", [ZEPHYR, LLAMA])
def test_ends_in_tables_pages_and_figures(finished, experiment):
    results = finished / f"results/{experiment}"
    for path in [
        *PAGES,
        *(f"figures/{figure}.{suffix}" for figure in FIGURES[experiment] for suffix in ("pdf", "png")),
    ]:
        assert (results / path).stat().st_size > 100, path
    assert not [path for path in finished.folder.rglob("*") if "partial" in path.name]
    assert not list((finished / ".snakemake/incomplete").glob("*"))


@pytest.mark.parametrize("experiment", [ZEPHYR, LLAMA])
def test_every_group_is_measured_on_both_kinds_of_prompts(finished, experiment):
    rows, groups = table(finished, experiment), GROUPS[experiment]
    for evaluation in TOXICITY:
        measured = rows[rows["evaluation"] == evaluation]
        own = measured[~measured["metric"].str.contains("_minus_")]
        metrics = [*METRICS, "distinct_2", "empty_share", "tokens", "samples"]
        for candidate in ["base", *candidates(experiment)]:
            found = own[(own["candidate"] == candidate) & (own["attribute"] != "forget worst")]
            assert set(zip(found["attribute"], found["metric"], strict=True)) == set(
                product([*groups, "forget mean"], metrics)
            )
            assert len(found) == (len(groups) + 1) * len(metrics), "none twice"
            assert set(found["n"][found["attribute"] != "forget mean"]) == {PROMPTS}
            assert set(found["n"][found["attribute"] == "forget mean"]) == {PROMPTS * len(groups)}
            values = found.set_index(["attribute", "metric"])["value"].astype(float)
            for metric in metrics:
                mean = values[[(group, metric) for group in groups]].mean()
                assert values["forget mean", metric] == pytest.approx(mean)
            bounded = values[~values.index.get_level_values("metric").isin(["tokens", "samples"])]
            assert bounded.between(0, 1).all()
        for candidate in candidates(experiment):
            compared = {f"{metric}_minus_base" for metric in METRICS}
            if "/joint/" not in candidate:
                compared |= {f"{metric}_minus_joint" for metric in METRICS}
            if "/attribute/" in candidate and "random" in SPLITS[experiment]:
                compared |= {f"{metric}_minus_random" for metric in METRICS}
            told = set(measured["metric"][measured["candidate"] == candidate])
            assert compared <= told
    data = rows[rows["evaluation"] == "data"].set_index(["metric", "attribute"])["value"]
    for group in groups:
        assert data["forget_texts", group] == TEXTS
        assert data["toxic_prompts", group] == data["neutral_prompts", group] == PROMPTS


@pytest.mark.parametrize("experiment", [ZEPHYR, LLAMA])
def test_methods_are_told_with_their_families(finished, experiment):
    rows = table(finished, experiment)
    told = rows[rows["evaluation"] == "method"]
    assert {row.method: (row.attribute, row.value) for row in told.itertuples()} == FAMILIES[experiment]
    assert (told["candidate"] == told["method"]).all() and set(told["metric"]) == {"scale"}


def test_general_capability_is_that_of_the_benchmarks(finished):
    """In evaluations.csv, the summary and the findings; no question is in what lm-eval's results leave behind."""
    rows = table(finished, LLAMA)
    own = rows[rows["evaluation"] == "benchmarks"].set_index(["candidate", "seed", "attribute", "metric"])["value"]
    summary = pd.read_csv(finished / f"results/{LLAMA}/summary.csv").set_index("candidate")
    for candidate in summary.index:
        accuracies = own[[(candidate, "all", task, "accuracy") for task in BENCHMARKS]].astype(float)
        assert summary.loc[candidate, "accuracy: retain mean"] == pytest.approx(accuracies.mean())
    told = rows[rows["evaluation"] == "task"]
    assert told["metric"].tolist() == [f"questions_{task}" for task in BENCHMARKS]
    page = (finished / f"results/{LLAMA}/findings.html").read_text()
    assert all(f"<td>{task}</td>" in page for task in BENCHMARKS)
    texts = lm_eval_mirror.texts(finished / "lm-eval")
    shown = finished.files(pattern="*.json") | finished.files(pattern="*.log") | finished.files(pattern="*.html")
    shown = {path: content.decode() for path, content in shown.items()}
    assert [path for path in shown if path.endswith("benchmarks.json")]
    assert not [path for path, content in shown.items() for text in texts if text in content]


def test_toxicity_is_decided_at_budgets(finished):
    base = table(finished, ZEPHYR)
    base = base[base["candidate"] == "base"].set_index(["evaluation", "attribute", "metric"])["value"]
    share = f"toxic_share_{CLASSIFIERS[0]}"
    means = []
    for budget in BUDGETS:
        rows = table(finished, ZEPHYR, budget)
        values = rows.set_index(["candidate", "seed", "evaluation", "attribute", "metric"])["value"].astype(float)
        for candidate in candidates(ZEPHYR):
            own = values[candidate, "0"]
            assert own["budget", "", "kl"] == pytest.approx(float(budget.removeprefix("kl=")), rel=0.021)
            assert {(name, "forget mean", f"{share}_minus_base") for name in TOXICITY} <= set(own.index)
            written = pd.read_parquet(finished / f"results/{ZEPHYR}/evaluations/{candidate}/continuations.parquet")
            assert set(written["budget"]) == {"", *BUDGETS}
        split = values["tvn/attribute/merge/ties", "all", "toxicity", "forget mean"]
        fell = split[share] - float(base["toxicity", "forget mean", share])
        assert split[f"{share}_minus_base"] == pytest.approx(fell)
        means.append(split[share])
    over_all = table(finished, ZEPHYR, "all").set_index(["candidate", "seed", "evaluation", "attribute", "metric"])
    mean = over_all["value"]["tvn/attribute/merge/ties", "all", "toxicity", "forget mean", share]
    assert float(mean) == pytest.approx(sum(means) / 2)
    answers = re.findall(r"<p>With [^<]*", html.unescape((finished / f"results/{ZEPHYR}/findings.html").read_text()))
    at = "merged with TIES, at equal damage (KL of 0.01 and 0.1 per token; the mean over all)"
    assert [
        answer.removeprefix("<p>").startswith(f"With {name}, {at}")
        for answer, name in zip(answers, ("TVN", "RMU"), strict=True)
    ] == [True, True]


@pytest.mark.parametrize("candidate", ["base", "tvn/attribute/merge/ties/seed0"])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_shares_are_those_that_the_classifier_itself_gives(finished, candidate, classifier):
    """Text by text, and for the second one with the tokenizer that it is told to take."""
    results = finished / f"results/{ZEPHYR}"
    prompts = pd.read_parquet(results / "data/prompts.parquet")
    written = pd.read_parquet(results / f"evaluations/{candidate}/continuations.parquet").query("budget == ''")
    assert len(written) == len(prompts) == 2 * PROMPTS * len(GROUPS[ZEPHYR])
    assert not written["text"].str.contains("\n").any(), "up to the end of the line"
    model = AutoModelForSequenceClassification.from_pretrained(finished / classifier.removeprefix("toxigen_")).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "characters")
    with torch.no_grad():
        scores = [
            model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.softmax(-1)[0, 1].item()
            if any(map(str.isalnum, text))
            else 0.0
            for text in written["text"]
        ]
    expected = written.assign(score=scores).join(prompts[["attribute", "kind"]], on="prompt")
    rows = table(finished, ZEPHYR).set_index(["evaluation", "candidate", "attribute", "metric", "seed"])["value"]
    seed = "all" if candidate == "base" else "0"
    for evaluation, kind in zip(TOXICITY, ("toxic", "neutral"), strict=True):
        for group, own in expected[expected["kind"] == kind].groupby("attribute"):
            at = evaluation, candidate, group
            assert rows[*at, f"mean_score_{classifier}", seed] == pytest.approx(own["score"].mean(), abs=1e-4)
            share = (own["score"] > 0.5).mean()
            assert rows[*at, f"toxic_share_{classifier}", seed] == pytest.approx(share)
    assert {score > 0.5 for score in scores} == {True, False}


@pytest.mark.parametrize("experiment", [ZEPHYR, LLAMA])
def test_held_out_prompts_are_in_no_shard(finished, tmp_path, experiment):
    """Nor is anything that was generated from one, by what the mirror says of where its texts came from."""
    origins = toxigen_mirror.write(tmp_path)
    origins = {text.replace("\\n", "\n").strip(): prompts for text, prompts in origins.items()}
    results = finished / f"results/{experiment}"
    prompts = pd.read_parquet(results / "data/prompts.parquet")
    assert prompts.groupby(["attribute", "kind"]).size().to_dict() == dict.fromkeys(
        product(GROUPS[experiment], ("toxic", "neutral")), PROMPTS
    )
    held_out = set(prompts["prompt"])
    lines = {line.removeprefix("-").strip() for prompt in held_out for line in prompt.split("\n")} - {""}
    shards = sorted((results / "shards").rglob("*.parquet"))
    assert len(shards) == 1 + (len(SPLITS[experiment]) - 1) * len(GROUPS[experiment])
    for path in shards:
        texts = pd.read_parquet(path)["text"]
        assert len(texts) == TEXTS * (len(GROUPS[experiment]) if path.parent.name == "joint" else 1)
        for text in texts:
            assert origins[text].isdisjoint(held_out)
            assert text not in lines and not any(prompt in text for prompt in held_out)


def secrets(workspace):
    """Return all forget texts, prompts and continuations, line by line, but for those that may be anywhere."""
    texts = []
    for experiment in (ZEPHYR, LLAMA):
        results = workspace / f"results/{experiment}"
        texts += pd.read_parquet(results / "data/forget.parquet")["text"].tolist()
        texts += pd.read_parquet(results / "data/prompts.parquet")["prompt"].tolist()
        for path in sorted(results.rglob("continuations.parquet")):
            texts += pd.read_parquet(path)["text"].tolist()
    lines = {line.removeprefix("-").strip() for text in texts for line in text.split("\n")}
    return {line for line in lines if len(line) > LONG}


def test_texts_are_in_parquet_alone(finished):
    """None is in what a terminal showed, in logs, tables, pages or figures, or in what Snakemake writes down."""
    texts = secrets(finished)
    assert len(texts) > 200
    shown = {f"terminal of {name}": text.encode() for name, text in finished.terminal.items()}
    shown |= finished.files() | finished.files("resources/logs") | finished.files("resources/benchmarks")
    shown |= finished.files(".snakemake")
    stored = {path for path in shown if path.endswith(".parquet")}
    leaks = []
    for path in shown.keys() - stored:
        content = shown[path].decode("utf-8", errors="replace")
        content = content + html.unescape(content) if path.endswith(".html") else content
        leaks += [path for text in texts if text in content]
    assert len(shown) - len(stored) > 300
    assert leaks == []


def test_without_stored_texts_the_scores_are_the_same(finished):
    """The base model and a group's prompts are the same in both experiments; the second one's texts are gone."""
    stored, gone = (finished / f"results/{experiment}/evaluations" for experiment in (ZEPHYR, LLAMA))
    written = sorted(str(path.parent.relative_to(stored)) for path in stored.rglob("continuations*"))
    assert written == sorted(["base", *candidates(ZEPHYR)])
    assert not list(gone.rglob("continuations*"))
    for name in TOXICITY:
        scores = [pd.read_parquet(folder / f"base/{name}.parquet") for folder in (stored, gone)]
        with_texts, without = (
            table[table["attribute"].isin(GROUPS[LLAMA])]
            .drop(columns=["experiment", "subject", "cluster"])
            .reset_index(drop=True)
            for table in scores
        )
        assert len(without) == PROMPTS * len(GROUPS[LLAMA])
        pd.testing.assert_frame_equal(without, with_texts)


def test_model_without_weights_is_broken_and_not_safe(finished):
    """It says nothing at all, which is why no classifier finds anything in it."""
    rows = table(finished, LLAMA)
    rows = rows[rows["attribute"].isin(["", "forget mean"]) & (rows["seed"] == "all")]
    values = rows.set_index(["candidate", "evaluation", "metric"])["value"]
    vocabulary = len(AutoTokenizer.from_pretrained(finished / "model"))
    assert vocabulary > 10 * values["base", "fluency", "perplexity"]
    assert values["base", "toxicity", "empty_share"] < 0.5
    zeros = {"zeros/joint", "zeros/attribute/merge/linear"}
    for candidate in zeros:
        # All tokens are as likely: its perplexity is their number.
        assert values[candidate, "fluency", "perplexity"] == pytest.approx(vocabulary, rel=1e-4)
        assert values[candidate, "toxicity", "empty_share"] == 1
        for classifier in CLASSIFIERS:
            assert values[candidate, "toxicity", f"toxic_share_{classifier}"] == 0
    results = finished / f"results/{LLAMA}"
    summary = pd.read_csv(results / "summary.csv").set_index("candidate")
    reason = f"broken: perplexity {vocabulary}, "
    assert set(summary.index[summary["label"].str.contains("broken")]) == zeros
    assert summary.loc[list(zeros), "label"].str.contains(reason).all()
    for classifier in CLASSIFIERS:
        assert (summary.loc[list(zeros), f"toxic share: forget mean ({classifier})"] == 0).all()
    for page in ("summary.md", "summary.html", "summary.tex"):
        assert (results / page).read_text().count(reason) == 2, page
    page = html.unescape((results / "findings.html").read_text())
    answers = re.findall(r"With zeros[^<]*", page)
    assert len(answers) == 1 and "splitting by the attribute broke the model (perplexity" in answers[0]
    assert "however little toxic it is, that is no success" in answers[0]
    assert "broke the model" not in "".join(re.findall(r"With RMU[^<]*", page))


def test_second_run_does_nothing(changing):
    for experiment in (ZEPHYR, LLAMA):
        changing.configure(small(experiment))
        assert changing.dry_run(*FLAGS[experiment]) is None


@pytest.mark.parametrize("changed", ["threshold", "label"])
def test_other_threshold_or_classifier_makes_no_model_write_again(changing, changed):
    config = small(ZEPHYR)
    toxicity = config["evaluations"]["toxicity"]
    if changed == "threshold":
        toxicity["threshold"] = 0.7
    else:
        toxicity["classifiers"]["toxigen_hatebert"]["label"] = 0
    changing.configure(config)
    scored = [f"Score what {one} wrote" for one in ["base", *candidates(ZEPHYR)]]
    assert changing.dry_run() == sorted(scored + compared(ZEPHYR, TOXICITY))


def test_further_factor_trains_nothing(changing):
    config = small(LLAMA)
    config["methods"]["rmu-double"] = {"scaled_from": "rmu", "scale": 2.0}
    changing.configure(config)
    made = ("Evaluate {}", "Score what {} wrote", "Ask {} lm-eval's tasks")
    jobs = [job.format(one) for one in candidates(LLAMA, ["rmu-double"]) for job in made]
    jobs += ["Count the texts, questions and prompts of each attribute"]
    assert changing.dry_run(*FLAGS[LLAMA]) == sorted(jobs + compared(LLAMA, [*TOXICITY, "fluency", "benchmarks"]))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_vllm_that_is_not_installed(changing):
    config = small(ZEPHYR)
    config["evaluations"]["toxicity"]["generator"] = "vllm"
    del config["budgets"]
    changing.configure(config)
    everything = ["base", *candidates(ZEPHYR)]
    targets = [f"results/{ZEPHYR}/evaluations/{one}/toxicity.csv" for one in everything]
    done = changing.snakemake(*targets, cores=1)
    assert sentence(done) == (
        "error: evaluations.toxicity.generator is vllm, which is not installed beside this workflow: install it, or "
        "take transformers"
    )
    planned = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE))
    assert planned == dict.fromkeys(["generate", "score_toxicity"], str(len(everything))) | {"total": "14"}
    assert not list(changing.folder.rglob(".exported*")), "the model folder is removed"


def test_unknown_group_in_the_data(unbuilt):
    path = next((unbuilt / "mirror/train").glob("*"))
    rows = pd.read_parquet(path)
    rows.loc[5, "group"] = "gardeners"
    rows.to_parquet(path, index=False)
    told = sentence(unbuilt.snakemake(f"results/{ZEPHYR}/data/forget.parquet"))
    assert "mirror/train/train-00000-of-00001.parquet, column group, has the unknown group gardeners" in told
    assert not list((unbuilt / "results").rglob("*.parquet"))


def test_file_that_the_mirror_lacks(unbuilt):
    name = "mirror/prompts/neutral_women_1k-00000-of-00001.parquet"
    (unbuilt / name).unlink()
    told = sentence(unbuilt.snakemake(f"results/{ZEPHYR}/data/forget.parquet"))
    assert told == f"error: {name} is not there; docs/toxigen.md says which files mirror (mirror) needs"
    assert not list((unbuilt / "results").rglob("*.parquet"))


def test_knowledge_without_questions(unbuilt):
    config = small(ZEPHYR)
    config["evaluations"]["knowledge"] = {}
    unbuilt.configure(config)
    told = sentence(unbuilt.snakemake(f"results/{ZEPHYR}/data/forget.parquet"))
    assert told == (
        "error: data set toxigen gives no questions here, which evaluations.knowledge needs: leave that evaluation "
        "out, or give some in data.options"
    )
    assert not list((unbuilt / "results").rglob("*.parquet"))


def test_toxicity_without_prompts(fresh):
    fresh.configure(evaluations={"fluency": {}, "toxicity": {}})
    told = sentence(fresh.snakemake("results/tiny/data/prompts.parquet"))
    assert told.startswith("error: data set table gives no prompts here, which evaluations.toxicity needs")
    assert not list((fresh / "results").rglob("*.parquet"))


def test_report_holds_the_captions_of_toxicity(changing, project):
    changing.configure(small(ZEPHYR))
    done = changing.snakemake("--report", changing / "report.html")
    assert done.returncode == 0, done.stdout
    page = (changing / "report.html").read_text().replace("\\n", " ")
    captions = {figure: figures.load(figure).CAPTION for figure in FIGURES[ZEPHYR]}
    captions["comparison"] = (project / "report" / "captions" / "comparison.rst").read_text()
    for name, caption in captions.items():
        assert re.split(r"[`'“{]", " ".join(caption.split()))[0][:60].strip() in page, f"{name} is shown"
