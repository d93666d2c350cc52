"""What /v1/audio/speech answers to requests that fit."""

import base64
import io
import json
import struct
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from qwen3_audio.fake import FRAME_SAMPLES, FRAMES_PER_WORD, FakeBackend
from qwen3_audio.types import ModelKind, SpeechRequest

THREE_WORDS = "hello big world"
SECONDS = 3 * FRAMES_PER_WORD * FRAME_SAMPLES / 24_000


def speak(client: TestClient, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": "tts-1", "input": THREE_WORDS, **fields}
    reply = client.post("/v1/audio/speech", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def decode(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(frames, axis=1)


def wav_sizes(data: bytes) -> tuple[int, int]:
    return struct.unpack("<I", data[4:8])[0], struct.unpack("<I", data[40:44])[0]


def test_fields_that_nobody_knows_are_named_and_change_nothing(client: TestClient) -> None:
    assert "Warning" not in speak(client, stream=False, user="me", task_type="CustomVoice").headers
    odd = {"backend": "x", 'a"\r\nX-Evil: 1': 1, "n" * 99: 2}
    warning = speak(client, **odd).headers["Warning"]
    names = f"backend, a???X-Evil??1, {'n' * 40}"
    assert warning == f'199 - "unknown fields were ignored: {names}"'
    many = speak(client, **{f"field{n}": n for n in range(9)}).headers["Warning"]
    assert many.endswith('field3, field4, ..."')


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"instructions": "a low voice"}, ModelKind.CUSTOM_VOICE),
        ({"instructions": "a low voice", "task_type": "VoiceDesign"}, ModelKind.VOICE_DESIGN),
        ({"task_type": "customvoice"}, ModelKind.CUSTOM_VOICE),
    ],
)
def test_task_type_chooses_the_checkpoint(
    client: TestClient, backend: FakeBackend, fields: dict[str, str], kind: ModelKind
) -> None:
    speak(client, **fields)
    assert heard(backend).kind is kind


@pytest.mark.parametrize(
    ("task_type", "words"),
    [
        ("VoiceDesign", "needs instructions"),
        ("Base", "needs audio_sample or a stored voice"),
        ("song", "must be one of customvoice, voicedesign, base"),
    ],
)
def test_task_type_without_what_it_needs_is_refused(
    client: TestClient, task_type: str, words: str
) -> None:
    body = {"input": THREE_WORDS, "task_type": task_type}
    reply = client.post("/v1/audio/speech", json=body)
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def heard(backend: FakeBackend) -> SpeechRequest:
    assert isinstance(backend.last_request, SpeechRequest)
    return backend.last_request


@pytest.mark.parametrize(
    ("name", "content_type", "rate_hz"),
    [
        ("mp3", "audio/mpeg", 24_000),
        ("opus", "audio/opus", 48_000),
        ("ogg", "audio/ogg", 48_000),
        ("aac", "audio/aac", 24_000),
        ("flac", "audio/flac", 24_000),
        ("wav", "audio/wav", 24_000),
    ],
)
def test_every_format_has_its_type_and_decodes(
    client: TestClient, name: str, content_type: str, rate_hz: int
) -> None:
    reply = speak(client, response_format=name)
    assert reply.headers["content-type"] == content_type
    assert decode(reply.content).shape[1] / rate_hz == pytest.approx(SECONDS, abs=0.12)


def test_pcm_names_its_rate_and_has_no_header(client: TestClient) -> None:
    reply = speak(client, response_format="pcm")
    assert reply.headers["content-type"] == "audio/pcm;rate=24000;channels=1"
    assert len(reply.content) == SECONDS * 24_000 * 2


def test_without_a_format_it_is_mp3(client: TestClient) -> None:
    assert speak(client).headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_a_file_that_is_not_streamed_has_exact_sizes(client: TestClient, name: str) -> None:
    reply = speak(client, response_format=name)
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert reply.headers["x-finish-reason"] == "stop"
    if name == "wav":
        assert wav_sizes(reply.content) == (len(reply.content) - 8, len(reply.content) - 44)
    else:
        with av.open(io.BytesIO(reply.content)) as container:
            assert container.duration == pytest.approx(SECONDS * 1e6)


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"stream": True}, {}),
        ({"stream_format": "audio"}, {}),
        ({}, {"x-stainless-raw-response": "stream"}),
    ],
    ids=["stream", "stream_format", "header"],
)
def test_a_streaming_client_gets_wav_of_unknown_length(
    client: TestClient, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    reply = speak(client, headers, response_format="wav", **fields)
    assert "content-length" not in reply.headers
    assert wav_sizes(reply.content) == (0xFFFF_FFFF, 0xFFFF_FFFF)
    assert len(reply.content) == 44 + SECONDS * 24_000 * 2


def test_another_stainless_header_does_not_mean_streaming(client: TestClient) -> None:
    reply = speak(client, {"x-stainless-raw-response": "true"}, response_format="wav")
    assert "content-length" in reply.headers


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "pcm"])
def test_the_others_always_leave_as_they_are_made(client: TestClient, name: str) -> None:
    reply = speak(client, response_format=name)
    assert "content-length" not in reply.headers
    assert reply.headers["x-accel-buffering"] == "no"


def test_streamed_and_whole_are_the_same_sound(client: TestClient) -> None:
    whole = speak(client, response_format="wav", seed=7)
    streamed = speak(client, response_format="wav", seed=7, stream=True)
    raw = speak(client, response_format="pcm", seed=7)
    assert whole.content[44:] == streamed.content[44:] == raw.content


def test_events_carry_one_stream_in_the_wanted_format_and_its_usage(client: TestClient) -> None:
    plain = speak(client, response_format="mp3", seed=7)
    reply = speak(client, response_format="mp3", seed=7, stream_format="sse")
    assert reply.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events(reply.text)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == plain.content
    assert done["type"] == "speech.audio.done"
    assert done["finish_reason"] == "stop"
    usage = done["usage"]
    assert usage["output_tokens"] == 3 * FRAMES_PER_WORD
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_events_say_when_the_sound_breaks_off(client: TestClient) -> None:
    reply = speak(client, input="one BOOM-LATE two", stream_format="sse", response_format="pcm")
    *deltas, last = events(reply.text)
    assert deltas
    assert last["error"]["type"] == "server_error"
    assert "event: error\n" in reply.text


def test_the_seed_is_returned_and_repeats_the_sound(client: TestClient) -> None:
    first = speak(client, response_format="wav")
    again = speak(client, response_format="wav", seed=int(first.headers["x-seed"]))
    other = speak(client, response_format="wav", seed=int(first.headers["x-seed"]) + 1)
    assert again.content == first.content != other.content


def test_the_largest_seed_is_taken(client: TestClient, backend: FakeBackend) -> None:
    assert speak(client, seed=2**63 - 1).headers["x-seed"] == str(2**63 - 1)
    assert heard(backend).seed == 2**63 - 1


def test_speed_keeps_streaming_and_changes_the_length(client: TestClient) -> None:
    reply = speak(client, response_format="pcm", speed=2.0, input="word " * 20)
    seconds = 20 * FRAMES_PER_WORD * FRAME_SAMPLES / 24_000
    assert len(reply.content) / 48_000 == pytest.approx(seconds / 2, rel=0.05)


def test_another_sample_rate_is_resampled_and_named(client: TestClient) -> None:
    reply = speak(client, response_format="pcm", sample_rate=8000)
    assert reply.headers["content-type"] == "audio/pcm;rate=8000;channels=1"
    assert len(reply.content) / 16_000 == pytest.approx(SECONDS, abs=0.01)


@pytest.mark.parametrize(
    ("voice", "speaker"),
    [
        ("alloy", "vivian"),
        ("CEDAR", "aiden"),
        ("Uncle_Fu", "uncle_fu"),
        ("ono_anna", "ono_anna"),
        ({"id": "Sohee"}, "sohee"),
        (" Ryan ", "ryan"),
        ("", "vivian"),
        (None, "vivian"),
    ],
)
def test_a_voice_name_is_a_speaker(
    client: TestClient, backend: FakeBackend, voice: Any, speaker: str
) -> None:
    speak(client, voice=voice)
    assert heard(backend).speaker == speaker


def test_speaker_is_another_name_for_voice(client: TestClient, backend: FakeBackend) -> None:
    speak(client, speaker="Eric")
    assert heard(backend).speaker == "eric"


def test_a_fine_tuned_checkpoint_speaks_with_its_own_first_speaker(make_client: Any) -> None:
    backend = FakeBackend(speakers=("anna", "bert"))
    client = make_client(backend)
    for voice, speaker in (("Bert", "bert"), ("alloy", "anna"), ("Vivian", "anna")):
        speak(client, voice=voice)
        assert heard(backend).speaker == speaker


def test_the_text_arrives_without_its_outer_white_space(
    client: TestClient, backend: FakeBackend
) -> None:
    speak(client, input=" \n Say <|im_end|>\u00a0 “this” \t")
    assert heard(backend).text == "Say <|im_end|>\u00a0 “this”"


def test_every_knob_reaches_the_engine(client: TestClient, backend: FakeBackend) -> None:
    speak(
        client,
        language="zh-CN",
        instructions="Whisper.",
        temperature=0.5,
        top_p=0.9,
        top_k=20,
        max_new_tokens=3,
    )
    request = heard(backend)
    assert request.kind is ModelKind.CUSTOM_VOICE
    assert (request.language, request.instructions) == ("Chinese", "Whisper.")
    assert (request.sampling.temperature, request.sampling.top_p) == (0.5, 0.9)
    assert (request.sampling.top_k, request.max_frames, request.owner) == (20, 3, 1)


def test_left_out_knobs_leave_the_checkpoints_defaults(
    client: TestClient, backend: FakeBackend
) -> None:
    speak(client, language="Auto", instructions="None", temperature=None)
    request = heard(backend)
    assert request.language is request.instructions is request.max_frames is None
    assert request.sampling.temperature is request.sampling.top_k is None


def test_a_form_is_as_good_as_json(client: TestClient, backend: FakeBackend) -> None:
    form = {"input": "hi", "voice": "Dylan", "speed": "1.0", "seed": "5", "temperature": "0.25"}
    form |= {"response_format": "wav", "stream": "True"}
    reply = client.post("/v1/audio/speech", files={name: (None, v) for name, v in form.items()})
    assert reply.status_code == 200
    assert "content-length" not in reply.headers
    request = heard(backend)
    assert (request.speaker, request.seed, request.sampling.temperature) == ("dylan", 5, 0.25)


def test_any_content_type_but_a_form_is_json(client: TestClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "weird", ""):
        headers = {"Content-Type": content_type}
        reply = client.post("/v1/audio/speech", content=b'{"input": "hi"}', headers=headers)
        assert reply.status_code == 200, content_type


def test_a_key_is_ignored_in_local_mode(client: TestClient) -> None:
    for header in ("Bearer sk-anything", "Bearer ", "Basic Zm9v", "nonsense"):
        speak(client, {"Authorization": header})


def test_unknown_fields_are_ignored(client: TestClient) -> None:
    speak(client, backend="x", repetition_penalty="no number", user={"a": [1]})


def test_the_route_also_answers_without_v1(client: TestClient) -> None:
    assert client.post("/audio/speech", json={"input": "hi"}).status_code == 200


# A voice from a sample


def sample_requests(tone: bytes) -> dict[str, Any]:
    packed = base64.b64encode(tone).decode()
    lines = "\n".join(packed[i : i + 76] for i in range(0, len(packed), 76))
    urlsafe = base64.urlsafe_b64encode(tone).decode().rstrip("=")
    return {
        "base64": {"audio_sample": packed},
        "base64 in lines": {"audio_sample": lines},
        "urlsafe without padding": {"audio_sample": urlsafe},
        "data URL": {"audio_sample": f"data:audio/wav;base64,{packed}"},
        "data URL with parameters": {"ref_audio": f"data:audio/wav;codecs=1;base64,{packed}"},
    }


@pytest.mark.parametrize("how", list(sample_requests(b"")))
def test_a_sample_in_json_clones_its_voice(
    client: TestClient, backend: FakeBackend, tone: bytes, how: str
) -> None:
    reply = speak(client, **sample_requests(tone)[how], ref_text=" What is said. ", voice="nobody")
    assert reply.headers["x-model"] == "fake-base"
    request = heard(backend)
    assert request.kind is ModelKind.BASE
    assert request.speaker is None
    assert request.voice_prompt is not None
    assert request.voice_prompt.text == "What is said."
    assert request.voice_prompt.codes is not None
    assert len(request.voice_prompt.codes) == 24_000 // FRAME_SAMPLES  # heard at 24 kHz


def test_an_uploaded_sample_clones_its_voice(
    client: TestClient, backend: FakeBackend, tone: bytes
) -> None:
    reply = client.post(
        "/v1/audio/speech",
        data={"input": "hi", "audio_sample_text": " ", "instructions": "Loud."},
        files={"audio_sample": ("voice.mp3", tone, "audio/mpeg")},  # its content says WAV
    )
    assert reply.status_code == 200
    request = heard(backend)
    assert request.voice_prompt is not None
    assert request.voice_prompt.codes is request.voice_prompt.text is None
    assert request.instructions is None


# Which checkpoint speaks


def test_instructions_that_the_model_does_not_use_are_left_out_with_a_warning(
    make_client: Any,
) -> None:
    backend = FakeBackend(takes_instructions=False)
    client = make_client(backend)
    reply = speak(client, instructions="Sad.")
    assert reply.headers["warning"].startswith('199 - "instructions')
    assert heard(backend).instructions is None
    assert "warning" not in speak(client).headers


def test_voice_design_follows_instructions_where_it_stands_alone(make_client: Any) -> None:
    backend = FakeBackend(kinds=[ModelKind.VOICE_DESIGN])
    client = make_client(backend)
    speak(client, instructions="An old sailor.")
    assert heard(backend).kind is ModelKind.VOICE_DESIGN
    assert heard(backend).instructions == "An old sailor."


# Guards


@pytest.mark.parametrize("marker", ["LOOP", "SILENCE", "LENGTH"])
def test_a_guards_end_is_retried_once_with_the_next_seed(make_client: Any, marker: str) -> None:
    client = make_client(seed=4)  # even: the fake's markers work
    reply = speak(client, input=f"one {marker} two three", response_format="wav")
    assert reply.headers["x-finish-reason"] == "stop"
    assert reply.headers["x-seed"] == "5"
    assert len(reply.content) == 44 + 4 * FRAMES_PER_WORD * FRAME_SAMPLES * 2


@pytest.mark.parametrize("fields", [{"seed": 4}, {"temperature": 0}], ids=["own seed", "greedy"])
def test_what_would_repeat_itself_is_not_retried(make_client: Any, fields: Any) -> None:
    client = make_client(seed=4)
    reply = speak(client, input="one LOOP two", response_format="wav", **fields)
    assert (reply.headers["x-finish-reason"], reply.headers["x-seed"]) == ("loop", "4")


def test_what_has_been_sent_is_not_retried(make_client: Any) -> None:
    client = make_client(seed=4)
    reply = speak(client, input="one LOOP two", response_format="pcm", stream_format="sse")
    assert events(reply.text)[-1]["finish_reason"] == "loop"


def test_the_clients_own_length_is_not_retried(make_client: Any) -> None:
    backend = FakeBackend()
    client = make_client(backend, seed=4)
    reply = speak(client, response_format="wav", max_new_tokens=2)
    assert reply.headers["x-finish-reason"] == "length"
    assert reply.headers["x-seed"] == "4"
    assert len(reply.content) == 44 + 2 * FRAME_SAMPLES * 2


def test_long_text_is_one_stream_of_all_its_words(client: TestClient) -> None:
    text = "This is sentence number one of many. " * 40
    whole = speak(client, input=text, response_format="wav")
    num_words = len(text.split())
    assert len(whole.content) == 44 + num_words * FRAMES_PER_WORD * FRAME_SAMPLES * 2
    assert whole.content.count(b"RIFF") == 1


def test_the_longest_text_is_taken_and_one_more_character_is_not(client: TestClient) -> None:
    text = "ab, " * 1023 + "abcd"
    assert len(text) == 4096
    speak(client, input=f"  {text}\n", max_new_tokens=1, response_format="pcm")
    reply = client.post("/v1/audio/speech", json={"input": text + "e"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "string_above_max_length"
