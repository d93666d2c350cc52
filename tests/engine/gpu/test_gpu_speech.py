"""The GPU's speech runner without a GPU, against the CPU's on the same checkpoints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_models import NUM_SLOTS, as_graphs, as_plain, load_tts
from speech_runs import (
    FRAME_SAMPLES,
    Speech,
    assert_clean,
    draw_voice,
    ended,
    leave,
    mixed_requests,
    request_of,
    run,
    run_alone,
    speech_of,
    step,
)
from stand_in import StandInLane

from qwen3_audio.engine.gpu.slots import FRAME, LEFT, POSITION
from qwen3_audio.engine.gpu.speech import GpuSpeechRunner
from qwen3_audio.engine.loading import SpeechModel
from qwen3_audio.kernels.fused.fp8 import Fp8Linear
from qwen3_audio.types import EndReason, ModelKind


@pytest.fixture(scope="module")
def plain(tiny_tts: Path) -> SpeechModel:
    return load_tts(tiny_tts / "tiny-Base", as_plain())


@pytest.fixture(scope="module")
def graphs(tiny_tts: Path) -> SpeechModel:
    return load_tts(tiny_tts / "tiny-Base", as_graphs())


def runner_of(model: SpeechModel) -> GpuSpeechRunner:
    assert isinstance(model.runner, GpuSpeechRunner)
    return model.runner


LENGTHS = range(7, 13)  # frames of mixed requests


def speak(model: SpeechModel, seed: int, max_frames: int = 12) -> Speech:
    request = request_of(ModelKind.BASE, seed=seed, voice_prompt=draw_voice(model, None))
    return speech_of(model, request, max_frames=max_frames)


def assert_same(expected: Sequence[Speech], got: Sequence[Speech]) -> None:
    for one, other in zip(expected, got, strict=True):
        assert one.frames[: len(other.frames)] == other.frames
        assert one.end == other.end
        assert np.allclose(one.sound, other.sound, atol=1e-5)
        assert [len(piece) for piece in one.pieces] == [len(piece) for piece in other.pieces]


@pytest.fixture(scope="module")
def expected(plain: SpeechModel) -> list[Speech]:
    """Each request alone on the CPU's runner."""
    return [run_alone(plain, speech) for speech in mixed_requests(plain, LENGTHS)]


@pytest.mark.parametrize("sizes", [(1, 2, 3, NUM_SLOTS), (NUM_SLOTS,)], ids=["exact", "padded"])
def test_a_busy_batch_makes_what_the_plain_runner_makes_of_each_alone(
    graphs: SpeechModel,
    expected: list[Speech],
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More requests than slots; they join at different frames, and others leave in between."""
    monkeypatch.setattr(runner_of(graphs)._frames, "sizes", sizes)
    monkeypatch.setattr(runner_of(graphs).sound, "sizes", sizes)
    busy, passing = (mixed_requests(graphs, LENGTHS) for _ in range(2))
    passing = passing[0:3:2]
    joining = {0: [passing[0], busy[0]], 1: [busy[1]], 3: [passing[1]], 4: busy[2:5], 9: busy[5:]}
    run(graphs, joining, {5: passing[:1], 6: passing[1:]})
    assert_same(expected, busy)
    assert passing[0].frames == expected[0].frames[:4]  # the fifth was made and never read
    assert passing[1].frames == expected[2].frames[:2]


def test_8_bit_weights_speak_alike_in_graphs_and_without(tiny_tts: Path) -> None:
    folder = tiny_tts / "tiny-CustomVoice"
    models = [load_tts(folder, replace(one, is_fp8=True)) for one in (as_plain(), as_graphs())]
    talker = models[0].runner.talker
    for layer, is_small in (
        (talker.stack.layers[0], True),
        (talker.predictor.stack.layers[0], False),
    ):
        assert [isinstance(one, Fp8Linear) for one in (layer.gate_up, layer.down)] == [is_small] * 2
    request = request_of(seed=1)
    assert_same(*([run_alone(m, speech_of(m, request, max_frames=9))] for m in models))


def test_rows_that_fill_up_a_batch_change_nothing(
    graphs: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, pool = runner_of(graphs), graphs.runner.decoder.pool
    monkeypatch.setattr(runner._frames, "sizes", (NUM_SLOTS,))
    gone, speech = speak(graphs, seed=2), speak(graphs, seed=1)
    runner.scheduler.add([gone.seq, speech.seq])
    step(graphs, [gone, speech])
    leave(graphs, gone)
    assert gone.seq.slot == 0  # which fills up no batch either
    others = [slot for slot in range(NUM_SLOTS + 1) if slot != speech.seq.slot]
    pages = sorted(set(range(pool.book.num_pages)) - set(pool._pages[speech.seq.slot]))
    states = [runner.slots.whole.t(), runner.slots.real.t(), pool.page_of]
    before = [state[others].clone() for state in states]
    kept = pool.k[pages].clone(), pool.v[pages].clone()
    for _ in range(3):
        step(graphs, [speech])
    assert all(map(torch.equal, before, (state[others] for state in states)))
    assert torch.equal(kept[0], pool.k[pages]) and torch.equal(kept[1], pool.v[pages])
    assert runner.slots.whole[LEFT, runner.slots.padding] == 0
    leave(graphs, speech)
    assert_clean(graphs)


def test_codes_are_read_one_step_after_they_were_asked_for(graphs: SpeechModel) -> None:
    speech, late = speak(graphs, seed=2), speak(graphs, seed=3)
    runner = runner_of(graphs)
    runner.scheduler.add([speech.seq])
    for number in range(1, 6):
        if number == 3:
            runner.scheduler.add([late.seq])
        step(graphs, [speech, late])
        assert (speech.seq.num_launched, len(speech.frames)) == (number, number - 1)
        assert len(late.frames) == max(0, number - 3)
    for one in (speech, late):
        leave(graphs, one)
    step(graphs, [speech, late])
    assert (len(speech.frames), len(late.frames)) == (4, 2)
    assert not runner.has_work
    assert_clean(graphs)


def test_who_leaves_between_asking_and_reading_leaves_the_slot_at_once(
    plain: SpeechModel, graphs: SpeechModel
) -> None:
    expected = run_alone(plain, speak(plain, seed=4))
    leaving = speak(graphs, seed=5)
    others = [speak(graphs, seed=number, max_frames=20) for number in range(6, 5 + NUM_SLOTS)]
    coming = speak(graphs, seed=4)
    runner = runner_of(graphs)
    runner.scheduler.add([speech.seq for speech in (leaving, *others, coming)])
    for _ in range(2):
        step(graphs, [leaving, coming, *others])
    slot, heard = leaving.seq.slot, len(leaving.frames)
    leave(graphs, leaving)
    while coming.end is None:
        step(graphs, [leaving, coming, *others])
    assert coming.seq.slot == slot
    assert len(leaving.frames) == heard
    assert_same([expected], [coming])
    for speech in others:
        if speech.end is None:
            leave(graphs, speech)
    assert_clean(graphs)


@contextmanager
def hasty(*models: SpeechModel) -> Iterator[None]:
    """The end is one of four first codes that there are."""
    before = [model.runner.is_banned.clone() for model in models]
    for model in models:
        model.runner.is_banned[3:].masked_fill_(~model.runner.is_eos[3:], True)
    yield
    for model, banned in zip(models, before, strict=True):
        model.runner.is_banned.copy_(banned)


def test_an_end_is_known_a_step_late_and_what_came_after_it_is_left_out(
    plain: SpeechModel, graphs: SpeechModel
) -> None:
    """Requests that end by themselves, one after the other in the same slots."""
    with hasty(plain, graphs):
        expected = [run_alone(plain, speak(plain, seed, max_frames=30)) for seed in range(8)]
        got = [speak(graphs, seed, max_frames=30) for seed in range(8)]
        run(graphs, {0: got})
    assert_same(expected, got)
    assert len({ended(speech) for speech in got}) > 3
    for speech in got:
        reason, num_frames = ended(speech)
        assert reason is EndReason.STOP
        assert speech.seq.num_launched == num_frames + 2  # the end itself, and one after it


def test_the_device_knows_an_end_before_the_host_does(graphs: SpeechModel) -> None:
    """The step that was asked for in between moves nothing."""
    with hasty(graphs):
        speech = run_alone(graphs, speak(graphs, seed=1, max_frames=30))
    reason, num_frames = ended(speech)
    whole = runner_of(graphs).slots.whole[:, speech.seq.slot]
    assert (reason, speech.seq.num_launched) == (EndReason.STOP, num_frames + 2)
    assert (int(whole[LEFT]), int(whole[FRAME])) == (0, num_frames + 1)
    assert int(whole[POSITION]) == len(speech.seq.prompt.rows) + num_frames


def test_a_slot_that_has_ended_writes_nothing_more(graphs: SpeechModel) -> None:
    runner = runner_of(graphs)
    speech = speak(graphs, seed=1, max_frames=3)
    runner.scheduler.add([speech.seq])
    for _ in range(3):
        step(graphs, [speech])
    whole = runner.slots.whole[:, speech.seq.slot]
    assert (int(whole[LEFT]), speech.end) == (0, None)
    position = int(whole[POSITION])
    with torch.inference_mode(), runner._lane.active():
        runner._frames.launch([speech.seq.slot], num_pages=8, has_text=False)
    assert (int(whole[LEFT]), int(whole[POSITION])) == (0, position)
    step(graphs, [speech])
    assert ended(speech) == (EndReason.LENGTH, 3)
    assert_clean(graphs)


def test_two_frames_are_the_first_sound_asked_for_before_their_codes_have_come(
    graphs: SpeechModel,
) -> None:
    runner = runner_of(graphs)
    lane = runner.sound._lane
    assert isinstance(lane, StandInLane)
    speech = speak(graphs, seed=7)
    runner.scheduler.add([speech.seq])
    lane.followed.clear()
    step(graphs, [speech])
    assert (len(speech.sound), lane.followed) == (0, [])
    step(graphs, [speech])
    assert (len(speech.frames), [len(piece) for piece in speech.pieces]) == (1, [2 * FRAME_SAMPLES])
    assert lane.followed == [runner.sound.frames_mark]
    leave(graphs, speech)
    step(graphs, [speech])


def test_sound_comes_in_pieces_of_2_4_and_then_8_frames(graphs: SpeechModel) -> None:
    speech = run_alone(graphs, speak(graphs, seed=1, max_frames=27))
    assert [len(piece) // FRAME_SAMPLES for piece in speech.pieces] == [2, 4, 8, 8, 5]


def test_the_pieces_together_are_the_codes_decoded_whole(graphs: SpeechModel) -> None:
    voice = draw_voice(graphs, 30)
    assert voice.codes is not None
    request = request_of(ModelKind.BASE, voice_prompt=voice)
    speech = run_alone(graphs, speech_of(graphs, request, max_frames=21))
    codes = torch.from_numpy(np.concatenate([voice.codes.astype(np.int64), speech.codes]))
    codec = graphs.runner.sound.codec
    with torch.inference_mode():
        whole = codec.decode(codes[None], codec.new_state(1), torch.tensor([0]))[0].numpy()
    assert np.allclose(speech.sound, whole[30 * FRAME_SAMPLES :], atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 6, 16])
def test_n_frames_asked_for_are_n_frames(graphs: SpeechModel, num_frames: int) -> None:
    speech = run_alone(graphs, speak(graphs, seed=1, max_frames=num_frames))
    assert ended(speech) == (EndReason.LENGTH, num_frames)
    assert speech.seq.num_launched == num_frames


class LoopAt:
    """In place of the detector: says at some frame that it was one too many."""

    def __init__(self, speech: Speech, number: int) -> None:
        self._frames, self._number = speech.frames, number

    def is_loop(self, frame: Sequence[int]) -> bool:
        self._frames.append(frame)
        return len(self._frames) == self._number


class SilentAt:
    """In place of the detector: says so at some piece."""

    def __init__(self, number: int) -> None:
        self._number = number

    def is_silence(self, samples: object) -> bool:
        self._number -= 1
        return self._number == 0


@pytest.mark.parametrize("at", [2, 3, 5])
def test_loops_and_silences_end_where_they_end_on_the_plain_runner(
    plain: SpeechModel, graphs: SpeechModel, at: int
) -> None:
    results = []
    for model in (plain, graphs):
        looping, silent = speak(model, seed=8, max_frames=40), speak(model, seed=9, max_frames=40)
        looping.seq.loop = LoopAt(looping, at)  # type: ignore[assignment]
        silent.seq.silence = SilentAt(at)  # type: ignore[assignment]
        run(model, {0: [looping, silent]})
        assert looping.end is not None and looping.end.reason is EndReason.LOOP
        results.append((looping.end, silent.end, looping.sound, silent.sound))
    (one, two, *sounds), (other_one, other_two, *other_sounds) = results
    assert (one, two) == (other_one, other_two)
    for ours, theirs in zip(sounds, other_sounds, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


def test_a_step_that_breaks_leaves_nothing_behind(
    plain: SpeechModel, graphs: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_alone(plain, speak(plain, seed=9))
    runner = runner_of(graphs)
    broken = [speak(graphs, seed=number) for number in range(3)]
    runner.scheduler.add([broken[0].seq])
    step(graphs, broken)
    for part, names in ((runner._frames, "launch"), (runner._prefill_graphs, "run")):
        with monkeypatch.context() as patch:
            patch.setattr(part, names, fail)
            runner.scheduler.add([speech.seq for speech in broken[1:]])
            with pytest.raises(RuntimeError, match="device lost"):
                runner.step()
        for seq in runner.scheduler.everyone():
            runner.scheduler.remove(seq)
            runner.release(seq)
        runner.restart()
        assert_clean(graphs)
        assert not runner.has_work
        broken = [speak(graphs, seed=number) for number in range(3)]
    assert_same([expected], [run_alone(graphs, speak(graphs, seed=9))])


def fail(*args: object, **more: object) -> None:
    raise RuntimeError("device lost")
