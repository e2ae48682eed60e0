"""What a Hugging Face hub answers to huggingface_hub, as far as checkpoints need it: real HTTP, files in memory."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Hub:
    """Repositories by name; each a list of commits, each a dict from path to content."""

    def __init__(self):
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.tokens: set[str | None] = set()
        self.sizes: dict[str, int] = {}
        """By path a size that the hub claims."""
        self.url = ""

    def commit_id(self, repository: str, number: int) -> str:
        return hashlib.sha1(f"{repository} {number}".encode()).hexdigest()

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(repository, [])
        ids = [self.commit_id(repository, i) for i in range(len(commits))]
        if not commits or (revision != "main" and revision not in ids):
            return None
        at = ids.index(revision) if revision in ids else len(ids) - 1
        return ids[at], commits[at]


def _handler(hub: Hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, content=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def json(self, value):
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path)
            files = match and hub.files(match[1], match[2])
            if not files:
                self.answer(404, X_Error_Code="RepoNotFound")
            elif match[3] not in files[1]:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=files[0])
            else:
                content = files[1][match[3]]
                size = {"Content_Length": str(hub.sizes[match[3]])} if match[3] in hub.sizes else {}
                tag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=files[0], **size)

        def do_POST(self):
            body = self.body()
            hub.tokens.add(self.headers.get("Authorization"))
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
                status = 409 if repository in hub.repositories else 200
                hub.repositories.setdefault(repository, [])
                self.answer(
                    status,
                    json.dumps({"url": f"{hub.url}/{repository}", "error": "exists"}).encode(),
                    Content_Type="application/json",
                )
            elif self.path == "/api/validate-yaml":
                self.json({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                self.json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", self.path):
                lines = [json.loads(line) for line in body.splitlines()]
                new = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
                commits = hub.repositories[match[1]]
                commits.append({**(commits[-1] if commits else {}), **new})
                oid = hub.commit_id(match[1], len(commits) - 1)
                self.json(
                    {
                        "success": True,
                        "commitOid": oid,
                        "commitUrl": f"{hub.url}/{match[1]}/commit/{oid}",
                        "hookOutput": "",
                    }
                )
            else:
                self.answer(404)

        def log_message(self, *_):
            pass

    return Handler


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
