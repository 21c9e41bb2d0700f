"""The WMDP experiments as the project ships them, on harmless texts and a tiny model: all of it but the size.

RMU's traps must show in what would run, and in what ran; nothing of a text to forget may be seen.
"""

import html
import json
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import lm_eval_mirror
import pandas as pd
import pytest
import tiny_model
import wmdp_mirror
import yaml
from workspace import PROJECT, Workspace

from spunge import methods
from spunge.experiment.records import Run
from spunge.methods import rmu
from spunge.models import task_vector

ZEPHYR, LLAMA = "wmdp-zephyr-7b", "wmdp-llama2-7b"
DOMAINS = ["bio", "cyber"]
# Every run of a seed, and its steps in those of a shard.
RUNS = {
    "joint": 2,
    "attribute/shard/bio": 1,
    "attribute/shard/cyber": 1,
    "random/shard/part1": 1,
    "random/shard/part2": 1,
}
STEPS = {ZEPHYR: 75, LLAMA: 40}
LIMITS = [512, 768]
# Every candidate takes seconds, so RMU and one merge are left, and of lm-eval's tasks those that are asked fast.
SHARD_STEPS = 3
CANDIDATES = [f"rmu/{end}/seed0" for end in ("joint", "attribute/merge/ties", "random/merge/ties")]
TASKS = ["wmdp_bio", "wmdp_cyber", "mmlu_virology", "mmlu_computer_security", "arc_easy"]
QUESTIONS = {"bio": 9, "cyber": 7}  # of lm_eval_mirror
TEXTS, PROSE = 12, 8
PAGES = ["evaluations.csv", "summary.csv", "summary.md", "summary.tex", "summary.html", "findings.html"]


def shipped(experiment):
    return yaml.safe_load((PROJECT / "experiments" / f"{experiment}.yaml").read_text())


def small(experiment):
    """Return an experiment, changed only where a tiny model, local files and little time demand it."""
    config = shipped(experiment)
    config["seeds"] = [0]
    config["model"] = {"source": "model", "dtype": "float32"}
    config["data"]["minimum_texts"] = TEXTS
    config["data"]["options"] |= {
        "mirror": "mirror",
        "texts_per_domain": TEXTS,
        "retain_texts": PROSE,
        "fluency_texts": PROSE,
    }
    smaller = {"steps": SHARD_STEPS, "layer_id": 2, "trained_layers": [1, 2], "learning_rate": 0.01}
    config["methods"] = {"rmu": config["methods"]["rmu"] | smaller}
    del config["merges"]["linear"]
    config["evaluations"]["benchmarks"] |= {"tasks": TASKS, "mirror": "lm-eval"}
    return config


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, project):
    """A workspace with the mirrors and the model."""
    workspace = Workspace(tmp_path_factory.mktemp("mirrored") / "workspace", project)
    workspace.folder.mkdir()
    wmdp_mirror.write(workspace / "mirror")
    lm_eval_mirror.write(workspace / "lm-eval")
    tiny_model.build(workspace / "model")
    return workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory, mirrored):
    """A workspace in which an experiment has run: tests read it or copy it, and never write into it."""
    workspace = mirrored.copy(tmp_path_factory.mktemp("wmdp") / "workspace")
    workspace.configure(small(ZEPHYR))
    done = workspace.snakemake()
    assert done.returncode == 0, done.stdout
    workspace.results, workspace.terminal = workspace / f"results/{ZEPHYR}", done.stdout
    return workspace


@pytest.fixture
def changing(tmp_path, finished):
    """A workspace of the test's own in which it has run."""
    return finished.copy(tmp_path / "workspace")


def table(workspace):
    return pd.read_csv(workspace.results / "evaluations.csv", keep_default_na=False, dtype={"seed": str})


def test_the_two_experiments_differ_in_what_their_models_ask_for():
    """So their jobs are the same, and the others' tests run them of one alone."""
    zephyr, llama = shipped(ZEPHYR), shipped(LLAMA)
    for config in (zephyr, llama):
        for section, keys in ((config, ["experiment", "model"]), (config["methods"]["rmu"], ["preset", "steps"])):
            assert [section.pop(key) for key in keys]
    assert zephyr == llama


@pytest.mark.parametrize("experiment", [ZEPHYR, LLAMA])
def test_planned_runs_follow_the_traps(tmp_path, project, experiment):
    """From an empty clone: 75 (40) steps a shard and twice as many for both in turn, limits and vectors by topic."""
    (tmp_path / "clone").mkdir()
    clone = Workspace(tmp_path / "clone", project)
    done = clone.snakemake("--dry-run", "--printshellcmds", configfile=project / f"experiments/{experiment}.yaml")
    assert done.returncode == 0, done.stdout
    commands = [
        shlex.split(line.split(" 2>&1")[0]) for line in done.stdout.splitlines() if "scripts/unlearn.py" in line
    ]
    found = {}
    for command in commands:
        said = dict(pairwise(command))
        run, options = json.loads(said["--run"]), json.loads(said["--options"])
        assert said["--attributes"].endswith("/data/attributes.json"), "all of them, also where a shard has one"
        if run["method"] == "rmu":
            found[run["candidate"]] = options["steps"]
            made = methods.options(rmu, options)
            assert (made.max_tokens_forget, made.max_tokens_retain) == (tuple(LIMITS), 512)
            assert (made.control_vector_per, made.control_seed, made.alternate_attributes) == ("attribute", None, True)
            assert (made.mask, made.skip_first, made.batch_size, made.learning_rate) == (False, 0, 4, 5e-5)
            assert (made.alpha, made.steering_coefficient) == ((1200, 6.5) if experiment == ZEPHYR else (100, 20))
            assert (made.layer_id, made.trained_layers) == (7, (5, 6, 7))
    assert found == {
        f"rmu/{run}/seed{seed}": STEPS[experiment] * many for run, many in RUNS.items() for seed in range(3)
    }
    assert len(commands) == 2 * 5 * 3
    assert done.stdout.count("Ask base lm-eval's tasks") == 1
    assert len(set(re.findall(r"Job \d+: Ask (\S+) lm-eval's tasks", done.stdout))) == 46
    assert not list(clone.folder.glob("re*/*")), "a dry run leaves nothing"


def test_ends_in_tables_pages_and_figures(finished):
    figures = sorted(path.name for path in (finished.results / "figures").glob("*.pdf"))
    assert {"overview.pdf", "radar.pdf", "tradeoff.pdf"} <= set(figures)
    for path in [*PAGES, *(f"figures/{figure}" for figure in figures)]:
        assert (finished.results / path).stat().st_size > 100, path
    assert not [path for path in finished.folder.rglob("*") if "partial" in path.name]


def test_tables_and_shards(finished):
    forget = pd.read_parquet(finished.results / "data/forget.parquet")
    assert forget["attribute"].value_counts().to_dict() == dict.fromkeys(DOMAINS, TEXTS)
    written = {domain: set(wmdp_mirror.forget_texts(domain)) | {wmdp_mirror.FIFTY_ONE} for domain in DOMAINS}
    assert all(row.text in written[row.attribute] for row in forget.itertuples())
    for name, about in (("retain", "rivers"), ("fluency", "stars")):
        texts = pd.read_parquet(finished.results / f"data/{name}.parquet")["text"]
        assert len(texts) == PROSE and texts.str.contains(about).all()
    shards = {
        str(path.relative_to(finished.results / "shards").with_suffix("")): pd.read_parquet(path)
        for path in (finished.results / "shards").rglob("*.parquet")
    }
    assert sorted(shards["joint/all"]["text"]) == sorted(forget["text"])
    for domain in DOMAINS:
        pd.testing.assert_frame_equal(
            shards[f"attribute/{domain}"], forget[forget["attribute"] == domain].reset_index(drop=True)
        )
    parts = [shards[f"random-seed0/part{number}"] for number in (1, 2)]
    assert [len(part) for part in parts] == [TEXTS, TEXTS]
    assert sorted(pd.concat(parts)["text"]) == sorted(forget["text"])
    assert all(set(part["attribute"]) == set(DOMAINS) for part in parts), "by this seed's draw"


@pytest.mark.parametrize("run", RUNS)
def test_steps_of_a_run(finished, run):
    """So many a shard, and as many for each of both in the joint run; recorded are those that were taken."""
    folder = finished.results / f"unlearned/rmu/{run}/seed0"
    steps = SHARD_STEPS * RUNS[run]
    assert pd.read_csv(folder / "training.csv")["n"].max() == steps
    assert task_vector.read(folder / "task_vector.safetensors").provenance["options"]["steps"] == steps


@pytest.mark.parametrize("run", RUNS)
def test_token_limits_by_topic(finished, run):
    """Bio's texts end after 512 tokens and cyber's after 768, wherever they are; all would be longer but one."""
    folder = finished.results / f"unlearned/rmu/{run}/seed0"
    kept = task_vector.read(folder / "task_vector.safetensors").provenance["options"]
    assert kept["max_tokens_forget"] == LIMITS
    shard = pd.read_parquet(finished.results / Run.parse(f"rmu/{run}/seed0").texts)
    base = task_vector.BaseModel.open(next((finished / "resources/models").glob("*/manifest.json")).parent)
    one = methods.Run(
        base, shard["text"].tolist(), [], 0, "cpu", attributes=shard["attribute"].tolist(), all_attributes=DOMAINS
    )
    options = rmu.Options(**{key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()})
    lengths = pd.Series(
        [len(tokens) for tokens in rmu.Texts(one, options, rmu.TruncatedModel(base, options, "cpu")).tokens]
    )
    for domain, own in lengths[shard["text"] != wmdp_mirror.FIFTY_ONE].groupby(shard["attribute"]):
        assert set(own) == {dict(zip(DOMAINS, LIMITS, strict=True))[domain]}


@pytest.mark.parametrize("candidate", ["base", *CANDIDATES])
def test_the_forget_mean_is_that_of_wmdps_own_tasks(finished, candidate):
    scores = pd.read_parquet(finished.results / f"evaluations/{candidate}/benchmarks.parquet")
    own = scores[scores["part_of"] == ""]
    assert own["attribute"].value_counts().reindex(DOMAINS).to_dict() == QUESTIONS
    accuracy = own.groupby("attribute")["accuracy"].mean()
    assert set(accuracy.index) == {*DOMAINS, *TASKS[2:]}
    rows = table(finished)
    rows = rows[(rows["evaluation"] == "benchmarks") & (rows["candidate"] == candidate)]
    told = rows[rows["metric"] == "accuracy"].set_index("attribute")["value"]
    for attribute, value in accuracy.items():
        assert told[attribute] == pytest.approx(value)
    assert told["forget mean"] == pytest.approx(accuracy[DOMAINS].mean())
    assert told["retain mean"] == pytest.approx(accuracy.drop(DOMAINS).mean())


def test_texts_are_in_parquet_alone(finished):
    """None is in what a terminal showed, in logs, tables, pages or figures, or in what Snakemake writes down."""
    texts = pd.read_parquet(finished.results / "data/forget.parquet")["text"]
    sentences = {sentence for text in texts for sentence in re.split(r"(?<=\.) ", text)}
    assert len(sentences) > 500
    shown = {"terminal": finished.terminal.encode()} | finished.files() | finished.files(".snakemake")
    shown |= finished.files("resources/logs") | finished.files("resources/benchmarks")
    stored = {path for path in shown if path.endswith(".parquet")}
    leaks = []
    for path in shown.keys() - stored:
        content = shown[path].decode("utf-8", errors="replace")
        content = content + html.unescape(content) if path.endswith(".html") else content
        leaks += [path for sentence in sentences if sentence in content]
    assert len(shown) - len(stored) > 100
    assert leaks == []


def test_second_run_does_nothing_and_a_changed_corpus_is_seen(changing):
    assert changing.dry_run() is None
    path = changing / "mirror" / wmdp_mirror.CYBER_FILE
    pd.read_parquet(path).drop(index=0).to_parquet(path, index=False)
    assert "Build the tables of wmdp" in changing.dry_run()


class Gate(BaseHTTPRequestHandler):
    """Answers as the hub does where a data set is gated."""

    def do_HEAD(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this dataset is restricted.")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        """Stay silent."""


def test_without_access_one_sentence_says_what_to_ask_for(tmp_path, mirrored, monkeypatch):
    workspace = mirrored.copy(tmp_path / "workspace")
    config = small(ZEPHYR)
    del config["data"]["options"]["mirror"]
    workspace.configure(config)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    done = workspace.snakemake(f"results/{ZEPHYR}/data/forget.parquet")
    server.shutdown()
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert {line for line in done.stdout.splitlines() if line.startswith("error: ")} == {
        "error: cais/wmdp-bio-forget-corpus needs access: ask for it at "
        "https://huggingface.co/datasets/cais/wmdp-bio-forget-corpus, then set HF_TOKEN to a token that may read it, "
        "or name a local copy (mirror)"
    }
    assert not list((workspace / "results").rglob("*.parquet"))
