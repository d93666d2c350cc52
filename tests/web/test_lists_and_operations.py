"""Lists, health, figures, documentation, CORS, HEAD: what surrounds the two main routes."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
from fake_server import LiveServer, make_tone
from fastapi.testclient import TestClient
from route_table import every_name, without_v1

from qwen3_audio.fake import FakeBackend
from qwen3_audio.types import ModelInfo, ModelKind
from qwen3_audio.web.docs import STATIC


def test_models_are_listed_by_general_and_by_folder_name(client: TestClient) -> None:
    answer = client.get("/v1/models").json()
    names = [model["id"] for model in answer["data"]]
    assert names[:2] == ["qwen3-tts", "qwen3-asr"]
    assert {"fake-custom-voice", "fake-voice-design", "fake-base", "fake-asr"} < set(names)
    for model in answer["data"]:
        assert (model["object"], model["shutdown_date"]) == ("model", None)
        assert isinstance(model["created"], int)


def test_only_what_is_loaded_is_listed(make_client: Any) -> None:
    client = make_client(FakeBackend(kinds=[ModelKind.ASR]))
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["qwen3-asr", "fake-asr"]
    assert client.get("/v1/audio/voices").json()["voices"] == []


def test_one_model_is_found_by_its_name(client: TestClient) -> None:
    assert client.get("/v1/models/qwen3-tts").json()["id"] == "qwen3-tts"
    for name in ("Qwen/Qwen3-ASR-1.7B", "Qwen%2FQwen3-ASR-1.7B", "nope", ""):
        reply = client.get(f"/v1/models/{name}", follow_redirects=False)
        if name:
            assert reply.status_code == 404
            assert reply.json()["error"]["code"] == "model_not_found"


def test_voice_pickers_get_objects_or_bare_names(client: TestClient) -> None:
    answer = client.get("/v1/audio/voices?model=x").json()
    assert answer["data"] == answer["voices"]
    assert {"Vivian", "Uncle_Fu", "alloy", "cedar"} < {voice["id"] for voice in answer["voices"]}
    assert all(voice["object"] == "audio.voice" for voice in answer["voices"])
    assert (answer["uploaded_voices"], answer["has_more"]) == ([], False)
    for query in ("names_only=true", "legacy=true"):
        bare = client.get(f"/v1/audio/voices?{query}").json()["voices"]
        assert bare == [voice["name"] for voice in answer["voices"]]
    assert len(answer["voices"]) == 9 + 13


def test_every_listed_voice_speaks(make_client: Any) -> None:
    client = make_client(FakeBackend(speakers=("anna", "vivian", "alloy")))
    names = client.get("/v1/audio/voices?names_only=1").json()["voices"]
    assert names[:3] == ["anna", "Vivian", "alloy"]
    assert len(names) == len(set(names)) == 3 + 12
    for name in names:
        reply = client.post("/v1/audio/speech", json={"input": "hi", "voice": name})
        assert reply.status_code == 200


def test_audio_models_have_names(client: TestClient) -> None:
    answer = client.get("/v1/audio/models").json()
    assert {"id": "qwen3-tts", "name": "qwen3-tts"} in answer["models"]


@pytest.mark.parametrize("path", ["/models", "/audio/models", "/audio/voices", "/v1/", "/v1"])
def test_lists_also_answer_where_clients_knock(client: TestClient, path: str) -> None:
    assert client.get(path, follow_redirects=False).status_code == 200


def test_health_is_at_the_root_only(client: TestClient) -> None:
    for path in ("/health", "/healthz", "/livez"):
        assert client.get(path).json() == {"status": "ok"}
    for path in ("/ready", "/readyz"):
        assert client.get(path).json() == {"status": "ready"}


def test_a_server_whose_engine_is_broken_is_neither_well_nor_ready(make_client: Any) -> None:
    class Broken(FakeBackend):
        def trouble(self) -> str | None:
            return "The GPU has stopped working"

    client = make_client(Broken())
    health, ready = client.get("/health"), client.get("/ready")
    assert (health.status_code, ready.status_code) == (503, 503)
    assert health.json() == {"status": "broken", "reason": "The GPU has stopped working"}
    assert ready.json()["reasons"] == ["The GPU has stopped working"]


def test_models_say_how_many_requests_fit_at_once(make_client: Any) -> None:
    class Planned(FakeBackend):
        def models(self) -> list[ModelInfo]:
            return [replace(model, max_streams=64) for model in super().models()]

    for backend, expected in ((Planned(), 64), (FakeBackend(), None)):
        answer = make_client(backend).get("/v1/models").json()
        assert {model["max_streams"] for model in answer["data"]} == {expected}


def test_without_a_model_the_server_is_not_ready_and_says_why(make_client: Any) -> None:
    reply = make_client(FakeBackend(kinds=[])).get("/ready")
    assert reply.status_code == 503
    assert reply.json() == {"status": "not_ready", "reasons": ["no model is loaded"]}


def test_a_server_that_shuts_down_is_not_ready(client: TestClient) -> None:
    client.app.state.service.is_closing = True  # type: ignore[attr-defined]
    assert client.get("/ready").json()["reasons"] == ["the server is shutting down"]


def figures(client: TestClient) -> dict[str, float]:
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    rows = [line.rsplit(" ", 1) for line in reply.text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in rows}


def test_figures_count_requests_orders_and_frames(client: TestClient) -> None:
    client.post("/v1/audio/speech", json={"input": "one two", "response_format": "wav"})
    client.post("/v1/audio/speech", json={"input": ""})
    client.post("/v1/audio/speech", json={"input": "one BOOM-LATE", "response_format": "wav"})
    client.post("/v1/audio/transcriptions", files={"file": ("a.wav", make_tone(2.0))})
    found = figures(client)
    route = 'route="/v1/audio/speech"'
    assert found[f'qwen3_audio_requests_total{{{route},status="200"}}'] == 1
    assert found[f'qwen3_audio_requests_total{{{route},status="400"}}'] == 1
    assert found[f'qwen3_audio_requests_total{{{route},status="500"}}'] == 1
    assert found['qwen3_audio_orders_total{outcome="done",work="speech"}'] == 1
    assert found['qwen3_audio_orders_total{outcome="failed",work="speech"}'] == 1
    assert found['qwen3_audio_orders_total{outcome="done",work="transcription"}'] == 1
    assert found['qwen3_audio_audio_seconds_total{work="transcription"}'] == 2
    assert found['qwen3_audio_first_seconds_count{work="speech"}'] == 1
    assert found['qwen3_audio_realtime_factor_count{work="speech"}'] == 1
    assert found['qwen3_audio_steps_total{kind="custom_voice"}'] == 8
    assert found['qwen3_audio_ended_total{kind="custom_voice",reason="stop"}'] == 1
    assert found['qwen3_audio_slots{kind="asr"}'] == 64
    assert found['qwen3_audio_running{kind="custom_voice"}'] == 0
    assert found["qwen3_audio_requests_in_flight"] == 1  # the one that asks


def test_invented_addresses_do_not_grow_the_figures(client: TestClient) -> None:
    for number in range(3):
        client.get(f"/invented/{number}")
    assert figures(client)['qwen3_audio_requests_total{route="none",status="404"}'] == 3


def test_two_apps_count_for_themselves(make_client: Any) -> None:
    first, second = make_client(), make_client()
    first.get("/health")
    assert not any("/health" in name for name in figures(second))


def test_every_request_has_an_id_and_a_duration(client: TestClient) -> None:
    replies = [client.get("/health"), client.get("/nope"), client.get("/health")]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 3
    assert all(int(reply.headers["openai-processing-ms"]) >= 0 for reply in replies)


def test_head_is_get_without_a_body(client: TestClient) -> None:
    for path in ("/health", "/v1/models", "/docs", "/openapi.json", "/nope"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/v1/audio/speech").status_code == 405


def test_browsers_of_any_origin_may_call_in_local_mode(client: TestClient) -> None:
    asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    reply = client.options("/v1/audio/speech", headers=asked)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    spoken = client.post("/v1/audio/speech", json={"input": "hi"}, headers={"Origin": "http://a"})
    assert spoken.headers["access-control-allow-origin"] == "*"
    assert "X-Seed" in spoken.headers["access-control-expose-headers"]
    refused = client.post("/v1/audio/speech", json={}, headers={"Origin": "http://a"})
    assert refused.headers["access-control-allow-origin"] == "*"


def test_only_named_origins_may_call_where_some_are_named(make_client: Any) -> None:
    client = make_client(cors_origins=("https://good.example",))
    for origin, is_allowed in (("https://good.example", True), ("https://bad.example", False)):
        reply = client.get("/health", headers={"Origin": origin})
        assert ("access-control-allow-origin" in reply.headers) is is_allowed


# Documentation


def test_docs_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert link == "data:," or client.get(f"/{link}").status_code == 200
    assert "http" not in page.replace("http-equiv", "")


def test_every_route_under_v1_is_there_without_it() -> None:
    names = every_name()
    under_v1 = {name for name in names if "/v1/" in name} - {"GET /v1/"}
    assert len(under_v1) > 15
    assert {without_v1(name) for name in under_v1} <= names


def test_vendored_files_are_what_their_note_says() -> None:
    rows = re.findall(r"^\| (\S+\.(?:js|css)) \|.*\| ([0-9a-f]{64}) \|$",
                      (STATIC / "VENDORED.md").read_text(), re.MULTILINE)  # fmt: skip
    assert {name for name, _ in rows} == {"swagger-ui-bundle.js", "swagger-ui.css"}
    for name, digest in rows:
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 2_000_000


def test_the_schema_documents_bodies_and_refusals(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    for path in ("/v1/audio/speech", "/v1/audio/transcriptions"):
        operation = schema["paths"][path]["post"]
        content = operation["requestBody"]["content"]
        assert set(content) == {"application/json", "multipart/form-data"}
        assert {"200", "400", "413", "503"} <= set(operation["responses"])
    assert '"422"' not in json.dumps(schema)
    assert not any(path.startswith("/audio/") for path in schema["paths"])


def test_the_web_side_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None;"
        "import qwen3_audio.web.app, qwen3_audio.service, qwen3_audio.fake"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_connection_survives_head(live: LiveServer) -> None:
    """Only a real server notices a body that is missing."""
    with httpx.Client(base_url=live.url) as client:
        for path in ("/health", "/v1/models", "/nowhere"):
            got, head = client.get(path), client.head(path)
            assert head.status_code == got.status_code
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
            assert head.content == b""
        assert client.get("/health").status_code == 200


def test_two_checkpoints_in_folders_of_one_name_are_told_apart(
    make_client: Any, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [replace(model, name="checkpoint") for model in backend.models()]
    monkeypatch.setattr(backend, "models", lambda: models)
    client = make_client(backend)
    ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert len(set(ids)) == len(ids)
    for name in ids:
        assert client.get(f"/v1/models/{name}").json()["id"] == name
