"""A stand-in for the hub's HTTP API: repositories in memory, as far as a model is uploaded to them.

Made after huggingface_hub 2.4.0, which is what speaks to it. Large files come by Git LFS, or by xet, whose storage is
then a folder that hf_xet itself reads and writes (local://).
"""

import base64
import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

LARGE = ".safetensors"


class Hub:
    """What the stand-in was asked and what it holds.

    `requests`: (method, path, headers, body) of each. `repositories`: by id whether `private`, its `files` (bytes, of a
    large one that came by xet its SHA-256), and its `commits`. `fails_at`: parts of paths that are answered with 500.
    `held`: parts of paths that are never answered; `reached` is set when one is asked for.
    """

    def __init__(self, token, xet=None):
        self.token, self.xet = token, xet
        self.requests, self.repositories, self.objects = [], {}, {}
        self.fails_at, self.held, self.reached = (), (), threading.Event()

    def add(self, name, private, **files):
        """Make a repository as the hub does: with .gitattributes."""
        files = {path: content.encode() for path, content in files.items()}
        self.repositories[name] = {"private": private, "files": {".gitattributes": b"", **files}, "commits": ["0" * 40]}

    def asked(self, part):
        """Return the requests whose path has this part."""
        return [request for request in self.requests if part in request[1]]

    def answer(self, method, path, headers, body):
        """Return status, JSON and headers of the answer to a request."""
        if method == "PUT" and path.startswith("/storage/"):  # the address itself gives the right to write there
            digest = hashlib.sha256(body).hexdigest()
            assert path == f"/storage/{digest}"
            self.objects[digest] = body
            return 200, {}, {}
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            return 200, {"errors": [], "warnings": [] if content.startswith("---\n") else [{"message": "none"}]}, {}
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": "Invalid credentials in Authorization header"}, {}
        if path == "/api/repos/create":
            return self.create(headers["host"], json.loads(body))
        name = path.removeprefix("/api/models/") if path.startswith("/api/models/") else path.partition(".git/")[0][1:]
        name = "/".join(name.split("/")[:2])
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        repository, rest = self.repositories[name], path.partition(name)[2]
        if method == "GET" and rest in ("", "/revision/main"):
            return 200, self.info(name, repository), {}
        if rest == "/preupload/main":
            return 200, {"files": [self.mode(repository, file["path"]) for file in json.loads(body)["files"]]}, {}
        if rest == ".git/info/lfs/objects/batch":
            return 200, {"objects": [self.transfer(headers["host"], one) for one in json.loads(body)["objects"]]}, {}
        if rest == "/xet-write-token/main":
            return 200, {"casUrl": f"local://{self.xet}", "accessToken": "of xet", "exp": int(time.time()) + 3600}, {}
        if rest == "/commit/main":
            return self.commit(headers["host"], name, repository, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"the stand-in has no {method} {path}"}, {}

    def create(self, host, asked):
        name = f"{asked['organization']}/{asked['name']}"
        address = {"url": f"http://{host}/{name}"}
        if name in self.repositories:
            return 409, address | {"error": "You already created this model repo"}, {}
        self.add(name, asked.get("visibility") == "private")
        return 200, address, {}

    def info(self, name, repository):
        readme = repository["files"].get("README.md", b"").decode()
        front = yaml.safe_load(readme.split("---\n")[1]) if readme.startswith("---\n") else {}
        siblings = [{"rfilename": path} for path in repository["files"]]
        known = {"id": name, "sha": repository["commits"][-1], "private": repository["private"], "siblings": siblings}
        return known | {"tags": front.get("tags", [])}

    def mode(self, repository, path):
        content = repository["files"].get(path)
        if path.endswith(LARGE):
            oid = content if isinstance(content, str) else content and hashlib.sha256(content).hexdigest()
            return {"path": path, "uploadMode": "lfs", "shouldIgnore": False, "oid": oid}
        oid = None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid}

    def transfer(self, host, one):
        upload = {"upload": {"href": f"http://{host}/storage/{one['oid']}"}}
        return one if one["oid"] in self.objects else one | {"actions": upload}

    def commit(self, host, name, repository, lines):
        files = dict(repository["files"])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = value["oid"] if self.xet else self.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        repository["files"] = files
        repository["commits"].append(hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest())
        oid = repository["commits"][-1]
        return 200, {"commitUrl": f"http://{host}/{name}/commit/{oid}", "commitOid": oid}, {}


def environment(address, xet=False):
    """Return the variables by which huggingface_hub takes the stand-in for the hub."""
    off = {"HF_HUB_DISABLE_XET": str(int(not xet)), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", **off}


@contextmanager
def standing_in(token, xet=None):
    """Yield a Hub and the address at which it answers, on this machine alone."""
    hub = Hub(token, xet)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path, headers, body))
            if any(part in path for part in hub.held):
                hub.reached.set()
                time.sleep(60)
            status, answer, more = 500, {"error": "out of order"}, {}
            if not any(part in path for part in hub.fails_at):
                status, answer, more = hub.answer(self.command, path, headers, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", "Content-Length": len(content), **more}.items():
                self.send_header(key, str(value))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
