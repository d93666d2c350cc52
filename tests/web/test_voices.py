"""Voices out of recordings and descriptions: made, listed, heard, deleted."""

import hashlib
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from fake_server import make_tone
from fastapi.testclient import TestClient

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.encode import encode_whole
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.fake import FakeBackend
from qwen3_audio.store.opening import Store
from qwen3_audio.types import SPEECH_RATE_HZ, ModelKind
from qwen3_audio.voice_library import COVERAGE_PHRASE

SAID = "The quick, brown fox jumped over the lazy dog"


def clone(client: TestClient, sound: bytes | None = None, **fields: Any) -> Any:
    data = {"name": "Geoff", "transcript": SAID, "language": "English", **fields}
    data = {name: value for name, value in data.items() if value is not None}
    files = {"file": ("ref.wav", sound or make_tone(1.5))}
    return client.post("/clonevoice", data=data, files=files)


def make_voice(client: TestClient, **fields: Any) -> int:
    reply = clone(client, **fields)
    assert reply.status_code == 200, reply.text
    return int(reply.json()["voice_id"])


def test_a_cloned_voice_is_listed_and_shown(store_client: TestClient) -> None:
    reply = clone(store_client)
    assert reply.status_code == 200, reply.text
    assert reply.json()["tokens_used"] == len(SAID)
    voice_id = reply.json()["voice_id"]
    (listed,) = store_client.get("/voices").json()
    assert listed["voice_id"] == voice_id
    assert (listed["name"], listed["language"], listed["use_count"]) == ("Geoff", "English", 0)
    assert listed["created_at"].endswith("+00:00")
    shown = store_client.get(f"/voices/{voice_id}").json()
    assert shown.items() >= listed.items()
    assert (shown["ref_text"], shown["voice_description"]) == (SAID, None)


def test_voices_are_listed_newest_first_a_page_at_a_time(store_client: TestClient) -> None:
    numbers = [make_voice(store_client, name="same") for _ in range(3)]
    listed = [voice["voice_id"] for voice in store_client.get("/voices").json()]
    assert listed == numbers[::-1]
    page = store_client.get("/voices", params={"before": numbers[2], "limit": 1}).json()
    assert [voice["voice_id"] for voice in page] == [numbers[1]]


@pytest.mark.parametrize("name", ["wav", "mp3", "ogg", "flac", "aac"])
def test_every_upload_becomes_a_wav_of_the_same_length(store_client: TestClient, name: str) -> None:
    tone = decode_audio(make_tone(1.5), sample_rate_hz=SPEECH_RATE_HZ, max_seconds=9)
    upload = encode_whole(name, tone)
    reply = clone(store_client, upload)
    assert reply.status_code == 200, reply.text
    sample = store_client.get(f"/voices/{reply.json()['voice_id']}/sample")
    assert sample.headers["content-type"] == "audio/wav"
    heard = decode_audio(sample.content, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=9)
    sent = decode_audio(upload, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=9)
    assert len(heard) == len(sent)
    assert np.abs(heard - sent).max() < 1e-4
    assert sample.content[:4] == b"RIFF"


def test_a_sample_comes_whole_or_in_ranges_with_its_transcript(store_client: TestClient) -> None:
    address = f"/voices/{make_voice(store_client, transcript='Grüße, Welt')}/sample"
    whole = store_client.get(address)
    assert whole.headers["x-transcript"] == "Gr%C3%BC%C3%9Fe%2C%20Welt"
    assert whole.headers["content-disposition"] == 'attachment; filename="Geoff_sample.wav"'
    part = store_client.get(address, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == whole.content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert store_client.get(address, headers={"Range": "bytes=-4"}).content == whole.content[-4:]
    rest = store_client.get(address, headers={"Range": "bytes=40-"})
    assert rest.content == whole.content[40:]
    beyond = store_client.get(address, headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416
    assert beyond.json()["error"]["message"]
    odd = store_client.get(address, headers={"Range": "pages=1-2"})
    assert odd.content == whole.content
    tag = {"If-None-Match": whole.headers["etag"]}
    assert store_client.get(address, headers=tag).status_code == 304


def test_the_same_upload_is_one_file(store_client: TestClient, store: Store) -> None:
    first, second = (make_voice(store_client) for _ in range(2))
    (file,) = store.blobs.path("00" * 32).parent.parent.glob("??/" + "?" * 62)
    assert store_client.post(f"/voices/{first}/delete").json() == {"status": "deleted"}
    sample = store_client.get(f"/voices/{second}/sample")
    assert sample.status_code == 200
    assert hashlib.sha256(sample.content).hexdigest() == file.parent.name + file.name
    assert store_client.delete(f"/voices/{second}").json() == {"status": "deleted"}
    assert not file.exists()


@pytest.mark.parametrize("method", ["post", "delete"])
def test_a_deleted_voice_is_gone_and_its_number_stays_unused(
    store_client: TestClient, method: str
) -> None:
    voice_id = make_voice(store_client)
    address = f"/voices/{voice_id}" + ("/delete" if method == "post" else "")
    assert store_client.request(method, address).status_code == 200
    assert store_client.request(method, address).status_code == 404
    assert store_client.get("/voices").json() == []
    assert store_client.get(f"/voices/{voice_id}").status_code == 404
    assert store_client.get(f"/voices/{voice_id}/sample").status_code == 404
    assert make_voice(store_client) > voice_id


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.0", "9" * 19, "9" * 40, "%00", "١"])
def test_numbers_that_no_voice_has_are_not_found(store_client: TestClient, number: str) -> None:
    for method, rest in (("GET", ""), ("GET", "/sample"), ("POST", "/delete"), ("DELETE", "")):
        reply = store_client.request(method, f"/voices/{number}{rest}")
        assert reply.status_code == 404, reply.text
        assert reply.json()["detail"]


def test_a_transcript_that_does_not_match_gives_a_warning(store_client: TestClient) -> None:
    # The fake engine hears two words a second: "the quick brown" here.
    good = clone(store_client, transcript="The quick, brown!").json()
    assert good["transcript_error_rate"] == 0
    assert "warning" not in good
    bad = clone(store_client, transcript="Something else entirely").json()
    assert bad["transcript_error_rate"] == 1
    assert "does not match" in bad["warning"]


def test_a_transcript_that_does_not_match_is_refused_where_the_operator_wants_that(
    store: Store, make_client: Any
) -> None:
    client = make_client(store=store, max_transcript_error=0.2)
    assert clone(client, transcript="The quick, brown!").status_code == 200
    reply = clone(client, transcript="Something else entirely")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "transcript"
    assert len(client.get("/voices").json()) == 1


def test_auto_has_the_transcript_written_down(store_client: TestClient) -> None:
    reply = clone(store_client, transcript=" Auto ")
    voice = store_client.get(f"/voices/{reply.json()['voice_id']}").json()
    assert voice["ref_text"] == "the quick brown"
    assert reply.json()["tokens_used"] == len("the quick brown")
    assert reply.json()["transcript_error_rate"] == 0


def test_what_is_not_loaded_is_named(store: Store, make_client: Any) -> None:
    only_custom = make_client(FakeBackend(kinds=[ModelKind.CUSTOM_VOICE]), store=store)
    assert "TTS_BASE_MODEL_PATH" in clone(only_custom).json()["detail"]
    no_asr = make_client(FakeBackend(kinds=[ModelKind.BASE]), store=store)
    assert clone(no_asr).json().keys() == {"voice_id", "tokens_used"}
    assert "ASR_MODEL_PATH" in clone(no_asr, transcript="auto").json()["detail"]
    body = {"name": "a", "description": "b"}
    reply = no_asr.post("/designvoice", json=body)
    assert reply.status_code == 400
    assert "TTS_VOICEDESIGN_MODEL_PATH" in reply.json()["detail"]
    no_base = make_client(FakeBackend(kinds=[ModelKind.VOICE_DESIGN]), store=store)
    assert "TTS_BASE_MODEL_PATH" in no_base.post("/designvoice", json=body).json()["detail"]


NAMES = ["日本 🎙️", 'quo"ted', "../../etc/passwd", "a/b\\c", "CON", "x" * 128, "%2e%2e", "a;b"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_kept_as_they_are(store_client: TestClient, name: str) -> None:
    voice_id = make_voice(store_client, name=f"  {name}\t")
    assert store_client.get(f"/voices/{voice_id}").json()["name"] == name
    shown = store_client.get(f"/voices/{voice_id}/sample").headers["content-disposition"]
    assert "/" not in shown
    assert "\\" not in shown


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": None}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "bell\a"}, "name"),
        ({"transcript": None}, "transcript"),
        ({"transcript": " \n"}, "transcript"),
        ({"transcript": "x" * 100_000}, "transcript"),
        ({"language": "Klingon"}, "language"),
    ],
)
def test_fields_that_do_not_fit_are_named_and_nothing_is_kept(
    store_client: TestClient, fields: dict[str, Any], param: str
) -> None:
    reply = clone(store_client, **fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert store_client.get("/voices").json() == []
    assert store_client.get("/usage").json()["tokens_used_total"] == 0


@pytest.mark.parametrize(
    "sound",
    [
        b"no sound at all, whatever its name says" * 50,
        make_tone(0.05),
        make_tone(61),
        wav_bytes(np.zeros(SPEECH_RATE_HZ, np.float32), SPEECH_RATE_HZ),
    ],
    ids=["text", "short", "long", "silent"],
)
def test_recordings_that_can_not_be_used_are_refused(
    store_client: TestClient, sound: bytes
) -> None:
    reply = clone(store_client, sound)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "file"


def test_a_bomb_of_packed_silence_is_refused_by_its_length(store_client: TestClient) -> None:
    bomb = encode_whole("flac", np.zeros(3600 * SPEECH_RATE_HZ, np.float32))
    assert len(bomb) < 2_000_000
    reply = clone(store_client, bomb)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "audio_too_long"


def test_a_missing_empty_or_second_file_is_refused(store_client: TestClient) -> None:
    data = {"name": "a", "transcript": "b"}
    assert store_client.post("/clonevoice", data=data).status_code == 400
    empty = store_client.post("/clonevoice", data=data, files={"file": ("a.wav", b"")})
    assert empty.json()["error"]["code"] == "invalid_audio"
    two = [("file", ("a.wav", make_tone(1))), ("file", ("b.wav", make_tone(1)))]
    assert store_client.post("/clonevoice", data=data, files=two).status_code == 400
    address = {"name": "a", "transcript": "b", "file": "http://localhost/ref.wav"}
    assert store_client.post("/clonevoice", json=address).status_code == 400


def test_an_archive_with_a_name_of_sound_is_refused(store_client: TestClient) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ref.wav", make_tone(1))
    assert clone(store_client, file.getvalue()).json()["error"]["code"] == "invalid_audio"


def test_a_described_voice_says_the_phrase_and_is_kept(store_client: TestClient) -> None:
    body = {"name": "warm", "language": "English", "description": " Warm, calm narrator. "}
    reply = store_client.post("/designvoice", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["tokens_used"] == len("Warm, calm narrator.") + len(COVERAGE_PHRASE)
    voice = store_client.get(f"/voices/{reply.json()['voice_id']}").json()
    assert voice["voice_description"] == "Warm, calm narrator."
    assert voice["ref_text"] == COVERAGE_PHRASE
    assert voice["duration_s"] > 1
    usage = store_client.get("/usage").json()
    assert usage["voices_created"] == 1
    assert usage["tokens_used_voices"] == reply.json()["tokens_used"]


def test_the_documents_own_body_with_its_comma_too_many_is_taken(store_client: TestClient) -> None:
    body = '{"name": "a", "description": "Friendly,} and [calm,]",\n  }'
    reply = store_client.post("/designvoice", content=body)
    assert reply.status_code == 200, reply.text
    voice = store_client.get(f"/voices/{reply.json()['voice_id']}").json()
    assert voice["voice_description"] == "Friendly,} and [calm,]"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"description": "b"}, "name"),
        ({"name": "a"}, "description"),
        ({"name": "a", "description": "  "}, "description"),
        ({"name": "a", "description": "x" * 10_001}, "description"),
        ({"name": "a", "description": 7}, "description"),
        ({"name": ["a"], "description": "b"}, "name"),
        ({"name": "a", "description": "b", "language": "xx"}, "language"),
        ({"name": "a", "description": "b", "seed": -1}, "seed"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    store_client: TestClient, body: dict[str, Any], param: str
) -> None:
    reply = store_client.post("/designvoice", content=json.dumps(body))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_without_a_store_these_routes_say_so(client: TestClient) -> None:
    assert "store" in clone(client).json()["detail"]
    assert client.get("/voices").status_code == 400
