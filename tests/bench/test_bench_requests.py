"""What a client makes of good, bad and broken answers."""

import json
import socket
from typing import Any

import numpy as np
import pytest
from strange_server import Handler, serve

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.bench.http_client import HttpTarget
from qwen3_audio.bench.sample import REFUSED, BenchFailed, Sample
from qwen3_audio.bench.speech_request import SpeechRun
from qwen3_audio.bench.transcription_request import Clip, TranscriptionRun, make_clip
from qwen3_audio.bench.work import count_pieces, count_tokens, make_recording, mark
from qwen3_audio.engine.asr_prompt import cut_points
from qwen3_audio.errors import StartError

FRAME = b"\1\0" * 1920


def speak(address: str, **options: Any) -> Sample:
    target = HttpTarget(address, api_key="a key", timeout_s=20)
    return SpeechRun(target=target, texts=("one", "two"), voice="ryan", **options)(1, 0.0)


def listen(address: str, **options: Any) -> Sample:
    options = {"clips": [Clip("a.wav", b"RIFF" + bytes(100), 2.0, "the words")], **options}
    return TranscriptionRun(target=HttpTarget(address), **options)(0, 0.0)


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_pieces_of_sound_are_timed_as_they_come() -> None:
    data, half = FRAME * 4, len(FRAME) + 1
    with serve(lambda h: h.send_pieces(data[:half], data[half:7680], data[7680:])) as address:
        sample = speak(address, num_frames=4, is_ours=True)
    assert sample.error is None
    assert sample.audio_s == pytest.approx(0.32)
    assert sample.num_tokens == 4
    assert sample.first_byte_s == sample.arrivals[0].at_s
    times = [sample.begin_s, *(arrival.at_s for arrival in sample.arrivals), sample.end_s]
    assert times == sorted(times)


def test_the_rate_of_a_wav_is_read_from_its_header_even_in_two_pieces() -> None:
    data = wav_bytes(np.zeros(16_000, np.float32), 16_000)
    with serve(lambda h: h.send_pieces(data[:20], data[20:])) as address:
        sample = speak(address, response_format="wav")
    assert sample.audio_s == pytest.approx(1.0)
    assert sample.first_byte_s is not None
    assert sample.first_byte_s <= sample.arrivals[0].at_s


def test_others_are_sent_what_openai_names_and_what_was_asked_for() -> None:
    seen = []

    def answer(handler: Handler) -> None:
        seen.append((handler.path, handler.headers["Authorization"], json.loads(handler.body)))
        handler.send(FRAME)

    with serve(answer) as address:
        speak(f"{address}/v1", fields={"stream": None, "speed": 1.5})
    common = {"input": "two", "voice": "ryan", "response_format": "pcm", "model": "tts-1"}
    assert seen == [("/v1/audio/speech", "Bearer a key", common | {"speed": 1.5})]


@pytest.mark.parametrize(
    ("send", "error"),
    [
        (lambda h: h.send(b'{"error": {"code": "overloaded"}}', status=503), "HTTP 503 overloaded"),
        (lambda h: h.send(b"<html>", status=502), "HTTP 502"),
        (lambda h: h.send_pieces(FRAME, is_cut=True), "connection lost"),
        (lambda h: h.send(FRAME, promised_bytes=10_000), "connection lost"),
        (lambda h: None, "connection lost"),
        (lambda h: h.send_pieces(), "no sound"),
        (lambda h: h.send(FRAME * 3), "3 frames instead of 2"),
    ],
)
def test_each_kind_of_failure_has_its_name(send: Any, error: str) -> None:
    with serve(send) as address:
        assert speak(address, num_frames=2).error == error


def test_a_server_that_is_down_is_refused_in_one_sentence() -> None:
    address = f"http://127.0.0.1:{refused_port()}"
    assert speak(address).error == REFUSED
    with pytest.raises(
        BenchFailed, match=r"^Nobody answers at \S+ \(.*\): start the server first$"
    ):
        HttpTarget(address).check()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://here", "http://", "http://a:b", "x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(StartError, match="is no address"):
        HttpTarget(url)


def test_a_transcript_and_its_tokens_are_read() -> None:
    answer = {"text": "some words", "segments": [{"tokens": [1, 2, 3]}, {"tokens": [4]}]}
    with serve(lambda h: h.send(json.dumps(answer).encode())) as address:
        sample = listen(address, is_ours=True)
    assert (sample.said, sample.heard) == ("the words", "some words")
    assert (sample.num_tokens, sample.audio_s, sample.error) == (4, 2.0, None)


def test_a_form_names_its_fields_and_carries_the_file() -> None:
    bodies = list[bytes]()

    def answer(handler: Handler) -> None:
        bodies.append(handler.body)
        handler.send(b'{"text": ""}')

    with serve(answer) as address:
        assert listen(address, fields={"language": "en"}).error is None
    assert b'name="language"\r\n\r\nen\r\n' in bodies[0]
    assert b'filename="a.wav"' in bodies[0]
    assert b"RIFF" + bytes(100) in bodies[0]
    assert b"seed" not in bodies[0]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"text": 3}', b"no json"])
def test_an_answer_without_text_is_a_failure(data: bytes) -> None:
    with serve(lambda h: h.send_pieces(*([data] if data else []))) as address:
        assert listen(address).error == "no text in the answer"


def test_a_transcript_of_another_length_is_a_failure() -> None:
    answer = {"text": "", "segments": [{"tokens": [1] * 34}]}
    with serve(lambda h: h.send(json.dumps(answer).encode())) as address:
        sample = listen(address, clips=[make_clip(10)], num_tokens=35)
    assert sample.error == "34 tokens instead of 35"


def test_forced_lengths_are_those_of_the_issue() -> None:
    assert (count_pieces(10), count_tokens(10)) == (1, 35)
    assert count_pieces(600) * count_tokens(600) == 1980


@pytest.mark.parametrize("seconds", [10, 60, 240])
def test_our_recordings_are_cut_into_the_pieces_that_are_counted_on(seconds: int) -> None:
    assert len(cut_points(make_recording(seconds))) + 1 == count_pieces(seconds)


def test_no_two_recordings_have_the_same_bytes() -> None:
    clip = make_clip(1)
    marked = [mark(clip.data, number) for number in (0, 1, 2, 1_000_000)]
    assert len(set(marked)) == 4
    assert {len(data) for data in marked} == {len(clip.data)}
    sounds = [decode_audio(data, sample_rate_hz=16_000, max_seconds=2) for data in marked]
    assert all(np.abs(sound - sounds[0]).max() < 0.01 for sound in sounds)
