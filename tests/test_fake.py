import asyncio
from collections.abc import Callable
from contextlib import aclosing

import numpy as np
import pytest

from qwen3_audio.errors import EngineFailed, NotLoaded, Overloaded
from qwen3_audio.fake import FRAME_SAMPLES, FakeBackend
from qwen3_audio.types import (
    EndReason,
    ModelKind,
    Pcm,
    RunnerStats,
    SpeechEnd,
    SpeechRequest,
    TextDelta,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)

KIND = ModelKind.CUSTOM_VOICE


def request(text: str = "hello big world", *, seed: int = 1, owner: int = 1) -> SpeechRequest:
    return SpeechRequest(KIND, text, seed, speaker="vivian", owner=owner)


async def collect(backend: FakeBackend, wanted: SpeechRequest) -> tuple[list[Pcm], SpeechEnd]:
    *sound, end = [item async for item in backend.speak(wanted)]
    assert isinstance(end, SpeechEnd)
    return [item for item in sound if not isinstance(item, SpeechEnd)], end


def speak(wanted: SpeechRequest) -> tuple[list[Pcm], SpeechEnd]:
    return asyncio.run(collect(FakeBackend(), wanted))


def stats(backend: FakeBackend, kind: ModelKind = KIND) -> RunnerStats:
    return next(row for row in backend.stats() if row.kind is kind)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def test_speech_is_frames_and_one_end() -> None:
    sound, end = speak(request())
    assert {pcm.shape for pcm in sound} == {(FRAME_SAMPLES,)}
    assert all(pcm.dtype == np.float32 for pcm in sound)
    assert (end.reason, end.num_frames) == (EndReason.STOP, len(sound))


def test_seed_speaker_and_voice_change_the_tone() -> None:
    prompt = VoicePrompt(np.ones(8, np.float32))
    wanted = [
        request(seed=1),
        request(seed=2),
        SpeechRequest(KIND, "hello big world", 1, speaker="ryan"),
        SpeechRequest(ModelKind.BASE, "hello big world", 1, voice_prompt=prompt),
    ]
    tones = {np.concatenate(speak(one)[0]).tobytes() for one in wanted}
    assert len(tones) == 4
    assert np.array_equal(speak(wanted[0])[0], speak(wanted[0])[0])


@pytest.mark.parametrize(("limit", "num_frames"), [(1, 1), (5, 5), (6, 6), (100, 6)])
def test_max_frames_may_shorten_but_not_lengthen(limit: int, num_frames: int) -> None:
    _, end = speak(SpeechRequest(KIND, "hello big world", 1, max_frames=limit))
    assert end.num_frames == num_frames
    assert end.reason is (EndReason.LENGTH if limit < 6 else EndReason.STOP)


def test_markers_fail_before_or_after_the_first_sound() -> None:
    async def run(text: str) -> int:
        heard = 0
        with pytest.raises(EngineFailed):
            async for _ in FakeBackend().speak(request(text)):
                heard += 1
        return heard

    assert asyncio.run(run("one BOOM")) == 0
    assert asyncio.run(run("one BOOM-LATE two")) > 0


def test_markers_of_guards_work_with_even_seeds_only() -> None:
    assert speak(request("a LOOP b", seed=2))[1].reason is EndReason.LOOP
    assert speak(request("a LOOP b", seed=3))[1].reason is EndReason.STOP


def test_only_what_is_loaded_works() -> None:
    backend = FakeBackend(kinds=[ModelKind.ASR])
    assert [model.kind for model in backend.models()] == [ModelKind.ASR]
    with pytest.raises(NotLoaded):
        asyncio.run(collect(backend, request()))
    with pytest.raises(NotLoaded):
        asyncio.run(backend.make_voice_prompt(np.zeros(24_000, np.float32), None))


def test_a_prompt_has_codes_exactly_when_there_is_a_transcript() -> None:
    samples = np.ones(4 * FRAME_SAMPLES, np.float32)
    backend = FakeBackend()
    alone = asyncio.run(backend.make_voice_prompt(samples, None))
    told = asyncio.run(backend.make_voice_prompt(samples, "What is said."))
    assert alone.codes is alone.text is None
    assert told.codes is not None
    assert told.codes.shape == (4, 16)


def test_a_transcript_has_its_words_and_segments() -> None:
    async def run() -> list[TextDelta | Transcript]:
        samples = np.ones(40 * 16_000, np.float32)
        return [item async for item in FakeBackend().transcribe(TranscriptionRequest(samples))]

    *deltas, transcript = asyncio.run(run())
    assert isinstance(transcript, Transcript)
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == transcript.text
    assert [(s.start_s, s.end_s) for s in transcript.segments] == [(0.0, 30.0), (30.0, 40.0)]
    assert " ".join(s.text for s in transcript.segments) == transcript.text


def test_closing_early_frees_the_slot_and_counts_as_cancelled() -> None:
    async def run() -> RunnerStats:
        backend = FakeBackend()
        async with aclosing(backend.speak(request())) as sound:
            await anext(sound)
            assert stats(backend).num_running == 1
        return stats(backend)

    after = asyncio.run(run())
    assert (after.num_running, after.ended) == (0, {EndReason.CANCELLED: 1})


def test_the_line_is_bounded() -> None:
    async def run() -> None:
        backend = FakeBackend(num_slots=1, max_waiting=1)
        first = backend.speak(request())
        await anext(first)
        second = asyncio.create_task(collect(backend, request()))
        await until(lambda: stats(backend).num_waiting == 1)
        with pytest.raises(Overloaded):
            await collect(backend, request())
        await first.aclose()
        assert (await second)[1].reason is EndReason.STOP
        assert (stats(backend).num_waiting, stats(backend).num_running) == (0, 0)

    asyncio.run(run())


def test_the_next_turn_goes_to_who_has_the_fewest_running() -> None:
    async def run() -> list[int]:
        backend = FakeBackend(num_slots=2)
        running = [backend.speak(request(owner=1)), backend.speak(request(owner=1))]
        for sound in running:
            await anext(sound)
        order: list[int] = []

        async def visit(owner: int) -> None:
            async with aclosing(backend.speak(request(owner=owner))) as sound:
                await anext(sound)
                order.append(owner)

        tasks = [asyncio.create_task(visit(owner)) for owner in (1, 1, 2)]
        await until(lambda: stats(backend).num_waiting == 3)
        await running[0].aclose()
        await asyncio.gather(*tasks)
        await running[1].aclose()
        return order

    assert asyncio.run(run()) == [2, 1, 1]


def test_who_waits_and_gives_up_leaves_the_line() -> None:
    async def run() -> RunnerStats:
        backend = FakeBackend(num_slots=0)
        task = asyncio.create_task(collect(backend, request()))
        await until(lambda: stats(backend).num_waiting == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return stats(backend)

    assert (asyncio.run(run()).num_waiting, asyncio.run(run()).num_running) == (0, 0)


def test_closing_the_back_end_sends_the_line_home() -> None:
    async def run() -> None:
        backend = FakeBackend(num_slots=0)
        task = asyncio.create_task(collect(backend, request()))
        await until(lambda: stats(backend).num_waiting == 1)
        await backend.close()
        with pytest.raises(Overloaded, match="shutting down"):
            await task
        with pytest.raises(Overloaded, match="shutting down"):
            await collect(backend, request())
        assert (stats(backend).num_waiting, stats(backend).num_running) == (0, 0)

    asyncio.run(run())
