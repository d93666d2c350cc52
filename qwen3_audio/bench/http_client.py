"""A client that takes the time of every byte: one connection for each request, nothing kept."""

import http.client
import json
import socket
import ssl
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from qwen3_audio.bench.sample import REFUSED, BenchFailed
from qwen3_audio.errors import StartError

READ_BYTES = 65_536
CONNECT_TIMEOUT_S = 10


class RequestFailed(Exception):
    """One request failed; its text is the kind of failure, by which failures are counted."""


@dataclass(slots=True)
class Answer:
    """An answer on its way: headers are there, the body comes piece by piece."""

    headers: Mapping[str, str]
    pieces: Iterator[tuple[float, bytes]]  # (when, what)


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """Where to ask; any server with the OpenAI audio API."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        try:
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
            is_good = is_good and (parts.port is None or parts.port > 0)
        except ValueError:
            is_good = False
        if not is_good:
            raise StartError(f"--url {self.url} is no address: give one like http://localhost:8000")

    def check(self) -> None:
        """BenchFailed in one sentence if nobody listens there."""
        parts = urllib.parse.urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            why = error.strerror or "no answer"
            raise BenchFailed(
                f"Nobody answers at {self.url} ({why}): start the server first"
            ) from None

    @contextmanager
    def post(self, path: str, body: bytes, content_type: str) -> Iterator[Answer]:
        """Gives the answer once its status is there; RequestFailed says what kind of trouble."""
        headers = {"Content-Type": content_type, "Accept": "*/*"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            with closing(self._connect()) as connection:
                connection.request("POST", self._path(path), body, headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise RequestFailed(_describe_refusal(response.status, response.read()))
                yield Answer(dict(response.headers), _pieces(response))
        except ConnectionRefusedError:
            raise RequestFailed(REFUSED) from None
        except TimeoutError:
            raise RequestFailed(f"nothing for {self.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException):
            raise RequestFailed("connection lost") from None

    def _path(self, path: str) -> str:
        base = urllib.parse.urlsplit(self.url).path.rstrip("/").removesuffix("/v1")
        return base + path

    def _connect(self) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout_s)


def _pieces(response: http.client.HTTPResponse) -> Iterator[tuple[float, bytes]]:
    while data := response.read1(READ_BYTES):
        yield time.perf_counter(), data
    if response.length:  # read1 ends without a word where the promised rest is missing
        raise http.client.IncompleteRead(b"", response.length)


def _describe_refusal(status: int, body: bytes) -> str:
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = None
    return f"HTTP {status} {code}" if isinstance(code, str) else f"HTTP {status}"


def encode_form(fields: Mapping[str, str], *, name: str, data: bytes) -> tuple[bytes, str]:
    """(body, content type) of a form with one file."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    parts += [head.encode(), data, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
