"""The service without HTTP: checks, long text, retries, and that every order ends once."""

import asyncio
import io
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.errors import BadRequest, EngineFailed, NotLoaded, Overloaded
from qwen3_audio.fake import FRAMES_PER_WORD, FakeBackend
from qwen3_audio.languages import SPEAKERS
from qwen3_audio.orders import (
    MAX_SEED,
    SamplingForm,
    SpeechForm,
    TranscriptionForm,
    decode_base64,
    find_speaker,
    shift_seed,
    spell_speakers,
)
from qwen3_audio.outcomes import Ended
from qwen3_audio.scope import Scope
from qwen3_audio.service import MAX_KEPT_PROMPTS, SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.speaking import Spoken
from qwen3_audio.types import (
    EndReason,
    ModelKind,
    Pcm,
    SpeechEnd,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)

LONG_TEXT = "This is sentence number one of many. " * 40


class RecordingBackend(FakeBackend):
    """Keeps every request in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.requests: list[SpeechRequest] = []

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
        self.requests.append(request)
        async with aclosing(super().speak(request)) as items:
            async for item in items:
                yield item


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


@pytest.fixture
def service(backend: RecordingBackend) -> SpeechService:
    return SpeechService(backend, Settings(), draw_seed=lambda: 4)


@pytest.fixture
def endings(service: SpeechService) -> list[Ended]:
    heard: list[Ended] = []
    service.listeners.append(heard.append)
    return heard


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def speak(
    service: SpeechService, *, is_buffered: bool = False, **fields: Any
) -> tuple[list[Pcm], Spoken]:
    order = await service.prepare_speech(1, SpeechForm(**fields))
    *sound, end = [item async for item in service.speak(order, is_buffered=is_buffered)]
    assert isinstance(end, Spoken)
    return [pcm for pcm in sound if not isinstance(pcm, Spoken)], end


async def transcribe(service: SpeechService, samples: Pcm, **fields: Any) -> Transcript:
    form = TranscriptionForm(audio=wav_bytes(samples, 16_000), **fields)
    order = await service.prepare_transcription(1, form)
    *_, last = [item async for item in service.transcribe(order)]
    assert isinstance(last, Transcript)
    return last


def tone(seconds: float) -> Pcm:
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    return (0.3 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


# Orders


def test_long_text_is_spoken_in_parts_with_seeds_of_their_own(
    service: SpeechService, backend: RecordingBackend
) -> None:
    sound, end = run(speak(service, text=LONG_TEXT))
    assert [request.seed for request in backend.requests] == [4, 5, 6, 7]
    assert all(len(request.text) <= 400 for request in backend.requests)
    assert " ".join(request.text for request in backend.requests) == LONG_TEXT.strip()
    assert end.num_frames == len(sound) == len(LONG_TEXT.split()) * FRAMES_PER_WORD
    assert (end.reason, end.seed) == (EndReason.STOP, 4)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": "Привет"}, "input"),
        ({"text": "Hi.", "kind": ModelKind.VOICE_DESIGN, "instructions": "低い声"}, "instructions"),
        (
            {
                "text": "Hi.",
                "audio_sample": wav_bytes(np.full(24_000, 0.1, np.float32), 24_000),
                "audio_sample_text": "Привет",
            },
            "audio_sample_text",
        ),
    ],
)
def test_a_small_model_refuses_what_it_does_not_know(fields: dict[str, Any], param: str) -> None:
    small = SpeechService(RecordingBackend(scope=Scope("it speaks English")), Settings())
    with pytest.raises(BadRequest, match="it speaks English") as error:
        run(speak(small, **fields))
    assert error.value.param == param
    unlimited, _ = run(speak(SpeechService(RecordingBackend(), Settings()), **fields))
    assert unlimited


def test_instructions_that_are_left_out_are_not_read() -> None:
    small = SpeechService(RecordingBackend(scope=Scope("it speaks English")), Settings())
    sample = wav_bytes(np.full(24_000, 0.1, np.float32), 24_000)
    assert run(speak(small, text="Hi.", instructions="低い声", audio_sample=sample))


def test_a_small_model_is_given_plain_letters() -> None:
    backend = RecordingBackend(scope=Scope("it speaks English"))
    run(speak(SpeechService(backend, Settings()), text="Crème brûlée 👋"))
    assert [request.text for request in backend.requests] == ["Creme brulee"]


def test_a_small_model_speaks_long_text_in_shorter_parts() -> None:
    backend = RecordingBackend(scope=Scope("it speaks English", max_chars=80, pause_s=0.5))
    sound, end = run(speak(SpeechService(backend, Settings()), text=LONG_TEXT[:600]))
    texts = [request.text for request in backend.requests]
    assert sum(len(pcm) == 12_000 and not pcm.any() for pcm in sound) == len(texts) - 1
    assert end.num_frames == len(sound) - (len(texts) - 1)
    assert max(map(len, texts)) <= 80
    assert " ".join(texts) == LONG_TEXT[:600].strip()


def test_text_of_600_characters_is_one_prompt(
    service: SpeechService, backend: RecordingBackend
) -> None:
    run(speak(service, text=LONG_TEXT[:600]))
    assert len(backend.requests) == 1


def test_max_new_tokens_counts_over_all_parts(
    service: SpeechService, backend: RecordingBackend
) -> None:
    sampling = SamplingForm(max_new_tokens=250)
    sound, end = run(speak(service, text=LONG_TEXT, sampling=sampling))
    assert len(sound) == end.num_frames == 250
    assert end.reason is EndReason.LENGTH
    assert len(backend.requests) == 2


def test_max_new_tokens_may_end_exactly_at_a_cut(service: SpeechService) -> None:
    text = "w " * 200 + "\n" + "v " * 200
    sampling = SamplingForm(max_new_tokens=200 * FRAMES_PER_WORD)
    _, end = run(speak(service, text=text, sampling=sampling))
    assert (end.num_frames, end.reason) == (200 * FRAMES_PER_WORD, EndReason.LENGTH)


def test_a_part_that_a_guard_ended_does_not_end_the_text(
    service: SpeechService, backend: RecordingBackend
) -> None:
    text = "One LOOP two. " + LONG_TEXT
    _, end = run(speak(service, text=text))
    assert end.reason is EndReason.LOOP
    assert len(backend.requests) == 4


def test_a_buffered_part_is_retried_alone(
    service: SpeechService, backend: RecordingBackend
) -> None:
    _, end = run(speak(service, text="One LOOP two. " + LONG_TEXT, is_buffered=True))
    assert [request.seed for request in backend.requests] == [4, 5, 5, 6, 7]
    assert (end.reason, end.seed) == (EndReason.STOP, 5)


def test_a_retry_happens_once(service: SpeechService, backend: RecordingBackend) -> None:
    class AlwaysLoops(RecordingBackend):
        async def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
            self.requests.append(request)
            yield SpeechEnd(EndReason.LOOP, 0, 1)

    stuck = AlwaysLoops()
    _, end = run(speak(SpeechService(stuck, Settings()), text="hi", is_buffered=True))
    assert end.reason is EndReason.LOOP
    assert len(stuck.requests) == 2
    assert stuck.requests[1].seed == stuck.requests[0].seed + 1


def test_seeds_stay_in_their_range() -> None:
    assert shift_seed(MAX_SEED, 1) == 0


def test_drawn_seeds_differ(backend: RecordingBackend) -> None:
    service = SpeechService(backend, Settings())
    for _ in range(5):
        run(speak(service, text="hi"))
    assert len({request.seed for request in backend.requests}) == 5


def test_the_order_knows_its_user_and_its_price(service: SpeechService) -> None:
    order = run(service.prepare_speech(7, SpeechForm(text="  hé👩 ")))
    assert (order.num_chars, order.parts[0].owner) == (3, 7)


@pytest.mark.parametrize("sample", [b"", b"garbage", io.BytesIO(b"garbage"), "no base64!"])
def test_a_bad_sample_never_reaches_the_engine(
    service: SpeechService, backend: RecordingBackend, sample: Any
) -> None:
    with pytest.raises(BadRequest):
        run(service.prepare_speech(1, SpeechForm(text="hi", audio_sample=sample)))
    assert backend.requests == []


def test_a_sample_is_decoded_to_24_khz(service: SpeechService) -> None:
    form = SpeechForm(text="hi", audio_sample=wav_bytes(tone(1.0), 16_000), audio_sample_text="x")
    order = run(service.prepare_speech(1, form))
    prompt = order.parts[0].voice_prompt
    assert order.model.kind is ModelKind.BASE
    assert len(prompt.codes) == 24_000 // 1920


def test_a_sample_heard_before_is_not_heard_again(
    service: SpeechService, backend: RecordingBackend
) -> None:
    async def prompt(seconds: float, text: str | None = None) -> VoicePrompt | None:
        form = SpeechForm(
            text="hi", audio_sample=wav_bytes(tone(seconds), 16_000), audio_sample_text=text
        )
        return (await service.prepare_speech(1, form)).parts[0].voice_prompt

    first = run(prompt(0.5))
    assert run(prompt(0.5)) is first
    assert run(prompt(0.6)) is not first
    assert run(prompt(0.5, "told")) is not first
    for number in range(MAX_KEPT_PROMPTS - 3):
        run(prompt(1 + number / 1000))
    assert run(prompt(0.5)) is first
    run(prompt(0.7))
    run(prompt(0.8))
    assert run(prompt(0.5)) is first
    for number in range(MAX_KEPT_PROMPTS):
        run(prompt(2 + number / 1000))
    assert run(prompt(0.5)) is not first


def test_what_is_missing_is_said_before_anything_is_decoded() -> None:
    service = SpeechService(FakeBackend(kinds=[ModelKind.CUSTOM_VOICE]), Settings())
    with pytest.raises(NotLoaded, match="TTS_BASE_MODEL_PATH"):
        run(service.prepare_speech(1, SpeechForm(text="hi", audio_sample=b"garbage")))
    with pytest.raises(NotLoaded, match="ASR_MODEL_PATH"):
        run(service.prepare_transcription(1, TranscriptionForm(audio=b"garbage")))


def test_speakers_are_spelt_as_in_the_documents() -> None:
    assert spell_speakers(["uncle_fu", "anna"]) == ["Uncle_Fu", "anna"]
    assert find_speaker("ALLOY", tuple(name.lower() for name in SPEAKERS)) == "vivian"
    assert find_speaker("alloy", ("anna", "alloy")) == "alloy"
    with pytest.raises(BadRequest, match="Anna"):
        find_speaker("nobody", ("Anna",))
    with pytest.raises(BadRequest):
        find_speaker("alloy", ())


def test_base64_is_read_in_every_spelling() -> None:
    for text in ("AAEC", " AA\nEC ", "data:audio/x;base64,AAEC", "DATA:;BASE64,AAEC"):
        assert decode_base64(text, param="p") == b"\x00\x01\x02"
    assert decode_base64("-_8", param="p") == decode_base64("+/8=", param="p") == b"\xfb\xff"


# Endings


def test_a_spoken_order_ends_once_as_done(service: SpeechService, endings: list[Ended]) -> None:
    sound, _ = run(speak(service, text="hello world"))
    (ended,) = endings
    assert (ended.work, ended.outcome) == ("speech", "done")
    assert ended.audio_s == pytest.approx(sum(map(len, sound)) / 24_000)
    assert ended.first_s is not None
    assert 0 < ended.first_s <= ended.total_s


def test_done_is_told_before_the_last_item_is_handed_over(
    service: SpeechService, endings: list[Ended]
) -> None:
    async def leave_at_the_end() -> None:
        order = await service.prepare_speech(1, SpeechForm(text="hi"))
        async with aclosing(service.speak(order)) as items:
            async for item in items:
                if isinstance(item, Spoken):
                    break

    run(leave_at_the_end())
    assert [ended.outcome for ended in endings] == ["done"]


def test_a_failed_order_ends_once_as_failed(service: SpeechService, endings: list[Ended]) -> None:
    for text in ("BOOM", "a BOOM-LATE b"):
        with pytest.raises(EngineFailed):
            run(speak(service, text=text))
    assert [ended.outcome for ended in endings] == ["failed", "failed"]
    assert (endings[0].audio_s, endings[0].first_s) == (0, None)
    assert endings[1].audio_s > 0


def test_a_refused_order_ends_once_as_failed() -> None:
    service = SpeechService(FakeBackend(num_slots=0, max_waiting=0), Settings())
    heard: list[Ended] = []
    service.listeners.append(heard.append)
    with pytest.raises(Overloaded):
        run(speak(service, text="hi"))
    assert [ended.outcome for ended in heard] == ["failed"]


@pytest.mark.parametrize("is_buffered", [False, True])
def test_an_abandoned_order_ends_once_as_cancelled(
    service: SpeechService, backend: RecordingBackend, endings: list[Ended], is_buffered: bool
) -> None:
    async def leave() -> None:
        order = await service.prepare_speech(1, SpeechForm(text="one two three"))
        async with aclosing(service.speak(order, is_buffered=is_buffered)) as sound:
            await anext(sound)
        # At once, not when the garbage collector comes by.
        assert backend.stats()[0].num_running == 0
        assert [ended.outcome for ended in endings] == ["cancelled"]

    run(leave())
    assert len(endings) == 1


def test_a_cancelled_task_ends_its_order_as_cancelled(endings: list[Ended]) -> None:
    service = SpeechService(FakeBackend(num_slots=0), Settings())
    service.listeners.append(endings.append)

    async def leave() -> None:
        task = asyncio.create_task(speak(service, text="hi"))
        async with asyncio.timeout(10):
            while service.backend.stats()[0].num_waiting == 0:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(leave())
    assert [ended.outcome for ended in endings] == ["cancelled"]


# Transcription


def test_a_transcription_ends_once_with_its_duration(
    service: SpeechService, endings: list[Ended]
) -> None:
    transcript = run(transcribe(service, tone(2.0)))
    assert transcript.text == "the quick brown fox"
    (ended,) = endings
    assert (ended.work, ended.outcome, ended.audio_s) == ("transcription", "done", 2.0)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0), np.zeros(16_000), tone(0.09), np.full(16_000, 0.4 / 32_768)],
    ids=["none", "silence", "short", "below half a step"],
)
def test_nothing_to_hear_is_no_work(
    service: SpeechService, backend: RecordingBackend, endings: list[Ended], samples: Any
) -> None:
    transcript = run(transcribe(service, samples.astype(np.float32)))
    assert (transcript.text, transcript.language, transcript.segments) == ("", "", ())
    assert transcript.duration_s == len(samples) / 16_000
    assert backend.last_request is None
    assert [ended.outcome for ended in endings] == ["done"]


def test_the_quietest_sound_is_heard(service: SpeechService, backend: RecordingBackend) -> None:
    samples = np.zeros(16_000, np.float32)
    samples[5000] = -1 / 32_767
    assert run(transcribe(service, samples)).text
    assert isinstance(backend.last_request, TranscriptionRequest)


def test_context_is_limited_with_its_keywords(service: SpeechService) -> None:
    with pytest.raises(BadRequest, match="10000"):
        run(transcribe(service, tone(1.0), prompt="x" * 9_999, keywords=("ab",)))


def test_a_closed_service_is_not_ready(service: SpeechService) -> None:
    assert service.unready_reasons() == []
    run(service.close())
    assert service.unready_reasons() == ["the server is shutting down"]
