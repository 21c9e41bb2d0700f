"""From tables and a model to the report: all is there, whole, described, silent about the texts, and repeatable."""

import json
import os
import re
from itertools import product

import forked_python
import pandas as pd
import pytest
from matplotlib.text import Text
from safetensors import safe_open
from safetensors.torch import load_file
from workspace import FORGET, NAMES, RETAIN, Workspace, sentences

from spunge.report import figures
from spunge.report.results_table import broken, candidates, read

METHODS = ["rmu", "rmu-strong"]
FIGURES = ["tradeoff", "overview", "attributes", "radar", "training", "merging"]
COLUMNS = ["experiment", "candidate", "method", "split", "shard", "merge", "seed", "budget", "evaluation", "attribute"]
COLUMNS += ["metric", "value", "low", "high", "p", "n"]
JOBS = {
    "model": 1,
    "data": 1,
    "data_rows": 1,
    "shard": 3,  # joint, by attribute, at random: each with all its shards
    "activations": 1,  # one method keeps them
    "unlearn": 10,
    "merge": 4,
    "evaluate": 11,  # base and, for each method, joint, two single shards and two merges
    "compare": 2,
    "gather": 1,
    "figure": 6,
    "summary": 1,
    "findings": 1,
    "explore": 1,
}
MEANS = ["forget mean", "retain mean", "retain minus forget"]
QUESTIONS = {topic: len(names) for topic, names in NAMES.items()}
QUESTIONS["forget mean"] = sum(QUESTIONS[topic] for topic in FORGET)
QUESTIONS["retain mean"] = sum(QUESTIONS[topic] for topic in RETAIN)
QUESTIONS["retain minus forget"] = QUESTIONS["forget mean"] + QUESTIONS["retain mean"]


@pytest.fixture(scope="session")
def evaluations(finished):
    return pd.read_csv(finished.results / "evaluations.csv", dtype=str, keep_default_na=False)


def of_a_method(method):
    return [
        f"{method}/joint",
        *(f"{method}/attribute/shard/{part}" for part in FORGET),
        *(f"{method}/{split}/merge/ties" for split in ("attribute", "random")),
    ]


def keys(rows):
    return set(map(tuple, rows[["candidate", "seed", "attribute", "metric"]].to_numpy()))


def test_every_job_ran_once_with_its_log_and_benchmark(finished):
    planned = re.findall(r"^(\w+) +(\d+)$", finished.run.stdout, flags=re.MULTILINE)
    assert {rule: int(count) for rule, count in planned if rule not in ("all", "total")} == JOBS
    assert f"{sum(JOBS.values()) + 1} of {sum(JOBS.values()) + 1} steps (100%) done" in finished.run.stdout
    for kind, suffix in (("logs", ".log"), ("benchmarks", ".tsv")):
        found = [path.relative_to(finished.results / kind) for path in (finished.results / kind).rglob(f"*{suffix}")]
        found += [
            path.relative_to(finished / f"resources/{kind}") for path in (finished / f"resources/{kind}").rglob("*.*")
        ]
        rules = [path.parts[0].removesuffix(suffix) for path in found]
        assert {rule: rules.count(rule) for rule in set(rules)} == JOBS
    for path in finished.folder.rglob("benchmarks/**/*.tsv"):
        assert float(pd.read_csv(path, sep="\t").loc[0, "s"]) > 0


def test_everything_asked_for_is_there(finished):
    expected = {
        "evaluations.csv",
        "findings.html",
        "explore.html",
        *(f"summary.{suffix}" for suffix in ("csv", "md", "tex", "html")),
    }
    expected |= {f"figures/{figure}.{suffix}" for figure in FIGURES for suffix in ("pdf", "png")}
    for path in expected:
        assert (finished.results / path).stat().st_size > 100, path
    for figure in FIGURES:
        assert (finished.results / f"figures/{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (finished.results / f"figures/{figure}.pdf").read_bytes().startswith(b"%PDF")


def test_nothing_half_done_is_left(finished):
    left = [path for path in finished.folder.rglob("*") if "partial" in path.name or path.name.startswith(".download")]
    assert left == []
    assert not list((finished / ".snakemake/incomplete").glob("*"))


def test_evaluations_have_the_documented_columns_and_candidates(evaluations, project):
    assert list(evaluations.columns) == COLUMNS
    assert set(evaluations["experiment"]) == {"tiny"}
    assert set(evaluations["evaluation"]) == {"knowledge", "fluency", "training", "merge", "edit", "data", "method"}
    described = evaluations[COLUMNS[1:7]].drop_duplicates()
    rows = {row[0]: row[1:] for row in described[described["candidate"] != "base"].itertuples(index=False, name=None)}
    for method in METHODS:
        assert rows[f"{method}/joint/seed0"] == (method, "joint", "", "", "0")
        assert rows[f"{method}/joint"] == (method, "joint", "", "", "all")
        assert rows[f"{method}/attribute/shard/dances/seed0"] == (method, "attribute", "dances", "", "0")
        assert rows[f"{method}/random/shard/part2/seed0"] == (method, "random", "part2", "", "0")
    assert ("base", "", "", "", "", "all") in set(described.itertuples(index=False, name=None))


def test_every_candidate_is_asked_about_every_attribute(evaluations):
    rows = evaluations[evaluations["evaluation"] == "knowledge"]
    asked, metrics = [*FORGET, *RETAIN, *MEANS], ["accuracy", "accuracy_norm"]
    expected = set(product(["base"], ["all"], asked, metrics))
    for path in [path for method in METHODS for path in of_a_method(method)]:
        compared = [*metrics, *(f"{metric}_minus_base" for metric in metrics)]
        compared += [f"{metric}_minus_joint" for metric in metrics if not path.endswith("joint")]
        compared += [f"{metric}_minus_random" for metric in metrics if path.endswith("attribute/merge/ties")]
        expected |= set(product([path], ["all"], asked, compared))
        expected |= set(product([f"{path}/seed0"], ["0"], asked, compared))
    expected |= {
        (path, seed, "forget worst", metric)
        for path, seed, attribute, metric in expected
        if attribute == "forget mean" and not metric.startswith("accuracy_norm")
    }
    assert keys(rows) == expected
    assert len(rows) == len(expected), "none twice"
    rows = rows[rows["attribute"] != "forget worst"]
    assert (rows["n"].astype(int) == rows["attribute"].map(QUESTIONS)).all()


def test_every_candidate_holds_its_whole_edit(evaluations):
    rows = evaluations[evaluations["evaluation"] == "edit"]
    assert set(rows["metric"]) == {"realised_share"}
    assert sorted(rows["candidate"]) == sorted(f"{path}/seed0" for method in METHODS for path in of_a_method(method))
    assert rows["value"].astype(float).tolist() == pytest.approx([1] * len(rows), abs=1e-4)


def test_every_candidate_has_its_perplexity(evaluations):
    rows = evaluations[evaluations["evaluation"] == "fluency"]
    expected = {("base", "all", "", "perplexity")}
    for path in [path for method in METHODS for path in of_a_method(method)]:
        compared = ["perplexity", "perplexity_minus_base"]
        compared += [] if path.endswith("joint") else ["perplexity_minus_joint"]
        compared += ["perplexity_minus_random"] if path.endswith("attribute/merge/ties") else []
        expected |= set(product([path], ["all"], [""], compared)) | set(
            product([f"{path}/seed0"], ["0"], [""], compared)
        )
    assert keys(rows) == expected
    assert (rows["n"] == "4").all()
    perplexity = rows[rows["metric"] == "perplexity"].set_index("candidate")["value"].astype(float)
    assert (perplexity > 1).all()
    # Unlearning did something, and something else with another method or split.
    assert perplexity[~perplexity.index.str.endswith("/seed0")].nunique() == 11


def test_intervals_hold_their_estimates_where_there_are_any(evaluations):
    scored = evaluations["evaluation"].isin(["knowledge", "fluency"])
    numbers = evaluations.loc[scored, ["low", "value", "high"]].astype(float)
    assert ((numbers["low"] <= numbers["value"]) & (numbers["value"] <= numbers["high"])).all()
    assert (evaluations.loc[~scored, ["low", "high"]] == "").all(axis=None)


def test_data_training_and_merges_are_described(evaluations):
    values = evaluations.set_index(["evaluation", "metric", "candidate", "shard", "attribute"])["value"].astype(float)
    for topic in FORGET:
        assert values["data", "forget_texts", "base", "", topic].item() == 2 * len(NAMES[topic])
    for topic, names in NAMES.items():
        assert values["data", "questions", "base", "", topic].item() == len(names)
    steps = evaluations[evaluations["metric"] == "forget_loss"].groupby("candidate")["n"].apply(list)
    assert len(steps) == 10
    assert steps["rmu/joint/seed0"] == [str(step) for step in range(1, 7)], "as many as both shards together"
    assert steps["rmu/random/shard/part1/seed0"] == steps["rmu/attribute/shard/rivers/seed0"] == ["1", "2", "3"]
    for method, split in product(METHODS, ["attribute", "random"]):
        names = FORGET if split == "attribute" else ["part1", "part2"]
        path = f"{method}/{split}/merge/ties/seed0"
        assert {round(values["merge", "kept_share", path, name, ""].item(), 2) for name in names} == {0.5}
        assert -1 <= values["merge", "cosine", path, names[0], names[1]].item() <= 1
        assert 0 <= values["merge", "sign_conflict", path, "", ""].item() <= 1


def test_task_vectors_hold_the_trained_layers_and_their_making(finished):
    base = json.loads((finished / "resources/models/model/manifest.json").read_text())["identity"]
    for folder, key in (("unlearned", "run"), ("merged", "candidate")):
        for path in (finished.results / folder).rglob("task_vector.safetensors"):
            vector = load_file(path)
            assert sorted(vector) == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2)]
            assert all(tensor.isfinite().all() and tensor.any() for tensor in vector.values())
            with safe_open(path, "pt") as file:
                provenance = json.loads(file.metadata()["spunge"])
            assert provenance["base"] == base
            assert provenance[key] == str(path.parent.relative_to(finished.results / folder))


def test_no_forget_text_leaks(finished):
    """Nor a question or an answer's sentence: in what a terminal showed, in logs, tables, figures and the pages."""
    texts = [text for topic in FORGET for text in sentences(topic)]
    texts += [f"Where does {name}" for topic in FORGET for name in NAMES[topic]]
    shown = {"terminal": finished.run.stdout.encode(), **finished.files(), **finished.files("resources/logs")}
    shown |= finished.files(".snakemake/log")
    shown = {path: content for path, content in shown.items() if not path.endswith(".parquet")}
    assert len(shown) > 100
    assert [path for path, content in shown.items() if any(text.encode() in content for text in texts)] == []


def test_second_run_does_nothing(finished):
    assert finished.dry_run() is None
    before = {path: path.stat().st_mtime_ns for path in finished.results.rglob("*")}
    done = finished.snakemake()
    assert done.returncode == 0 and "Nothing to be done" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.results.rglob("*")} == before


def test_report_holds_figures_tables_and_captions(finished, tmp_path, project):
    done = finished.snakemake("--report", tmp_path / "report.html")
    assert done.returncode == 0, done.stdout
    page = (tmp_path / "report.html").read_text()
    for path in [
        *(f"figures/{figure}.png" for figure in FIGURES),
        "summary.html",
        "findings.html",
        "explore.html",
        "evaluations.csv",
    ]:
        assert f"results/tiny/{path}" in page, path
    images = re.findall(r"data:image/png;charset=utf8;filename=(\w+).png;base64,iVBOR", page)
    assert sorted(images) == sorted(FIGURES)
    captions = {figure: figures.load(figure).CAPTION for figure in FIGURES}
    others = {"figure", "comparison"}  # the second: test_toxigen.py
    paths = [path for path in (project / "report" / "captions").glob("*.rst") if path.stem not in others]
    for name, caption in (captions | {path.stem: path.read_text() for path in paths}).items():
        first = re.split(r"[`'“{]", " ".join(caption.split()))[0][:60].strip()
        assert first in page.replace("\\n", " "), f"{name} is shown"
    assert not [text for topic in FORGET for text in sentences(topic) if text in page]


@pytest.mark.parametrize("command", ["--dag", "--rulegraph", "--filegraph"])
def test_graphs_are_dot(finished, command):
    done = finished.snakemake(command)
    assert done.returncode == 0
    dot = done.stdout[done.stdout.index("digraph") :]
    assert dot.strip().endswith("}") and "unlearn" in dot and "->" in dot


@pytest.mark.parametrize("experiment", ["config.yaml", "experiments/own-data.yaml"])
def test_lint_finds_nothing(project, tmp_path, experiment):
    done = Workspace(tmp_path, project).snakemake("--lint", configfile=project / experiment)
    assert done.returncode == 0, done.stdout
    assert "in a good condition" in done.stdout


@pytest.fixture
def other_hashes(finished, monkeypatch):
    """A Python whose forks have another seed of hashes than those that made the finished workspace."""
    with forked_python.starting() as python:
        forked_python.wait_for(python)
        monkeypatch.setattr(Workspace, "python", python)
        for variable, value in forked_python.used_by(python).items():
            monkeypatch.setenv(variable, value)
        yield


@pytest.mark.slow
def test_same_seed_same_bytes(fresh, finished, other_hashes):
    """From scratch in another folder, on one core, with other work before it, and with another seed of hashes."""
    paths = ["merged/rmu/attribute/merge/ties/seed0", "evaluations/rmu/attribute/merge/ties/seed0"]
    targets = [f"results/tiny/{paths[0]}/task_vector.safetensors"]
    targets += [f"results/tiny/{paths[1]}/{evaluation}.csv" for evaluation in ("knowledge", "fluency")]
    done = fresh.snakemake(*targets, cores=1)
    assert done.returncode == 0, done.stdout
    again = fresh.files("results/tiny")
    again = {path: content for path, content in again.items() if not re.match("(logs|benchmarks)/", path)}
    once = finished.files("results/tiny")
    assert {"unlearned/rmu/attribute/shard/rivers/seed0/task_vector.safetensors", f"{paths[0]}/diagnostics.csv"} <= set(
        again
    )
    assert len(again) >= 16
    assert [path for path in again if again[path] != once[path]] == []


def test_gathering_and_comparing_again_gives_the_same_bytes(changing, finished):
    for path in changing.files("results/tiny", "*.csv"):
        if path.startswith(("comparisons", "evaluations.csv", "data/")):
            os.remove(changing.results / path)
    done = changing.snakemake("results/tiny/evaluations.csv")
    assert done.returncode == 0, done.stdout
    assert (changing.results / "evaluations.csv").read_bytes() == (finished.results / "evaluations.csv").read_bytes()


# A method that diverges


def test_a_diverged_model_is_shown_as_broken_everywhere(changing):
    """Gradient ascent at a learning rate of 1 leaves weights that are finite, and a model that writes nothing."""
    ascent = {"method": "gradient_ascent", "steps": 6, "learning_rate": 1.0, "batch_size": 4}
    changing.configure(methods={"ascent": ascent}, single_shards=False, splits=["joint", "attribute"])
    done = changing.snakemake()
    assert done.returncode == 0, done.stdout
    table = read(changing.results / "evaluations.csv")
    reasons = {one.path: broken(table, one) for one in candidates(table)}
    assert not reasons.pop("base")
    assert set(reasons) == {"ascent/joint", "ascent/attribute/merge/ties"} and all(reasons.values())
    lines = (changing.results / "summary.md").read_text().splitlines()
    assert sum("; broken: perplexity" in line for line in lines) == 2
    page = (changing.results / "findings.html").read_text()
    assert "broke the model (perplexity" in page
    assert 'class="text better"' not in page and "did better" not in page
    drawn = sorted(path.stem for path in (changing.results / "figures").glob("*.png"))
    assert len(drawn) == 6
    for name in drawn:
        figure = figures.load(name).draw(table)
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any("broken" in text for text in texts), name
