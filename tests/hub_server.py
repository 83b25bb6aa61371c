"""A server on loopback in the Hugging Face hub's place."""

import base64
import json
import re
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

_RESOLVE = re.compile(r"/(?:api/)?([\w.-]+/[\w.-]+)/resolve(?:-cache)?/([^/]+)/(.+)")
COMMIT = "c0ffee" * 6 + "c0de"


class HubServer:
    """Files by repository and path; large ones are behind a redirect, as the hub's.

    Attributes:
        files: Contents by `(repository, path)`.
        large: Those that are in the large-file storage.
        requests: What was asked for.
        wrong: Contents that the storage delivers in place of the right ones.
        cut: Whether the storage breaks off in the middle.
        commit: What the files are of.
    """

    def __init__(self):
        self.files: dict[tuple[str, str], bytes] = {}
        self.large: set[tuple[str, str]] = set()
        self.requests: list[str] = []
        self.wrong: dict[tuple[str, str], bytes] = {}
        self.cut = False
        self.commit = COMMIT
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                hub._answer(self, body=False)

            def do_GET(self):
                hub._answer(self, body=True)

            def do_POST(self):
                hub._take(self)

        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), Handler),
            # The large-file storage is another host.
            ThreadingHTTPServer(("localhost", 0), Handler),
        ]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._servers[0].server_port}"
        self._storage = f"http://localhost:{self._servers[1].server_port}"

    def add(self, repository: str, path: str, content: bytes, large: bool = False):
        self.files[repository, path] = content
        if large:
            self.large.add((repository, path))

    def close(self):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _answer(self, handler, body: bool):
        path = unquote(handler.path.partition("?")[0])
        self.requests.append(f"{handler.command} {path}")
        if path.startswith("/storage/"):
            key = tuple(path.removeprefix("/storage/").split("//"))
            content = self.wrong.get(key, self.files[key])
            self._send(handler, 200, content, body, cut=self.cut)
            return
        match = _RESOLVE.fullmatch(path)
        key = match and (match[1], match[3])
        if key not in self.files:
            headers = {"X-Error-Code": "EntryNotFound"}
            self._send(handler, 404, b"", body, headers)
            return
        content = self.files[key]
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{len(content):040x}"'}
        if key in self.large:
            headers |= {
                "X-Linked-ETag": f'"{sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self._storage}/storage/{key[0]}//{key[1]}",
            }
            self._send(handler, 302, b"", body, headers)
        else:
            self._send(handler, 200, content, body, headers)

    def _take(self, handler):
        path = handler.path.partition("?")[0]
        self.requests.append(f"POST {path}")
        data = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if handler.headers.get("Authorization") != "Bearer hf_right":
            self._send(handler, 401, b'{"error": "no"}', True)
        elif path == "/api/repos/create":
            name = json.loads(data)
            url = f"{self.url}/{name.get('organization', 'me')}/{name['name']}"
            self._send(handler, 200, json.dumps({"url": url}).encode(), True)
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(data)["files"]
            ]
            self._send(handler, 200, json.dumps({"files": files}).encode(), True)
        elif "/commit/" in path:
            repository = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in data.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.add(repository, item["value"]["path"], content)
            answer = {
                "commitUrl": f"{self.url}/{repository}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
            }
            self._send(handler, 200, json.dumps(answer).encode(), True)
        else:
            self._send(handler, 200, b'{"status": "ok"}', True)

    def _send(self, handler, status, content, body, headers=(), cut=False):
        handler.send_response(status)
        for name, value in dict(headers).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        if cut:
            content = content[: len(content) // 2]
            handler.close_connection = True
        handler.end_headers()
        if body:
            handler.wfile.write(content)
