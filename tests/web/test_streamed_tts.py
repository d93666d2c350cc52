"""/tts with `stream`: sound from the first frame on, under a number that is known by then."""

import asyncio
import http.client
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
import requests
from fake_server import LiveServer, make_tone, stats_of, wait_for
from fastapi.testclient import TestClient
from store_rows import kept_files, make_voice
from test_tts import HELLO, batch, rows, seconds, tts

from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.fake import FakeBackend
from qwen3_audio.store import runtime_stats
from qwen3_audio.store.db import Database
from qwen3_audio.store.failures import unavailable
from qwen3_audio.store.opening import Store
from qwen3_audio.store.recovery import recover
from qwen3_audio.store.tables import LOCAL_USER_ID, generations
from qwen3_audio.types import ModelKind, Pcm, SpeechEnd, SpeechRequest

ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
LONG = "word " * 400


class Gated(FakeBackend):
    """Makes one frame, and the rest once it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
        is_first = True
        async for item in super().speak(request):
            yield item
            while is_first and not self.go_on.is_set():
                await asyncio.sleep(0.002)
            is_first = False


ServeFake = Callable[..., LiveServer]


@pytest.fixture
def gated(store: Store, serve_fake: ServeFake) -> Iterator[LiveServer]:
    backend = Gated()
    yield serve_fake(backend, store=store)
    backend.go_on.set()


def stored_voice(store: Store) -> int:
    """Nothing listens to it, so that its prompt may be made of any sound."""
    return make_voice(store, LOCAL_USER_ID, sound=make_tone(0.5, 24_000))


def ask(server: LiveServer, **fields: Any) -> requests.Response:
    """The answer, of which nothing but the head has been read."""
    body = {"text": LONG, "stream": True, **fields}
    return requests.post(f"{server.url}/tts", json=body, stream=True, timeout=20)


def get(server: LiveServer, path: str) -> requests.Response:
    return requests.get(server.url + path, timeout=20)


def only_row(store: Store) -> Any:
    (row,) = rows(store.db, generations)
    return row


def test_sound_leaves_while_the_rest_is_made_and_is_kept_as_it_was_sent(
    gated: LiveServer, store: Store
) -> None:
    answer = ask(gated, text=HELLO, voice_id=stored_voice(store), store=True, seed=5)
    assert answer.status_code == 200
    assert "Content-Length" not in answer.headers
    assert answer.headers["Content-Disposition"] == 'attachment; filename="tts.wav"'
    named = {name: value for name, value in answer.headers.items() if name.startswith("X-")}
    number = named["X-Generation-Id"]
    assert (named["X-Tokens-Used"], named["X-Seed"]) == (str(len(HELLO)), "5")
    head = answer.raw.read1(100)
    assert head[4:8] == b"\xff\xff\xff\xff"  # nobody knows yet how long it will be
    begun = get(gated, f"/generations/{number}").json()
    assert (begun["status"], begun["tokens_used"], begun["stored"]) == ("running", 0, False)
    assert get(gated, f"/getstored/{number}").status_code == 404
    assert get(gated, "/usage").json()["tts_calls"] == 0
    gated.backend.go_on.set()  # type: ignore[attr-defined]
    whole = head + answer.raw.read()
    assert get(gated, f"/getstored/{number}").content == whole
    row = only_row(store)
    assert (row.generation_id, row.status, row.tokens) == (int(number), "done", len(HELLO))
    assert (row.latency_ms, row.seed) == (int(named["X-Latency-Ms"]), 5)
    assert (row.text, row.finish_reason, row.audio_ms) == (HELLO, "stop", 800)
    usage = get(gated, "/usage").json()
    assert (usage["tokens_used_tts"], usage["tts_calls"]) == (len(HELLO), 1)


@ON_SQLITE
def test_every_format_is_streamed_and_kept(store_client: TestClient, store: Store) -> None:
    voice_id = stored_voice(store)
    for name, row in FORMATS.items():
        reply = tts(store_client, voice_id, stream="yes", store=True, format=name, seed=1)
        assert (reply.status_code, reply.headers["content-type"]) == (200, row.content_type)
        if name != "pcm":
            assert seconds(reply.content) > 0.5
        stored = store_client.get(f"/getstored/{reply.headers['x-generation-id']}")
        assert stored.content == reply.content


@ON_SQLITE
def test_a_stream_counts_as_a_use_and_teaches_no_price(
    store_client: TestClient, store: Store
) -> None:
    voice_id = stored_voice(store)
    assert tts(store_client, voice_id, stream=True).is_success
    assert store_client.get(f"/voices/{voice_id}").json()["use_count"] == 1
    assert (only_row(store).text, only_row(store).audio_sha256) == (None, None)
    with store.db.read() as conn:  # how long it takes is up to its reader
        assert runtime_stats.read_stats(conn)[runtime_stats.SINGLE_MS_PER_CHAR] is None


@ON_SQLITE
def test_an_error_before_the_first_sound_keeps_its_status(store: Store, make_client: Any) -> None:
    client = make_client(FakeBackend(), store=store)
    voice_id = stored_voice(store)
    assert tts(client, voice_id, " ", stream=True).status_code == 400
    assert tts(client, 2**62, stream=True).status_code == 404
    assert rows(store.db, generations) == []
    assert tts(client, voice_id, "BOOM", stream=True, store=True).status_code == 500
    full = make_client(FakeBackend(num_slots=0, max_waiting=0), store=store)
    reply = tts(full, voice_id, stream=True)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_full")
    wait_for(lambda: [row.status for row in rows(store.db, generations)] == ["failed"] * 2)
    assert client.get("/usage").json()["tokens_used_tts"] == 0


def test_who_leaves_is_booked_once_at_full_price_and_nothing_is_kept(
    gated: LiveServer, store: Store
) -> None:
    voice_id = stored_voice(store)
    files = kept_files(store)
    answer = ask(gated, voice_id=voice_id, store=True)
    assert answer.raw.read1(100)
    answer.close()
    wait_for(lambda: only_row(store).status == "cancelled")
    row = only_row(store)
    assert (row.tokens, row.text, row.audio_sha256) == (len(LONG.strip()), None, None)
    assert row.latency_ms == int(answer.headers["X-Latency-Ms"])
    usage = get(gated, "/usage").json()
    assert (usage["tokens_used_tts"], usage["tts_calls"]) == (row.tokens, 1)
    assert kept_files(store) == files
    wait_for(lambda: stats_of(gated.backend, ModelKind.BASE).num_running == 0)


@ON_SQLITE
def test_who_leaves_before_the_first_sound_pays_nothing(
    store: Store, serve_fake: ServeFake
) -> None:
    server = serve_fake(FakeBackend(num_slots=0), store=store)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"text": HELLO, "voice_id": stored_voice(store), "stream": True})
    connection.request("POST", "/tts", body, {"Content-Type": "application/json"})
    wait_for(lambda: stats_of(server.backend, ModelKind.BASE).num_waiting == 1)
    connection.close()
    wait_for(lambda: [row.status for row in rows(store.db, generations)] == ["cancelled"])
    assert only_row(store).tokens == 0


def breaks_off(answer: requests.Response) -> bool:
    """True if the body has no proper end, as its client sees."""
    assert answer.status_code == 200
    try:
        assert answer.content
    except requests.exceptions.ChunkedEncodingError:
        return True
    finally:
        answer.close()
    return False


@ON_SQLITE
def test_a_failure_in_midstream_breaks_it_off_and_is_free(
    store: Store, serve_fake: ServeFake
) -> None:
    server = serve_fake(store=store)
    voice_id = stored_voice(store)
    files = kept_files(store)
    assert breaks_off(ask(server, text="one BOOM-LATE two", voice_id=voice_id, store=True))
    wait_for(lambda: only_row(store).status == "failed")
    row = only_row(store)
    assert (row.tokens, row.text, row.audio_sha256) == (0, None, None)
    assert "asked to fail late" in row.error
    assert kept_files(store) == files


@ON_SQLITE
def test_what_can_not_be_kept_has_no_proper_end_either(
    store: Store, serve_fake: ServeFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    server = serve_fake(store=store)
    voice_id = stored_voice(store)
    files = kept_files(store)
    monkeypatch.setattr("qwen3_audio.store.files._write_synced", refuse)
    assert breaks_off(ask(server, text=HELLO, voice_id=voice_id, store=True))
    wait_for(lambda: only_row(store).status == "failed")
    assert (only_row(store).tokens, kept_files(store)) == (0, files)


def test_a_stream_that_a_killed_server_left_has_failed(gated: LiveServer, store: Store) -> None:
    answer = ask(gated, voice_id=stored_voice(store), store=True)
    # What the start after a SIGKILL does, while the row is as the kill would leave it.
    assert recover(store.db, store.blobs).num_failed == 1
    assert (only_row(store).status, only_row(store).tokens) == ("failed", 0)
    gated.backend.go_on.set()  # type: ignore[attr-defined]
    assert breaks_off(answer)
    assert only_row(store).status == "failed"  # an end is an end
    assert get(gated, f"/getstored/{answer.headers['X-Generation-Id']}").status_code == 404


@ON_SQLITE
def test_an_end_that_the_database_refused_is_booked_with_the_next_row(
    gated: LiveServer, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(_: Database) -> Any:
        raise unavailable("The database is busy; please try again")

    voice_id = stored_voice(store)
    answer = ask(gated, text=HELLO, voice_id=voice_id)
    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", refuse)
        gated.backend.go_on.set()  # type: ignore[attr-defined]
        assert breaks_off(answer)
        wait_for(lambda: "Could not be booked" in caplog.text)
    assert only_row(store).status == "running"
    assert ask(gated, text=HELLO, voice_id=voice_id).content
    wait_for(lambda: [row.status for row in rows(store.db, generations)] == ["failed", "done"])
    assert get(gated, "/usage").json()["tts_calls"] == 1


@ON_SQLITE
def test_a_batch_is_not_streamed(store_client: TestClient, store: Store) -> None:
    voice_id = stored_voice(store)
    reply = batch(store_client, voice_id, ["a", "b"], stream=True)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "stream")
    assert "/tts" in reply.json()["detail"]
    assert batch(store_client, voice_id, ["a", "b"], stream=False).is_success
    assert tts(store_client, voice_id, stream="maybe").status_code == 400
