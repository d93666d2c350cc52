"""What only espeak-ng itself can show: its voices, its timing, and a whole run in miniature."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.types import ModelKind
from training.asr import pool, train
from training.asr.__main__ import main
from training.asr.clips import NUM_PHONEMES, render, training_clips, word_numbers
from training.asr.trials import phrase_trials, speech_trials
from training.asr.voices import ACCENTS, NAMED, NEVER_TRAINED, VARIANTS, training_style
from training.world import espeak as espeak_module
from training.world.espeak import Espeak, EspeakMissing, Style
from training.world.grammar import is_held_out, split_sentences
from training.world.words import all_words, homophone_sets, plain_words

pytestmark = [pytest.mark.espeak, pytest.mark.slow]


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak()


def test_every_voice_speaks_and_sounds_different(espeak: Espeak) -> None:
    voices = [f"en-us+{name}" for name in (*VARIANTS, *NAMED, *NEVER_TRAINED)]
    sounds = [espeak.say("Good morning.", Style(voice)).samples for voice in [*voices, *ACCENTS]]
    assert all(len(samples) > 8000 for samples in sounds)
    known = [samples for voice, samples in zip(voices, sounds, strict=False)]
    for samples in known[-len(NEVER_TRAINED) :]:
        alike = sum(np.array_equal(samples, other) for other in sounds)
        assert alike == 1


def test_words_begin_in_order_and_are_counted_as_the_text_splits(espeak: Espeak) -> None:
    spoken = espeak.say("Hello, Qwen said A B A to Geoff. Turn it on!", Style("en+f2"))
    assert [number for _, number in spoken.words] == list(range(11))
    starts = [ms for ms, _ in spoken.words]
    assert starts == sorted(starts)
    assert starts[-1] < 1000 * len(spoken.samples) / spoken.rate_hz


def test_frames_are_labelled_with_the_words_that_sound_there(espeak: Espeak) -> None:
    clip = render(espeak, "Elephants carried umbrellas.", Style())
    heard = list(dict.fromkeys(clip.words[clip.words > 0].tolist()))
    assert heard == [word_numbers()[word] for word in ("elephants", "carried", "umbrellas")]
    assert len(clip.mel) == len(clip.words) == len(clip.phonemes)
    assert 5 < len(set(clip.phonemes.tolist())) <= NUM_PHONEMES


def test_no_two_words_of_random_strings_sound_alike(espeak: Espeak) -> None:
    """Also finds out whether homophones.txt is complete."""
    by_sound: dict[tuple[str, ...], set[str]] = {}
    for word in all_words():
        sound = tuple(name for _, name in espeak.say(word).phonemes if not name.startswith("_"))
        by_sound.setdefault(sound, set()).add(word.lower())
    alike = [words for words in by_sound.values() if len(words) > 1]
    plain = {word.lower() for word in plain_words()}
    assert [words for words in alike if len(words & plain) > 1] == []
    unknown = [words for words in alike if not any(words <= k for k in homophone_sets())]
    assert unknown == []


def test_a_seed_gives_the_same_texts_and_voices_and_none_that_is_held_out(espeak: Espeak) -> None:
    """The sound differs a little: espeak-ng remembers what it said before."""
    first, second = (training_clips(espeak, 5, "short") for _ in range(2))
    for _ in range(5):
        one, two = next(first), next(second)
        assert one.text == two.text and abs(one.num_frames - two.num_frames) < 20
        assert np.corrcoef(one.mel[:30].ravel(), two.mel[:30].ravel())[0, 1] > 0.9
        assert not any(map(is_held_out, split_sentences(one.text)))


def test_voices_of_the_evaluation_are_never_trained_on() -> None:
    rng = Random(0)
    used = {training_style(rng).voice.partition("+")[2] for _ in range(5000)}
    assert used >= {*VARIANTS, *NAMED}
    assert not used & set(NEVER_TRAINED)


def test_trials_are_held_out_in_every_condition(espeak: Espeak) -> None:
    for trials in speech_trials(espeak, 0.01).values():
        for trial in trials:
            assert all(map(is_held_out, split_sentences(trial.text)))
            assert 0.5 <= len(trial.samples) / 16_000 <= 30.0
    assert not any(map(is_held_out, (trial.text for trial in phrase_trials(espeak))))


def test_an_unknown_voice_is_refused(espeak: Espeak) -> None:
    with pytest.raises(EspeakMissing, match="no voice 'en-us-moon'"):
        espeak.say("Hello.", Style("en-us-moon"))


def test_a_run_in_miniature_goes_on_where_it_was_and_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "SHARD_CLIPS", {"short": 30, "long": 3})
    monkeypatch.setattr(pool, "FIRST_SHARDS", {"short": 1, "long": 1})
    monkeypatch.setattr(pool, "_NUM_SOUNDS", 3)
    monkeypatch.setattr(train, "REPORT_EVERY", 2)
    monkeypatch.setattr(train, "FRAMES", {"cpu": 1000, "cuda": 1000})
    monkeypatch.setattr(train, "EVALUATE_EVERY_S", 1.5)
    common = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    main([*common, "--hours", "0.0006", "--evaluation-share", "0.001"])
    first = len((tmp_path / "work" / "training.jsonl").read_text().splitlines())
    main([*common, "--hours", "0.0012", "--evaluation-share", "0.001"])
    rows = (tmp_path / "work" / "training.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows]
    assert len(rows) > first and steps == sorted(steps)
    assert "vocabulary: done before" in capsys.readouterr().out
    assert open_checkpoint(tmp_path / "out").kind is ModelKind.ASR
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert size <= 6_000_000
    figures = json.loads((tmp_path / "work" / "figures.json").read_text())
    assert set(figures["silent"]) == {"silence", "noise", "music"}
    assert (tmp_path / "work" / "training.png").exists()


def test_without_the_library_a_run_ends_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(espeak_module, "LIBRARIES", ("libnothing-here.so",))
    with pytest.raises(SystemExit, match="espeak-ng is not installed"):
        main(["--work", str(tmp_path), "--hours", "0.001"])
    assert list(tmp_path.iterdir()) == []
