"""How much a client may send, and what stays free while many are served."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from fake_server import LiveServer, make_tone
from fastapi.testclient import TestClient

from qwen3_audio.fake import FakeBackend

MB = 1024 * 1024


@pytest.fixture
def small(make_client: Any) -> TestClient:
    client: TestClient = make_client(max_upload_mb=1)
    return client


def test_an_announced_body_over_the_limit_is_413_before_it_is_read(small: TestClient) -> None:
    for route in ("/v1/audio/transcriptions", "/v1/audio/speech", "/nope"):
        reply = small.post(route, content=b"x" * (MB + 1))
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "file_too_large"
        assert reply.headers["x-request-id"]


def test_a_body_at_the_limit_is_read(small: TestClient) -> None:
    sound = make_tone(30, 16_000)
    assert len(sound) < MB - 1000
    assert small.post("/v1/audio/transcriptions", files={"file": ("a.wav", sound)}).is_success


def pieces(total_bytes: int, head: bytes = b"") -> Iterator[bytes]:
    yield head
    for _ in range(total_bytes // 65_536):
        yield b"x" * 65_536


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=b"])
def test_a_body_of_unknown_length_is_413_while_it_is_read(
    serve_fake: Callable[..., LiveServer], content_type: str
) -> None:
    server = serve_fake(max_upload_mb=1)
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    for route in ("/v1/audio/transcriptions", "/v1/audio/speech"):
        reply = requests.post(
            server.url + route,
            data=pieces(3 * MB, head),
            headers={"Content-Type": content_type},
            timeout=30,
        )
        assert reply.status_code == 413
        assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_large_upload_is_heard(live: LiveServer) -> None:
    sound = make_tone(1200, 16_000)
    reply = requests.post(
        f"{live.url}/v1/audio/transcriptions",
        files={"file": ("a.wav", sound)},
        data={"response_format": "verbose_json"},
        timeout=60,
    )
    assert reply.json()["duration"] == 1200
    assert len(reply.json()["segments"]) == 40


def test_many_at_once_are_all_served(serve_fake: Callable[..., LiveServer]) -> None:
    server = serve_fake(FakeBackend(num_slots=3, max_waiting=100))
    sizes: list[int] = []

    def visit() -> None:
        body = json.dumps({"input": "hello big world", "response_format": "pcm"}).encode()
        with urllib.request.urlopen(f"{server.url}/v1/audio/speech", body, timeout=60) as reply:
            sizes.append(len(reply.read()))

    threads = [threading.Thread(target=visit) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [3 * 2 * 1920 * 2] * 24
