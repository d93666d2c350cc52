"""The whole back-end on small random checkpoints: every kind at once, from an event loop."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.local import LocalBackend, build_backend
from qwen3_audio.errors import BadRequest, NotLoaded, Overloaded, StartError
from qwen3_audio.settings import Settings
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    SPEECH_RATE_HZ,
    EndReason,
    ModelKind,
    Pcm,
    Sampling,
    SpeechEnd,
    SpeechRequest,
    TextDelta,
    Transcript,
    TranscriptionRequest,
)

TEXT = "the other in the end"
FRAME_SAMPLES = 1920
FOLDERS = ("tiny-CustomVoice", "tiny-VoiceDesign", "tiny-Base")
Test = Callable[[LocalBackend], Awaitable[None]]


class Starter:
    """Starts back-ends with the settings of a test; each gets the kernels compiled before."""

    def __init__(self, tts: Path, asr: Path, cache: Path) -> None:
        self._folders = {
            **{name: tts / name for name in FOLDERS},
            "tiny-asr": asr / "tiny-asr",
            "tiny-aligner": asr / "tiny-aligner",
        }
        self._cache = cache
        self.reports: list[tuple[str, int, int]] = []

    def folder_of(self, name: str) -> Path:
        return self._folders[name]

    def start(self, *names: str, **env: str) -> LocalBackend:
        return self.start_folder(*(self._folders[name] for name in names), **env)

    def start_folder(self, *folders: Path, **env: str) -> LocalBackend:
        plain = {
            "QWEN_TTS_DEVICE": "cpu",
            "QWEN_TTS_DTYPE": "float32",
            "MAX_RUNNING": "4",
            "XDG_CACHE_HOME": str(self._cache),
        }
        checkpoints = [open_checkpoint(folder) for folder in folders]
        return build_backend(
            checkpoints, Settings.from_env(plain | env), lambda *r: self.reports.append(r)
        )

    def run(self, test: Test, *names: str, **env: str) -> None:
        async def go() -> None:
            backend = self.start(*names, **env)
            try:
                await test(backend)
                await until_idle(backend)
            finally:
                await backend.close()

        asyncio.run(asyncio.wait_for(go(), 60))


@pytest.fixture(scope="module")
def starter(tiny_tts: Path, tiny_asr: Path, tmp_path_factory: pytest.TempPathFactory) -> Starter:
    return Starter(tiny_tts, tiny_asr, tmp_path_factory.getbasetemp())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


async def until_idle(backend: LocalBackend) -> None:
    await until(lambda: not any(s.num_running or s.num_waiting for s in backend.stats()))


def request_of(kind: ModelKind = ModelKind.CUSTOM_VOICE, **settings: Any) -> SpeechRequest:
    plain = SpeechRequest(kind=kind, text=TEXT, seed=1, max_frames=12)
    if kind is ModelKind.CUSTOM_VOICE:
        plain = replace(plain, speaker="vivian")
    return replace(plain, **settings)


async def speak(backend: LocalBackend, request: SpeechRequest) -> tuple[Pcm, SpeechEnd]:
    *pieces, end = [item async for item in backend.speak(request)]
    assert isinstance(end, SpeechEnd)
    assert all(isinstance(piece, np.ndarray) and piece.dtype == np.float32 for piece in pieces)
    return np.concatenate([np.zeros(0, np.float32), *pieces]), end


def draw_sound(duration_s: float, rate_hz: int = LISTEN_RATE_HZ, seed: int = 0) -> Pcm:
    noise = np.random.default_rng(seed).standard_normal(round(duration_s * rate_hz))
    return (0.1 * noise).astype(np.float32)


async def transcribe(backend: LocalBackend, samples: Pcm, **settings: Any) -> Transcript:
    request = TranscriptionRequest(samples, **settings)
    *deltas, transcript = [item async for item in backend.transcribe(request)]
    assert isinstance(transcript, Transcript)
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == transcript.text
    return transcript


def test_what_is_loaded_is_listed_with_what_it_can(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        infos = {info.kind: info for info in backend.models()}
        assert [info.name for info in infos.values()] == [*FOLDERS, "tiny-asr"]
        custom, base = infos[ModelKind.CUSTOM_VOICE], infos[ModelKind.BASE]
        assert "vivian" in custom.speakers
        assert "English" in custom.languages
        assert custom.takes_instructions and not base.takes_instructions
        assert base.speakers == ()
        assert "Cantonese" in infos[ModelKind.ASR].languages
        stats = backend.stats()
        assert [s.kind for s in stats] == list(infos)
        assert all((s.num_running, s.num_waiting, s.num_slots) == (0, 0, 4) for s in stats)
        assert "cpu" in backend.where

    starter.run(test, *FOLDERS, "tiny-asr")


def test_loading_is_reported_tensor_by_tensor(starter: Starter) -> None:
    starter.reports.clear()
    asyncio.run(starter.start("tiny-CustomVoice").close())
    by_name = {
        name: [num_read for _, num_read, _ in reports]
        for name, reports in itertools.groupby(starter.reports, key=lambda report: report[0])
    }
    assert "tiny-CustomVoice" in by_name
    for numbers in by_name.values():
        assert numbers == list(range(1, len(numbers) + 1))


def test_every_kind_speaks_and_hears_at_once(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        voice = await backend.make_voice_prompt(draw_sound(1.0, SPEECH_RATE_HZ), "the end")
        requests = [
            request_of(),
            request_of(ModelKind.VOICE_DESIGN, instructions="the other"),
            request_of(ModelKind.BASE, voice_prompt=voice),
        ]
        alone = [await speak(backend, request) for request in requests]
        heard = await transcribe(backend, draw_sound(1.0), max_new_tokens=8)
        together = await asyncio.gather(*(speak(backend, request) for request in requests * 3))
        for (sound, end), (same, same_end) in zip(alone * 3, together, strict=True):
            assert end == same_end
            assert len(sound) == end.num_frames * FRAME_SAMPLES
            assert np.allclose(sound, same, atol=1e-5)
        both = await asyncio.gather(
            speak(backend, requests[0]), transcribe(backend, draw_sound(1.0), max_new_tokens=8)
        )
        assert both[1] == heard
        ended = {s.kind: sum(s.ended.values()) for s in backend.stats()}
        assert ended == {
            ModelKind.CUSTOM_VOICE: 5,
            ModelKind.VOICE_DESIGN: 4,
            ModelKind.BASE: 4,
            ModelKind.ASR: 2,
        }

    starter.run(test, *FOLDERS, "tiny-asr")


def test_a_reference_is_a_vector_and_with_its_text_codes_too(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        sound = draw_sound(1.0, SPEECH_RATE_HZ)
        sound.flags.writeable = False
        plain = await backend.make_voice_prompt(sound, None)
        assert (plain.codes, plain.text) == (None, None)
        assert plain.speaker_vector.dtype == np.float32
        whole = await backend.make_voice_prompt(sound, "the end")
        assert np.array_equal(whole.speaker_vector, plain.speaker_vector)
        assert whole.text == "the end"
        assert whole.codes is not None
        assert whole.codes.dtype == np.int16
        assert whole.codes.shape == (13, 16)  # 1 s is 12.5 frames
        stored = replace(whole, speaker_vector=np.frombuffer(whole.speaker_vector.tobytes(), "f4"))
        for voice in (plain, whole, stored):
            request = request_of(ModelKind.BASE, voice_prompt=voice, max_frames=3)
            assert (await speak(backend, request))[1].num_frames > 0

    starter.run(test, "tiny-Base")


def test_a_small_model_takes_of_a_reference_only_its_vector(
    starter: Starter, tiny_tts: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_tts / "tiny-Base", tmp_path / "small")
    (folder / "scope.json").write_text('{"about": "it speaks English", "in_context": false}')

    async def go() -> None:
        backend = starter.start_folder(folder)
        try:
            sound = draw_sound(1.0, SPEECH_RATE_HZ)
            voice = await backend.make_voice_prompt(sound, "the end")
            assert (voice.codes, voice.text) == (None, None)
        finally:
            await backend.close()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_broken_reference_fails_its_request_alone(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        good = await backend.make_voice_prompt(draw_sound(1.0, SPEECH_RATE_HZ), None)
        foreign = replace(good, speaker_vector=good.speaker_vector[:-1])
        fine = speak(backend, request_of(ModelKind.BASE, voice_prompt=good))
        bad = speak(backend, request_of(ModelKind.BASE, voice_prompt=foreign))
        (_, end), error = await asyncio.gather(fine, bad, return_exceptions=True)
        assert end.num_frames > 0
        assert isinstance(error, BadRequest)

    starter.run(test, "tiny-Base")


@pytest.mark.parametrize(
    "act",
    [
        lambda backend: speak(backend, request_of(ModelKind.VOICE_DESIGN)),
        lambda backend: backend.make_voice_prompt(draw_sound(1.0), None),
        lambda backend: transcribe(backend, draw_sound(1.0)),
    ],
)
def test_what_is_not_loaded_is_refused(
    starter: Starter, act: Callable[[LocalBackend], Awaitable[Any]]
) -> None:
    async def test(backend: LocalBackend) -> None:
        with pytest.raises(NotLoaded):
            await act(backend)

    starter.run(test, "tiny-CustomVoice")


@pytest.mark.parametrize(
    ("name", "part"), [("tiny-CustomVoice", "talker_config"), ("tiny-asr", "text_config")]
)
@pytest.mark.parametrize(("key", "value"), [("hidden_size", 80), ("num_attention_heads", 6)])
def test_a_config_that_does_not_fit_its_weights_stops_the_start(
    starter: Starter, tmp_path: Path, name: str, part: str, key: str, value: int
) -> None:
    folder = shutil.copytree(starter.folder_of(name), tmp_path / name)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    inner = config[part] if part in config else config["thinker_config"][part]
    inner[key] = value
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(StartError, match=f"{name}/config.json does not fit the weights"):
        starter.start_folder(folder)


@pytest.mark.parametrize("key", ["text_config", "audio_config"])
def test_a_config_that_lacks_a_part_is_named(starter: Starter, tmp_path: Path, key: str) -> None:
    folder = shutil.copytree(starter.folder_of("tiny-asr"), tmp_path / "asr")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["thinker_config"][key]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(StartError, match=f"asr/config.json: thinker_config.{key} is missing"):
        starter.start_folder(folder)


def test_bad_requests_fail_before_the_first_sound(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        for broken in (request_of(speaker="nobody"), request_of(language="Klingon")):
            with pytest.raises(BadRequest):
                await anext(backend.speak(broken))
        too_long = request_of(text="x1" * 20_000)
        with pytest.raises(BadRequest, match="tokens together; this model takes"):
            await anext(backend.speak(too_long))
        stats = backend.stats()[0]
        assert (stats.num_steps, sum(stats.ended.values())) == (0, 0)

    starter.run(test, "tiny-CustomVoice")


def test_a_client_that_leaves_frees_its_slot(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        endless = request_of(max_frames=None, text=TEXT * 20, sampling=Sampling(temperature=2.0))
        async with aclosing(backend.speak(endless)) as stream:
            await anext(stream)
            waiting = asyncio.create_task(speak(backend, request_of()))
            await until(lambda: backend.stats()[0].num_waiting == 1)
        assert (await waiting)[1].num_frames > 0
        assert backend.stats()[0].ended[EndReason.CANCELLED] == 1

    starter.run(test, "tiny-CustomVoice", MAX_RUNNING="1")


def test_a_full_line_refuses_and_goes_on(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        endless = request_of(max_frames=None, text=TEXT * 20, sampling=Sampling(temperature=2.0))
        async with aclosing(backend.speak(endless)) as stream:
            await anext(stream)
            waiting = asyncio.create_task(speak(backend, request_of()))
            await until(lambda: backend.stats()[0].num_waiting == 1)
            with pytest.raises(Overloaded):
                await speak(backend, request_of())
        await waiting

    starter.run(test, "tiny-CustomVoice", MAX_RUNNING="1", MAX_WAITING="1")


def test_the_budget_is_lowered_by_the_request_and_never_raised(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        ends = [
            (await speak(backend, request_of(text="a", max_frames=max_frames, seed=3)))[1]
            for max_frames in (1, 2, 100_000)
        ]
        assert [end.num_frames for end in ends[:2]] == [1, 2]
        assert ends[2].num_frames <= 20 + 38

    starter.run(test, "tiny-CustomVoice")


def test_one_frame_is_the_beginning_of_many(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        long, _ = await speak(backend, request_of(max_frames=6))
        short, _ = await speak(backend, request_of(max_frames=2))
        assert np.allclose(long[: len(short)], short, atol=1e-5)
        assert len(short) == 2 * FRAME_SAMPLES

    starter.run(test, "tiny-CustomVoice")


def test_close_ends_speech_and_what_comes_later_is_refused(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        endless = request_of(max_frames=None, text=TEXT * 20, sampling=Sampling(temperature=2.0))
        stream: AsyncGenerator[Any] = backend.speak(endless)
        await anext(stream)
        await backend.close()
        with pytest.raises(Overloaded, match="shutting down"):
            async for _ in stream:
                pass
        with pytest.raises(Overloaded, match="shutting down"):
            await speak(backend, request_of())
        with pytest.raises(Overloaded, match="shutting down"):
            await transcribe(backend, draw_sound(1.0))

    starter.run(test, "tiny-CustomVoice", "tiny-asr")


def test_recordings_of_all_lengths_at_once_are_heard_as_if_alone(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        sounds = [draw_sound(duration_s, seed=at) for at, duration_s in enumerate((0.1, 1, 8, 40))]
        alone = [await transcribe(backend, sound, max_new_tokens=6) for sound in sounds]
        together = await asyncio.gather(
            *(transcribe(backend, sound, max_new_tokens=6) for sound in sounds)
        )
        for one, other in zip(alone, together, strict=True):
            assert one.text == other.text
            assert [s.token_ids for s in one.segments] == [s.token_ids for s in other.segments]
        assert [len(transcript.segments) for transcript in alone] == [1, 1, 1, 2]
        assert [transcript.duration_s for transcript in alone] == [0.1, 1, 8, 40]

    starter.run(test, "tiny-asr")


def test_an_aligner_is_left_out_and_said_so(
    starter: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(backend: LocalBackend) -> None:
        assert [model.kind for model in backend.models()] == [ModelKind.ASR]

    starter.run(test, "tiny-asr", "tiny-aligner")
    assert "tiny-aligner is left out" in caplog.text


def test_a_gpu_that_is_not_there_stops_the_start(starter: Starter) -> None:
    with pytest.raises(StartError, match="cuda:57"):
        starter.start("tiny-CustomVoice", QWEN_TTS_DEVICE="cuda:57")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_precisions_speak_and_hear(starter: Starter, dtype: str) -> None:
    async def test(backend: LocalBackend) -> None:
        sound, end = await speak(backend, request_of())
        assert len(sound) == end.num_frames * FRAME_SAMPLES
        assert np.isfinite(sound).all()
        heard = await transcribe(backend, draw_sound(1.0), max_new_tokens=5)
        assert heard.num_output_tokens <= 5

    starter.run(test, "tiny-CustomVoice", "tiny-asr", QWEN_TTS_DTYPE=dtype)


def test_the_smallest_temperature_breaks_nobody(starter: Starter) -> None:
    async def test(backend: LocalBackend) -> None:
        results = await asyncio.gather(
            speak(backend, request_of(sampling=Sampling(temperature=1e-40))),
            speak(backend, request_of(sampling=Sampling(temperature=0.9))),
        )
        assert all(end.num_frames > 0 for _, end in results)

    starter.run(test, "tiny-CustomVoice")
