"""A stand-in for the Hub on loopback: what `huggingface_hub` 2 asks for in uploads and downloads, kept in memory.

    with Hub() as hub:
        subprocess.run([...], env=hub.environment(tmp_path))

It has repositories with commits, large files apart from small ones, private and gated repositories, and tokens:
`WRITER` may write to what belongs to ORG, `READER` may read it, nobody else sees its private repositories.
"""

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

ORG, WRITER, READER = "org", "hf_writer", "hf_reader"
LARGE = (".safetensors", ".parquet", ".png", ".npz")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    private: bool
    sdk: str | None = None
    gated: bool = False
    commits: list[dict] = field(default_factory=list)  # oldest first: {"oid", "title", "files": {path: oid}}

    def commit(self, title: str, files: dict[str, str]) -> dict:
        name = json.dumps([len(self.commits), title, sorted(files.items())]).encode()
        self.commits.append({"oid": hashlib.sha1(name).hexdigest(), "title": title, "files": files})
        return self.commits[-1]

    @property
    def head(self) -> dict:
        return self.commits[-1]


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        self.status, self.message, self.code = status, message, code


class Hub:
    """The server and what it holds. `refused_uploads`: which uploads of large files fail, by number from 1."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.contents: dict[str, bytes] = {}  # by SHA-1 as git names small files, by SHA-256 for large ones
        self.uploads = 0
        self.refused_uploads: set[int] = set()
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        # Large files come from another host, as the Hub's do.
        self.url, self.storage_url = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = WRITER, **more: str) -> dict[str, str]:
        """For a child process: this Hub, with caches under `home`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        return environment | ({"HF_TOKEN": token} if token else {}) | more

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def files(self, name: str, kind: str = "model") -> dict[str, bytes]:
        """Path -> content at the last commit."""
        return {path: self.contents[oid] for path, oid in self.repository(name, kind).head["files"].items()}

    def create(self, name: str, kind: str = "model", **options) -> Repository:
        attributes = self.keep(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        repository = self.repositories[kind, name] = Repository(**{"private": False} | options)
        repository.commit("initial commit", {".gitattributes": attributes})
        return repository

    def keep(self, content: bytes) -> str:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.contents[oid] = content
        return oid

    def entry(self, path: str, oid: str) -> dict:
        entry = {"type": "file", "path": path, "oid": oid, "size": len(self.contents[oid])}
        if len(oid) == 64:
            entry |= {"oid": oid[:40], "lfs": {"oid": oid, "size": entry["size"], "pointerSize": 130}}
        return entry


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        else:
            self.body = self.rfile.read(length)
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.requests.append(f"{self.command} {url.path}")
        try:
            for method, pattern, handler in ROUTES:
                match = re.fullmatch(pattern, unquote(url.path))
                if match and self.command in method:
                    with self.hub.lock:
                        return handler(self, **match.groupdict())
            raise Refused(404, f"no such endpoint: {self.command} {url.path}", "EntryNotFound")
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send(json.dumps({"error": refused.message}).encode(), refused.status, headers)

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, content: bytes, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value, headers: dict | None = None) -> None:
        self._send(json.dumps(value).encode(), headers=headers)

    def _repository(self, kind: str | None, name: str, write: bool = False) -> Repository:
        found = self.hub.repositories.get(((kind or "models").removesuffix("s"), name))
        member = self.token in (WRITER, READER)
        if found is None or (found.private and not member):
            raise Refused(404 if member else 401, "Repository not found", "RepoNotFound")
        if found.gated and not member:
            raise Refused(403, f"Access to {name} is restricted", "GatedRepo")
        if write and self.token != WRITER:
            raise Refused(403, "this token may not write here")
        return found

    def _commit(self, repository: Repository, revision: str) -> dict:
        if revision in ("main", "refs/heads/main"):
            return repository.head
        for commit in repository.commits:
            if commit["oid"] == revision:
                return commit
        raise Refused(404, f"no revision {revision}", "RevisionNotFound")

    def whoami(self) -> None:
        if self.token not in (WRITER, READER):
            raise Refused(401, "Invalid credentials in Authorization header")
        self._json({"type": "user", "name": "someone", "orgs": [{"name": ORG}], "auth": {"type": "access_token"}})

    def create(self) -> None:
        asked = json.loads(self.body)
        name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type") or "model"
        if self.token != WRITER or asked["organization"] != ORG:
            status = 403 if self.token in (WRITER, READER) else 401
            raise Refused(status, f"you may not create a repository of {asked['organization']}")
        if (kind, name) in self.hub.repositories:
            raise Refused(409, "You already created this repo")
        self.hub.create(name, kind, private=asked.get("visibility") == "private", sdk=asked.get("sdk"))
        self._json({"url": f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        stored = self._commit(self._repository(kind, name, write=True), revision)["files"]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": stored.get(file["path"]),
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def batch(self, kind: str | None, name: str) -> None:
        self._repository(kind, name, write=True)
        objects = []
        for each in json.loads(self.body)["objects"]:
            links = {
                "upload": {"href": f"{self.hub.url}/large/{each['oid']}"},
                "verify": {"href": f"{self.hub.url}/verify"},
            }
            objects.append(each | ({} if each["oid"] in self.hub.contents else {"actions": links}))
        self._json({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        self.hub.uploads += 1
        if self.hub.uploads in self.hub.refused_uploads:
            raise Refused(403, "the storage went away")
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content is not what was announced")
        self.hub.contents[oid] = self.body
        self._send(b"")

    def verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.hub.contents.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        self._json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self._repository(kind, name, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines.pop(0)["value"]
        if header.get("parentCommit", repository.head["oid"]) != repository.head["oid"]:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.head["files"])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = self.hub.keep(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.contents:
                    raise Refused(400, f"{value['path']} has not been uploaded")
                files[value["path"]] = value["oid"]
            elif files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = repository.commit(header["summary"], files)["oid"]
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision or "main")
        information = {
            "_id": "0",
            "id": name,
            "author": ORG,
            "sha": commit["oid"],
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "lastModified": DATE,
            "createdAt": DATE,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in commit["files"]],
        }
        self._json(information | ({"modelId": name} if kind == "models" else {}))

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        files = self._commit(self._repository(kind, name), revision)["files"]
        start = f"{folder}/" if folder else ""
        inside = {path: oid for path, oid in files.items() if path.startswith(start)}
        if folder and not inside:
            raise Refused(404, f"no folder {folder}", "EntryNotFound")
        entries, folders = [], set()
        for path, oid in inside.items():
            parents = path[len(start) :].split("/")[:-1]
            folders |= {start + "/".join(parents[: depth + 1]) for depth in range(len(parents))}
            if not parents or self.query.get("recursive", "").lower() == "true":
                entries.append(self.hub.entry(path, oid))
        if self.query.get("recursive", "").lower() != "true":
            folders = {each for each in folders if "/" not in each[len(start) :]}
        self._json(
            [{"type": "directory", "path": each, "oid": "0" * 40, "size": 0} for each in sorted(folders)] + entries
        )

    def paths(self, kind: str, name: str, revision: str) -> None:
        files = self._commit(self._repository(kind, name), revision)["files"]
        try:
            asked = json.loads(self.body)["paths"]
        except ValueError:
            asked = parse_qs(self.body.decode()).get("paths", [])
        entries = [self.hub.entry(path, files[path]) for path in asked if path in files]
        folders = [path for path in asked if any(file.startswith(f"{path}/") for file in files)]
        self._json(entries + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders])

    def refs(self, kind: str, name: str) -> None:
        head = self._repository(kind, name).head["oid"]
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        self._json({"branches": [branch], "tags": [], "converts": [], "pullRequests": []})

    def history(self, kind: str, name: str, revision: str) -> None:
        commits = reversed(self._repository(kind, name).commits)
        self._json(
            [{"id": c["oid"], "title": c["title"], "message": "", "authors": [], "date": DATE} for c in commits],
        )

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        commit = self._commit(self._repository(kind, name), revision)
        if path not in commit["files"]:
            raise Refused(404, f"no file {path}", "EntryNotFound")
        oid = commit["files"][path]
        content = self.hub.contents[oid]
        headers = {"X-Repo-Commit": commit["oid"], "ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if len(oid) == 64:
            headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            return self._send(b"", 302, headers | {"Location": f"{self.hub.storage_url}/large/{oid}"})
        self._content(content, headers)

    def large(self, oid: str) -> None:
        self._content(self.hub.contents[oid], {"ETag": f'"{oid}"'})

    def _content(self, content: bytes, headers: dict) -> None:
        headers = {"Content-Type": "application/octet-stream"} | headers
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self._send(content, headers=headers)
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        last = min(last, len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(content[first : last + 1], 206, headers)


_API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>refs/heads/main|[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"{_API}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"{_API}/commit/{_REVISION}", _Handler.commit),
    ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?", _Handler.tree),
    ("POST", f"{_API}/paths-info/{_REVISION}", _Handler.paths),
    ("GET", f"{_API}/refs", _Handler.refs),
    ("GET", f"{_API}/commits/{_REVISION}", _Handler.history),
    ("GET", f"{_API}(?:/revision/{_REVISION})?", _Handler.info),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]{64})", _Handler.store),
    ("GET HEAD", "/large/(?P<oid>[0-9a-f]{64})", _Handler.large),
    ("POST", "/verify", _Handler.verify),
    ("GET HEAD", f"{_PAGE}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
]
