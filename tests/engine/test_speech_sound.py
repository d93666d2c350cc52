"""The codec beside the talker: what is due when, and nothing depends on who was faster."""

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from later_executor import LaterExecutor
from speech_runs import (
    FRAME_SAMPLES,
    Speech,
    assert_clean,
    leave,
    request_of,
    run_alone,
    speech_of,
    step,
)

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine import speech_sound
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import SpeechModel, load_speech
from qwen3_audio.engine.speech_sound import (
    RAMP,
    CodecThreads,
    InlineExecutor,
    SpeechSequence,
    most_urgent,
)
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.settings import Settings
from qwen3_audio.types import EndReason


@pytest.fixture
def later() -> LaterExecutor:
    return LaterExecutor()


@pytest.fixture
def model(tiny_tts: Path, later: LaterExecutor, monkeypatch: pytest.MonkeyPatch) -> SpeechModel:
    """Never ends by itself."""
    model = load(tiny_tts, later)
    runner = model.runner
    monkeypatch.setattr(runner, "is_banned", runner.is_banned | runner.is_eos)
    return model


def load(tiny_tts: Path, executor: Executor) -> SpeechModel:
    settings = Settings.from_env({"MAX_RUNNING": "4"})
    return load_speech(
        open_checkpoint(tiny_tts / "tiny-CustomVoice"),
        settings,
        Device(torch.device("cpu"), torch.float32),
        lambda *report: None,
        codec_threads=executor,
    )


def start(model: SpeechModel, *, max_frames: int = 30, seed: int = 2) -> Speech:
    speech = speech_of(model, request_of(seed=seed), max_frames=max_frames)
    model.runner.scheduler.add([speech.seq])
    return speech


def num_sounding(speech: Speech) -> int:
    return len(speech.sound) // FRAME_SAMPLES


def test_frames_go_on_while_the_codec_works(model: SpeechModel, later: LaterExecutor) -> None:
    speech = start(model)
    for _ in range(5):
        step(model, [speech])
    assert (len(speech.frames), num_sounding(speech)) == (5, 0)
    heard = []
    for _ in range(3):
        later.work()
        heard.append(num_sounding(speech))
        step(model, [speech])
    assert heard == [1, 3, 7]  # pieces of 1, 2 and 4 frames, however many were waiting


def test_the_sound_is_the_same_however_late_it_is_made(
    model: SpeechModel, later: LaterExecutor, tiny_tts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = load(tiny_tts, InlineExecutor())
    monkeypatch.setattr(at_once.runner, "is_banned", model.runner.is_banned)
    expected = run_alone(at_once, speech_of(at_once, request_of(seed=2), max_frames=30))
    speech = start(model, max_frames=30)
    for number in range(200):
        if number % 7 == 0:
            later.work()
        if speech.end is None:
            step(model, [speech])
    assert speech.end == expected.end
    assert [len(piece) for piece in speech.pieces] == [len(piece) for piece in expected.pieces]
    assert np.array_equal(speech.sound, expected.sound)
    assert_clean(model)


def test_only_the_codec_being_busy_is_no_work(model: SpeechModel, later: LaterExecutor) -> None:
    woken = []
    model.runner.connect(lambda: woken.append(True))
    assert not model.runner.has_work
    speech = start(model, max_frames=2)
    assert model.runner.has_work
    step(model, [speech])
    step(model, [speech])
    assert not model.runner.has_work  # both frames are made
    assert not woken
    later.work()
    assert woken == [True]
    assert model.runner.has_work
    step(model, [speech])
    later.work()
    step(model, [speech])
    assert speech.end is not None
    assert (speech.end.reason, num_sounding(speech)) == (EndReason.LENGTH, 2)
    assert_clean(model)


def test_who_waits_for_a_slot_is_no_work_until_one_is_free(
    model: SpeechModel, later: LaterExecutor
) -> None:
    running = [start(model, max_frames=1, seed=seed) for seed in range(4)]
    last = start(model, max_frames=1)
    step(model, running)
    assert not model.runner.has_work
    later.work()
    step(model, running)
    assert all(speech.end is not None for speech in running)
    assert model.runner.has_work
    step(model, [last])
    later.work()
    step(model, [last])
    assert num_sounding(last) == 1
    assert_clean(model)


def test_frames_made_while_a_silence_was_found_are_left_out(
    model: SpeechModel, later: LaterExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(codes: torch.Tensor, *rest: object) -> torch.Tensor:
        return torch.zeros(codes.shape[0], codes.shape[1] * FRAME_SAMPLES)

    monkeypatch.setattr(model.runner.sound.codec, "decode", decode)
    speech = start(model, max_frames=150)
    for number in range(400):
        if number % 12 == 0:
            later.work()
        if speech.end is None:
            step(model, [speech])
    assert speech.end is not None
    assert (speech.end.reason, speech.end.num_frames) == (EndReason.SILENCE, 55)
    assert num_sounding(speech) == 55
    assert len(speech.frames) > 55
    assert_clean(model)


def test_a_slot_left_while_the_codec_works_in_it_is_clean_for_the_next(
    model: SpeechModel, later: LaterExecutor, tiny_tts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = load(tiny_tts, InlineExecutor())
    monkeypatch.setattr(at_once.runner, "is_banned", model.runner.is_banned)
    expected = run_alone(at_once, speech_of(at_once, request_of(seed=7), max_frames=12))
    leaving = start(model)
    for _ in range(3):
        step(model, [leaving])
    leave(model, leaving)
    following = start(model, max_frames=12, seed=7)
    while following.end is None:
        step(model, [following])
        later.work()
    assert np.array_equal(following.sound, expected.sound)
    assert_clean(model)


def test_a_new_sound_begins_after_all_that_was_done_in_its_slot(
    model: SpeechModel, later: LaterExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[list[Future[Any]]] = []
    monkeypatch.setattr(speech_sound, "wait", waited.append)
    sound = model.runner.sound
    sound.begin(0, None)
    sound.begin(0, None)
    first, second = (future for future, _ in later.waiting)
    later.work()
    assert waited == [[], [first]]
    assert second.done()


def test_first_sounds_come_before_the_next_piece_of_others(
    model: SpeechModel, later: LaterExecutor
) -> None:
    early = start(model)
    step(model, [early])
    later.work()  # its first frame sounds
    for _ in range(2):
        step(model, [early])  # two more wait
    late = start(model, seed=3)
    step(model, [early, late])
    later.work()  # the piece of two
    step(model, [early, late])
    step(model, [early, late])
    assert late.seq.is_decoding
    assert not early.seq.is_decoding
    assert early.seq.num_due(RAMP) == 0 or early.seq.num_due(RAMP) == 4


def listener(model: SpeechModel, heard: tuple[float, int, int], num_waiting: int) -> SpeechSequence:
    """`heard`: since when, pieces, frames; then so many frames wait."""
    seq = speech_of(model, request_of()).seq
    seq.first_sound_s, seq.num_chunks, seq.num_decoded = heard
    seq.num_frames = seq.num_decoded + num_waiting
    return seq


def test_who_waits_for_a_first_sound_comes_first_and_then_who_runs_dry_the_soonest(
    model: SpeechModel,
) -> None:
    """A frame lasts 0.08 s."""
    sound = model.runner.sound
    late = listener(model, (100.0, 4, 15), 8)  # runs dry at 101.2
    soon = listener(model, (99.0, 4, 15), 8)  # at 100.2, though it has heard as much
    next_one = listener(model, (100.5, 3, 7), 9)  # at 101.06
    ending = listener(model, (100.0, 3, 7), 5)  # at 100.56, and only five are left
    ending.reason = EndReason.STOP
    patient = listener(model, (90.0, 4, 15), 7)  # has run dry, and its piece is not there yet
    new = [listener(model, (0.0, 0, 0), 1) for _ in range(2)]

    def chosen(*seqs: SpeechSequence) -> list[SpeechSequence]:
        return most_urgent(seqs, sound._runs_dry_s, sound._num_due)

    assert chosen(late, *new, soon, patient) == new
    assert chosen(late, patient, next_one, soon, ending) == [soon, next_one, late]
    assert chosen(late, next_one, ending) == [ending]
    assert chosen(patient) == []


def test_two_pieces_are_decoded_at_once_when_no_more_frames_are_made(
    model: SpeechModel, later: LaterExecutor
) -> None:
    short, long = start(model, max_frames=3), start(model, max_frames=4, seed=3)
    both = [short, long]
    step(model, both)
    later.work()  # both first frames
    step(model, both)
    step(model, both)
    assert [speech.seq.is_decoding for speech in both] == [True, True]  # a pair of pieces of two
    later.work()
    third = start(model, max_frames=1, seed=4)
    step(model, [*both, third])
    assert short.end is not None
    assert [speech.seq.is_decoding for speech in (long, third)] == [True, True]
    assert len(later.waiting) == 2
    while third.end is None or long.end is None:
        later.work()
        step(model, [long, third])
    assert_clean(model)


def test_a_codec_that_breaks_fails_the_step(
    model: SpeechModel, later: LaterExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("device lost")

    for part in ("decode", "reset"):
        with monkeypatch.context() as patch:
            patch.setattr(model.runner.sound.codec, part, fail)
            speech = start(model)
            step(model, [speech])
            later.work()
            with pytest.raises(RuntimeError, match="device lost"):
                model.runner.step()
            leave(model, speech)
            assert_clean(model)
    speech = start(model, max_frames=1)
    step(model, [speech])
    later.work()
    step(model, [speech])
    assert num_sounding(speech) == 1


# -- the thread itself -----------------------------------------------------------------------------


@pytest.fixture
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    kernels = Kernels(tmp_path_factory.getbasetemp() / "qwen3-audio" / "kernels", 2)
    yield kernels
    kernels.close()


@pytest.mark.compiler
def test_the_codec_threads_takes_a_core_from_the_kernels_only_while_it_works(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[int] = []
    monkeypatch.setattr(kernels, "lend", lent.append)
    thread = CodecThreads(kernels)
    try:
        during = thread.submit(lambda: (list(lent), torch.get_num_threads())).result()
        with pytest.raises(ZeroDivisionError):
            thread.submit(lambda: 1 / 0).result()
    finally:
        thread.shutdown()
    assert during == ([1], 1)
    assert lent == [1, -1, 1, -1]


@pytest.mark.compiler
def test_products_are_right_with_threads_lent_and_given_back(kernels: Kernels) -> None:
    from qwen3_audio.kernels.products import KernelLinear
    from qwen3_audio.models.linear import Linear

    linear = KernelLinear(kernels, Linear(torch.randn(256, 64)))
    x = torch.randn(2, 64)
    expected = linear(x)
    for change in (1, 0, -1, 2, -2, 0):
        kernels.lend(change)
        for _ in range(20):
            assert torch.equal(linear(x), expected)
