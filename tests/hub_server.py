"""A stand-in for the Hugging Face hub on this machine: repositories with revisions, read and written over HTTP."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """Files by repository and revision, and what was asked."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.repos: dict[str, dict[str, Files]] = {}
        self.private: set[str] = set()
        self.gated: dict[str, str] = {}  # the token that the files of a repository need
        self.asked: list[str] = []

    def answer(self, method: str, path: str, body: bytes, token: str = "") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of one answer."""
        self.asked.append(f"{method} {path}")
        if (found := re.fullmatch(r"/(.+?/.+?)/resolve/.+", path)) and self.gated.get(found[1], token) != token:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for pattern, work in (
            (r"/api/models/(.+?/.+?)/branch/(.+)", self._branch),
            (r"/api/models/(.+?/.+?)/preupload/(.+)", self._preupload),
            (r"/api/models/(.+?/.+?)/commit/(.+)", self._commit),
            (r"/api/models/(.+?/.+?)/revision/(.+)", self._info),
            (r"/api/models/(.+?/.+?)/tree/(.+)", self._tree),
            (r"/(.+?/.+?)/resolve/(.+?)/(.+)", self._file),
        ):
            if found := re.fullmatch(pattern, path):
                return work(body, *found.groups())
        return 404, {}, b"{}"

    def _create(self, asked: Any) -> tuple[int, dict[str, str], bytes]:
        name = "/".join(part for part in (asked.get("organization") or "owner", asked["name"]))
        if name in self.repos:
            return 409, {}, json.dumps({"error": "it is there", "url": f"/{name}"}).encode()
        self.repos[name] = {"main": {}}
        hidden = asked.get("private") or asked.get("visibility") == "private"
        self.private |= {name} if hidden else set()
        return 200, {}, json.dumps({"url": f"https://huggingface.co/{name}"}).encode()

    def _branch(self, _: bytes, repo: str, branch: str) -> tuple[int, dict[str, str], bytes]:
        if branch in self.repos[repo]:
            return 409, {}, b"{}"
        self.repos[repo][branch] = dict(self.repos[repo]["main"])
        return 200, {}, b"{}"

    def _preupload(self, body: bytes, _: str, __: str) -> tuple[int, dict[str, str], bytes]:
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
        ]
        return 200, {}, json.dumps({"files": files}).encode()

    def _commit(self, body: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repos[repo][revision][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        answer = {
            "commitUrl": f"https://huggingface.co/{repo}/commit/{'0' * 40}",
            "commitOid": "0" * 40,
            "hookOutput": "",
        }
        return 200, {}, json.dumps(answer).encode()

    def _info(self, _: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        if revision not in self.repos.get(repo, {}):
            code = "RevisionNotFound" if repo in self.repos else "RepoNotFound"
            return 404, {"X-Error-Code": code}, b"{}"
        files = [{"rfilename": name} for name in self.repos[repo][revision]]
        return 200, {}, json.dumps({"id": repo, "sha": commit_of(revision), "siblings": files}).encode()

    def _tree(self, _: bytes, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        files = self._at(repo, revision)
        rows = [{"type": "file", "path": name, "size": len(x), "oid": name_of(x)} for name, x in files.items()]
        return 200, {}, json.dumps(rows).encode()

    def _at(self, repo: str, revision: str) -> Files:
        """The files of a branch, or of the commit that it stands for."""
        named = {commit_of(branch): files for branch, files in self.repos[repo].items()} | self.repos[repo]
        return named.get(revision, {})

    def _file(self, _: bytes, repo: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if name not in self._at(repo, revision):
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = self._at(repo, revision)[name]
        headers = {"ETag": f'"{name_of(content)}"'}
        branch = next(branch for branch in self.repos[repo] if revision in (branch, commit_of(branch)))
        return 200, headers | {"X-Repo-Commit": commit_of(branch)}, content


def commit_of(revision: str) -> str:
    """The commit that a revision stands for."""
    return name_of(revision.encode())


def name_of(content: bytes) -> str:
    """Forty hex digits, as git names content."""
    return hashlib.sha1(content).hexdigest()  # noqa: S324  # a name, no protection


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve a hub; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, content = hub.answer(self.command, unquote(urlsplit(self.path).path), body, token)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = _serve  # noqa: N815  # as http.server calls them

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
