"""Requests as the clients of the wild send them, replayed."""

import base64
import json
from typing import Any

import pytest
from fake_server import make_tone
from fastapi.testclient import TestClient

from qwen3_audio.fake import FakeBackend
from qwen3_audio.types import SpeechRequest, TranscriptionRequest

SPEECH, TRANSCRIPTIONS = "/v1/audio/speech", "/v1/audio/transcriptions"
STREAMED = {"x-stainless-raw-response": "stream", "Accept": "application/octet-stream"}


def is_mp3(data: bytes) -> bool:
    return data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and b"Xing" not in data


def test_livekit_speaks(client: TestClient) -> None:
    assert client.get("/v1/").status_code == 200
    body = {"input": "hello", "model": "gpt-4o-mini-tts", "voice": "ash", "speed": 1.0}
    body |= {"response_format": "mp3", "stream_format": "sse", "instructions": "Calm."}
    reply = client.post(SPEECH, json=body, headers=STREAMED)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    *deltas, done = [json.loads(line[6:]) for line in lines]
    assert is_mp3(b"".join(base64.b64decode(event["audio"]) for event in deltas))
    assert set(done["usage"]) >= {"input_tokens", "output_tokens", "total_tokens"}


def test_livekit_and_pipecat_listen(client: TestClient, backend: FakeBackend) -> None:
    for name, form in (
        ("file.wav", {"model": "gpt-4o-mini-transcribe", "language": "en", "prompt": ""}),
        ("audio.wav", {"model": "gpt-transcribe", "language": "en", "include[]": "logprobs"}),
    ):
        form |= {"response_format": "json"}
        file = (name, make_tone(2.0), "audio/wav")
        reply = client.post(TRANSCRIPTIONS, data=form, files={"file": file})
        assert reply.json()["text"]
        assert reply.json()["languages"][0]["code"] == "en"
        assert isinstance(backend.last_request, TranscriptionRequest)
        assert backend.last_request.language == "English"
    form = {"model": "whisper-1", "response_format": "verbose_json"}
    answer = client.post(TRANSCRIPTIONS, data=form, files={"file": ("file.wav", make_tone(2.0))})
    assert answer.json()["language"] == "english"


def test_pipecat_speaks(client: TestClient) -> None:
    body = {"input": "hello", "model": "gpt-4o-mini-tts", "voice": "ballad"}
    reply = client.post(SPEECH, json=body | {"response_format": "pcm"}, headers=STREAMED)
    media_type, *parameters = reply.headers["content-type"].split(";")
    assert media_type == "audio/pcm"
    assert "rate=24000" in parameters
    assert len(reply.content) % 2 == 0


def test_vercel_ai_sdk(client: TestClient) -> None:
    body = {"model": "tts-1", "input": "hi", "voice": "alloy", "response_format": "mp3"}
    assert is_mp3(client.post(SPEECH, json=body).content)
    form = {"model": "whisper-1", "response_format": "verbose_json", "temperature": "0"}
    file = ("audio.wav", make_tone(2.0), "audio/wav")
    form |= {"timestamp_granularities[]": "segment"}
    answer = client.post(TRANSCRIPTIONS, data=form, files={"file": file}).json()
    assert isinstance(answer["duration"], float)
    assert answer["language"] == answer["language"].lower()
    assert None not in answer["segments"][0].values()


def test_open_webui(client: TestClient, backend: FakeBackend) -> None:
    for path, key in (("/v1/audio/models", "models"), ("/v1/audio/voices", "voices")):
        entries = client.get(path).json()[key]
        assert all({"id", "name"} <= set(entry) for entry in entries)
    assert client.get("/v1/models").json()["data"]
    body = {"input": "One sentence.", "voice": "alloy", "model": "tts-1", "extra": {"a": 1}}
    assert is_mp3(client.post(SPEECH, json=body).content)
    form = {"model": "whisper-1", "language": "de"}
    file = ("recording.webm", make_tone(1.0), "audio/webm")
    assert client.post(TRANSCRIPTIONS, data=form, files={"file": file}).json()["text"]
    sound = {"data": base64.b64encode(make_tone(1.0)).decode(), "format": "wav"}
    inline = {"model": "whisper-1", "language": "de", "input_audio": sound}
    assert client.post(TRANSCRIPTIONS, json=inline).json()["text"]
    assert isinstance(backend.last_request, TranscriptionRequest)
    assert backend.last_request.language == "German"


def test_home_assistant(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "tts-1", "input": "hi", "voice": "nova", "response_format": "wav"}
    client.post(SPEECH, json=body | {"speed": 1.0, "instructions": "None"})
    assert isinstance(backend.last_request, SpeechRequest)
    assert backend.last_request.instructions is None
    wyoming = client.post(SPEECH, json=body, headers=STREAMED)
    assert wyoming.content[:8] == b"RIFF\xff\xff\xff\xff"


def test_wyoming_openai_takes_us_for_openai(client: TestClient) -> None:
    assert client.get("/v1/readyz").status_code == 404  # else it would see LocalAI
    assert client.get("/v1/test").status_code == 404  # else Kokoro
    assert client.get("/health").text != "OK"  # else speaches
    model = client.get("/v1/models/qwen3-tts").json()
    assert model["task"] == "text-to-speech"
    assert {"name": "Vivian", "language": "auto"} in model["voices"]


def test_sillytavern_and_librechat(client: TestClient) -> None:
    body: dict[str, Any] = {"input": "hi", "voice": "alloy", "model": "tts-1", "speed": 1}
    reply = client.post(
        SPEECH, json=body | {"response_format": "mp3"}, headers={"Authorization": "Bearer "}
    )
    assert is_mp3(reply.content)
    parts = [client.post(SPEECH, json=body | {"backend": "x"}).content for _ in range(2)]
    assert all(is_mp3(part) for part in parts)  # it glues them together


@pytest.mark.parametrize("first", ["file", "fields"])
def test_the_order_of_a_forms_fields_is_free(client: TestClient, first: str) -> None:
    file = ("file", ("a", make_tone(1.0), "application/octet-stream"))
    fields = [("response_format", (None, "text")), ("stream", (None, "false"))]
    parts = [file, *fields] if first == "file" else [*fields, file]
    assert client.post(TRANSCRIPTIONS, files=parts).text == "the quick"
    chunking = [("chunking_strategy[type]", (None, "server_vad")), file]
    assert client.post(TRANSCRIPTIONS, files=chunking).status_code == 200


def test_a_delete_without_a_body_is_not_parsed(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    assert client.delete("/v1/models/x", headers=headers).status_code == 405
