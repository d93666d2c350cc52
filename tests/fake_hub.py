"""A model hub on loopback: one repository, and whatever can go wrong with it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "abcd"


@dataclass
class FakeHub:
    """What it serves and how it misbehaves; `requests` are (path, Range, Authorization)."""

    repo_id: str
    files: dict[str, bytes]
    token: str | None = None
    status: int | None = None  # answers everything with it
    cuts: list[int] = field(default_factory=list)  # lengths after which weights break off
    ignores_ranges: bool = False
    listing: bytes | None = None  # instead of the true one
    storage: str | None = None  # weights are redirected there
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def describe(self) -> bytes:
        if self.listing is not None:
            return self.listing
        siblings = [_describe(name, data) for name, data in self.files.items()]
        return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.requests]


def _describe(name: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        hub, authorization = self.hub, self.headers["Authorization"]
        hub.requests.append((self.path, self.headers["Range"], authorization))
        wanted_repo = f"/api/models/{hub.repo_id}"
        if hub.status is not None:
            return self._answer(hub.status, b"")
        if hub.token and authorization != f"Bearer {hub.token}":
            return self._answer(401, b"")
        if self.path.partition("?")[0] == wanted_repo:
            return self._answer(200, hub.describe())
        name = self.path.removeprefix(f"/{hub.repo_id}/resolve/{COMMIT}/")
        if name not in hub.files:
            return self._answer(404, b"")
        if hub.storage and name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", hub.storage + self.path)
            return self.end_headers()
        self._send_file(name)

    def _send_file(self, name: str) -> None:
        data = self.hub.files[name]
        wanted = None if self.hub.ignores_ranges else self.headers["Range"]
        start = int((wanted or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        is_cut = self.hub.cuts and name.endswith(".safetensors")
        end = start + self.hub.cuts.pop(0) if is_cut else len(data)
        self.wfile.write(data[start:end])

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def run_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it on a free port; `hub.endpoint` says where."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
