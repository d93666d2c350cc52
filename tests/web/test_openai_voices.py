"""One voice library behind OpenAI's shape: voices, consents, names, and speech with all of them."""

from typing import Any

import pytest
from fake_server import AS_ADMIN, as_user, make_tone
from fastapi.testclient import TestClient
from test_voices import clone, make_voice

from qwen3_audio.fake import FakeBackend
from qwen3_audio.store.opening import Store
from qwen3_audio.types import ModelKind, SpeechRequest


def say(client: TestClient, voice: object, **fields: Any) -> Any:
    body = {"input": "Hello there.", "voice": voice, "response_format": "wav", **fields}
    return client.post("/v1/audio/speech", json=body)


def make(client: TestClient, **fields: Any) -> Any:
    data = {"name": "Mine", "ref_text": "the quick", **fields}
    files = {"audio_sample": ("a.wav", make_tone(1.0), "audio/wav")}
    return client.post("/v1/audio/voices", data=data, files=files)


def spoken(backend: FakeBackend) -> SpeechRequest:
    assert isinstance(backend.last_request, SpeechRequest)
    return backend.last_request


@pytest.fixture
def client_of(store: Store, make_client: Any, backend: FakeBackend) -> TestClient:
    client: TestClient = make_client(backend, store=store)
    return client


def test_a_sample_becomes_a_voice_for_every_route(
    client_of: TestClient, backend: FakeBackend
) -> None:
    reply = make(client_of)
    assert reply.status_code == 200, reply.text
    voice = reply.json()
    number = int(voice["id"].removeprefix("voice_"))
    assert (voice["object"], voice["name"], voice["type"]) == (
        "audio.voice",
        "Mine",
        "audio_sample",
    )
    assert isinstance(voice["created_at"], int)
    assert client_of.get(f"/voices/{number}").json()["ref_text"] == "the quick"
    for name in (voice["id"], {"id": voice["id"]}, "Mine", "MINE"):
        reply = say(client_of, name)
        assert reply.status_code == 200, reply.text
        assert spoken(backend).kind is ModelKind.BASE
    body = {"text": "a", "voice_id": number}
    assert client_of.post("/tts", json=body).status_code == 200
    assert client_of.get(f"/voices/{number}").json()["use_count"] == 5


def test_a_prompt_becomes_a_voice_as_the_clients_send_it(client_of: TestClient) -> None:
    fields = {"type": "prompt", "name": "Old sailor", "prompt": "A hoarse old man."}
    parts = [(name, (None, text)) for name, text in fields.items()]
    for reply in (
        client_of.post("/v1/audio/voices", files=parts),
        client_of.post("/v1/audio/voices", json=fields),
    ):
        assert reply.status_code == 200, reply.text
        assert (reply.json()["type"], reply.json()["prompt"]) == ("prompt", "A hoarse old man.")


def test_without_its_text_a_sample_is_written_down(client_of: TestClient) -> None:
    files = {"audio_sample": ("a.wav", make_tone(1.0))}
    reply = client_of.post("/v1/audio/voices", data={"name": "a"}, files=files)
    assert reply.json()["ref_text"] == "the quick"


def test_voices_are_listed_with_the_presets(client_of: TestClient) -> None:
    voice_id = make(client_of).json()["id"]
    listed = client_of.get("/v1/audio/voices").json()
    assert [voice["id"] for voice in listed["uploaded_voices"]] == [voice_id]
    assert listed["data"][-1] == listed["uploaded_voices"][0] == listed["voices"][-1]
    assert {"Vivian", "alloy", "Mine"} <= {voice["name"] for voice in listed["data"]}
    bare = client_of.get("/v1/audio/voices", params={"names_only": "true"}).json()["voices"]
    assert bare[-1] == "Mine"
    assert client_of.get("/audio/voices").json() == listed


def test_a_voice_is_shown_renamed_heard_and_deleted_once(client_of: TestClient) -> None:
    voice_id = make(client_of).json()["id"]
    address = f"/v1/audio/voices/{voice_id}"
    assert client_of.post(address, json={"name": "New"}).json()["name"] == "New"
    assert client_of.post(address, json={"name": " "}).status_code == 400
    assert client_of.get("/v1/audio/voices/New").json()["id"] == voice_id
    assert client_of.get(f"{address}/sample").content[:4] == b"RIFF"
    deleted = {"id": voice_id, "object": "audio.voice.deleted", "deleted": True}
    assert client_of.delete("/v1/audio/voices/new").json() == deleted
    for method in ("GET", "POST", "DELETE"):
        reply = client_of.request(method, address, json={"name": "x"})
        assert reply.status_code == 404, (method, reply.text)


@pytest.mark.parametrize("odd", ["voice_0", "voice_x", "voice_" + "9" * 30, "nobody", "voice_-1"])
def test_voices_that_are_not_there_are_not_found(client_of: TestClient, odd: str) -> None:
    assert client_of.get(f"/v1/audio/voices/{odd}").status_code == 404
    assert client_of.delete(f"/v1/audio/voices/{odd}").status_code == 404


def test_a_sample_over_ten_mebibytes_is_too_large(client_of: TestClient) -> None:
    files = {"audio_sample": ("a.wav", bytes(10 * 1024**2 + 1))}
    reply = client_of.post("/v1/audio/voices", data={"name": "a"}, files=files)
    assert reply.status_code == 413


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"type": "magic"}, "type"),
        ({"type": "prompt"}, "prompt"),
        ({"language": "xx"}, "language"),
        ({"ref_text": "x" * 10_001}, "ref_text"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    client_of: TestClient, fields: dict[str, str], param: str
) -> None:
    reply = make(client_of, **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_an_unknown_name_lists_what_there_is(client_of: TestClient) -> None:
    make(client_of, name="Zoë")
    reply = say(client_of, "nobody")
    assert reply.status_code == 400
    assert all(name in reply.json()["detail"] for name in ("Vivian", "Uncle_Fu", "alloy", "Zoë"))
    assert say(client_of, "voice_99").status_code == 404


def test_names_mean_what_their_user_says_before_anything_else(
    client_of: TestClient, backend: FakeBackend
) -> None:
    voice_id = make(client_of).json()["id"]
    address = "/v1/audio/voice_names/Alloy"
    reply = client_of.put(address, json={"voice": voice_id})
    assert reply.json()["data"] == [{"name": "Alloy", "voice": voice_id}]
    for name in ("alloy", " ALLOY ", None):
        assert say(client_of, name).status_code == 200
        assert spoken(backend).kind is ModelKind.BASE
    client_of.put(address, json={"voice": "echo"})
    assert say(client_of, "alloy").status_code == 200
    assert spoken(backend).speaker == "eric"
    assert client_of.get("/v1/audio/voice_names").json()["data"][0]["voice"] == "echo"
    assert client_of.delete(address).status_code == 200
    assert client_of.delete(address).status_code == 404
    say(client_of, "alloy")
    assert spoken(backend).speaker == "vivian"


def test_a_speakers_name_wins_over_a_voice_that_is_called_the_same(
    client_of: TestClient, backend: FakeBackend
) -> None:
    make(client_of, name="Vivian")
    say(client_of, "vivian")
    assert spoken(backend).kind is ModelKind.CUSTOM_VOICE


def test_of_voices_with_one_name_the_newest_speaks(client_of: TestClient) -> None:
    first, second = (make(client_of).json()["id"] for _ in range(2))
    say(client_of, "Mine")
    counts = {voice["voice_id"]: voice["use_count"] for voice in client_of.get("/voices").json()}
    assert counts == {int(first[6:]): 0, int(second[6:]): 1}


@pytest.mark.parametrize("body", [{}, {"voice": ""}, {"voice": "nobody"}, {"voice": 7}])
def test_a_meaning_that_does_not_fit_is_refused(client_of: TestClient, body: Any) -> None:
    reply = client_of.put("/v1/audio/voice_names/x", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "voice"


def test_a_deleted_voice_takes_its_names_along(client_of: TestClient, backend: FakeBackend) -> None:
    voice_id = make(client_of).json()["id"]
    client_of.put("/v1/audio/voice_names/alloy", json={"voice": voice_id})
    client_of.delete(f"/v1/audio/voices/{voice_id}")
    assert client_of.get("/v1/audio/voice_names").json()["data"] == []
    assert say(client_of, "alloy").status_code == 200
    assert spoken(backend).speaker == "vivian"


def test_a_shared_name_lets_others_speak_but_not_look(
    keyed_client: TestClient, make_key: Any, alice: int
) -> None:
    owner, other = as_user(make_key(1)), as_user(make_key(alice))
    keyed_client.headers.update(owner)
    voice_id = make_voice(keyed_client, name="House")
    address = "/admin/voice_names/narrator"
    body = {"voice": f"voice_{voice_id}"}
    assert keyed_client.put(address, json=body).status_code == 403
    reply = keyed_client.put(address, json=body, headers=AS_ADMIN)
    assert reply.json()["data"] == [{"name": "narrator", "voice": f"voice_{voice_id}"}]
    keyed_client.headers.update(other)
    assert say(keyed_client, "Narrator").status_code == 200
    assert say(keyed_client, f"voice_{voice_id}").status_code == 404
    assert keyed_client.get(f"/voices/{voice_id}/sample").status_code == 404
    assert keyed_client.get("/v1/audio/voices/House").status_code == 404
    names = keyed_client.get("/v1/audio/voices", params={"names_only": "1"}).json()["voices"]
    assert "narrator" in names
    assert "House" not in names
    keyed_client.headers.update(owner)
    assert keyed_client.get(f"/voices/{voice_id}").json()["use_count"] == 1
    assert keyed_client.delete(address, headers=AS_ADMIN).status_code == 200
    assert say(keyed_client, "narrator").status_code == 400


def test_without_a_key_only_what_everybody_has_is_listed(
    keyed_client: TestClient, make_key: Any, alice: int
) -> None:
    keyed_client.headers.update(as_user(make_key(alice)))
    make_voice(keyed_client, name="Private")
    assert len(keyed_client.get("/v1/audio/voices").json()["uploaded_voices"]) == 1
    del keyed_client.headers["Authorization"]
    listed = keyed_client.get("/v1/audio/voices").json()
    assert listed["uploaded_voices"] == []
    assert "Private" not in {voice["name"] for voice in listed["data"]}
    assert keyed_client.post("/v1/audio/voices", json={"name": "a"}).status_code == 401


def test_consents_are_kept_listed_renamed_and_deleted(client_of: TestClient) -> None:
    address = "/v1/audio/voice_consents"
    made = []
    for name in ("one", "two", "three"):
        files = {"recording": ("a.wav", make_tone(0.5), "audio/wav")}
        reply = client_of.post(address, data={"name": name, "language": "en-US"}, files=files)
        assert reply.status_code == 200, reply.text
        made.append(reply.json())
    assert made[0].keys() == {"id", "object", "created_at", "language", "name"}
    assert (made[0]["object"], made[0]["language"]) == ("audio.voice_consent", "en-US")
    page = client_of.get(address, params={"limit": 2}).json()
    assert [row["name"] for row in page["data"]] == ["three", "two"]
    assert page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (made[2]["id"], made[1]["id"])
    rest = client_of.get(address, params={"after": page["last_id"]}).json()
    assert [row["name"] for row in rest["data"]] == ["one"]
    one = f"{address}/{made[0]['id']}"
    assert client_of.post(one, json={"name": "uno"}).json()["name"] == "uno"
    voice = make(client_of, consent=made[0]["id"])
    assert voice.status_code == 200, voice.text
    assert client_of.get(one).json()["name"] == "uno"
    assert client_of.delete(one).json() == {
        "id": made[0]["id"],
        "object": "audio.voice_consent",
        "deleted": True,
    }
    assert client_of.delete(one).status_code == 404
    assert client_of.get(f"/v1/audio/voices/{voice.json()['id']}").status_code == 200


def test_a_consent_that_is_not_there_is_not_found(client_of: TestClient) -> None:
    for consent, status in (
        ("cons_77", 404),
        ("cons_x", 400),
        ("yes", 400),
        ("cons_" + "9" * 30, 400),
    ):
        assert make(client_of, consent=consent).status_code == status
        assert client_of.get(f"/v1/audio/voice_consents/{consent}").status_code == 404
    assert client_of.get("/voices").json() == []


def test_consents_that_do_not_fit_are_refused(client_of: TestClient) -> None:
    address = "/v1/audio/voice_consents"
    files = {"recording": ("a.wav", b"x")}
    assert client_of.post(address, data={"name": "a"}, files=files).status_code == 400
    assert client_of.post(address, data={"name": "a", "language": "en"}).status_code == 400
    assert client_of.get(address, params={"limit": 101}).status_code == 400
    big = {"recording": ("a.wav", bytes(10 * 1024**2 + 1))}
    data = {"name": "a", "language": "en"}
    assert client_of.post(address, data=data, files=big).status_code == 413


def test_a_library_voice_needs_a_base_checkpoint(store: Store, make_client: Any) -> None:
    voice_id = clone(make_client(store=store)).json()["voice_id"]
    client = make_client(FakeBackend(kinds=[ModelKind.CUSTOM_VOICE]), store=store)
    reply = say(client, f"voice_{voice_id}")
    assert reply.status_code == 400
    assert "TTS_BASE_MODEL_PATH" in reply.json()["detail"]
