"""What /v1/audio/transcriptions answers to requests that fit."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from fake_server import make_tone
from fastapi.testclient import TestClient

from qwen3_audio.audio.encode import encode_whole
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.fake import FakeBackend
from qwen3_audio.types import ModelKind, TranscriptionRequest

ROUTE = "/v1/audio/transcriptions"


def transcribe(client: TestClient, sound: bytes, name: str = "a.wav", **form: Any) -> Any:
    reply = client.post(ROUTE, files={"file": (name, sound)}, data=form)
    assert reply.status_code == 200, reply.text
    return reply


def heard(backend: FakeBackend) -> TranscriptionRequest:
    assert isinstance(backend.last_request, TranscriptionRequest)
    return backend.last_request


def test_json_holds_text_language_and_duration(client: TestClient) -> None:
    reply = transcribe(client, make_tone(2.0))
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-model"] == "fake-asr"
    assert reply.json() == {
        "text": "the quick brown fox",
        "languages": [{"code": "en"}],
        "usage": {"type": "duration", "seconds": 2.0},
    }


def test_text_is_nothing_but_the_text(client: TestClient) -> None:
    reply = transcribe(client, make_tone(1.0), response_format="text")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text == "the quick"


def test_verbose_json_has_every_field_as_a_number(client: TestClient) -> None:
    answer = transcribe(client, make_tone(45.0, 8000), response_format="verbose_json").json()
    assert (answer["task"], answer["language"], answer["duration"]) == (
        *("transcribe", "english"),
        45.0,
    )
    assert len(answer["segments"]) == 2
    number_fields = {"id", "seek", "start", "end", "temperature"}
    number_fields |= {"avg_logprob", "compression_ratio", "no_speech_prob"}
    for index, segment in enumerate(answer["segments"]):
        assert set(segment) == number_fields | {"text", "tokens"}
        assert all(isinstance(segment[name], int | float) for name in number_fields)
        assert all(isinstance(token, int) for token in segment["tokens"])
        assert segment["id"] == index
    assert (answer["segments"][1]["start"], answer["segments"][1]["seek"]) == (30.0, 3000)
    assert answer["usage"] == {"type": "duration", "seconds": 45.0}


def test_subtitles_number_and_stamp_the_segments(client: TestClient) -> None:
    sound = make_tone(45.0, 8000)
    srt = transcribe(client, sound, response_format="srt").text
    assert srt.startswith("1\n00:00:00,000 --> 00:00:30,000\nthe quick")
    assert "\n\n2\n00:00:30,000 --> 00:00:45,000\n" in srt
    vtt = transcribe(client, sound, response_format="vtt").text
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:30.000\n")


def test_a_stream_of_events_adds_up_to_the_text(client: TestClient) -> None:
    reply = transcribe(client, make_tone(2.0), stream="true")
    assert reply.headers["content-type"].startswith("text/event-stream")
    *deltas, done = [json.loads(line[6:]) for line in reply.text.splitlines() if line]
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == done["text"] == "the quick brown fox"
    assert done["type"] == "transcript.text.done"
    assert done["usage"]["type"] == "tokens"
    assert done["usage"]["output_tokens"] == 4


def test_a_stream_says_when_it_breaks_off(client: TestClient) -> None:
    reply = transcribe(client, make_tone(2.0), stream="true", prompt="BOOM-LATE")
    assert '"delta": "the"' in reply.text
    last = json.loads(reply.text.splitlines()[-2][6:])
    assert last["error"]["code"] == "generation_failed"


@pytest.mark.parametrize("word", [" JSON ", "Verbose_Json", "TEXT"])
def test_a_format_may_be_written_in_any_case(client: TestClient, word: str) -> None:
    transcribe(client, make_tone(1.0), response_format=word)


@pytest.mark.parametrize(
    ("value", "language"),
    [
        ("en", "English"),
        ("English", "English"),
        ("cn", "Chinese"),
        ("de-AT", "German"),
        ("auto", None),
        ("", None),
        (None, None),
    ],
)
def test_a_language_may_be_a_name_or_a_code(
    client: TestClient, backend: FakeBackend, value: str | None, language: str | None
) -> None:
    transcribe(client, make_tone(1.0), **({} if value is None else {"language": value}))
    assert heard(backend).language == language


def test_one_candidate_language_is_a_hint_and_several_are_none(
    client: TestClient, backend: FakeBackend
) -> None:
    transcribe(client, make_tone(1.0), **{"languages[]": ["de"]})
    assert heard(backend).language == "German"
    transcribe(client, make_tone(1.0), **{"languages[]": ["de", "fr"]})
    assert heard(backend).language is None


def test_prompt_and_keywords_are_the_context(client: TestClient, backend: FakeBackend) -> None:
    transcribe(client, make_tone(1.0), prompt=" Notes. ", **{"keywords[]": ["Qwen", "Ono Anna"]})
    assert heard(backend).context == "Notes.\nQwen, Ono Anna"
    for spelt in ('["Qwen", "Ono Anna"]', "Qwen, Ono Anna"):
        transcribe(client, make_tone(1.0), hotwords=spelt)
        assert heard(backend).context == "Qwen, Ono Anna"


def test_temperature_is_passed_on_and_is_zero_by_default(
    client: TestClient, backend: FakeBackend
) -> None:
    transcribe(client, make_tone(1.0), temperature="0.7")
    assert heard(backend).sampling.temperature == 0.7
    transcribe(client, make_tone(1.0))
    assert heard(backend).sampling.temperature == 0.0


def test_what_is_heard_is_16_khz(client: TestClient, backend: FakeBackend) -> None:
    transcribe(client, make_tone(1.5, 48_000))
    assert len(heard(backend).samples) == 24_000


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav"])
def test_the_content_decides_and_not_the_name(client: TestClient, name: str) -> None:
    time_s = np.arange(48_000) / 24_000
    samples = (0.3 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)
    reply = transcribe(client, encode_whole(name, samples), name="wrong.txt")
    assert reply.json()["text"] == "the quick brown fox"


@pytest.mark.parametrize(
    "num_samples", [0, 1, 1_599, 32_000], ids=["none", "one", "under 0.1 s", "digital silence"]
)
def test_where_nothing_can_be_said_the_text_is_empty_and_no_model_works(
    client: TestClient, backend: FakeBackend, num_samples: int
) -> None:
    sound = wav_bytes(np.zeros(num_samples, np.float32), 16_000)
    assert transcribe(client, sound).json()["text"] == ""
    assert transcribe(client, sound, response_format="verbose_json").json()["segments"] == []
    assert '"transcript.text.done"' in transcribe(client, sound, stream="true").text
    assert backend.last_request is None


def test_sound_may_come_inside_json(client: TestClient, backend: FakeBackend) -> None:
    sound = {"data": base64.b64encode(make_tone(2.0)).decode(), "format": "wav"}
    reply = client.post(ROUTE, json={"model": "x", "language": "fr", "input_audio": sound})
    assert reply.json()["text"] == "the quick brown fox"
    assert heard(backend).language == "French"


def test_words_are_not_timed_and_the_answer_says_so(client: TestClient) -> None:
    form = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    reply = transcribe(client, make_tone(1.0), **form)
    assert "word time stamps" in reply.headers["warning"]
    segments_only = {**form, "timestamp_granularities[]": ["segment"]}
    assert "warning" not in transcribe(client, make_tone(1.0), **segments_only).headers


def test_the_route_also_answers_without_v1(client: TestClient) -> None:
    reply = client.post("/audio/transcriptions", files={"file": ("a.wav", make_tone(1.0))})
    assert reply.json()["text"] == "the quick"


def test_only_the_asr_checkpoint_is_needed(make_client: Any) -> None:
    client = make_client(FakeBackend(kinds=[ModelKind.ASR]))
    assert transcribe(client, make_tone(1.0)).json()["text"] == "the quick"
