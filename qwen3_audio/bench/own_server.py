"""A server of our own for the measurement: a child process on loopback with a folder of its own."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from qwen3_audio.errors import StartError
from qwen3_audio.settings import child_environment

GREETING = re.compile(r"Serving (?P<what>.*) at (?P<address>http://\S+)$")
COMPLAINT = "qwen3-audio: "  # how a command that can't start begins its sentence
START_TIMEOUT_S = 900
STOP_TIMEOUT_S = 30
OWN: Mapping[str, str | None] = {  # nothing of a real server's is touched
    "DATABASE_URL": None,
    "ADMIN_TOKEN": None,
    "WORKERS": None,
}


@dataclass(frozen=True, slots=True)
class OwnServer:
    """It serves; `start_s` is the time from its first instruction to its open port."""

    address: str
    where: str  # as it says: device and the precision that it really has; "" without a model
    pid: int
    start_s: float


@contextmanager
def run_own_server(
    arguments: Sequence[str], variables: Mapping[str, str | None] | None = None
) -> Iterator[OwnServer]:
    """`qwen3-audio serve` with these arguments until the block ends; StartError is its own."""
    command = [sys.executable, "-m", "qwen3_audio", "serve", *arguments]
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as data_dir:
        begin_s = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"],
            env=child_environment({**OWN, "DATA_DIR": data_dir, **(variables or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            greeting = _wait_for_greeting(process)
            start_s = time.perf_counter() - begin_s
            where = greeting["what"].rpartition(" on ")
            yield OwnServer(greeting["address"], where[2] if where[1] else "", process.pid, start_s)
        finally:
            _stop(process)


def _wait_for_greeting(process: subprocess.Popen[str]) -> re.Match[str]:
    """Reads the log in a thread to its end, so that the server never waits for a full pipe."""
    assert process.stderr is not None
    log = _Log()
    threading.Thread(target=log.follow, args=(process.stderr,), daemon=True).start()
    log.is_decided.wait(START_TIMEOUT_S)
    if log.greeting is None:
        raise StartError(f"The server for the measurement did not start: {log.complaint}")
    return log.greeting


class _Log:
    """What a server says, up to its greeting."""

    def __init__(self) -> None:
        self.greeting: re.Match[str] | None = None
        self.complaint = "it said nothing"
        self.is_decided = threading.Event()  # it serves, or it never will

    def follow(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                if self.greeting is not None:
                    continue
                if match := GREETING.search(line.rstrip()):
                    self.greeting = match
                    self.is_decided.set()
                elif line.strip():
                    self.complaint = line.strip().removeprefix(COMPLAINT)
        self.is_decided.set()


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
