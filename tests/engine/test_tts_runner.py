"""The speech runner on small random checkpoints, stepped by hand."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from speech_runs import (
    FRAME_SAMPLES,
    GREEDY,
    TEXT,
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

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import SpeechModel, load_speech
from qwen3_audio.engine.tts import resolve
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.settings import Settings
from qwen3_audio.types import EndReason, ModelKind, Pcm, Sampling

NUM_SLOTS = 4
LENGTHS = range(10, 28, 3)  # frames of mixed requests


def load(folder: Path, kernels: Kernels | None = None) -> SpeechModel:
    settings = Settings.from_env({"MAX_RUNNING": str(NUM_SLOTS)})
    device = Device(torch.device("cpu"), torch.float32, kernels)
    return load_speech(open_checkpoint(folder), settings, device, lambda *report: None)


@pytest.fixture(scope="module")
def custom(tiny_tts: Path) -> SpeechModel:
    return load(tiny_tts / "tiny-CustomVoice")


@pytest.fixture(
    scope="module", params=["torch", pytest.param("kernels", marks=pytest.mark.compiler)]
)
def base(
    request: pytest.FixtureRequest, tiny_tts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SpeechModel]:
    cache = tmp_path_factory.getbasetemp() / "qwen3-audio" / "kernels"
    kernels = Kernels(cache, 1) if request.param == "kernels" else None
    yield load(tiny_tts / "tiny-Base", kernels)
    if kernels is not None:
        kernels.close()


def test_a_request_alone_and_in_a_busy_batch_are_the_same(base: SpeechModel) -> None:
    """More requests than slots; they join at different frames, and others leave in between."""
    alone, busy, passing = (mixed_requests(base, LENGTHS) for _ in range(3))
    passing = passing[0:3:2]
    for speech in alone:
        run_alone(base, speech)
    joining = {0: [passing[0], busy[0]], 1: [busy[1]], 3: [passing[1]], 4: busy[2:5], 20: busy[5:]}
    run(base, joining, {5: passing[:1], 6: passing[1:]})
    for one, other in zip(alone, busy, strict=True):
        assert one.frames == other.frames
        assert one.end == other.end
        assert np.allclose(one.sound, other.sound, atol=1e-5)
    assert len({tuple(map(tuple, speech.frames)) for speech in alone}) == len(alone)
    assert [len(speech.frames) for speech in passing] == [5, 3]
    assert passing[0].frames == alone[0].frames[:5]
    assert passing[1].frames == alone[2].frames[:3]


def test_a_slot_remembers_nothing_of_who_left_it_in_the_middle(custom: SpeechModel) -> None:
    request = request_of(seed=5)
    first = run_alone(custom, speech_of(custom, request))
    others = [speech_of(custom, request_of(seed=n, text=TEXT * 3)) for n in range(NUM_SLOTS)]
    again = speech_of(custom, request)
    run(custom, {0: others, 7: [again]}, {7: others})
    assert again.frames == first.frames
    assert np.allclose(again.sound, first.sound, atol=1e-5)


def test_the_seed_alone_makes_the_difference(custom: SpeechModel) -> None:
    one, same, other = (
        run_alone(custom, speech_of(custom, request_of(seed=seed), max_frames=8))
        for seed in (3, 3, 4)
    )
    assert one.frames == same.frames
    assert one.frames != other.frames


def test_greedy_speech_needs_no_seed(custom: SpeechModel) -> None:
    one, other = (
        run_alone(custom, speech_of(custom, request_of(seed=seed, sampling=GREEDY), max_frames=8))
        for seed in (3, 4)
    )
    assert one.frames == other.frames


def test_largest_seed_and_largest_top_k_are_taken(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_end(monkeypatch, custom)
    request = request_of(seed=2**63 - 1, sampling=Sampling(top_k=1_000_000_000))
    assert ended(run_alone(custom, speech_of(custom, request, max_frames=3)))[1] == 3


def test_sound_leaves_in_pieces_that_grow_from_one_frame_to_eight(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_end(monkeypatch, custom)
    speech = speech_of(custom, request_of(seed=2, text=TEXT * 4), max_frames=30)
    sizes: list[int] = []
    custom.runner.scheduler.add([speech.seq])
    for number in range(1, 16):
        step(custom, [speech])
        assert len(speech.frames) == number
        sizes.append(len(speech.sound) // FRAME_SAMPLES)
    assert sizes == [1, 1, 3, 3, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 15]
    leave(custom, speech)
    assert_clean(custom)


def never_end(monkeypatch: pytest.MonkeyPatch, model: SpeechModel) -> None:
    runner = model.runner
    monkeypatch.setattr(runner, "is_banned", runner.is_banned | runner.is_eos)


def decode_whole(model: SpeechModel, codes: torch.Tensor) -> Pcm:
    codec = model.runner.sound.codec
    with torch.inference_mode():
        sound = codec.decode(codes[None], codec.new_state(1), torch.tensor([0]))
    return sound[0].float().numpy()


def test_the_pieces_together_are_the_codes_decoded_whole(custom: SpeechModel) -> None:
    speech = run_alone(custom, speech_of(custom, request_of(seed=2), max_frames=21))
    whole = decode_whole(custom, torch.from_numpy(speech.codes))
    assert np.allclose(speech.sound, whole, atol=1e-5)


def test_with_a_reference_the_sound_is_what_follows_it(base: SpeechModel) -> None:
    voice = draw_voice(base, 30)
    assert voice.codes is not None
    request = request_of(ModelKind.BASE, voice_prompt=voice)
    speech = run_alone(base, speech_of(base, request, max_frames=9))
    codes = np.concatenate([voice.codes.astype(np.int64), speech.codes])
    whole = decode_whole(base, torch.from_numpy(codes))
    assert np.allclose(speech.sound, whole[30 * FRAME_SAMPLES :], atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 6, 16])
def test_n_frames_asked_for_are_n_frames(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch, num_frames: int
) -> None:
    never_end(monkeypatch, custom)
    speech = run_alone(custom, speech_of(custom, request_of(), max_frames=num_frames))
    assert ended(speech) == (EndReason.LENGTH, num_frames)


def fix_logits(
    monkeypatch: pytest.MonkeyPatch, model: SpeechModel, logits_of: dict[int, float]
) -> None:
    """From now on every first code has these logits, 0 where nothing is said."""
    logits = torch.zeros(model.runner.talker.config.stack.vocab_size)
    logits[list(logits_of)] = torch.tensor(list(logits_of.values()))
    monkeypatch.setattr(
        model.runner.talker, "logits", lambda hidden: logits.expand(len(hidden), -1)
    )


def repeat_frames(monkeypatch: pytest.MonkeyPatch, model: SpeechModel) -> None:
    num_codes = model.runner.talker.config.num_code_groups - 1
    fix_logits(monkeypatch, model, {5: 1000.0})
    monkeypatch.setattr(
        model.runner,
        "predict",
        lambda hidden, first, sample: torch.full((len(hidden), num_codes), 7),
    )


def test_speech_that_repeats_itself_ends_after_three_seconds(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeat_frames(monkeypatch, custom)
    speech = run_alone(custom, speech_of(custom, request_of(), max_frames=200))
    assert ended(speech) == (EndReason.LOOP, 39)
    assert len(set(map(tuple, speech.frames))) == 1


def test_a_loop_ends_its_own_request_only(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = (speech_of(custom, request_of(), max_frames=45) for _ in range(2))
    repeat_frames(monkeypatch, custom)
    run(custom, {0: [early], 10: [late]})
    assert (ended(early), ended(late)) == ((EndReason.LOOP, 39),) * 2


def test_silence_ends_after_four_seconds_at_the_end_of_a_piece(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(codes: torch.Tensor, *rest: object) -> torch.Tensor:
        return torch.zeros(codes.shape[0], codes.shape[1] * FRAME_SAMPLES)

    monkeypatch.setattr(custom.runner.sound.codec, "decode", decode)
    never_end(monkeypatch, custom)
    speech = run_alone(custom, speech_of(custom, request_of(), max_frames=200))
    assert ended(speech) == (EndReason.SILENCE, 55)  # 1 + 2 + 4 + 6 * 8, the first above 50


def test_the_end_is_banned_for_two_frames_and_makes_none_itself(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_logits(monkeypatch, custom, {custom.runner.talker.config.codec.eos: 1000.0})
    speech = run_alone(custom, speech_of(custom, request_of()))
    assert ended(speech) == (EndReason.STOP, 2)


def test_control_ids_are_never_spoken(custom: SpeechModel, monkeypatch: pytest.MonkeyPatch) -> None:
    config = custom.runner.talker.config
    fix_logits(monkeypatch, custom, {config.codec.bos: 1000.0})
    request = request_of(sampling=Sampling(temperature=2.0, top_k=0))
    speech = run_alone(custom, speech_of(custom, request, max_frames=20))
    assert speech.codes.max() < config.codebook_size


def test_the_first_code_is_penalised_for_what_was_spoken(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_logits(monkeypatch, custom, {10: 1.04, 11: 1.02, 12: 1.0})
    speech = run_alone(custom, speech_of(custom, request_of(sampling=GREEDY), max_frames=4))
    assert speech.codes[:, 0].tolist() == [10, 11, 12, 10]


def test_a_request_that_is_cancelled_gives_its_slot_and_pages_back(custom: SpeechModel) -> None:
    speeches = [speech_of(custom, request_of(seed=n, text=TEXT * 4)) for n in range(6)]
    for speech in speeches:
        custom.runner.scheduler.add([speech.seq])
    step(custom, speeches)
    assert custom.runner.scheduler.num_waiting == 2
    leave(custom, speeches[1])
    step(custom, speeches)
    assert custom.runner.scheduler.num_waiting == 1
    assert len(speeches[4].frames) == 1
    for speech in speeches[:1] + speeches[2:5]:
        leave(custom, speech)
    custom.runner.scheduler.remove(speeches[5].seq)
    assert_clean(custom)


def test_a_step_that_breaks_leaves_nothing_behind(
    custom: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_alone(custom, speech_of(custom, request_of(seed=9), max_frames=10))
    broken = [speech_of(custom, request_of(seed=n)) for n in range(3)]
    for part in ("advance", "prefill"):
        with monkeypatch.context() as patch:
            custom.runner.scheduler.add([broken[0].seq])
            step(custom, broken)
            custom.runner.scheduler.add([speech.seq for speech in broken[1:]])
            patch.setattr(custom.runner.decoder, part, fail)
            with pytest.raises(RuntimeError, match="device lost"):
                custom.runner.step()
            for seq in custom.runner.scheduler.everyone():
                custom.runner.scheduler.remove(seq)
                custom.runner.release(seq)
            assert_clean(custom)
        broken = [speech_of(custom, request_of(seed=n)) for n in range(3)]
    after = run_alone(custom, speech_of(custom, request_of(seed=9), max_frames=10))
    assert after.frames == before.frames


def fail(*args: object) -> None:
    raise RuntimeError("device lost")


def test_settings_of_a_request_win_over_the_checkpoints() -> None:
    assert resolve(Sampling(), 0.9, 50, 1.0) == (0.9, 50, 1.0)
    assert resolve(Sampling(0.0, 7, 0.5), 0.9, 50, 1.0) == (0.0, 7, 0.5)
    assert resolve(Sampling(temperature=1e-40), 0.9, 50, 1.0) == (0.0, 50, 1.0)
    everything = resolve(Sampling(top_k=0), 0.9, 50, 1.0)[1]
    assert everything > 1_000_000
    assert resolve(replace(Sampling(), temperature=1.0), 0.9, 0, 1.0) == (1.0, everything, 1.0)
