"""The GPU's runners in a real engine, the codec behind, and which runners a start chooses."""

import asyncio
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_models import NUM_SLOTS, as_graphs, as_plain, load_tts
from later_executor import LaterExecutor
from speech_runs import (
    GREEDY,
    Speech,
    assert_clean,
    leave,
    request_of,
    run,
    run_alone,
    speech_of,
    step,
)
from stand_in import CPU

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine import device as device_module
from qwen3_audio.engine.asr import AsrRunner
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.engine import Engine
from qwen3_audio.engine.gpu import codec
from qwen3_audio.engine.gpu.listening import GpuAsrRunner
from qwen3_audio.engine.gpu.speech import GpuSpeechRunner
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS
from qwen3_audio.engine.loading import SpeechModel, load_listening
from qwen3_audio.engine.sink import Sink
from qwen3_audio.engine.speech_sound import CodecThreads
from qwen3_audio.engine.tts import TtsRunner
from qwen3_audio.settings import Settings
from qwen3_audio.types import EndReason, ModelKind, SpeechEnd

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_tts: Path) -> Path:
    return tiny_tts / "tiny-CustomVoice"


@pytest.fixture(scope="module")
def plain(folder: Path) -> SpeechModel:
    return load_tts(folder, as_plain())


def speak(model: SpeechModel, seed: int, **settings: Any) -> Speech:
    return speech_of(model, request_of(seed=seed), **settings)


def test_frames_stop_before_they_overrun_the_codec(
    plain: SpeechModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "RING_FRAMES", 16)
    later = LaterExecutor()
    model = load_tts(folder, as_graphs(), executor=later)
    expected = run_alone(plain, speak(plain, 1, max_frames=25))
    speech = speak(model, 1, max_frames=25)
    model.runner.scheduler.add([speech.seq])
    for _ in range(30):
        step(model, [speech])
    num_decoded = speech.seq.num_decoded
    assert speech.seq.num_launched == num_decoded + 16 - 8
    assert not model.runner.has_work
    while speech.end is None:
        later.work()
        assert model.runner.has_work
        step(model, [speech])
    assert speech.frames == expected.frames
    assert speech.end == expected.end
    assert np.allclose(speech.sound, expected.sound, atol=1e-5)
    assert_clean(model)


def test_first_sounds_come_before_longer_pieces(folder: Path) -> None:
    later = LaterExecutor()
    model = load_tts(folder, as_graphs(), executor=later)
    old, new = speak(model, 1, max_frames=40), speak(model, 2, max_frames=40)
    model.runner.scheduler.add([old.seq])
    for _ in range(4):
        later.work()
        step(model, [old])
    later.work()
    model.runner.scheduler.add([new.seq])
    for _ in range(2):
        step(model, [old, new])
    assert (new.seq.num_chunks, len(new.frames)) == (1, 1)
    for speech in (old, new):
        leave(model, speech)
    later.work()
    step(model, [])
    assert not model.runner.has_work


def test_pieces_shorter_than_their_graph_are_cut(plain: SpeechModel, folder: Path) -> None:
    """Ends of five, six and seven frames share one call; one frame alone takes a graph of two."""
    model = load_tts(folder, as_graphs())
    lengths = [*(6 + number for number in (5, 6, 7)), 1]
    expected = [run_alone(plain, speak(plain, n, max_frames=n)) for n in lengths]
    got = [speak(model, n, max_frames=n) for n in lengths]
    run(model, {0: got})
    for one, other in zip(expected, got, strict=True):
        assert [len(piece) for piece in one.pieces] == [len(piece) for piece in other.pieces]
        assert np.allclose(one.sound, other.sound, atol=1e-5)


def test_codes_that_were_said_are_said_less_in_graphs_too(folder: Path, tmp_path: Path) -> None:
    """Greedy among three codes, with a penalty that turns the choice."""
    strict = shutil.copytree(folder, tmp_path / "strict")
    config = strict / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"repetition_penalty": 3.0}))
    request = request_of(sampling=GREEDY)
    said = []
    for path, device in ((strict, as_plain()), (strict, as_graphs()), (folder, as_graphs())):
        model = load_tts(path, device)
        model.runner.is_banned[3:] = True
        said.append(run_alone(model, speech_of(model, request, max_frames=9)).frames)
    plain, graphs, mild = said
    assert graphs == plain
    assert graphs != mild


def test_text_that_comes_with_the_frames_and_many_pages(
    plain: SpeechModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence grows out of one number of pages into the next."""
    model = load_tts(folder, as_graphs())
    assert isinstance(model.runner, GpuSpeechRunner)
    endless = plain.runner.is_banned | plain.runner.is_eos
    monkeypatch.setattr(plain.runner, "is_banned", endless)
    model.runner.is_banned.copy_(endless)
    model.runner._frames.pages = (1, 2, 4, model.runner._frames.pages[-1])
    text = "the other in the end and the other"
    ends = []
    for one in (plain, model):
        request = request_of(seed=3, text=text)
        speech = speech_of(one, request, max_frames=PAGE_POSITIONS - 4, is_streaming_text=True)
        ends.append(run_alone(one, speech))
    assert ends[0].frames == ends[1].frames
    assert len(ends[0].frames) == PAGE_POSITIONS - 4


def test_an_engine_serves_many_and_sleeps_when_all_are_gone(
    plain: SpeechModel, folder: Path
) -> None:
    """Real threads; some leave in the middle."""
    seeds = range(6)
    expected = {seed: run_alone(plain, speak(plain, seed, max_frames=6 + seed)) for seed in seeds}

    async def speak_all(model: SpeechModel) -> None:
        engine = Engine([model.runner])

        async def one(seed: int, num_items: int) -> list[Any]:
            sink, speech = Sink(), speak(model, seed, max_frames=6 + seed)
            speech.seq.emit = sink.emit
            engine.submit(ModelKind.CUSTOM_VOICE, [speech.seq])
            items: list[Any] = []
            while len(items) < num_items and not (items and isinstance(items[-1], SpeechEnd)):
                items.append(await sink.get())
            engine.cancel(ModelKind.CUSTOM_VOICE, [speech.seq])
            return items

        wanted = [1 if seed % 3 == 2 else 99 for seed in seeds]
        results = await asyncio.gather(*map(one, seeds, wanted))
        num_steps = engine.stats()[0].num_steps
        ended = engine.stats()[0].ended
        await engine.close()
        assert ended[EndReason.FAILED] == 0
        assert num_steps < 150
        for seed, items, num_items in zip(seeds, results, wanted, strict=True):
            if num_items == 1:
                assert np.allclose(items[0], expected[seed].pieces[0], atol=1e-5)
            else:
                assert items[-1] == expected[seed].end
                assert np.allclose(np.concatenate(items[:-1]), expected[seed].sound, atol=1e-5)

    with ThreadPoolExecutor(2) as executor:
        model = load_tts(folder, as_graphs(), executor=executor)
        asyncio.run(asyncio.wait_for(speak_all(model), 60))
        model.runner.restart()
        assert_clean(model)


def test_the_device_says_which_runners_there_are(
    plain: SpeechModel, folder: Path, tiny_asr: Path
) -> None:
    checkpoint = open_checkpoint(tiny_asr / "tiny-asr")
    settings = Settings.from_env({"MAX_RUNNING": str(NUM_SLOTS)})
    for device, speech, listening in (
        (as_plain(), TtsRunner, AsrRunner),
        (as_graphs(), GpuSpeechRunner, GpuAsrRunner),
    ):
        assert type(load_tts(folder, device).runner) is speech
        model = load_listening(checkpoint, settings, device, lambda *report: None)
        assert type(model.runner) is listening


@pytest.fixture
def gpu_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "find_gpu_trouble", lambda device: None)


@pytest.mark.parametrize(("text", "has_lanes"), [("", True), ("on", True), ("0", False)])
def test_a_gpu_has_graphs_unless_they_are_switched_off(
    gpu_is_there: None, text: str, has_lanes: bool
) -> None:
    settings = Settings.from_env({"QWEN_TTS_DEVICE": "cuda:0", "QWEN_CUDA_GRAPHS": text})
    assert (Device.choose(settings).lanes is not None) is has_lanes


def test_somebody_waits_for_the_sound_of_a_gpu_outside_of_the_engine() -> None:
    threads = CodecThreads.beside(as_graphs())
    assert threads is not None
    assert threads.submit(lambda: 3).result(5) == 3
    threads.shutdown()
    assert CodecThreads.beside(Device(CPU, torch.float32)) is None
