"""Users who share one server: many at once, and those who leave while it works for them."""

import io
import json
import socket
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pytest
import requests
from fake_server import LiveServer, as_user, make_tone, stats_of, wait_for
from store_rows import make_voice

from qwen3_audio import accounts
from qwen3_audio.fake import FakeBackend
from qwen3_audio.store.generations import get_stored
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import generations
from qwen3_audio.store.users import add_user
from qwen3_audio.store.voices import get_voice
from qwen3_audio.types import ModelKind

NUM_USERS = 32
LONG = "word " * 400


@dataclass
class Seen:
    """What one user's client saw."""

    statuses: list[int] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    num_texts: int = 0
    stored: dict[int, bytes] = field(default_factory=dict)


def visit(url: str, key: str, voice_id: int, number: int) -> Seen:
    """One of everything, with texts of the user's own."""
    seen = Seen()
    text = "word " * (number % 5 + 1)
    body = {"voice_id": voice_id, "store": True}
    with requests.Session() as session:
        session.headers.update(as_user(key))

        def post(path: str, body: dict[str, Any]) -> requests.Response:
            reply = session.post(f"{url}{path}", json=body)
            seen.statuses.append(reply.status_code)
            return reply

        reply = post("/tts", body | {"text": text})
        seen.tokens["tokens_used_tts"] += int(reply.headers["X-Tokens-Used"])
        seen.stored[int(reply.headers["X-Generation-Id"])] = reply.content
        reply = post("/batchtts", body | {"texts": [text, f"{number}", "BOOM"]})
        seen.tokens["tokens_used_batch"] += int(reply.headers["X-Tokens-Used"])
        with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
            for item in json.loads(archive.read("manifest.json"))["items"]:
                if item["filename"]:
                    seen.stored[item["generation_id"]] = archive.read(item["filename"])
        said = {"input": text, "voice": f"voice_{voice_id}", "response_format": "pcm"}
        post("/v1/audio/speech", said)
        seen.tokens["tokens_used_speech"] += len(text.strip())
        seen.num_texts = 4
    return seen


def test_of_32_users_on_all_routes_each_pays_for_what_they_saw(
    live_store_server: LiveServer, store: Store, make_key: Callable[[int], str]
) -> None:
    with store.db.write() as conn:
        users = [add_user(conn) for _ in range(NUM_USERS)]
    sound = make_tone(1.0, 24_000)  # one file for all
    voices = [make_voice(store, user_id, sound=sound) for user_id in users]
    keys = [make_key(user_id) for user_id in users]
    url = live_store_server.url
    with ThreadPoolExecutor(NUM_USERS) as clients:
        everyone = list(clients.map(visit, [url] * NUM_USERS, keys, voices, range(NUM_USERS)))
    for user_id, voice_id, seen in zip(users, voices, everyone, strict=True):
        assert seen.statuses == [200] * 3
        usage = accounts.show_usage(store, user_id)
        assert {name: usage[name] for name in seen.tokens} == dict(seen.tokens)
        assert usage["tokens_used_total"] == seen.tokens.total()
        assert [usage[name] for name in ("tts_calls", "batch_calls", "speech_calls")] == [1, 1, 1]
        with store.db.read() as conn:
            assert get_voice(conn, user_id, voice_id).use_count == seen.num_texts
            for number, data in seen.stored.items():
                assert get_stored(conn, user_id, number).audio_sha256 == sha256(data).hexdigest()
        assert len(seen.stored) == 3
    number, data = seen.stored.popitem()
    assert requests.get(f"{url}/getstored/{number}", headers=as_user(keys[-1])).content == data


# Leaving


def open_request(server: LiveServer, path: str, **body: Any) -> socket.socket:
    """A request of which nothing has been read yet."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("path", "body", "num_rows"),
    [
        ("/tts", {"text": LONG, "store": True}, 1),
        ("/batchtts", {"texts": [LONG, "short", LONG], "store": True}, 3),
        ("/designvoice", {"name": "a", "description": "b"}, 0),
    ],
    ids=["tts", "batch", "design"],
)
def test_who_leaves_before_the_answer_pays_nothing_and_frees_the_engine(
    serve_fake: Callable[..., LiveServer],
    store: Store,
    path: str,
    body: dict[str, Any],
    num_rows: int,
) -> None:
    server = serve_fake(FakeBackend(delay_s=0.02), store=store)
    voice_id = make_voice(store, 1, sound=make_tone(1.0, 24_000))
    kind = ModelKind.VOICE_DESIGN if path == "/designvoice" else ModelKind.BASE
    connection = open_request(server, path, voice_id=voice_id, **body)
    wait_for(lambda: stats_of(server.backend, kind).num_steps > 2)
    connection.close()
    wait_for(lambda: stats_of(server.backend, kind).num_running == 0)
    server.stop()
    with store.db.read() as conn:
        booked = list(conn.execute(generations.select()))
    assert [(row.status, row.tokens) for row in booked] == [("cancelled", 0)] * num_rows
    usage = accounts.show_usage(store, 1)
    assert (usage["tokens_used_total"], usage["voices_created"]) == (
        0,
        1,
    )  # the voice that was there
