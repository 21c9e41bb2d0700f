"""Models out of a Hugging Face cache, without a copy or the network; end point and token from the environment."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from workspace import configuration

from spunge.core import slugs

NAME, COMMIT, TOKEN = "somebody/tiny", "0123456789abcdef0123456789abcdef01234567", "hf_thisMustBeWrittenNowhere"
TARGETS = ["results/tiny/evaluations/base/knowledge.csv", "results/tiny/unlearned/rmu/joint/seed0/training.csv"]


class Hub(BaseHTTPRequestHandler):
    """Notes every request, and lets nobody in."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_CONNECT = do_GET

    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture
def hub(monkeypatch):
    """A server that is the hub and also every job's proxy, so that a request to anywhere is seen."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, address)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()


@pytest.fixture
def workspace(fresh, monkeypatch):
    """The tiny experiment with its model on the hub, and an empty cache."""
    monkeypatch.setenv("HF_HOME", str(fresh / "huggingface"))
    fresh.configure(model={"source": NAME})
    return fresh


def fill_cache(workspace):
    """Move the model's files to where huggingface_hub keeps what it has fetched, and return that folder."""
    cache = workspace / "huggingface" / "hub" / "models--somebody--tiny"
    snapshot = cache / "snapshots" / COMMIT
    for folder in (snapshot, cache / "blobs", cache / "refs"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    for path in (workspace / "model").iterdir():
        blob = cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (workspace / "model").rmdir()
    return cache


def prepared(revision=None):
    return f"resources/models/{slugs.slug('@'.join(filter(None, (NAME, revision))))}"


def written(workspace):
    return b"\n".join(content for folder in ("results", "resources") for content in workspace.files(folder).values())


@pytest.mark.slow
@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_cached_model_is_linked_and_nothing_is_asked_of_the_network(workspace, hub, monkeypatch, revision):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache = fill_cache(workspace)
    config = configuration()
    model = {"source": NAME} | ({"revision": revision} if revision else {})
    workspace.configure(config, model=model, methods={"rmu": config["methods"]["rmu"]})
    done = workspace.snakemake(*([prepared(revision)] if revision else TARGETS))
    assert done.returncode == 0, done.stdout
    assert hub.asked == []
    (weights,) = (workspace / "resources" / "models").glob("*/model.safetensors")
    assert weights.resolve().parent == cache / "blobs"
    assert TOKEN not in done.stdout and TOKEN.encode() not in written(workspace)


@pytest.mark.slow
def test_offline_a_model_that_is_not_cached_is_an_error_and_no_request(workspace, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = workspace.snakemake(prepared())
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "error: model.source somebody/tiny (revision main) can't be fetched from the hub: " in done.stdout
    assert hub.asked == []


@pytest.mark.slow
def test_end_point_and_token_come_from_the_environment_and_the_token_goes_nowhere_else(workspace, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    done = workspace.snakemake(prepared())
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "can't be fetched from the hub" in done.stdout and "set HF_TOKEN if the model is gated" in done.stdout
    assert {authorization for path, authorization in hub.asked if NAME in path} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout and TOKEN.encode() not in written(workspace)
    assert TOKEN.encode() not in b"\n".join(workspace.files(".snakemake").values())
