"""The real server in a process of its own on loopback, and what a client asks of it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from qwen3_audio.settings import VARIABLES

ROOT = Path(__file__).parent.parent
GREETING = re.compile(r"Serving .* at (?P<address>http://\S+)$")
ERROR = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback ")
START_TIMEOUT_S = 600
REQUEST_TIMEOUT_S = 300
METRIC = re.compile(r"^qwen3_audio_(?P<name>\S+) (?P<value>\S+)$", re.MULTILINE)


class Server:
    """A server that has said that it serves."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.http = httpx2.Client(
            base_url=address,
            timeout=REQUEST_TIMEOUT_S,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
        )

    def speak(self, text: str, voice: str = "ryan", **fields: Any) -> httpx2.Response:
        body = {"input": text, "voice": voice, "response_format": "wav", **fields}
        return self.http.post("/v1/audio/speech", json=body)

    def transcribe(
        self, data: bytes, name: str = "clip.wav", **fields: str | list[str]
    ) -> httpx2.Response:
        upload = {"file": (name, data)}
        return self.http.post("/v1/audio/transcriptions", files=upload, data=fields)

    def metrics(self) -> dict[str, float]:
        return read_metrics(self.http.get("/metrics").text)

    def rss_bytes(self) -> int:
        return rss_bytes(self.process.pid)


@contextmanager
def run_server(folders: Sequence[Path], **variables: str) -> Iterator[Server]:
    """Serve these checkpoints until the block ends, with these settings and no others."""
    paths = [argument for folder in folders for argument in ("--model-path", str(folder))]
    with (
        tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as data_dir,
        run_command(
            ["qwen3_audio", "serve", *paths], **{"DATA_DIR": data_dir, **variables}
        ) as server,
    ):
        yield server


@contextmanager
def run_command(module: Sequence[str], **variables: str) -> Iterator[Server]:
    """Serve with `python -m MODULE...` until the block ends."""
    process = start_process(module, **variables)
    try:
        server = Server(process, _wait_for_address(process))
        with server.http:
            yield server
    finally:
        _stop(process)


def start_process(
    module: Sequence[str], *, is_spoken_to: bool = False, **variables: str
) -> subprocess.Popen[str]:
    """`python -m MODULE...` on loopback, with these settings and no others.

    Its log is a pipe to read; spoken to, its input and output are, and the log is ours.
    """
    kept = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=kept | {"HOST": "127.0.0.1", "PORT": "0"} | variables,
        stdin=subprocess.PIPE if is_spoken_to else None,
        stdout=subprocess.PIPE if is_spoken_to else None,
        stderr=None if is_spoken_to else subprocess.PIPE,
        text=True,
    )


def _wait_for_address(process: subprocess.Popen[str]) -> str:
    """Reads the log in a thread to its end, so that the server never waits for a full pipe."""
    assert process.stderr is not None
    log, stream = Log(), process.stderr
    threading.Thread(target=log.follow, args=(stream,), daemon=True).start()
    log.is_decided.wait(START_TIMEOUT_S)
    if log.address is None:
        raise SystemExit("The server did not start:\n" + "\n".join(log.lines))
    return log.address


class Log:
    """What a server says up to its greeting, and its errors after that."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.address: str | None = None
        self.is_decided = threading.Event()  # it serves, or it never will

    def follow(self, stream: Any) -> None:
        for line in stream:
            if ERROR.search(line):
                self.errors.append(line.rstrip())
            if self.address is None:
                self.lines.append(line.rstrip())
                if match := GREETING.search(self.lines[-1]):
                    self.address = match["address"]
                    self.is_decided.set()
        self.is_decided.set()


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_metrics(text: str) -> dict[str, float]:
    """Prometheus' text as {'running{kind="asr"}': 1.0, ...}, without the common prefix."""
    return {match["name"]: float(match["value"]) for match in METRIC.finditer(text)}


def rss_bytes(pid: int) -> int:
    """Resident memory of a process on Linux."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024
