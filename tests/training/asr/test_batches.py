"""Clips on disk and in batches: what is kept, what is changed, what is asked of the model."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_clips import made_clip, random_clip

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.errors import StartError
from training.asr import batches
from training.asr.augment import FLOOR, augment, noise_bank
from training.asr.batches import IGNORED, Batch, Batcher
from training.asr.checkpoint import learn_vocabulary, write_settings
from training.asr.clips import UNKNOWN, Clip, Shard, phoneme_number, unlabelled, write_shard
from training.asr.extra import read_extra
from training.asr.model import num_tokens
from training.asr.nonspeech import KINDS, draw_sound
from training.asr.pool import draw_some
from training.asr.train import phase_at
from training.world.grammar import sentence

pytestmark = pytest.mark.slow  # of the training, not of the product


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_settings(folder, learn_vocabulary(num_sentences=3000))
    return TextTokenizer(folder)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    path = tmp_path_factory.mktemp("sounds") / "sounds.npy"
    return write_shard(path, [replace(made_clip(["bread"] * 9), text="")])


@pytest.fixture
def batcher(tokenizer: TextTokenizer, sounds: Shard) -> Batcher:
    torch.manual_seed(1)
    return Batcher(tokenizer, sounds, Random(1))


def test_a_shard_gives_back_what_was_put_in(tmp_path: Path) -> None:
    clips = [random_clip(Random(seed)) for seed in range(5)]
    write_shard(tmp_path / "short-0000.npy", clips)
    shard = Shard(tmp_path / "short-0000.npy")
    assert len(shard) == 5
    for number, clip in enumerate(clips):
        found = shard.clip(number)
        assert shard.num_frames(number) == clip.num_frames == found.num_frames
        assert found.text == clip.text
        assert np.array_equal(found.mel, clip.mel)
        assert np.array_equal(found.phonemes, clip.phonemes)
        assert np.array_equal(found.words, clip.words)
    shard.delete()
    assert list(tmp_path.iterdir()) == []


def test_phonemes_have_the_same_numbers_everywhere() -> None:
    assert phoneme_number("_:") == phoneme_number("") == phoneme_number("_") == 0
    assert phoneme_number("oU") == phoneme_number("oU#") > 0
    assert len({phoneme_number(name) for name in "aeioupqtksz"}) == 11


def test_the_answer_is_language_text_end_and_then_nothing(
    batcher: Batcher, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "NO_SPEECH_SHARE", 0.0)
    clip = made_clip(["bread", "cheese"])
    batch = batcher.build([clip, made_clip(["coffee"] * 3)])
    ids = batch.answer[0].tolist()
    end = ids.index(tokenizer.special("<|im_end|>"))
    assert tokenizer.decode(ids[:end]) == "language English<asr_text>Bread cheese."
    assert set(ids[end + 1 :]) == {tokenizer.special("<|endoftext|>")}
    assert batch.num_spoken < batch.answer.numel()


def test_many_ends_ask_for_a_long_nothing(batcher: Batcher) -> None:
    clips = [made_clip(["bread", "cheese"])]
    few, many = batcher.build(clips), batcher.build(clips, many_ends=True)
    assert many.answer.shape[1] > few.answer.shape[1] + 50


def test_sound_without_speech_is_answered_with_no_text(
    batcher: Batcher, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "NO_SPEECH_SHARE", 1.0)
    batch = batcher.build([made_clip(["bread", "cheese"])])
    ids = batch.answer[0].tolist()
    end = ids.index(tokenizer.special("<|im_end|>"))
    assert tokenizer.decode(ids[:end]) == "language None<asr_text>"


def test_the_prompt_is_the_one_that_the_product_builds(
    batcher: Batcher, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CONTEXT_SHARE", 0.0)
    batch = batcher.build([made_clip(["bread", "cheese"])])
    prompt = build_prompt(tokenizer, num_tokens(batch.mels.shape[1]))
    sound = [tokenizer.special("<|audio_pad|>")] * prompt.num_audio_tokens
    assert [*batch.before.tolist(), *sound, *batch.after.tolist()] == list(prompt.ids)


def test_labels_stand_where_the_sound_does(
    batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "NO_SPEECH_SHARE", 0.0)
    monkeypatch.setattr(batches, "augment", lambda mels, *_: mels)
    clip = made_clip(["bread", "cheese", "coffee"])
    batch = batcher.build([clip])
    loud = batch.mels[0].amax(1) > 1
    for token in range(min(batch.words.shape[1], 13)):
        assert bool(batch.words[0, token]) == bool(loud[8 * token])
    assert batch.words.shape == batch.phonemes.shape[:2] == (1, num_tokens(len(loud)))


def test_sound_without_labels_costs_nothing_but_its_text(batcher: Batcher) -> None:
    clip = unlabelled(np.zeros(16_000, np.float32), "Good morning.")
    assert set(clip.phonemes) == {UNKNOWN}
    batch = batcher.build([clip])
    inside = num_tokens(90)
    assert (batch.words[0, 1:inside] == IGNORED).any()


@given(st.integers(0, 1000))
def test_augmented_mels_stay_in_their_range(seed: int) -> None:
    torch.manual_seed(seed)
    mels = torch.rand(4, 50, 128) * 2 - 0.8
    is_speech = torch.tensor([True, False, True, True])
    changed = augment(mels, is_speech, BANK, Random(seed))
    assert changed.shape == mels.shape
    assert float(changed.min()) >= FLOOR
    assert float(changed.max()) < 2.5
    assert float(mels.max()) <= 1.2


BANK = noise_bank()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [1600, 40_001])
def test_sounds_without_speech_are_sound_of_the_asked_length(kind: str, num_samples: int) -> None:
    loudest = []
    for seed in range(8):
        samples = draw_sound(np.random.default_rng(seed), kind, num_samples)
        assert samples.dtype == np.float32 and samples.shape == (num_samples,)
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1
        loudest.append(np.abs(samples).max())
    assert (max(loudest) > 1e-3) == (kind != "silence")


def test_clips_in_memory_are_drawn_by_length_and_fit_the_batch() -> None:
    clips = [random_clip(Random(seed)) for seed in range(20)]
    drawn = draw_some(clips, Random(3), 2000)
    lengths = [clip.num_frames for clip in drawn]
    assert max(lengths) - min(lengths) < 120
    assert len(lengths) * (max(lengths) + 35) <= 2000


def test_the_schedule_helps_less_and_less_and_ends_with_long_clips() -> None:
    start, early, middle, late = map(phase_at, (0.0, 0.1, 0.5, 0.9))
    assert not start.with_text and early.with_text
    assert start.help_weight == early.help_weight > middle.help_weight > late.help_weight == 0
    assert middle.long_share == 0 < late.long_share
    assert early.many_ends_share < late.many_ends_share
    assert phase_at(0.0, is_tuning=True).long_share > 0


def write_extra(folder: Path, texts: list[str], seconds: float = 0.5) -> Path:
    sound = wav_bytes(np.zeros(round(24_000 * seconds), np.float32), 24_000)
    rows = []
    for number, text in enumerate(texts):
        (folder / f"{number}.wav").write_bytes(sound)
        rows.append({"file": f"{number}.wav", "text": text})
    (folder / "manifest.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_recordings_of_another_voice_are_clips_unless_held_out_or_too_long(tmp_path: Path) -> None:
    secret = sentence(Random(4), held_out=True)
    folder = write_extra(tmp_path, ["Good morning.", f"Hello world. {secret}"])
    clips = read_extra(folder)
    assert [clip.text for clip in clips] == ["Good morning."]
    assert clips[0].num_frames == 50


def test_recordings_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="Can't read the manifest"):
        read_extra(tmp_path)


def test_a_batch_goes_to_a_device_as_a_whole(batcher: Batcher) -> None:
    batch: Batch = batcher.build([made_clip(["bread", "cheese"])])
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.answer, batch.answer) and moved.num_spoken == batch.num_spoken


def test_a_clip_knows_its_length() -> None:
    clip: Clip = made_clip(["bread", "cheese"])
    assert clip.num_frames == len(clip.mel) == 48
