"""OpenAI's own Python client against a live server."""

from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest
from fake_server import LiveServer, make_tone

from qwen3_audio.fake import FakeBackend


def connect(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with connect(live) as client:
        yield client


def test_speech_is_created(client: openai.OpenAI) -> None:
    reply = client.audio.speech.create(
        model="tts-1", voice="alloy", input="hello big world", response_format="wav"
    )
    assert reply.content[:4] == b"RIFF"
    assert reply.response.headers["content-length"] == str(len(reply.content))


def test_speech_is_streamed(client: openai.OpenAI) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        voice="coral",
        input="hello big world",
        instructions="Cheerful.",
        response_format="wav",
        speed=1.0,
    ) as reply:
        data = b"".join(reply.iter_bytes())
        assert "content-length" not in reply.headers
    assert data[:8] == b"RIFF\xff\xff\xff\xff"


def test_a_recording_is_transcribed(client: openai.OpenAI) -> None:
    file = ("speech.wav", make_tone(2.0))
    answer = client.audio.transcriptions.create(model="whisper-1", file=file, language="en")
    assert answer.text == "the quick brown fox"
    text = client.audio.transcriptions.create(model="x", file=file, response_format="text")
    assert text == "the quick brown fox"
    verbose = client.audio.transcriptions.create(
        model="whisper-1",
        file=file,
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert (verbose.language, float(verbose.duration)) == ("english", 2.0)
    assert verbose.segments is not None
    assert [segment.text for segment in verbose.segments] == [verbose.text]
    srt = client.audio.transcriptions.create(model="x", file=file, response_format="srt")
    assert "00:00:02,000" in str(srt)


def test_a_transcription_is_streamed(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("a.wav", make_tone(2.0)), stream=True
    )
    events = list(stream)
    assert [event.type for event in events[-2:]] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]
    assert events[-1].text == "the quick brown fox"


def test_a_stream_that_breaks_off_raises(client: openai.OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model="x", file=("a.wav", make_tone(2.0)), stream=True, prompt="BOOM-LATE"
    )
    with pytest.raises(openai.APIError, match="asked to fail late"):
        list(stream)


def test_a_sound_that_breaks_off_raises(client: openai.OpenAI) -> None:
    with (
        client.audio.speech.with_streaming_response.create(
            model="x", voice="alloy", input="a BOOM-LATE b", response_format="pcm"
        ) as reply,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        reply.read()


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert "qwen3-tts" in names
    assert client.models.retrieve("qwen3-asr").owned_by == "qwen"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("Qwen/Qwen3-ASR-1.7B")
    assert caught.value.code == "model_not_found"


def test_errors_have_their_class_code_param_and_id(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(model="x", voice="nobody", input="hi")
    assert (caught.value.param, caught.value.code) == ("voice", "invalid_value")
    assert caught.value.request_id is not None
    assert "Vivian" in str(caught.value)
    with pytest.raises(openai.InternalServerError):
        client.audio.speech.create(model="x", voice="alloy", input="BOOM")
    with pytest.warns(DeprecationWarning), pytest.raises(openai.BadRequestError):
        client.audio.translations.create(model="x", file=("a.wav", make_tone(1.0)))


def test_a_full_line_is_an_error_that_may_be_tried_again(
    serve_fake: Callable[..., LiveServer],
) -> None:
    server = serve_fake(FakeBackend(num_slots=0, max_waiting=0))
    with connect(server) as client, pytest.raises(openai.InternalServerError) as caught:
        client.audio.speech.create(model="x", voice="alloy", input="hi")
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"
