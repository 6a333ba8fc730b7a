"""A model hub on loopback: the routes that huggingface_hub calls, over real HTTP, with failures on demand.

Large files lie on a second server, as on the real hub: another origin, to which no token may go.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

SIGNATURE = "X-Amz-Signature=a-secret-of-some-minutes"
# What the hub stores apart from git.
LARGE = (".safetensors", ".bin", ".parquet", ".h5", ".gguf")
# Kind, name, route, revision and folder.
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
# So small that a repository's list of files comes in pages.
PAGE = 3


def blob_id(content: bytes) -> str:
    """Return git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Request:
    """A request that a test may look at.

    Attributes:
        method: ``GET`` or ``HEAD``.
        path: Without the query.
        range: The header ``Range``; empty without one.
        token: The header ``Authorization``; empty without one.
    """

    method: str
    path: str
    range: str
    token: str


@dataclass
class Hub:
    """What the servers serve, what they refuse, and what they were asked.

    Attributes:
        endpoint: The hub's address.
        storage: The address of the large files.
        token: The only token that opens private and gated repositories.
        private: Repositories that answer as if they did not exist without the token.
        gated: Repositories whose files need the token.
        refused: Answer every request with this status.
        storage_refused: Answer every request of a large file's content with this status.
        served_instead: What is sent in place of a file's content, by its name.
        broken_after: For each of the next requests of a file's content, the bytes after which the connection drops.
        requests: Every request, in order.
    """

    endpoint: str = ""
    storage: str = ""
    token: str = "hf_a_token_that_must_not_leak"
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    refused: int = 0
    storage_refused: int = 0
    served_instead: dict[str, bytes] = field(default_factory=dict)
    broken_after: dict[str, list[int]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    commits: dict[tuple[str, str, str], dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[tuple[str, str, str], str] = field(default_factory=dict)
    blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def add(self, name: str, files: Mapping[str, bytes], revision: str = "main", kind: str = "models") -> str:
        """Put files into a repository at a branch, and return the commit."""
        text = "".join(f"{path}{blob_id(content)}" for path, content in sorted(files.items()))
        commit = hashlib.sha1(f"{kind}{name}{text}".encode()).hexdigest()
        self.commits[kind, name, commit] = dict(files)
        self.revisions[kind, name, revision] = self.revisions[kind, name, commit] = commit
        for path, content in files.items():
            self.blobs[hashlib.sha256(content).hexdigest()] = (path, content)
        return commit

    def add_folder(self, name: str, folder: Path, revision: str = "main", kind: str = "models") -> str:
        """Put the files below a folder into a repository, and return the commit."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.add(name, files, revision, kind)

    def fetched(self) -> list[str]:
        """Return the names of the files whose content was asked for, in order."""
        asked = [r.path for r in self.requests if r.method == "GET"]
        # A large file is asked for twice: of the hub, which sends elsewhere, and there.
        content = [p for p in asked if p.startswith("/storage/") or ("/resolve/" in p and not p.endswith(LARGE))]
        return [re.sub(r"^/storage/\w+/|^.*/resolve/[^/]+/", "", path) for path in content]

    def ranges(self) -> list[str]:
        """Return the parts of files that were asked for."""
        return [r.range for r in self.requests if r.range]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        header = self.headers.get
        self.hub.requests.append(
            Request(self.command, path, header("Range", "") or "", header("Authorization", "") or "")
        )
        stored = path.startswith("/storage/")
        if refused := self.hub.refused or (stored and self.hub.storage_refused):
            self._send(refused, b"no", {"Retry-After": "0"})
        elif stored:
            name, content = self.hub.blobs[path.split("/")[2]]
            self._send_file(name, content, {})
        elif match := _API.fullmatch(path):
            kind, name, route, revision, folder = (group or "" for group in match.groups())
            # The real hub shows what a gated repository is, and keeps its files.
            commit = self._commit(kind, name, revision or "main")
            if commit and route in {"", "revision"}:
                self._send_json({"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0})
            elif commit and route == "paths-info":
                asked = parse_qs(self.rfile.read(int(header("Content-Length", "0") or 0)).decode())["paths"]
                self._send_json([entry for entry in self._tree(kind, name, commit) if entry["path"] in asked])
            elif commit:
                query, prefix = parse_qs(parts.query), f"{folder}/" if folder else ""
                entries = [entry for entry in self._tree(kind, name, commit) if entry["path"].startswith(prefix)]
                if query.get("recursive", [""])[0].lower() != "true":
                    entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
                self._send_tree(entries, query, path)
        elif match := re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            dataset, name, revision, file = match.groups()
            kind = "datasets" if dataset else "models"
            if name in self.hub.gated and not self._may_read():
                message = f"Access to model {name} is restricted."
                self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
            elif commit := self._commit(kind, name, revision):
                self._resolve(kind, name, commit, file)
        else:
            self._send(404, b"", {})

    def _may_read(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _commit(self, kind: str, name: str, revision: str) -> str | None:
        """Return a revision's commit; None once a refusal was sent."""
        if name in self.hub.private and not self._may_read():
            message = "Invalid username or password."
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": message})
        elif not any(key[:2] == (kind, name) for key in self.hub.revisions):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif (kind, name, revision) not in self.hub.revisions:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        else:
            return self.hub.revisions[kind, name, revision]
        return None

    def _tree(self, kind: str, name: str, commit: str) -> list[dict[str, Any]]:
        files = self.hub.commits[kind, name, commit]
        folders = {str(parent) for file in files for parent in PurePosixPath(file).parents} - {"."}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "size": 0, "oid": blob_id(folder.encode())}
            for folder in sorted(folders)
        ]
        for file, content in sorted(files.items()):
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": blob_id(content)}
            if file.endswith(LARGE):
                entry["oid"] = blob_id(b"a pointer to " + content)
                entry["lfs"] = {
                    "oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130,
                }  # fmt: skip
            entries.append(entry)
        return entries

    def _send_tree(self, entries: list[dict[str, Any]], query: dict[str, list[str]], path: str) -> None:
        start = int(query.get("cursor", ["0"])[0])
        more = start + PAGE < len(entries)
        following = urlencode({**{name: values[0] for name, values in query.items()}, "cursor": start + PAGE})
        link = {"Link": f'<{self.hub.endpoint}{path}?{following}>; rel="next"'} if more else {}
        self._send_json(entries[start : start + PAGE], link)

    def _resolve(self, kind: str, name: str, commit: str, file: str) -> None:
        content = self.hub.commits[kind, name, commit].get(file)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif file.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            self._send(302, b"", {
                "Location": f"{self.hub.storage}/storage/{digest}/{file}?{SIGNATURE}", "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)),
            })  # fmt: skip
        else:
            self._send_file(file, content, {"X-Repo-Commit": commit, "ETag": f'"{blob_id(content)}"'})

    def _send_file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        content = self.hub.served_instead.get(name, content)
        status, first = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            first = int(match[1])
            status = 206 if first < len(content) else 416
            headers = {**headers, "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        limits = self.hub.broken_after.get(name, []) if self.command == "GET" else []
        self._send(status, content[first:], {**headers, "Accept-Ranges": "bytes"}, limits.pop(0) if limits else None)

    def _send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str], limit: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:limit])
            self.wfile.flush()
        if limit is not None:
            self.close_connection = True


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on two free ports of loopback until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
