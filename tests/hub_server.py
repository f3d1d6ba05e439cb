"""A small Hub on loopback: as much of its HTTP protocol as publishing, downloading and failing need, and no more.

Regular files come in the commit, weights by Git LFS. Xet is a protocol of its own and is switched off by
HF_HUB_DISABLE_XET=1 in whoever talks to this server.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

WRITER, READER, STRANGER = "hf_writes", "hf_reads", "hf_nobody"
LARGE = 10_000  # bytes from which a binary goes by LFS
LICENCES = {"apache-2.0", "mit", "cc-by-sa-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(f"{self.commits} {sorted(self.files)}".encode()).hexdigest()


@dataclass
class Hub:
    """What the server knows, and how it is told to misbehave."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # by sha256
    asked: list[str] = field(default_factory=list)  # "PUT /lfs/..."
    broken_puts: int = 0  # so many uploads of a blob are cut off in the middle
    address: str = ""

    def received(self) -> int:
        """Blobs that were sent whole."""
        return len(self.blobs)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def do_POST(self) -> None:
        self.answer("POST")

    def answer(self, method: str) -> None:
        """Find the first route that fits."""
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{method} {path}")
        if method == "PUT" and self.hub.broken_puts > 0:
            return self.cut_off()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        for verbs, pattern, reply in ROUTES:
            if method in verbs and (found := re.fullmatch(pattern, path)):
                return reply(self, body, *found.groups())
        return self.say(404, {"error": f"no such place: {method} {path}"}, {"X-Error-Code": "EntryNotFound"})

    def cut_off(self) -> None:
        """Half of the body, then silence."""
        self.hub.broken_puts -= 1
        self.rfile.read(int(self.headers.get("Content-Length") or 2) // 2)
        self.close_connection = True
        self.connection.close()

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def say(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def known(self) -> bool:
        """Whether the token is one of ours; says 401 if not."""
        if self.token() not in (WRITER, READER):
            self.say(401, {"error": "Invalid credentials in Authorization header"})
            return False
        return True

    def may_write(self, repo: str) -> bool:
        if not self.known():
            return False
        if self.token() != WRITER or repo.partition("/")[0] != "me":
            self.say(403, {"error": "You don't have the rights to do this"})
            return False
        return True

    def whoami(self, body: bytes) -> None:
        if self.known():
            self.say(200, {"type": "user", "name": "me", "orgs": []})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self.may_write(repo):
            return
        if repo in self.hub.repositories:
            return self.say(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{repo}"})
        self.hub.repositories[repo] = Repository(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        self.say(200, {"url": f"{self.hub.address}/{repo}", "name": repo})

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        if (found := self.find(repo)) is not None:
            files = [{"rfilename": name} for name in found.files]
            self.say(200, {"id": repo, "modelId": repo, "sha": found.sha, "private": found.private, "siblings": files})

    def find(self, repo: str) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.token() not in (WRITER, READER)):
            self.say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def tree(self, body: bytes, repo: str, revision: str, folder: str | None = None) -> None:
        if (found := self.find(repo)) is not None:
            names = [name for name in found.files if name.startswith(f"{folder}/" if folder else "")]
            self.say(
                200, [{"type": "file", "path": name, "size": len(found.files[name]), "oid": "0"} for name in names]
            )

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if self.may_write(repo):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs"
                    if one["size"] > LARGE and not one["path"].endswith((".md", "json"))
                    else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            self.say(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        if not self.may_write(repo):
            return
        objects = []
        for one in json.loads(body)["objects"]:
            action = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}
            objects.append(one | ({} if one["oid"] in self.hub.blobs else {"actions": action}))
        self.say(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.say(400, {"error": "another content than announced"})
        self.hub.blobs[oid] = body
        self.say(200, {})

    def validate(self, body: bytes) -> None:
        """What the Hub refuses in a card's metadata."""
        errors = complaints(json.loads(body)["content"])
        self.say(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if not self.may_write(repo) or (found := self.find(repo)) is None:
            return
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del found.files[value["path"]]
        found.commits += 1
        self.say(200, {"commitUrl": f"{self.hub.address}/{repo}/commit/{found.sha}", "commitOid": found.sha})

    def resolve(self, body: bytes, repo: str, revision: str, name: str) -> None:
        if (found := self.find(repo)) is None:
            return
        if name not in found.files:
            return self.say(
                404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found.sha}
            )
        data = found.files[name]
        self.say(200, data, {"X-Repo-Commit": found.sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", rf"/api/models/{REPO}", Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/(.+)", Handler.info),
    ("GET", rf"/api/models/{REPO}/tree/([^/]+)(?:/(.+))?", Handler.tree),
    ("POST", rf"/api/models/{REPO}/preupload/(.+)", Handler.preupload),
    ("POST", rf"/api/models/{REPO}/commit/(.+)", Handler.commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(\w+)", Handler.put),
    ("HEAD GET", rf"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
]


def complaints(card: str) -> list[str]:
    """What is wrong with the metadata of a model card, by the rules of the Hub that matter to us."""
    data = yaml.safe_load(card.split("---")[1])
    bases = data.get("base_model") or []
    found = [f"base_model {name!r}" for name in bases if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    if data.get("license") not in LICENCES and not (data.get("license") == "other" and data.get("license_name")):
        found.append(f"license {data.get('license')!r}")
    if not all(re.fullmatch(r"[a-z]{2,3}", code) for code in data.get("language") or []):
        found.append(f"language {data['language']}")
    if data.get("base_model_relation") not in (None, "adapter", "finetune", "merge", "quantized"):
        found.append("base_model_relation")
    for result in (entry for model in data.get("model-index") or [] for entry in model["results"]):
        if not (
            {"type"} <= result["task"].keys() and {"type", "name"} <= result["dataset"].keys() and result["metrics"]
        ):
            found.append(f"model-index {result}")
    return found


@contextmanager
def serving() -> Iterator[Hub]:
    """The server on a free port, for the length of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
