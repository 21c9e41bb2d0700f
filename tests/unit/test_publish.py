"""Exports are uploaded whole to a stand-in for the hub: private, with every number and interval, without the token."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hub_stand_in
import pytest
import torch
from evaluations_example import example
from huggingface_hub import ModelCard

from spunge.core import slugs
from spunge.core.errors import InputError
from spunge.export import folder as exporting
from spunge.export import publish
from spunge.merging import registry
from spunge.models import base_model, task_vector

PROJECT = Path(__file__).parents[2]
CANDIDATE, REPOSITORY = "rmu/attribute/merge/ties/seed0", "lab/unlearned"
TOKEN, OTHER_TOKEN = "hf_of_the_environment", "hf_of_a_login"
DOWN = "model.layers.1.mlp.down_proj.weight"


def vector(base, path):
    tensor = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    provenance = task_vector.make_provenance(base, method="rmu", options={}, seed=0, run="rmu/joint/seed0")
    task_vector.write(path, {DOWN: tensor.shape}, {DOWN: tensor}.items(), provenance)
    return task_vector.read(path)


@pytest.fixture(scope="module")
def exported(tiny_base, tmp_path_factory):
    """An export of the tiny model, shared by all tests: read it, never write into it."""
    made = tmp_path_factory.mktemp("exported")
    exporting.export(tiny_base, vector(tiny_base, made / "vector.safetensors"), made / "export", CANDIDATE)
    return made / "export"


@pytest.fixture(scope="module")
def table():
    return example()


@pytest.fixture
def hub(monkeypatch):
    """A stand-in that this process takes for the hub, by Git LFS."""
    with hub_stand_in.standing_in(TOKEN) as (hub, address):
        settings = {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        for name, value in settings.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def published(folder, table, budget="", private=True, token=TOKEN):
    return publish.publish(folder, table, CANDIDATE, budget, REPOSITORY, private, token)


def refusal(*arguments, **options):
    with pytest.raises(InputError) as refused:
        published(*arguments, **options)
    return str(refused.value)


class Upload:
    """scripts/publish.py as its rule runs it: in a process of its own, in an environment with a token or without."""

    def __init__(self, folder, table, home, address="", token=TOKEN, xet=False, public=False):
        home.mkdir(exist_ok=True)
        (home / "token").write_text(OTHER_TOKEN)
        table.to_csv(home / "evaluations.csv", index=False)
        self.output = home / "published" / f"{CANDIDATE}.json"
        self.command = [sys.executable, PROJECT / "scripts" / "publish.py", "--candidate", CANDIDATE, "--budget="]
        self.command += ["--export", folder, "--evaluations", home / "evaluations.csv", "--repository", REPOSITORY]
        self.command += ["--output", self.output, *(["--public"] if public else [])]
        changed = {"PYTHONPATH": str(PROJECT), "HF_HOME": str(home), "HF_TOKEN": token}
        changed |= hub_stand_in.environment(address, xet)
        self.environment = {key: value for key, value in (os.environ | changed).items() if value is not None}

    def start(self):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([str(part) for part in self.command], env=self.environment, text=True, **pipes)

    def run(self):
        """Run it to its end; return its exit code and what it said."""
        with self.start() as process:
            said, _ = process.communicate()
        return process.returncode, said


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# What arrives


@pytest.mark.parametrize("way", ["lfs", "xet"])
def test_an_export_arrives_byte_for_byte_in_a_private_repository(tmp_path, exported, table, way, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # where hf_xet keeps its logs
    folder = tmp_path / "export"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("notes.txt", ".env", "optimizer.pt", "forget.parquet", "consolidated.safetensors"):
        (folder / name).write_text("nobody's business")
    storage = tmp_path / "storage" if way == "xet" and pytest.importorskip("hf_xet") else None
    with hub_stand_in.standing_in(TOKEN, storage) as (hub, address):
        upload = Upload(folder, table, tmp_path / "home", address, xet=way == "xet")
        code, said = upload.run()
    assert code == 0, said

    (created,) = hub.asked("/api/repos/create")
    assert json.loads(created[3]) == {"name": "unlearned", "organization": "lab", "visibility": "private"}
    repository = hub.repositories[REPOSITORY]
    assert repository["private"] and len(repository["commits"]) == 2, "one commit besides the hub's own"
    received = {name: content for name, content in repository["files"].items() if name != ".gitattributes"}
    assert received.keys() == digests(exported).keys()
    if way == "xet":
        assert received["model.safetensors"] == digests(exported)["model.safetensors"]
        received["model.safetensors"] = from_storage(storage, exported / "model.safetensors", tmp_path / "again")
    for path in exported.iterdir():
        assert path.name == "README.md" or received[path.name] == path.read_bytes()

    record = json.loads(upload.output.read_text())
    assert record | {"files": {}, "url": ""} == {
        "candidate": CANDIDATE,
        "budget": "",
        "repository": REPOSITORY,
        "private": True,
        "url": "",
        "revision": repository["commits"][-1],
        "files": {},
    }
    assert record["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in received.items()}
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in left if TOKEN.encode() in path.read_bytes()] == []
    assert said.splitlines()[-1] == record["url"] == f"{address}/{REPOSITORY}/commit/{record['revision']}"


def from_storage(storage, original, path):
    """Return a file as hf_xet puts it together from its storage, by the hash that it gives the original."""
    import hf_xet

    (hashed,) = hf_xet.hash_files([str(original)])
    with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{storage}") as group:
        group.start_download_file(hf_xet.XetFileInfo(hashed.hash, original.stat().st_size), str(path))
    return path.read_bytes()


def test_the_token_is_in_the_requests_to_the_hub_and_nowhere_else(tmp_path, exported, table):
    with hub_stand_in.standing_in(TOKEN) as (hub, address):
        upload = Upload(exported, table, tmp_path / "home", address)
        code, said = upload.run()
    assert code == 0, said
    sent = {path: headers.get("authorization") for _, path, headers, _ in hub.requests}
    to_storage = {path for path in sent if path.startswith("/storage/")}
    asked = {path for path in sent if path.startswith(f"/api/models/{REPOSITORY}")}
    assert len(to_storage) == 1 and len(asked) == 3
    assert {sent[path] for path in asked} == {f"Bearer {TOKEN}"}
    assert {path for path, one in sent.items() if one is None} >= to_storage
    assert OTHER_TOKEN not in repr(hub.requests), "what a login left is not taken"
    told = [said, repr(upload.command), upload.output.read_text(), *map(repr, hub.repositories[REPOSITORY].values())]
    told += [path.read_text() for path in (tmp_path / "home").rglob("*") if path.is_file() and path.name != "token"]
    assert TOKEN not in "".join(told)


@pytest.mark.parametrize("found", [None, "", " "])
def test_without_a_token_one_sentence_and_no_request(tmp_path, exported, table, found):
    with hub_stand_in.standing_in(TOKEN) as (hub, address):
        upload = Upload(exported, table, tmp_path / "home", address, token=found)
        code, said = upload.run()
    assert (code, said) == (
        1,
        "error: HF_TOKEN is not set: put a token that may write to the repository into the environment; one that a "
        "login keeps in a file is not taken\n",
    )
    assert not hub.requests and not upload.output.exists()


def test_a_token_that_is_none_is_not_shown():
    with pytest.raises(InputError) as refused:
        publish.token({"HF_TOKEN": "hf_one\nhf_two"})
    assert str(refused.value) == "HF_TOKEN has characters that no token has: copy it again"
    assert publish.token({"HF_TOKEN": "hf_one\n"}) == "hf_one"


@pytest.mark.parametrize("is_on_hub", [True, False])
def test_how_mergekit_makes_a_merge_is_uploaded_where_it_names_no_folder(
    hub, table, tiny_folder, tmp_path, monkeypatch, is_on_hub
):
    own = Path(shutil.copytree(tiny_folder, tmp_path / "Alice Smith" / "acme" / "base"))
    monkeypatch.setattr(base_model, "_local_folder", lambda source, revision: own)
    source = "organisation/Model-7B" if is_on_hub else str(own)
    base = base_model.prepare(source, tmp_path / "models" / slugs.slug(source))
    change = vector(base, tmp_path / "vector.safetensors")
    runs = [{"shard": shard, "run": f"rmu/attribute/shard/{shard}/seed0"} for shard in ("Africa", "Asia")]
    options = dataclasses.asdict(registry.options("linear", {}))
    change.provenance |= {"candidate": CANDIDATE, "merge": "linear", "options": options, "unlearned": runs}
    exporting.export(base, change, tmp_path / "export", CANDIDATE)
    assert (tmp_path / "export" / "mergekit.yaml").is_file()

    published(tmp_path / "export", table)
    uploaded = hub.repositories[REPOSITORY]["files"]
    assert ("mergekit.yaml" in uploaded) == is_on_hub and hub.repositories[REPOSITORY]["private"]
    told = uploaded["README.md"].decode()
    assert ("in float32; in 16 bits the shards are rounded" in told) and "no mergekit.yaml" not in told
    assert ("It names the base model by a folder, so it is not published." in told) != is_on_hub
    texts = [content.decode() for name, content in uploaded.items() if not name.endswith(".safetensors")]
    assert not [text for text in texts if "Alice" in text or "acme" in text]


# The card


def test_model_index_has_the_numbers_and_intervals_of_evaluations_csv(hub, exported, table):
    published(exported, table)
    card = ModelCard(hub.repositories[REPOSITORY]["files"]["README.md"].decode())
    assert card.data.model_name == "unlearned" and card.data.tags == ["unlearning", "spunge"]
    rows = table[(table["candidate"] == CANDIDATE) & table["evaluation"].isin(["knowledge", "fluency"])]
    rows = rows[~rows["metric"].str.contains("_minus_")]
    rows = rows[(rows["metric"] != "accuracy_norm") | rows["attribute"].str.startswith(("forget ", "retain "))]
    expected = {
        (row.evaluation, row.attribute or None, row.metric): (row.value, row.low, row.high, row.n)
        for row in rows.itertuples()
    }
    found = {
        (one.dataset_type, one.dataset_config, one.metric_type): (
            one.metric_value,
            one.metric_args["low"],
            one.metric_args["high"],
            one.metric_args["n"],
        )
        for one in card.data.eval_results
    }
    # Of 4 attributes, 2 means and a difference; of the last 3; perplexity.
    assert len(found) == len(card.data.eval_results) == 7 + 3 + 1
    assert found == expected
    assert found["knowledge", "Africa", "accuracy"] == pytest.approx((0.222, 0.102, 0.342, 50))
    (africa,) = [
        one for one in card.data.eval_results if one.dataset_config == "Africa" and one.metric_type == "accuracy"
    ]
    assert africa.dataset_name == "example, knowledge: Africa" and africa.metric_args["confidence_level"] == 0.95
    assert africa.metric_name == "accuracy [0.102, 0.342]"


def test_table_has_the_base_model_and_the_change_beside_each_number(hub, exported, table):
    published(exported, table)
    text = hub.repositories[REPOSITORY]["files"]["README.md"].decode()
    row = "| knowledge | `Africa` | `accuracy` | 0.222 [0.102, 0.342] | 0.704 | −0.482 [−0.532, −0.432] | 50 |"
    assert row in text.splitlines()
    assert "| fluency |  | `perplexity` | 40.900 [39.400, 42.400] | 40.200 | +0.700 [+0.400, +1.000] | 400 |" in text
    assert text.index("at the configured λ") < text.index(row) < text.index("## What unlearning does not promise")
    plain = (exported / "README.md").read_text()
    before, _, after = plain.partition("## What unlearning does not promise")
    assert before.partition("---\n\n")[2] in text and after in text, "the export's own card is all there"


def test_numbers_are_those_of_the_budget_that_the_export_has(hub, exported):
    table = example(budgets=("kl=0.01", "kl=0.1"))
    record = published(exported, table, budget="kl=0.1")
    text = hub.repositories[REPOSITORY]["files"]["README.md"].decode()
    assert record["budget"] == "kl=0.1" and "at the damage budget `kl=0.1`" in text
    # 0.222 on average, 2.5 points less at the larger budget.
    assert "| knowledge | `Africa` | `accuracy` | 0.197 [0.077, 0.317] | 0.704 |" in text and "0.247" not in text
    (found,) = {one.metric_value for one in ModelCard(text).data.eval_results if one.dataset_config == "Africa"}
    assert found == pytest.approx(0.197)
    assert refusal(exported, table) == (
        f"evaluations.csv tells nothing of {CANDIDATE} at the configured λ: name a candidate that was evaluated"
    )


def test_of_many_attributes_and_other_metrics_the_means_alone(exported):
    for number, shown in ((20, True), (21, False)):
        forget = [f"group {place}" for place in range(number - 2)]
        rows = publish.measured(example(forget=forget), CANDIDATE, "")
        text = publish.card((exported / "README.md").read_text(), rows, "unlearned", "float32")
        assert ("`group 3`" in text) == shown and "numbers of single attributes are left out" in text
        configs = {one.dataset_config for one in ModelCard(text).data.eval_results}
        assert ("group 3" in configs) == shown and {"forget mean", "retain mean"} < configs


def test_what_is_no_number_is_no_entry_and_what_has_no_interval_has_none(exported, table):
    rows = publish.measured(table, CANDIDATE, "")
    rows.loc[rows["metric"] == "accuracy_norm", ["value", "low", "high"]] = math.nan
    rows.loc[rows["attribute"] == "Asia", ["low", "high"]] = math.nan
    text = publish.card((exported / "README.md").read_text(), rows, "unlearned", "bfloat16")
    entries = ModelCard(text).data.eval_results
    assert {one.metric_type for one in entries} == {"accuracy", "perplexity"}
    (asia,) = [one for one in entries if one.dataset_config == "Asia"]
    assert asia.metric_args == {"n": 50} and asia.metric_name == "accuracy"
    assert "| knowledge | `Asia` | `accuracy` | 0.271 | 0.896 |" in text
    assert "| knowledge | `forget mean` | `accuracy_norm` | – | 0.800 |" in text
    assert "is rounded to bfloat16 here" in text
    rows["value"] = math.nan
    text = publish.card((exported / "README.md").read_text(), rows, "unlearned", "float32")
    assert "model-index" not in text and "model_name" not in text and "is rounded" not in text


def test_attributes_of_any_text_stay_in_their_cells_and_in_the_metadata(exported):
    odd = ["yes", "a|b: *c*", "Côte d'Ivoire"]
    rows = publish.measured(example(forget=odd), CANDIDATE, "")
    text = publish.card((exported / "README.md").read_text(), rows, "unlearned", "float32")
    assert {*odd} < {one.dataset_config for one in ModelCard(text).data.eval_results}
    assert "| `a\\|b: *c*` |" in text


@pytest.mark.parametrize(
    ("value", "signed", "written"),
    [
        (0.2224, False, "0.222"),
        (0.00117, True, "+0.0012"),
        (-0.00004, False, "−4e−05"),
        (-0.0, True, "+0.000"),
        (609.94321, False, "609.943"),
        (2.5e12, False, "2.5e+12"),
        (math.inf, False, "inf"),
        (math.nan, True, "–"),
    ],
)
def test_numbers_have_the_digits_that_matter(value, signed, written):
    assert publish._number(value, signed) == written


# Repositories that are there


def test_a_public_repository_is_refused_unless_publishing_is_public(hub, exported, table):
    hub.add(REPOSITORY, private=False)
    assert refusal(exported, table) == (
        f"{REPOSITORY} is public, and publish.private is true: make it private on the hub, name another repository, or "
        "set publish.private to false"
    )
    assert not hub.asked("/preupload/") and not hub.asked("/commit/")
    assert list(hub.repositories[REPOSITORY]["files"]) == [".gitattributes"]
    assert published(exported, table, private=False)["private"] is False


def test_a_new_repository_is_public_only_when_that_is_said(tmp_path, exported, table):
    with hub_stand_in.standing_in(TOKEN) as (hub, address):
        upload = Upload(exported, table, tmp_path / "home", address, public=True)
        code, said = upload.run()
    assert code == 0, said
    assert json.loads(hub.asked("/api/repos/create")[0][3])["visibility"] == "public"
    assert json.loads(upload.output.read_text())["private"] is False


def test_what_was_not_published_from_here_is_left_alone(hub, exported, table):
    hub.add(REPOSITORY, private=True, **{"README.md": "---\ntags: [gguf]\n---\n", "model.gguf": "another model"})
    assert refusal(exported, table) == (
        f"{REPOSITORY} holds what was not published from here (README.md): name a new repository"
    )
    assert not hub.asked("/preupload/") and len(hub.repositories[REPOSITORY]["commits"]) == 1


def test_publishing_again_sends_what_changed_and_takes_old_weights_away(hub, exported, table, tiny_base, tmp_path):
    change = vector(tiny_base, tmp_path / "vector.safetensors")
    exporting.export(tiny_base, change, tmp_path / "parts", CANDIDATE, max_shard_size="60KB")
    first = published(tmp_path / "parts", table)
    repository = hub.repositories[REPOSITORY]
    repository["files"] |= {"LICENSE": b"added on the hub", "mergekit.yaml": b"of another merge"}
    repository["files"] |= {"chat_template.jinja": b"of another tokenizer", "notes.txt": b"added on the hub"}
    sent = len(hub.asked("/storage/"))
    again = published(tmp_path / "parts", table)
    assert again["files"] == first["files"] and "notes.txt" in repository["files"]
    assert not {"mergekit.yaml", "chat_template.jinja"} & repository["files"].keys()
    assert len(hub.asked("/storage/")) == sent > 1 and len(repository["commits"]) == 3
    assert published(tmp_path / "parts", table) == again and len(repository["commits"]) == 3

    second = published(exported, table)
    weights = {name for name in repository["files"] if "safetensors" in name}
    assert weights == {"model.safetensors"} and len(repository["commits"]) == 4
    assert second["revision"] == repository["commits"][-1] != again["revision"]
    assert repository["files"]["LICENSE"] == b"added on the hub"


# What goes wrong


def test_a_killed_upload_leaves_nothing_and_is_made_again(tmp_path, exported, table):
    with hub_stand_in.standing_in(TOKEN) as (hub, address):
        hub.held = ("/storage/",)
        upload = Upload(exported, table, tmp_path / "home", address)
        with upload.start() as process:
            assert hub.reached.wait(60)
            process.send_signal(signal.SIGKILL)
        assert not upload.output.exists()
        assert list(hub.repositories[REPOSITORY]["files"]) == [".gitattributes"]
        hub.held = ()
        code, said = upload.run()
    assert code == 0, said
    assert json.loads(upload.output.read_text())["files"].keys() == digests(exported).keys()


def test_a_hub_that_refuses_is_told_in_one_sentence_and_asked_again(hub, exported, table):
    hub.fails_at = ("/commit/",)
    said = refusal(exported, table)
    assert said.startswith(f"nothing was published in {REPOSITORY}: Server error '500 Internal Server Error' for url ")
    assert said.endswith("; see that HF_TOKEN may write there and that the hub can be reached, and run again")
    assert "\n" not in said and TOKEN not in said
    hub.fails_at = ()
    sent = len(hub.asked("/storage/"))
    assert published(exported, table)["revision"] == hub.repositories[REPOSITORY]["commits"][-1]
    assert len(hub.asked("/storage/")) == sent, "the weights had arrived"


def test_a_wrong_token_an_odd_name_and_no_hub_are_told(hub, exported, table, monkeypatch):
    assert "401" in refusal(exported, table, token="hf_wrong")
    assert not hub.repositories
    with pytest.raises(InputError, match="Cannot have -- or"):
        publish.publish(exported, table, CANDIDATE, "", "lab/a--b", True, TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "refused" in refusal(exported, table)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(exported, table)
