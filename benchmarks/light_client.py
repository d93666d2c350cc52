"""A client of one connection that costs next to nothing, so that what it times is the server."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage
from typing import Any
from urllib.parse import urlsplit

ADMIN_TOKEN = "the admin token of the measurements"
TIMEOUT_S = 60
GONE = (OSError, HTTPException)  # what a request raises when its server dies


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: HTTPMessage
    data: bytes
    taken_ms: float

    def json(self) -> Any:
        return json.loads(self.data)


class Client:
    """Not to be shared between threads."""

    def __init__(self, address: str, key: str | None = None) -> None:
        url = urlsplit(address)
        self._connection = HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def close(self) -> None:
        self._connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, body: Any) -> Answer:
        return self.ask("POST", path, json.dumps(body).encode(), "application/json")

    def delete(self, path: str) -> Answer:
        return self.ask("DELETE", path)

    def upload(self, path: str, fields: Mapping[str, str], data: bytes) -> Answer:
        """A form with one file."""
        mark = secrets.token_hex(16)
        texts = "".join(
            f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in fields.items()
        )
        file = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        body = (texts + file).encode() + data + f"\r\n--{mark}--\r\n".encode()
        return self.ask("POST", path, body, f"multipart/form-data; boundary={mark}")

    def ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str | None = None
    ) -> Answer:
        headers = self._headers | ({} if content_type is None else {"Content-Type": content_type})
        begin_s = time.perf_counter()
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        taken_ms = 1000 * (time.perf_counter() - begin_s)
        return Answer(answer.status, answer.headers, data, taken_ms)


def make_key(address: str) -> str:
    """The key of a new user, on a server that was started with this ADMIN_TOKEN."""
    admin = Client(address, ADMIN_TOKEN)
    user_id = _made(admin.post("/admin/users", {}))["user_id"]
    invite = _made(admin.post(f"/admin/users/{user_id}/invites?expires_hours=24", {}))
    key = _made(admin.post("/auth/exchange-invite", {"invite_code": invite["invite_code"]}))
    admin.close()
    return str(key["api_key"])


def _made(answer: Answer) -> Any:
    if answer.status != 200:
        raise SystemExit(f"No account could be made: {answer.status} {answer.data!r}")
    return answer.json()
