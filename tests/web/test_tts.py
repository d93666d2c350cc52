"""/tts, /batchtts and what they keep."""

import http.client
import io
import json
import zipfile
from typing import Any

import httpx2
import pytest
from fake_server import LiveServer, as_user, wait_for
from fastapi.testclient import TestClient
from test_voices import make_voice

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.fake import FakeBackend
from qwen3_audio.store import runtime_stats
from qwen3_audio.store.db import Database
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import batches, generations
from qwen3_audio.types import SPEECH_RATE_HZ, SpeechRequest

HELLO = "Hello from the TTS server."


@pytest.fixture
def voice_id(store_client: TestClient) -> int:
    return make_voice(store_client)


def tts(client: TestClient, voice_id: object, text: object = HELLO, **fields: Any) -> Any:
    return client.post("/tts", json={"text": text, "voice_id": voice_id, **fields})


def batch(client: TestClient, voice_id: object, texts: object, **fields: Any) -> Any:
    return client.post("/batchtts", json={"texts": texts, "voice_id": voice_id, **fields})


def unpack(reply: Any) -> tuple[dict[str, bytes], dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    return files, json.loads(files.pop("manifest.json"))


def rows(db: Database, table: Any) -> list[Any]:
    with db.read() as conn:
        return list(conn.execute(table.select().order_by(*table.primary_key)))


def seconds(data: bytes) -> float:
    samples = decode_audio(data, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=600)
    return len(samples) / SPEECH_RATE_HZ


def test_a_text_is_spoken_with_the_documented_headers(
    store_client: TestClient, store: Store, voice_id: int
) -> None:
    reply = tts(store_client, voice_id, f"  {HELLO}\n")
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "audio/wav"
    assert reply.headers["content-disposition"] == 'attachment; filename="tts.wav"'
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert reply.headers["x-tokens-used"] == str(len(HELLO))
    assert int(reply.headers["x-latency-ms"]) >= 0
    (row,) = rows(store.db, generations)
    assert reply.headers["x-generation-id"] == str(row.generation_id)
    assert reply.headers["x-seed"] == str(row.seed)
    assert (row.status, row.tokens, row.route) == ("done", len(HELLO), "tts")
    assert (row.text, row.audio_sha256) == (None, None)
    assert row.audio_ms == round(1000 * seconds(reply.content))
    assert store_client.get(f"/voices/{voice_id}").json()["use_count"] == 1
    usage = store_client.get("/usage").json()
    assert (usage["tokens_used_tts"], usage["tts_calls"]) == (len(HELLO), 1)


def test_header_names_are_capitalised_on_the_wire(
    live_store_server: LiveServer, make_key: Any, alice: int
) -> None:
    headers = as_user(make_key(alice))
    with httpx2.Client(base_url=live_store_server.url, headers=headers) as client:
        number = make_voice(client)  # type: ignore[arg-type]
    connection = http.client.HTTPConnection("127.0.0.1", live_store_server.port)
    body = json.dumps({"text": "a", "voice_id": number})
    connection.request("POST", "/tts", body, {**headers, "Content-Type": "application/json"})
    names = {name for name, _ in connection.getresponse().getheaders()}
    connection.close()
    assert {"X-Generation-Id", "X-Tokens-Used", "X-Latency-Ms", "X-Seed"} <= names


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_what_it_says(store_client: TestClient, voice_id: int, name: str) -> None:
    reply = tts(store_client, voice_id, format=f" {name.upper()} ", seed=1)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == FORMATS[name].content_type
    if name != "pcm":
        assert seconds(reply.content) > 0.5


def test_a_seed_makes_the_same_sound_again(store_client: TestClient, voice_id: int) -> None:
    first = tts(store_client, voice_id)
    again = tts(store_client, voice_id, seed=int(first.headers["x-seed"]))
    assert first.content == again.content


def test_the_engine_gets_what_was_asked_for(
    store: Store, backend: FakeBackend, make_client: Any
) -> None:
    client = make_client(backend, store=store)
    german = make_voice(client, language="de")
    tts(client, german, temperature=0.5, top_k=3, max_new_tokens=2, language="auto")
    request = backend.last_request
    assert isinstance(request, SpeechRequest)
    assert request.language == "German"
    assert (request.sampling.temperature, request.sampling.top_k, request.max_frames) == (0.5, 3, 2)
    assert request.voice_prompt is not None
    assert request.voice_prompt.text == "The quick, brown fox jumped over the lazy dog"
    assert request.voice_prompt.codes is not None
    tts(client, german, language="French")
    assert isinstance(backend.last_request, SpeechRequest)
    assert backend.last_request.language == "French"


def test_what_was_stored_comes_back_byte_by_byte_until_it_is_deleted(
    store_client: TestClient, voice_id: int
) -> None:
    reply = tts(store_client, voice_id, store=True, format="mp3")
    number = reply.headers["x-generation-id"]
    tts(store_client, voice_id)
    address = f"/getstored/{number}"
    stored = store_client.get(address)
    assert stored.content == reply.content
    assert stored.headers["content-type"] == "audio/mpeg"
    assert store_client.get(address, headers={"Range": "bytes=1-3"}).content == reply.content[1:4]
    listed = store_client.get("/generations", params={"stored": "true"}).json()
    assert [row["generation_id"] for row in listed["data"]] == [int(number)]
    assert store_client.get(f"/generations/{number}").json()["text"] == HELLO
    assert store_client.delete(address).json() == {"status": "deleted"}
    assert store_client.delete(address).status_code == 404
    assert store_client.get(address).status_code == 404
    assert store_client.get(f"/generations/{number}").json()["text"] is None
    assert len(store_client.get("/generations").json()["data"]) == 2


def test_unstored_speech_can_not_be_fetched(store_client: TestClient, voice_id: int) -> None:
    number = tts(store_client, voice_id).headers["x-generation-id"]
    assert store_client.get(f"/getstored/{number}").status_code == 404
    for odd in ("x", "-1", "9" * 30):
        assert store_client.get(f"/getstored/{odd}").status_code == 404
        assert store_client.get(f"/generations/{odd}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": None}, "text"),
        ({"text": " \n "}, "text"),
        ({"text": "x" * 3001}, "text"),
        ({"text": ["a", "b"]}, "text"),
        ({"text": 7}, "text"),
        ({"voice_id": None}, "voice_id"),
        ({"voice_id": "x"}, "voice_id"),
        ({"voice_id": 0}, "voice_id"),
        ({"voice_id": -1}, "voice_id"),
        ({"voice_id": 2**63}, "voice_id"),
        ({"voice_id": 1.5}, "voice_id"),
        ({"voice_id": [1]}, "voice_id"),
        ({"format": "exe"}, "format"),
        ({"language": "Klingon"}, "language"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"store": "maybe"}, "store"),
        ({"seed": -1}, "seed"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    store_client: TestClient, voice_id: int, fields: dict[str, Any], param: str
) -> None:
    body = {"text": HELLO, "voice_id": voice_id, **fields}
    reply = store_client.post("/tts", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert store_client.get("/generations").json()["data"] == []


def test_an_unknown_voice_is_not_found_before_any_work(store_client: TestClient) -> None:
    assert tts(store_client, 2**62).status_code == 404
    assert batch(store_client, 2**62, ["a", "b"]).status_code == 404
    assert store_client.get("/generations").json()["data"] == []


def test_a_failure_is_booked_free_and_told(store_client: TestClient, voice_id: int) -> None:
    for text in ("BOOM", "one BOOM-LATE"):
        assert tts(store_client, voice_id, text, store=True).status_code == 500
    wait_for(lambda: len(store_client.get("/generations").json()["data"]) == 2)
    shown = store_client.get("/generations").json()["data"]
    assert [(row["status"], row["tokens_used"], row["stored"]) for row in shown] == [
        ("failed", 0, False)
    ] * 2
    assert store_client.get("/usage").json()["tokens_used_tts"] == 0
    assert store_client.get(f"/voices/{voice_id}").json()["use_count"] == 0


def test_a_guards_end_is_tried_again_with_the_next_seed(store: Store, make_client: Any) -> None:
    client = make_client(store=store, seed=4)
    reply = tts(client, make_voice(client), "a LOOP b")
    assert (reply.headers["x-seed"], reply.headers["x-finish-reason"]) == ("5", "stop")


def test_a_batch_is_a_zip_with_a_manifest(store_client: TestClient, voice_id: int) -> None:
    reply = batch(store_client, voice_id, ["First line.", " Second one. ", "Third."], seed=7)
    files, manifest = unpack(reply)
    assert reply.headers["content-type"] == "application/zip"
    assert list(files) == ["0.wav", "1.wav", "2.wav"]
    chars = [11, 11, 6]
    assert manifest["tokens_used"] == int(sum(chars) * 0.9)
    assert reply.headers["x-tokens-used"] == str(manifest["tokens_used"])
    assert reply.headers["x-batch-discount-used"] == "0.9"
    assert reply.headers["x-batch-id"] == str(manifest["batch_id"])
    assert reply.headers["x-latency-ms"] == reply.headers["x-latency-ms-total"]
    assert int(reply.headers["x-latency-ms-total"]) == manifest["latency_ms_total"]
    assert manifest["batch_discount_used"] == 0.9
    assert (manifest["format"], manifest["language"], manifest["store"]) == (
        "wav",
        "English",
        False,
    )
    items = manifest["items"]
    assert [item["generation_id"] for item in items] == manifest["generation_ids"]
    assert [item["filename"] for item in items] == list(files)
    assert [item["status"] for item in items] == ["done"] * 3
    assert [item["seed"] for item in items] == [7, 8, 9]
    assert sum(item["tokens"] for item in items) == manifest["tokens_used"]
    for item in items:
        assert item["duration_s"] == pytest.approx(seconds(files[item["filename"]]), abs=0.001)
    usage = store_client.get("/usage").json()
    assert (usage["tokens_used_batch"], usage["batch_calls"]) == (manifest["tokens_used"], 1)
    assert usage["tts_calls"] == 0
    assert store_client.get(f"/voices/{voice_id}").json()["use_count"] == 3


def test_a_batchs_texts_are_in_the_engine_at_the_same_time(store: Store, make_client: Any) -> None:
    class Watched(FakeBackend):
        num_most = 0

        async def speak(self, request: SpeechRequest) -> Any:
            async for item in super().speak(request):
                self.num_most = max(self.num_most, sum(r.num_running for r in self.stats()))
                yield item

    backend = Watched()
    client = make_client(backend, store=store)
    unpack(batch(client, make_voice(client), [f"Text {n} of fifty." for n in range(50)]))
    assert backend.num_most == 50


def test_a_stored_batch_gives_back_each_file(store_client: TestClient, voice_id: int) -> None:
    reply = batch(
        store_client, voice_id, ["One.", "One.", "Two."], store=True, format="ogg", seed=1
    )
    files, manifest = unpack(reply)
    assert list(files) == ["0.ogg", "1.ogg", "2.ogg"]
    for name, number in zip(files, manifest["generation_ids"], strict=True):
        assert store_client.get(f"/getstored/{number}").content == files[name]
    found = store_client.get("/generations", params={"batch_id": manifest["batch_id"]}).json()
    assert [row["generation_id"] for row in found["data"]] == manifest["generation_ids"][::-1]


def test_a_text_that_fails_fails_alone_and_is_free(
    store_client: TestClient, store: Store, voice_id: int
) -> None:
    files, manifest = unpack(batch(store_client, voice_id, ["Good one.", "BOOM", "Fine."]))
    assert list(files) == ["0.wav", "2.wav"]
    good, bad, fine = manifest["items"]
    assert (good["status"], bad["status"], fine["status"]) == ("done", "failed", "done")
    assert (bad["filename"], bad["tokens"], bad["duration_s"]) == (None, 0, None)
    assert bad["error"]
    assert manifest["tokens_used"] == int((9 + 5) * 0.9)
    assert [row.status for row in rows(store.db, generations)] == ["done", "failed", "done"]
    assert store_client.get(f"/voices/{voice_id}").json()["use_count"] == 2


def test_a_batch_in_which_all_fail_is_an_error_and_free(
    store_client: TestClient, store: Store, voice_id: int
) -> None:
    assert batch(store_client, voice_id, ["BOOM", "a BOOM"]).status_code == 500
    wait_for(lambda: len(rows(store.db, batches)) == 1)
    (row,) = rows(store.db, batches)
    assert (row.status, row.tokens) == ("failed", 0)
    assert [row.status for row in rows(store.db, generations)] == ["failed"] * 2
    assert store_client.get("/usage").json()["batch_calls"] == 0


@pytest.mark.parametrize(
    "texts",
    [
        [],
        ["one"],
        ["x"] * 51,
        ["good", " ", "good"],
        ["good", None],
        ["good", 7],
        ["good", ["nested"]],
        ["good", "x" * 3001],
        "a text",
        {"a": "b"},
        None,
    ],
)
def test_a_bad_text_fails_the_batch_before_any_work(
    store_client: TestClient, voice_id: int, texts: object
) -> None:
    reply = batch(store_client, voice_id, texts)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith("texts")
    assert store_client.get("/generations").json()["data"] == []


def test_the_original_name_of_the_list_is_taken_too(
    store_client: TestClient, voice_id: int
) -> None:
    reply = store_client.post("/batchtts", json={"text": ["a", "b"], "voice_id": voice_id})
    assert len(unpack(reply)[0]) == 2


def test_the_discount_is_learnt_and_survives_a_restart(store: Store, make_client: Any) -> None:
    client = make_client(store=store)
    voice_id = make_voice(client)
    with store.db.write() as conn:  # single texts took a second a character, batches never do
        runtime_stats.save_stats(conn, {runtime_stats.SINGLE_MS_PER_CHAR: 1000.0})
    used = [
        unpack(batch(client, voice_id, ["one", "two"]))[1]["batch_discount_used"] for _ in range(2)
    ]
    assert used == [0.87, 0.843]
    again = make_client(store=store)
    assert unpack(batch(again, voice_id, ["BOOM", "a", "b"]))[1]["batch_discount_used"] == 0.843


def test_single_texts_teach_how_long_a_character_takes(
    store_client: TestClient, store: Store, voice_id: int
) -> None:
    tts(store_client, voice_id)
    with store.db.read() as conn:
        assert runtime_stats.read_stats(conn)[runtime_stats.SINGLE_MS_PER_CHAR] is not None


def test_a_full_disk_is_told_and_leaves_nothing(
    store_client: TestClient, store: Store, voice_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("qwen3_audio.store.files._write_synced", refuse)
        for reply in (
            tts(store_client, voice_id, store=True),
            batch(store_client, voice_id, ["a", "b"], store=True),
        ):
            assert reply.status_code == 507
            assert "full" in reply.json()["detail"]
    shown = store_client.get("/generations").json()["data"]
    assert {(row["status"], row["tokens_used"]) for row in shown} == {("failed", 0)}
    assert store_client.get("/usage").json()["tokens_used_total"] == len(
        store_client.get(f"/voices/{voice_id}").json()["ref_text"]
    )
    assert tts(store_client, voice_id, store=True).status_code == 200


def test_speech_of_a_deleted_voice_stays(store_client: TestClient, voice_id: int) -> None:
    reply = tts(store_client, voice_id, store=True)
    store_client.delete(f"/voices/{voice_id}")
    assert tts(store_client, voice_id).status_code == 404
    address = f"/getstored/{reply.headers['x-generation-id']}"
    assert store_client.get(address).content == reply.content
