"""A double of the Hub on loopback: so much of its protocol as a push and a pull need, over plain HTTP.

A double, because no self-hosted Hub installs as a Python package. It keeps every commit in memory. Large files go
through LFS and, as on the Hub, come back from another host (`localhost` beside `127.0.0.1`), which gets no token.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPO = r"(?P<repo>[^/]+/[^/]+?)"


def route(method: str, path: str) -> tuple[str, re.Pattern]:
    return method, re.compile(path + r"(\?.*)?")


class Repository:
    """Commits are whole listings, path to content, by hash; a branch is the list of its hashes."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {"0" * 40: {}}
        self.branches: dict[str, list[str]] = {"main": ["0" * 40]}

    def resolve(self, revision: str) -> str | None:
        return self.branches[revision][-1] if revision in self.branches else self.commits.get(revision) and revision

    def commit(self, branch: str, files: dict[str, bytes], removed: set[str]) -> str:
        history = self.branches[branch]
        sha = hashlib.sha1(repr((history, sorted(files))).encode()).hexdigest()
        kept = {path: content for path, content in self.commits[history[-1]].items() if path not in removed}
        self.commits[sha] = {**kept, **files}
        history.append(sha)
        return sha


class HubDouble(ThreadingHTTPServer):
    """The server: `repositories` by name, `tokens` to the user each belongs to."""

    daemon_threads = True

    def __init__(self, tokens: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokens = tokens
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.url, self.other_host = (f"http://{host}:{self.server_port}" for host in ("127.0.0.1", "localhost"))

    def environment(self, home: Any, token: str | None = None) -> dict[str, str]:
        """What sends huggingface_hub here; xet, which the double does not speak, is off."""
        found = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        return found if token is None else {**found, "HF_TOKEN": token}


class Handler(BaseHTTPRequestHandler):
    server: HubDouble
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        method = "GET" if self.command == "HEAD" else self.command
        for (wanted, path), action in ROUTES.items():
            match = path.fullmatch(self.path)
            if wanted == method and match:
                return action(self, **match.groupdict())
        return self.refuse(404, "EntryNotFound", f"the double has no route for {self.command} {self.path}")

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def send(self, content: Any, status: int = 200, **headers: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str, **headers: Any) -> None:
        self.send({"error": message}, status, X_Error_Code=code, X_Error_Message=message, **headers)

    @property
    def user(self) -> str | None:
        return self.server.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repository(self, repo: str, writes: bool = False) -> Repository | None:
        """The repository, or None after a refusal; a private one is not even told to exist."""
        found = self.server.repositories.get(repo)
        owner = self.user == repo.split("/")[0]
        if found is None or (not owner and (found.private or writes)):
            self.refuse(401, "RepoNotFound", "Repository not found")
            return None
        return found

    def listing(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        found = self.repository(repo)
        if found is None:
            return None
        sha = found.resolve(revision)
        if sha is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return sha, found.commits[sha]

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.user is None or self.user != repo.split("/")[0]:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        answer = {"url": f"{self.server.url}/{repo}", "name": repo}
        if repo in self.server.repositories:
            return self.send({**answer, "error": "You already created this model repo"}, 409)
        self.server.repositories[repo] = Repository(asked.get("visibility") == "private")
        return self.send(answer)

    def validate_yaml(self) -> None:
        self.send({"errors": [], "warnings": []})

    def branch(self, repo: str, branch: str) -> None:
        found = self.repository(repo, writes=True)
        if found is not None:
            found.branches.setdefault(branch, list(found.branches["main"]))
            self.send({})

    def preupload(self, repo: str, revision: str) -> None:
        if self.repository(repo, writes=True) is None:
            return
        files = [
            {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            for file in json.loads(self.body)["files"]
            for mode in ["lfs" if file["path"].endswith((".safetensors", ".png", ".bin")) else "regular"]
        ]
        self.send({"files": files})

    def lfs_batch(self, repo: str) -> None:
        if self.repository(repo, writes=True) is None:
            return
        objects = []
        for entry in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.other_host}/lfs/{entry['oid']}"}
            actions = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}
            objects.append({**entry, "actions": actions})
        self.send({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        assert "Authorization" not in self.headers, "the store of large files must get no token"
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.objects[oid] = self.body
        self.send({})

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        good = len(self.server.objects.get(asked["oid"], b"")) == asked["size"]
        self.send({}) if good else self.refuse(404, "", "no such object")

    def lfs_get(self, oid: str) -> None:
        assert "Authorization" not in self.headers, "the store of large files must get no token"
        self.send(self.server.objects[oid])

    def commit(self, repo: str, revision: str) -> None:
        found = self.repository(repo, writes=True)
        if found is None:
            return
        files, removed = {}, set()
        for entry in map(json.loads, self.body.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                removed.add(value["path"])
        sha = found.commit(revision, files, removed)
        self.send({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{repo}/commit/{sha}"})

    def info(self, repo: str, revision: str | None = None) -> None:
        listing = self.listing(repo, revision or "main")
        if listing is not None:
            sha, files = listing
            siblings = [{"rfilename": name} for name in files]
            self.send(
                {
                    "id": repo,
                    "sha": sha,
                    "siblings": siblings,
                    "private": self.server.repositories[repo].private,
                    "tags": [],
                    "downloads": 0,
                }
            )

    def tree(self, repo: str, revision: str) -> None:
        listing = self.listing(repo, revision)
        if listing is not None:
            entries = listing[1].items()
            self.send([{"type": "file", "path": path, "size": len(data), "oid": etag(data)} for path, data in entries])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        listing = self.listing(repo, revision)
        if listing is None:
            return None
        sha, files = listing
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=sha)
        data, oid = files[path], hashlib.sha256(files[path]).hexdigest()
        headers = {"X_Repo_Commit": sha, "ETag": f'"{etag(data)}"'}
        if oid not in self.server.objects:
            return self.send(data, **headers)
        linked = {"X_Linked_Size": len(data), "X_Linked_Etag": f'"{oid}"'}
        return self.send(b"", 302, Location=f"{self.server.other_host}/lfs/{oid}", **headers, **linked)


def etag(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


ROUTES = {
    route("POST", "/api/repos/create"): Handler.create,
    route("POST", "/api/validate-yaml"): Handler.validate_yaml,
    route("POST", f"/api/models/{REPO}/branch/(?P<branch>[^/]+)"): Handler.branch,
    route("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)"): Handler.preupload,
    route("POST", f"/{REPO}.git/info/lfs/objects/batch"): Handler.lfs_batch,
    route("PUT", "/lfs/(?P<oid>[0-9a-f]+)"): Handler.lfs_put,
    route("POST", "/lfs/verify"): Handler.lfs_verify,
    route("GET", "/lfs/(?P<oid>[0-9a-f]+)"): Handler.lfs_get,
    route("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)"): Handler.commit,
    route("GET", f"/api/models/{REPO}"): Handler.info,
    route("GET", f"/api/models/{REPO}/revision/(?P<revision>[^/?]+)"): Handler.info,
    route("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/?]+)"): Handler.tree,
    route("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>[^?]+)"): Handler.resolve,
}


@contextmanager
def hub_double(tokens: dict[str, str]) -> Iterator[HubDouble]:
    """Serve from a thread of its own."""
    with HubDouble(tokens) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
