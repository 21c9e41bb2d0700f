"""The experiments on MUSE and RWKU as the project ships them, on rows of our own and a tiny model."""

import muse_mirror
import pandas as pd
import pytest
import rwku_mirror
import tiny_model
import yaml
from workspace import PROJECT, Workspace

from spunge.datasets import muse, rwku
from spunge.report import results_table

MUSE, RWKU = "muse-books-llama2-7b", "rwku-llama3-8b"
WRITE = {MUSE: muse_mirror.write, RWKU: rwku_mirror.write}
FORGET = {MUSE: ["book 2", "book 3", "book 4"], RWKU: rwku_mirror.KEEPERS[:3]}
KEPT = {MUSE: {muse.RETAINED}, RWKU: {rwku.OTHERS, rwku.NEIGHBOURS}}


def small(experiment):
    """Return an experiment, changed only where a tiny model, local files and little time demand it."""
    config = yaml.safe_load((PROJECT / "experiments" / f"{experiment}.yaml").read_text())
    config["seeds"], config["splits"] = [0], ["joint", "attribute"]
    # MUSE's own model has no tokenizer either.
    config["model"] = {"source": "model", "dtype": "float32"} | (
        {"tokenizer": "tokenizer"} if experiment == MUSE else {}
    )
    prose = {"fluency": {"path": "mirror/prose.csv"}, "fluency_texts": 8, "minimum_words": 5}
    sizes = {MUSE: {"words_per_text": 40}, RWKU: {"targets": 5}}[experiment]
    config["data"] |= {"forget": FORGET[experiment], "minimum_texts": 5}
    config["data"]["options"] |= {"mirror": "mirror", **prose, **sizes}
    smaller = {"steps": 2, "batch_size": 4, "accumulation": 2, "max_tokens_forget": 64, "max_tokens_retain": 64}
    npo = config["methods"]["npo"] | smaller
    del config["tuning"], npo["tune"]
    config["methods"], config["budgets"] = {"npo": npo}, {"kl": [0.0001, 0.001], "most": 64.0}
    config["evaluations"]["answers"]["max_new_tokens"] = 4
    return config


@pytest.fixture(scope="module", params=[MUSE, RWKU])
def ran(request, tmp_path_factory, project):
    workspace = Workspace(tmp_path_factory.mktemp(request.param) / "workspace", project)
    workspace.folder.mkdir()
    WRITE[request.param](workspace / "mirror")
    tiny_model.build(workspace / "model")
    if request.param == MUSE:
        (workspace / "tokenizer").mkdir()
        for path in (workspace / "model").glob("token*"):
            path.rename(workspace / "tokenizer" / path.name)
    workspace.configure(small(request.param))
    done = workspace.snakemake()
    assert done.returncode == 0, done.stdout
    return request.param, workspace, done.stdout


@pytest.mark.slow
def test_every_target_or_novel_is_asked_about_and_what_is_kept(ran):
    experiment, workspace, _ = ran
    rows = results_table.read(workspace / "results" / experiment / "evaluations.csv")
    rows = rows[(rows["evaluation"] == "answers") & (rows["metric"] == "rouge_l_recall") & (rows["seed"] == "all")]
    for candidate in ("base", "npo/joint", "npo/attribute/merge/ties"):
        asked = set(rows.loc[rows["candidate"] == candidate, "attribute"])
        assert {*FORGET[experiment], *KEPT[experiment], "forget mean", "retain mean"} <= asked
    assert rows["value"].between(0, 1).all()


@pytest.mark.slow
def test_shards_are_novels_or_targets(ran):
    experiment, workspace, _ = ran
    results = workspace / "results" / experiment
    texts = pd.read_parquet(results / "data/forget.parquet")
    assert list(texts["attribute"].unique()) == FORGET[experiment]
    shards = sorted(path.name for path in (results / "unlearned/npo/attribute/shard").iterdir())
    assert len(shards) == len(FORGET[experiment])


@pytest.mark.slow
def test_nothing_that_is_forgotten_is_said(ran):
    """Neither in the log nor on the pages; a target's name may be."""
    experiment, workspace, said = ran
    results = workspace / "results" / experiment
    texts = set(pd.read_parquet(results / "data/forget.parquet")["text"].str[-20:])
    answers = set(pd.read_parquet(results / "data/answers.parquet")["answer"].str.strip())
    told = said + "".join(
        path.read_text() for path in [*results.glob("*.html"), *results.glob("*.md"), *results.glob("logs/**/*.log")]
    )
    assert not [text for text in texts | answers if text in told]
