"""What needs espeak-ng: real units, and references for the speaker encoder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.tts import speaker
from training.tts.features import NUM_BANDS, SUBFRAMES
from training.tts.lexicon import FAST, PIECE, WORD, Lexicon, build_lexicon
from training.tts.reader import Reader

pytestmark = [pytest.mark.espeak, pytest.mark.slow]

WORDS = ("hello", "world", "the", "A", "B", "don't", "one", "forty", "two", "thought")


@pytest.fixture(scope="module")
def spoken() -> Lexicon:
    return build_lexicon(WORDS)


def test_every_word_has_a_plain_and_a_fast_unit(spoken: Lexicon) -> None:
    for word in WORDS:
        plain, fast = (spoken.unit_codes(f"{kind} {word.lower()}") for kind in (WORD, FAST))
        assert 2 <= len(fast) <= len(plain)


def test_every_letter_can_be_spelled(spoken: Lexicon) -> None:
    assert {f"{PIECE} {chr(letter)}" for letter in range(97, 123)} <= {*spoken.names}


def test_the_letter_a_is_not_the_article(spoken: Lexicon) -> None:
    assert (
        len(spoken.unit_codes(f"{PIECE} a")) != len(spoken.unit_codes(f"{WORD} a"))
        or (spoken.unit_codes(f"{PIECE} a") != spoken.unit_codes(f"{WORD} a")).any()
    )


def test_units_are_whole_frames_that_begin_loud_and_end_silent(spoken: Lexicon) -> None:
    features = spoken.unit_features(f"{WORD} hello")
    assert len(features) % SUBFRAMES == 0
    assert features[:, :NUM_BANDS].max() > -25
    assert features[-1, :NUM_BANDS].max() < -60


def test_two_runs_make_the_same_codes() -> None:
    program = (
        "from training.tts.lexicon import build_lexicon; import hashlib;"
        "print(hashlib.sha256(build_lexicon(('one', 'two')).codes.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    runs = {subprocess.run(command, cwd=root, check=True, capture_output=True).stdout
            for _ in range(2)}  # fmt: skip
    assert len(runs) == 1


def test_a_text_is_about_as_long_as_it_takes_to_say(spoken: Lexicon) -> None:
    frames = Reader(spoken).codes("Hello world, forty two.")
    assert 12 < len(frames) < 45


def test_references_are_answered_by_high_and_low_voices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "_NUM_REFERENCES", 12)
    speaker.draw_references(tmp_path / "references.npz")
    with np.load(tmp_path / "references.npz") as arrays:
        assert len({*arrays["rows"].tolist()}) > 2
        assert all(len(arrays[f"clip {i}"]) > 8000 for i in range(12))
