"""What document 2's clients may get wrong: refused in a sentence, and nothing is changed."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_server import AS_ADMIN, as_user, make_tone
from fastapi.testclient import TestClient
from isolation_cases import make_things
from route_table import routes
from store_rows import at_once
from test_bad_requests import refusal
from test_voices import clone, make_voice

from qwen3_audio.audio.encode import encode_whole
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.store.invites import add_invite
from qwen3_audio.store.keys import MAX_KEYS, add_key
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import metadata
from qwen3_audio.types import SPEECH_RATE_HZ

ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
Ask = Callable[[TestClient, str], Any]


def everything(store: Store) -> dict[str, list[Any]]:
    """Every row of every table, but for when a key was used last."""
    with store.db.read() as conn:
        return {
            table.name: [tuple(row) for row in conn.execute(table.select())]
            for table in metadata.sorted_tables
            if table.name != "api_keys"
        }


# Names


def new_consent(client: TestClient, name: str) -> Any:
    files = {"recording": ("a.wav", make_tone(0.5), "audio/wav")}
    data = {"name": name, "language": "en"}
    return client.post("/v1/audio/voice_consents", data=data, files=files)


def new_openai_voice(client: TestClient, name: str) -> Any:
    files = {"audio_sample": ("a.wav", make_tone(1.0))}
    data = {"name": name, "ref_text": "the quick"}
    return client.post("/v1/audio/voices", data=data, files=files)


NAMED: dict[str, Ask] = {
    "clone": lambda client, name: clone(client, name=name),
    "design": lambda client, name: client.post(
        "/designvoice", json={"name": name, "description": "Warm."}
    ),
    "voice": new_openai_voice,
    "rename": lambda client, name: client.post("/v1/audio/voices/voice_1", json={"name": name}),
    "consent": new_consent,
}


@ON_SQLITE
@pytest.mark.parametrize("door", NAMED)
def test_bad_names_are_refused_and_odd_ones_kept_at_every_door(
    store_client: TestClient, store: Store, door: str
) -> None:
    make_voice(store_client)
    before = everything(store)
    for name in ("", " \t", "x" * 100_000, "two\nlines", "nul\0", "a\u2029b"):
        assert refusal(NAMED[door](store_client, name))["param"] == "name"
    assert everything(store) == before
    for name in ("\"q\" 'q'", "../../etc/passwd", "C:\\con", "🎙️" * 60, "'; DROP TABLE voices;--"):
        for _ in range(2):  # duplicates are welcome
            reply = NAMED[door](store_client, name)
            assert reply.status_code == 200, reply.text


# Numbers

ODD_NUMBERS = ["1e30", str(2**63), "-1", "1 or 1=1", "+1", "1_0", "%00", "%2e%2e"]


@pytest.mark.parametrize("odd", ODD_NUMBERS)
def test_numbers_that_nothing_has_are_not_found_on_any_route(
    store_admin: TestClient, odd: str
) -> None:
    code = store_admin.post("/admin/users/1/invites", headers=AS_ADMIN).json()["invite_code"]
    body = {"invite_code": code}
    key = store_admin.post("/auth/exchange-invite", json=body).json()["api_key"]
    paths = [route.split() for route in routes() if re.search(r"\{\w+_id\}", route)]
    assert len(paths) > 20
    for method, path in paths:
        tag = "cons_" if "consent" in path else ""
        url = re.sub(r"\{\w+_id\}", tag + odd, path)
        headers = AS_ADMIN if path.startswith("/admin") else as_user(key)
        refusal(store_admin.request(method, url, headers=headers, json={"name": "a"}), 404)


@ON_SQLITE
@pytest.mark.parametrize("number", [1e30, 2**63, -1, "1 or 1=1", 10**400, True, {"id": 1}])
def test_voice_ids_that_no_voice_has_are_refused_by_name(
    store_client: TestClient, store: Store, number: object
) -> None:
    before = everything(store)
    for path, body in (("/tts", {"text": "a"}), ("/batchtts", {"texts": ["a", "b"]})):
        reply = store_client.post(path, json=body | {"voice_id": number})
        assert refusal(reply)["param"] == "voice_id"
    assert everything(store) == before


@pytest.mark.parametrize("hours", ["1e30", "-" + "9" * 40, "0x10", "24; DROP TABLE invites", "²"])
def test_hours_that_are_no_number_of_hours_make_no_invite(
    store_admin: TestClient, hours: str
) -> None:
    path = "/admin/users/1/invites"
    before = store_admin.get(path, headers=AS_ADMIN).json()
    reply = store_admin.post(path, params={"expires_hours": hours}, headers=AS_ADMIN)
    assert refusal(reply)["param"] == "expires_hours"
    assert store_admin.get(path, headers=AS_ADMIN).json() == before


@ON_SQLITE
def test_a_bad_text_among_good_ones_is_named(store_client: TestClient) -> None:
    body = {"texts": ["good", "fine", " \n"], "voice_id": make_voice(store_client)}
    error = refusal(store_client.post("/batchtts", json=body))
    assert error["param"] == "texts[2]"
    assert "texts[2]" in error["message"]


# Sounds


def half_a_wav() -> bytes:
    """A header that announces 4 GB, and half a second of sound."""
    data = bytearray(make_tone(0.5))
    data[4:8] = data[40:44] = b"\xff" * 4
    return bytes(data)


@ON_SQLITE
@pytest.mark.parametrize("kind", ["mp3", "ogg", "aac", "wav"])
def test_a_small_file_that_decodes_to_more_than_is_allowed_is_refused(
    store_client: TestClient, kind: str
) -> None:
    silence = np.zeros(90 * SPEECH_RATE_HZ, np.float32)
    bomb = wav_bytes(silence, SPEECH_RATE_HZ) if kind == "wav" else encode_whole(kind, silence)
    assert refusal(clone(store_client, bomb))["code"] == "audio_too_long"
    assert store_client.get("/voices").json() == []


@ON_SQLITE
def test_a_file_is_as_long_as_what_is_in_it_whatever_it_announces(store_client: TestClient) -> None:
    voice_id = clone(store_client, half_a_wav()).json()["voice_id"]
    assert store_client.get(f"/voices/{voice_id}").json()["duration_s"] == 0.5
    assert refusal(clone(store_client, half_a_wav()[:44]))["code"] == "invalid_audio"


@ON_SQLITE
@pytest.mark.parametrize(
    "data", [b"%PDF-1.7 " * 99, b"x", wav_bytes(np.zeros(0, np.float32), 8000)]
)
def test_a_consent_must_be_something_to_listen_to(
    store_client: TestClient, store: Store, data: bytes
) -> None:
    before = everything(store)
    files = {"recording": ("a.mp3", data, "audio/mpeg")}
    fields = {"name": "a", "language": "en"}
    reply = store_client.post("/v1/audio/voice_consents", data=fields, files=files)
    assert refusal(reply)["param"] == "recording"
    assert everything(store) == before


# Invites and keys


@ON_SQLITE
def test_an_expired_code_is_refused_and_gives_no_key(
    keyed_client: TestClient, store: Store, bob: int
) -> None:
    with store.db.write() as conn:
        new = add_invite(conn, bob, secret=store.secret)
        conn.execute(
            metadata.tables["invites"].update().values(expires_at=new.expires_at.replace(year=2020))
        )
    before = everything(store)
    reply = keyed_client.post("/auth/exchange-invite", json={"invite_code": new.invite_code})
    error = refusal(reply, 403)
    assert (error["code"], error["message"]) == ("invalid_invite", "The invite code has expired")
    assert everything(store) == before


@ON_SQLITE
def test_a_user_has_as_many_keys_as_allowed(
    keyed_client: TestClient, store: Store, bob: int
) -> None:
    with store.db.write() as conn:
        keys = [add_key(conn, bob, secret=store.secret) for _ in range(MAX_KEYS)]
    headers = as_user(keys[0].api_key)
    assert refusal(keyed_client.post("/keys", headers=headers))["code"] == "too_many_keys"
    assert keyed_client.delete(f"/keys/{keys[1].key_id}", headers=headers).is_success
    assert keyed_client.post("/keys", headers=headers).is_success
    assert keyed_client.post("/keys", headers=headers).status_code == 400


@ON_SQLITE
def test_consents_and_names_have_caps_by_settings(store: Store, make_client: Any) -> None:
    client = make_client(store=store, max_consents=1, max_voice_names=1)
    before = new_consent(client, "one")
    assert before.is_success
    names = "/v1/audio/voice_names"
    assert client.put(f"{names}/one", json={"voice": "ryan"}).is_success
    again = client.put(f"{names}/two", json={"voice": "ryan"})
    for reply in (new_consent(client, "two"), again):
        assert refusal(reply, 429)["code"] == "insufficient_quota"
        assert (reply.headers["x-should-retry"], "Retry-After" in reply.headers) == ("false", False)
    small = make_client(store=store, max_consent_mb=1)
    data = make_tone(20, 24_000)
    files = {"recording": ("a.wav", data + bytes(1024**2 - len(data)))}
    fields = {"name": "large", "language": "en"}
    reply = small.post("/v1/audio/voice_consents", data=fields, files=files)
    assert "1048576 are allowed" in refusal(reply, 429)["message"]
    assert client.delete(f"/v1/audio/voice_consents/{before.json()['id']}").is_success
    assert new_consent(client, "two").is_success


# Twice at once

DELETIONS = [
    "DELETE /voices/{voice_id}",
    "POST /voices/{voice_id}/delete",
    "DELETE /v1/audio/voices/voice_{voice_id}",
    "DELETE /v1/audio/voice_consents/cons_{consent_id}",
    "DELETE /getstored/{generation_id}",
    "DELETE /keys/{key_id}",
    "DELETE /admin/users/{user_id}/keys/{key_id}",
    "DELETE /admin/users/{user_id}",
]


@pytest.mark.parametrize("route", DELETIONS)
def test_of_two_deletions_at_once_one_finds_nothing(
    route: str,
    keyed_client: TestClient,
    store: Store,
    alice: int,
    make_key: Callable[[int], str],
) -> None:
    things, key = make_things(store, alice), make_key(alice)
    method, path = route.split()
    url = path.format(user_id=alice, **vars(things))
    headers = AS_ADMIN if path.startswith("/admin") else as_user(key)
    replies = at_once([lambda: keyed_client.request(method, url, headers=headers)] * 4)
    assert sorted(reply.status_code for reply in replies) == [200, 404, 404, 404]
