"""The books: every paid request once, before its answer ends, and what it cost."""

import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from fake_server import ADMIN_TOKEN, LiveServer, as_user, make_tone, stats_of, wait_for
from fastapi.testclient import TestClient
from sqlalchemy import Table, select
from store_rows import count, make_voice

from qwen3_audio import accounts
from qwen3_audio.errors import Overloaded
from qwen3_audio.fake import FakeBackend
from qwen3_audio.outcomes import Ended
from qwen3_audio.store.db import Database
from qwen3_audio.store.generations import list_generations
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import LOCAL_USER_ID, generations, transcriptions
from qwen3_audio.store.users import Limits, add_user, set_limits
from qwen3_audio.types import ModelKind

HELLO = {"input": " Hello big world ", "response_format": "wav"}
LONG = "word " * 400
DEFAULTS = {"input": LONG, "response_format": "pcm"}
NUM_USERS = 32
MakeKey = Callable[[int], str]


def used(store: Store, user_id: int = LOCAL_USER_ID) -> dict[str, Any]:
    return accounts.show_usage(store, user_id)


def rows(store: Store, table: Table = generations) -> list[Any]:
    with store.db.read() as conn:
        return list(conn.execute(select(table).order_by(table.primary_key.columns[0])).mappings())


def outcomes(store: Store, table: Table = generations) -> Counter[str]:
    return Counter(row["status"] for row in rows(store, table))


# What is booked


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream_format": "sse"}], ids=str)
def test_speech_is_booked_before_the_answer_ends(
    live_store_server: LiveServer, store: Store, bob: int, make_key: MakeKey, fields: dict[str, Any]
) -> None:
    headers, url = as_user(make_key(bob)), live_store_server.url
    reply = requests.post(f"{url}/v1/audio/speech", json=HELLO | fields, headers=headers)
    usage = requests.get(f"{url}/usage", headers=headers).json()
    assert (reply.status_code, usage["speech_calls"]) == (200, 1)
    assert usage["tokens_used_total"] == usage["tokens_used_speech"] == len("Hello big world")
    (day,), (key,) = usage["per_day"], usage["per_key"]
    assert day["tokens_used_speech"] == key["tokens_used_speech"] == 15
    with store.db.read() as conn:
        (row,) = list_generations(conn, bob).items
    assert (row.status, row.route, row.num_chars, row.tokens) == ("done", "speech", 15, 15)
    assert (row.audio_ms, row.finish_reason, row.language) == (480, "stop", "auto")
    assert (row.speaker, row.model, row.response_format) == ("vivian", "fake-custom-voice", "wav")
    assert row.latency_ms is not None
    assert str(row.seed) == reply.headers["X-Seed"]
    (whole,) = rows(store)
    assert whole["key_id"] == key["key_id"]
    assert (whole["text"], whole["audio_sha256"]) == (None, None)


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}, {"response_format": "text"}], ids=str)
def test_transcriptions_are_booked_without_what_was_said(
    live_store_server: LiveServer, store: Store, bob: int, make_key: MakeKey, fields: dict[str, Any]
) -> None:
    headers, url = as_user(make_key(bob)), live_store_server.url
    files = {"file": ("a.wav", make_tone(2.5))}
    url_of = f"{url}/v1/audio/transcriptions"
    assert requests.post(url_of, files=files, data=fields, headers=headers).status_code == 200
    usage = requests.get(f"{url}/usage", headers=headers).json()
    assert (usage["transcription_calls"], usage["transcribed_s"]) == (1, 2.5)
    assert usage["tokens_used_total"] == 0
    (row,) = rows(store, transcriptions)
    assert (row["status"], row["audio_ms"], row["language"]) == ("done", 2500, "English")
    assert "quick" not in str(row)


def test_local_mode_books_for_user_1_without_a_key(store_client: TestClient, store: Store) -> None:
    assert store_client.post("/v1/audio/speech", json=HELLO).is_success
    assert store_client.get("/usage").json()["speech_calls"] == 1
    (row,) = rows(store)
    assert (row["user_id"], row["key_id"]) == (LOCAL_USER_ID, None)


def test_a_retrys_seed_is_the_one_in_the_books(
    store: Store, make_client: Callable[..., TestClient]
) -> None:
    client = make_client(store=store, seed=4)
    reply = client.post("/v1/audio/speech", json=HELLO | {"input": "one LOOP two"})
    assert reply.headers["X-Seed"] == "5"
    assert rows(store)[0]["seed"] == 5


@pytest.mark.parametrize("word", ["BOOM", "one BOOM-LATE"])
def test_what_failed_is_free(store_client: TestClient, store: Store, word: str) -> None:
    assert store_client.post("/v1/audio/speech", json=HELLO | {"input": word}).status_code == 500
    wait_for(lambda: outcomes(store) == {"failed": 1})
    (row,) = rows(store)
    assert (row["tokens"], row["error"][:15]) == (0, "The fake engine")
    assert used(store)["tokens_used_total"] == used(store)["speech_calls"] == 0


def test_what_was_refused_is_not_in_the_books(store_client: TestClient, store: Store) -> None:
    assert store_client.post("/v1/audio/speech", json={"input": ""}).status_code == 400
    assert count(store, generations) == 0


# Leaving


def open_speech(server: LiveServer, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """A request of which nothing has been read yet."""
    return open_request(server, "/v1/audio/speech", headers, **DEFAULTS | fields)


def open_request(
    server: LiveServer, path: str, headers: dict[str, str] | None = None, **fields: Any
) -> Any:
    body = json.dumps(fields).encode()
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    head = "\r\n".join(
        [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Length: {len(body)}",
            *lines,
            "\r\n",
        ]
    )
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head.encode() + body)
    return connection


@pytest.fixture
def slow(store: Store, serve_fake: Callable[..., LiveServer]) -> LiveServer:
    """Local mode at the pace of an engine."""
    return serve_fake(FakeBackend(delay_s=0.01), store=store)


def test_who_leaves_after_the_first_sound_pays_in_full(slow: LiveServer, store: Store) -> None:
    connection = open_speech(slow)
    assert connection.recv(2000).startswith(b"HTTP/1.1 200")
    connection.close()
    wait_for(lambda: outcomes(store) == {"cancelled": 1})
    (row,) = rows(store)
    assert row["tokens"] == used(store)["tokens_used_total"] == len(LONG.strip())
    assert 0 < row["audio_ms"] < 800 * 80


def test_who_leaves_before_any_sound_was_sent_pays_nothing(slow: LiveServer, store: Store) -> None:
    connection = open_speech(slow, response_format="wav")
    wait_for(lambda: stats_of(slow.backend, ModelKind.CUSTOM_VOICE).num_steps > 3)
    connection.close()
    wait_for(lambda: outcomes(store) == {"cancelled": 1})
    assert rows(store)[0]["tokens"] == used(store)["tokens_used_total"] == 0


def test_what_is_cut_off_by_the_end_of_the_server_is_in_the_books(
    slow: LiveServer, store: Store
) -> None:
    connections = [open_speech(slow) for _ in range(5)]
    for connection in connections:
        assert connection.recv(2000).startswith(b"HTTP/1.1 200")
    for connection in connections:
        connection.close()
    slow.stop()
    assert outcomes(store) == {"cancelled": 5}


@pytest.mark.slow
def test_500_disconnects_at_any_moment_end_each_once(store: Store, slow: LiveServer) -> None:
    chance = random.Random(3)
    slow.backend.delay_s = 0.0005
    heard: list[Ended] = []
    slow.service.listeners.append(heard.append)
    text = "word " * 20
    stream = {"text": text, "voice_id": make_voice(store, 1, sound=make_tone(1.0)), "stream": True}

    def visit(number: int, num_bytes: int) -> bool:
        """Read so much, then leave; True: the whole answer was seen."""
        seen = b""
        is_own = number % 2 == 0  # every other one a stream of /tts, with a row from its beginning
        with (
            open_request(slow, "/tts", **stream) if is_own else open_speech(slow, input=text)
        ) as connection:
            while len(seen) < num_bytes and (data := connection.recv(8192)):
                seen += data
                if seen.endswith(b"\r\n0\r\n\r\n"):
                    return True
        return False

    limits = [chance.choice((1, 300, 20_000, 60_000, 10**9)) for _ in range(500)]
    with ThreadPoolExecutor(32) as clients:
        num_whole = sum(clients.map(visit, range(len(limits)), limits))
    slow.stop()
    ended = outcomes(store)
    assert ended.total() == len(heard) == 500
    assert ended == Counter(item.outcome for item in heard)
    assert 0 < num_whole <= ended["done"] < 500
    tokens = sum(row["tokens"] for row in rows(store))
    assert used(store)["tokens_used_total"] == tokens == 500 * 99


# Many at once


def test_of_32_users_at_once_each_is_charged_what_they_saw(
    live_store_server: LiveServer, store: Store, make_key: MakeKey
) -> None:
    with store.db.write() as conn:
        users = [add_user(conn) for _ in range(NUM_USERS)]
    keys = {user_id: make_key(user_id) for user_id in users}
    sound = make_tone(1.0)

    def work(user_id: int) -> list[int]:
        with requests.Session() as session:
            session.headers.update(as_user(keys[user_id]))
            url = f"{live_store_server.url}/v1/audio"
            replies = [
                session.post(f"{url}/speech", json=HELLO | {"input": "word " * (user_id % 7 + 1)})
                for _ in range(4)
            ]
            replies.append(session.post(f"{url}/transcriptions", files={"file": ("a", sound)}))
            return [reply.status_code for reply in replies]

    with ThreadPoolExecutor(NUM_USERS) as clients:
        statuses = list(clients.map(work, users))
    assert statuses == [[200] * 5] * NUM_USERS
    for user_id in users:
        usage = used(store, user_id)
        num_tokens = 4 * len(("word " * (user_id % 7 + 1)).strip())
        assert usage["tokens_used_speech"] == num_tokens
        assert (usage["speech_calls"], usage["transcription_calls"]) == (4, 1)
    assert outcomes(store) == {"done": 4 * NUM_USERS}


def test_many_requests_with_one_key_lose_no_update(
    live_store_server: LiveServer, store: Store, bob: int, make_key: MakeKey
) -> None:
    headers, url = as_user(make_key(bob)), f"{live_store_server.url}/v1/audio/speech"
    with ThreadPoolExecutor(16) as clients:
        replies = clients.map(lambda _: requests.post(url, json=HELLO, headers=headers), range(64))
        assert {reply.status_code for reply in replies} == {200}
    assert used(store, bob)["speech_calls"] == 64
    assert used(store, bob)["tokens_used_total"] == 64 * 15


def test_requests_at_once_are_limited_and_a_place_is_free_again_after_leaving(
    store: Store, serve_fake: Callable[..., LiveServer], bob: int, make_key: MakeKey
) -> None:
    server = serve_fake(FakeBackend(delay_s=0.01), store=store, admin_token=ADMIN_TOKEN)
    with store.db.write() as conn:
        set_limits(conn, bob, Limits(max_requests_at_once=1))
    headers, url = as_user(make_key(bob)), f"{server.url}/v1/audio/speech"
    connection = open_speech(server, headers)
    assert connection.recv(2000).startswith(b"HTTP/1.1 200")
    refused = requests.post(url, json=HELLO, headers=headers)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    connection.close()
    wait_for(lambda: outcomes(store) == {"cancelled": 1})
    assert requests.post(url, json=HELLO, headers=headers).status_code == 200


def test_a_quota_holds_for_requests_that_run_at_once(
    live_store_server: LiveServer, store: Store, bob: int, make_key: MakeKey
) -> None:
    with store.db.write() as conn:
        set_limits(conn, bob, Limits(max_tokens_per_day=45))
    headers, url = as_user(make_key(bob)), f"{live_store_server.url}/v1/audio/speech"
    with ThreadPoolExecutor(12) as clients:
        replies = clients.map(lambda _: requests.post(url, json=HELLO, headers=headers), range(12))
        statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) <= {200, 429}
    assert statuses[200] <= 3
    assert used(store, bob)["tokens_used_total"] == 15 * statuses[200] <= 45


# The database in trouble


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many writes fail as a full disk or a locked file would."""

    def break_writes(num_failures: int) -> None:
        left = [num_failures]
        write = Database.write

        def failing(db: Database) -> Any:
            if left[0] > 0:
                left[0] -= 1
                raise Overloaded("The database is busy; please try again")
            return write(db)

        monkeypatch.setattr(Database, "write", failing)

    return break_writes


def test_what_could_not_be_booked_has_failed(
    store_client: TestClient, store: Store, broken: Callable[[int], None]
) -> None:
    broken(1)
    reply = store_client.post("/v1/audio/speech", json=HELLO)
    assert reply.status_code == 503
    wait_for(lambda: outcomes(store) == {"failed": 1})
    assert used(store)["tokens_used_total"] == 0


def test_what_cannot_be_booked_at_all_is_in_the_log_and_booked_with_the_next_row(
    store_client: TestClient,
    store: Store,
    broken: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        broken(2)
        assert store_client.post("/v1/audio/speech", json=HELLO).status_code == 503
        wait_for(lambda: "Could not be booked" in caplog.text)
        caplog.clear()
    assert count(store, generations) == 0
    assert store_client.post("/v1/audio/speech", json=HELLO).status_code == 200
    wait_for(lambda: outcomes(store) == {"done": 1, "failed": 2})


def test_ready_asks_the_database(store_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store_client.get("/ready").json() == {"status": "ready"}

    def refuse(db: Database) -> Any:
        raise Overloaded("The database can't be reached at the moment; please try again")

    monkeypatch.setattr(Database, "read", refuse)
    reply = store_client.get("/ready")
    assert reply.status_code == 503
    assert reply.json()["status"] == "not_ready"
    assert "can't be reached" in reply.json()["reasons"][0]
    assert store_client.get("/health").json() == {"status": "ok"}
