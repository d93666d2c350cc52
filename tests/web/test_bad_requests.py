"""Whatever a client gets wrong is a 400 with one sentence that names the field."""

import base64
import struct
from typing import Any

import numpy as np
import pytest
from fake_server import make_tone
from fastapi.testclient import TestClient

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.fake import FakeBackend
from qwen3_audio.languages import OPENAI_VOICES, SPEAKERS
from qwen3_audio.types import ModelKind

SPEECH, TRANSCRIPTIONS = "/v1/audio/speech", "/v1/audio/transcriptions"


def refusal(reply: Any, status: int = 400) -> dict[str, Any]:
    """The error of a reply, whose shape is checked."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"error", "detail"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert body["detail"] == error["message"]
    assert isinstance(error["code"], str)
    assert "Traceback" not in error["message"]
    assert "/tmp" not in error["message"]
    return error


def refuse_speech(client: TestClient, **fields: Any) -> dict[str, Any]:
    return refusal(client.post(SPEECH, json={"input": "hi", **fields}))


def refuse_sound(client: TestClient, sound: bytes, name: str = "a.wav", **form: Any) -> Any:
    return refusal(client.post(TRANSCRIPTIONS, files={"file": (name, sound)}, data=form))


@pytest.mark.parametrize("text", ["", "   \n\t", "\u3000", 5, ["a"], {"a": 1}, True, "x" * 4097])
def test_input_must_be_text_that_fits(client: TestClient, text: Any) -> None:
    assert refuse_speech(client, input=text)["param"] == "input"


def test_input_must_be_there(client: TestClient) -> None:
    for body in ({}, {"input": None}, {"text": "hi"}):
        error = refusal(client.post(SPEECH, json=body))
        assert (error["param"], error["code"]) == ("input", "missing_required_parameter")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("speed", [0.24, 4.01, -1, 0, "abc", "nan", [1], True]),
        ("temperature", [-0.1, 2.1, "hot", "inf", "1_0", "\u0661", 10**400]),
        ("top_p", [-0.1, 1.1, "x"]),
        ("top_k", [-1, 1.5, "x", "1_000", "0x10", "\uff11", 2**31]),
        ("seed", [-1, 2**63, 1.5, "x", 10**50, "9" * 40]),
        ("max_new_tokens", [0, -1, 2.5, "many"]),
        ("sample_rate", [0, 7999, 48_001, 12_345, "x"]),
        ("response_format", ["mp4", "MP5", 3, ["mp3"]]),
        ("stream_format", ["raw", 1]),
        ("stream", ["maybe", 2]),
        ("language", ["Klingon", "xx", 5, "../../etc"]),
        ("voice", ["nobody", 5, ["alloy"], {"id": 5}, {"name": "alloy"}, {"id": "nobody"}]),
        ("instructions", [5, ["x"], "x" * 10_001]),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(
    client: TestClient, name: str, values: list[Any]
) -> None:
    for value in values:
        assert refuse_speech(client, **{name: value})["param"] == name


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_are_refused(client: TestClient, number: str) -> None:
    for name in ("speed", "temperature", "top_p", "seed", "max_new_tokens"):
        body = f'{{"input": "hi", "{name}": {number}}}'.encode()
        assert refusal(client.post(SPEECH, content=body))["param"] == name


def test_an_unknown_voice_is_told_all_voices(client: TestClient) -> None:
    message = refuse_speech(client, voice="nobody")["message"]
    for name in (*SPEAKERS, *OPENAI_VOICES):
        assert name in message


def test_an_unknown_language_is_told_all_languages(client: TestClient) -> None:
    message = refuse_speech(client, language="Klingon")["message"]
    assert "English" in message
    assert "Arabic" not in message  # recognised, but not spoken


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"input": "hi"', b"[]", b'"text"', b"null", b"\xff\xfe\x00", b"[" * 100_000,
     b'{"input": ' + b"9" * 5000 + b"}", b'{"a":' * 5000 + b"1" + b"}" * 5000],
    ids=["empty", "brace", "cut", "list", "text", "null", "bytes", "deep", "digits", "nested"],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(client: TestClient, body: bytes) -> None:
    for route in (SPEECH, TRANSCRIPTIONS):
        refusal(client.post(route, content=body, headers={"Content-Type": "application/json"}))


def test_half_a_character_is_refused(client: TestClient) -> None:
    for name in ("input", "voice", "language", "instructions"):
        body = f'{{"input": "hi", "{name}": "a\\ud800"}}'.encode()
        assert refusal(client.post(SPEECH, content=body))["param"] == name


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=a", b"no boundary at all"),
        ("multipart/form-data; boundary=a", b"--a\r\nContent-Disposition: form-data\r\n\r\nx"),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\nx\r\n--a--\r\n"),
        ("multipart/form-data; boundary=a", b'--a\r\nContent-Disposition: form-data; name="input'),
    ],
)
def test_a_broken_form_is_refused(client: TestClient, content_type: str, body: bytes) -> None:
    for route in (SPEECH, TRANSCRIPTIONS):
        refusal(client.post(route, content=body, headers={"Content-Type": content_type}))


def test_text_fields_of_a_form_must_not_be_files(client: TestClient) -> None:
    reply = client.post(SPEECH, files={"input": ("a.txt", b"hi")})
    assert refusal(reply)["param"] == "input"


# Samples of a voice


def sample(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "../secret.wav",
        "voice.wav",
        "http://127.0.0.1:9/a.wav",
        "https://example.com/a.wav",
        "file:///etc/passwd",
        "C:\\voice.wav",
        "data:audio/wav,RIFF",
        "data:audio/wav;base64,",
        "data:audio/wav;base64,!!!!",
        "",
        "  ",
        "====",
        "ä",
        5,
        ["a"],
        {"data": "a"},
        sample(b"garbage that is no sound at all"),
        sample(make_tone(0.05)),
        sample(make_tone(0.0)),
        sample(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 0\r\n"),
        sample(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"),
    ],
)
def test_what_is_no_sample_is_refused_and_never_opened(client: TestClient, value: Any) -> None:
    assert refuse_speech(client, audio_sample=value)["param"] == "audio_sample"


def test_a_path_is_told_that_paths_are_not_opened(client: TestClient) -> None:
    assert "not opened" in refuse_speech(client, audio_sample="/a/voice.wav")["message"]


def test_an_uploaded_sample_must_hold_sound(client: TestClient) -> None:
    for data in (b"", b"garbage", make_tone(0.05), make_tone(1.0)[:50]):
        reply = client.post(SPEECH, data={"input": "hi"}, files={"audio_sample": ("a", data)})
        assert refusal(reply)["param"] == "audio_sample"


def test_a_sample_over_the_limit_is_refused(make_client: Any) -> None:
    client = make_client(max_reference_s=2)
    error = refuse_speech(client, audio_sample=sample(make_tone(2.5)))
    assert error["param"] == "audio_sample"
    assert "2 seconds" in error["message"]


def test_the_transcript_of_a_sample_has_a_limit(client: TestClient) -> None:
    fields = {"audio_sample": sample(make_tone(1.0)), "audio_sample_text": "x" * 10_001}
    assert refuse_speech(client, **fields)["param"] == "audio_sample_text"


# No model for it


@pytest.mark.parametrize(
    ("kinds", "fields", "variable"),
    [
        ([ModelKind.BASE], {}, "TTS_CUSTOMVOICE_MODEL_PATH"),
        ([ModelKind.VOICE_DESIGN], {}, "TTS_CUSTOMVOICE_MODEL_PATH"),
        ([ModelKind.CUSTOM_VOICE], {"audio_sample": sample(b"RIFF")}, "TTS_BASE_MODEL_PATH"),
        ([ModelKind.ASR], {"audio_sample": sample(b"RIFF")}, "TTS_BASE_MODEL_PATH"),
    ],
)
def test_a_missing_speech_model_is_named_by_its_variable(
    make_client: Any, kinds: list[ModelKind], fields: dict[str, Any], variable: str
) -> None:
    client = make_client(FakeBackend(kinds=kinds))
    assert variable in refuse_speech(client, **fields)["message"]


def test_a_missing_asr_model_is_named_by_its_variable(make_client: Any) -> None:
    client = make_client(FakeBackend(kinds=[ModelKind.BASE]))
    assert "ASR_MODEL_PATH" in refuse_sound(client, make_tone(1.0))["message"]


# Recordings


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage that is no sound at all" * 100,
        b"RIFF\x00\x00\x00\x00WAVE",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 0\r\n",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
    ids=["empty", "garbage", "bare header", "sdp", "playlist", "ffconcat"],
)
def test_a_file_that_holds_no_sound_is_refused(client: TestClient, data: bytes) -> None:
    for name in ("a.wav", "a.mp3", "../../a", "a", "a/b.wav", "\n.wav"):
        error = refuse_sound(client, data, name=name)
        assert (error["param"], error["code"]) == ("file", "invalid_audio")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("response_format", ["xml", "diarized_json", "json5"]),
        ("temperature", ["-1", "2.5", "warm", "nan", "inf"]),
        ("language", ["Klingon", "xx"]),
        ("stream", ["maybe"]),
        ("prompt", ["x" * 10_001]),
        ("seed", ["-1", "1.5"]),
        ("max_new_tokens", ["0"]),
    ],
)
def test_a_field_of_a_transcription_must_fit(
    client: TestClient, backend: FakeBackend, name: str, values: list[str]
) -> None:
    for value in values:
        assert refuse_sound(client, make_tone(1.0), **{name: value})["param"] == name
    assert backend.last_request is None


def test_the_format_is_checked_before_the_sound(client: TestClient) -> None:
    assert refuse_sound(client, b"garbage", response_format="xml")["param"] == "response_format"


def test_events_cannot_carry_subtitles(client: TestClient) -> None:
    for name in ("verbose_json", "srt", "vtt"):
        error = refuse_sound(client, make_tone(1.0), stream="true", response_format=name)
        assert error["param"] == "response_format"


def test_there_must_be_exactly_one_file(client: TestClient) -> None:
    sound = make_tone(1.0)
    two = [("file", ("a.wav", sound)), ("file", ("b.wav", sound))]
    assert refusal(client.post(TRANSCRIPTIONS, files=two))["param"] == "file"
    none = client.post(TRANSCRIPTIONS, files={"model": (None, "x")})
    assert refusal(none)["code"] == "missing_required_parameter"
    text = client.post(TRANSCRIPTIONS, files={"file": (None, "/etc/passwd")})
    assert refusal(text)["param"] == "file"


@pytest.mark.parametrize("value", [5, "text", [], {}, {"data": 5}, {"data": "http://x/a.wav"}])
def test_inline_audio_must_be_base64(client: TestClient, value: Any) -> None:
    refusal(client.post(TRANSCRIPTIONS, json={"input_audio": value}))


def test_a_recording_over_the_limit_is_refused(make_client: Any) -> None:
    client = make_client(max_audio_s=2)
    assert "2 seconds" in refuse_sound(client, make_tone(2.5))["message"]


def test_many_channels_and_rates_are_heard(client: TestClient) -> None:
    for rate_hz, channels in ((8_000, 8), (192_000, 2), (11_025, 1)):
        data = bytearray(wav_bytes(np.full(rate_hz * channels, 0.1, np.float32), rate_hz))
        data[22:24] = struct.pack("<H", channels)
        data[28:34] = struct.pack("<IH", rate_hz * channels * 2, channels * 2)
        reply = client.post(TRANSCRIPTIONS, files={"file": ("a.wav", bytes(data))})
        assert reply.json()["text"] == "the quick"


def test_translations_are_refused_and_never_a_transcript(client: TestClient) -> None:
    reply = client.post("/v1/audio/translations", files={"file": ("a.wav", make_tone(1.0))})
    assert refusal(reply)["code"] == "unsupported_operation"
