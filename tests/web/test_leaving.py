"""Clients that leave early: their slot, their place in the line and their order are closed."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, BinaryIO

import pytest
from fake_server import LiveServer, make_tone, stats_of, wait_for
from starlette.types import Message

from qwen3_audio.fake import FakeBackend
from qwen3_audio.outcomes import Ended
from qwen3_audio.types import EndReason, ModelKind
from qwen3_audio.web.connection import LiveResponse

LONG = "word " * 800
SPEECH = ModelKind.CUSTOM_VOICE


def open_request(server: LiveServer, path: str, body: bytes, content_type: str) -> socket.socket:
    """A request of which nothing has been read yet."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def open_speech(server: LiveServer, **fields: Any) -> socket.socket:
    body = json.dumps({"input": LONG, **fields}).encode()
    return open_request(server, "/v1/audio/speech", body, "application/json")


def open_transcription(server: LiveServer, **fields: str) -> socket.socket:
    parts = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = parts + head + make_tone(600, 8000) + b"\r\n--b--\r\n"
    content_type = "multipart/form-data; boundary=b"
    return open_request(server, "/v1/audio/transcriptions", body, content_type)


def is_running(server: LiveServer, kind: ModelKind) -> Callable[[], bool]:
    return lambda: stats_of(server.backend, kind).num_running == 1


def is_cancelled(server: LiveServer, kind: ModelKind) -> Callable[[], bool]:
    def check() -> bool:
        stats = stats_of(server.backend, kind)
        return stats.num_running == 0 and stats.ended.get(EndReason.CANCELLED) == 1

    return check


@pytest.fixture
def endings(serve_fake: Callable[..., LiveServer]) -> tuple[LiveServer, list[Ended]]:
    server = serve_fake(FakeBackend(delay_s=0.01))
    heard: list[Ended] = []
    server.service.listeners.append(heard.append)
    return server, heard


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": "mp3"},
        {"response_format": "pcm"},
        {"response_format": "wav"},  # not streamed: the client leaves before anything was sent
        {"response_format": "flac", "speed": 1.5},
        {"response_format": "mp3", "stream_format": "sse"},
        {"response_format": "opus", "speed": 0.5},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_leaving_speech_frees_the_slot(
    endings: tuple[LiveServer, list[Ended]], fields: dict[str, Any]
) -> None:
    server, heard = endings
    connection = open_speech(server, **fields)
    if fields["response_format"] in ("wav", "flac"):
        wait_for(lambda: stats_of(server.backend, SPEECH).num_steps > 3)
    else:
        assert connection.recv(2000).startswith(b"HTTP/1.1 200")
    wait_for(is_running(server, SPEECH))
    connection.close()
    wait_for(is_cancelled(server, SPEECH))
    wait_for(lambda: [ended.outcome for ended in heard] == ["cancelled"])


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}], ids=["whole", "events"])
def test_leaving_a_transcription_frees_the_slot(
    endings: tuple[LiveServer, list[Ended]], fields: dict[str, str]
) -> None:
    server, heard = endings
    connection = open_transcription(server, **fields)
    wait_for(is_running(server, ModelKind.ASR))
    connection.close()
    wait_for(is_cancelled(server, ModelKind.ASR))
    wait_for(lambda: [(ended.work, ended.outcome) for ended in heard] == [
        ("transcription", "cancelled")
    ])  # fmt: skip


def test_a_reader_that_stops_reading_and_leaves_frees_the_slot(
    endings: tuple[LiveServer, list[Ended]],
) -> None:
    server, _ = endings
    server.backend.delay_s = 0
    body = json.dumps({"input": LONG, "response_format": "pcm"}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    wait_for(is_running(server, SPEECH))
    connection.recv(100)
    connection.close()
    wait_for(lambda: stats_of(server.backend, SPEECH).num_running == 0)


def test_leaving_the_line_gives_up_the_place(serve_fake: Callable[..., LiveServer]) -> None:
    server = serve_fake(FakeBackend(num_slots=1, max_waiting=1, delay_s=0.01))
    first = open_speech(server)
    wait_for(is_running(server, SPEECH))
    second = open_speech(server)
    wait_for(lambda: stats_of(server.backend, SPEECH).num_waiting == 1)
    second.close()
    wait_for(lambda: stats_of(server.backend, SPEECH).num_waiting == 0)
    assert stats_of(server.backend, SPEECH).num_running == 1
    first.close()
    wait_for(lambda: stats_of(server.backend, SPEECH).num_running == 0)


def test_a_sound_that_fails_in_midstream_breaks_the_connection(live: LiveServer) -> None:
    connection = open_speech(live, input="one BOOM-LATE two", response_format="pcm")
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    connection.close()
    assert data.startswith(b"HTTP/1.1 200")
    assert not data.endswith(b"0\r\n\r\n")  # a client sees that the body is not complete


@pytest.mark.parametrize(
    ("stuck_at", "expected"),
    [("http.response.start", ["source"]), ("http.response.body", ["body", "source"])],
)
def test_an_answer_that_nobody_takes_closes_its_source_at_once(
    stuck_at: str, expected: list[str]
) -> None:
    closed: list[str] = []
    started = asyncio.Event()

    async def make_body() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append("body")

    async def close() -> None:
        closed.append("source")

    async def receive() -> Message:
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == stuck_at:
            started.set()
            await asyncio.Event().wait()

    async def run(body: AsyncGenerator[bytes]) -> None:
        response = LiveResponse(body, close=close, media_type="audio/mpeg", headers={})
        await response({"type": "http"}, receive, send)

    body = make_body()  # held here, so that only an explicit close can end it
    asyncio.run(run(body))
    assert closed == expected


def test_leaving_during_an_upload_is_no_error(live: LiveServer) -> None:
    connection = socket.create_connection(("127.0.0.1", live.port))
    connection.sendall(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    )
    connection.close()
    metrics = live.service.listeners[0].__self__  # type: ignore[attr-defined]
    wait_for(lambda: b'route="/v1/audio/transcriptions",status="499"' in metrics.render())


def test_leaving_stops_the_decoding_of_what_was_sent(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, stopped, is_over = threading.Event(), threading.Event(), threading.Event()

    def decode_for_ever(source: BinaryIO, **_: Any) -> Any:
        started.set()
        try:
            while not is_over.is_set():
                source.read(1)
        except ValueError:  # read of closed file
            stopped.set()
            raise

    monkeypatch.setattr("qwen3_audio.service.decode_audio", decode_for_ever)
    try:
        connection = open_transcription(live)
        wait_for(started.is_set)
        connection.close()
        wait_for(stopped.is_set)
    finally:
        is_over.set()


def test_many_that_leave_leave_nothing_behind(serve_fake: Callable[..., LiveServer]) -> None:
    server = serve_fake(FakeBackend(num_slots=4, delay_s=0.002))
    heard: list[Ended] = []
    server.service.listeners.append(heard.append)

    def visit(number: int) -> None:
        name = ("mp3", "wav", "pcm", "opus")[number % 4]
        connection = open_speech(server, response_format=name)
        if name != "wav" and number % 3 == 0:
            connection.recv(100)
        connection.close()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: stats_of(server.backend, SPEECH).num_running == 0)
    wait_for(lambda: stats_of(server.backend, SPEECH).num_waiting == 0)
    assert {ended.outcome for ended in heard} <= {"cancelled"}
