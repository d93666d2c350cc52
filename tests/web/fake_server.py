"""A real server on a fake engine, in a thread, and what tests of it need."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import uvicorn

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.fake import FakeBackend
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.store.opening import Store
from qwen3_audio.types import ModelKind, RunnerStats
from qwen3_audio.web.app import create_app


def make_tone(seconds: float, rate_hz: int = 16_000) -> bytes:
    """A WAV file with a tone."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return wav_bytes((0.3 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32), rate_hz)


def wait_for(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Return as soon as the condition holds."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "the condition never held"
        time.sleep(0.005)


def stats_of(backend: FakeBackend, kind: ModelKind) -> RunnerStats:
    return next(row for row in backend.stats() if row.kind is kind)


ADMIN_TOKEN = "the admin token of the tests"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


def as_user(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass
class LiveServer:
    url: str
    port: int
    backend: FakeBackend
    service: SpeechService
    stop: Callable[[], None]  # and wait until it has


@contextmanager
def serve(
    backend: FakeBackend, *, store: Store | None = None, **settings: object
) -> Iterator[LiveServer]:
    """A real server on a free port of this machine, in a thread."""
    chosen = Settings(**settings)  # type: ignore[arg-type]
    service = SpeechService(backend, chosen, store=store)
    config = uvicorn.Config(
        create_app(service, chosen), log_level="error", ws="none", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join()

        try:
            wait_for(lambda: server.started)
            port = listener.getsockname()[1]
            yield LiveServer(f"http://127.0.0.1:{port}", port, backend, service, stop)
        finally:
            stop()
