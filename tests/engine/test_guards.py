"""What stops speech that never ends, frame by frame."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.engine.guards import LoopDetector, SilenceDetector, frame_budget

FRAMES_PER_S = 12.5
SAMPLES = 1920
RATE_HZ = 24_000


def first_loop(frames: list[list[int]]) -> int | None:
    """How many frames were taken when the detector spoke up."""
    detector = LoopDetector(FRAMES_PER_S)
    return next((n for n, frame in enumerate(frames, 1) if detector.is_loop(frame)), None)


def first_silence(pieces: list[np.ndarray]) -> int | None:
    detector = SilenceDetector(RATE_HZ, SAMPLES)
    return next((n for n, piece in enumerate(pieces, 1) if detector.is_silence(piece)), None)


def sine(level: float, num_frames: int = 1) -> np.ndarray:
    """A tone whose root mean square is `level`."""
    times = np.arange(num_frames * SAMPLES) / RATE_HZ
    return (level * np.sqrt(2) * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)


def test_the_budget_is_20_frames_a_token_and_three_seconds() -> None:
    assert frame_budget(10, FRAMES_PER_S) == 200 + 38
    assert frame_budget(0, FRAMES_PER_S) == 38
    assert frame_budget(10, 25.0) == 200 + 75


@pytest.mark.parametrize("period", range(1, 13))
def test_three_seconds_of_a_repeating_pattern_are_a_loop(period: int) -> None:
    pattern = [[at, 7] for at in range(period)]
    frames = list(itertools.islice(itertools.cycle(pattern), 100))
    assert first_loop(frames) == period + 38  # 3.04 s in which each frame is known


def test_a_pattern_longer_than_twelve_frames_is_no_loop() -> None:
    pattern = [[at, 7] for at in range(13)]
    assert first_loop(list(itertools.islice(itertools.cycle(pattern), 400))) is None


def test_one_different_code_starts_the_count_again() -> None:
    frames = [[1, 2]] * 38 + [[1, 3]] + [[1, 2]] * 38 + [[1, 3]]
    assert first_loop(frames) is None
    assert first_loop([*frames, *[[1, 2]] * 39]) == len(frames) + 39


def test_a_loop_after_ordinary_speech_is_found() -> None:
    speech = [[at, at + 1] for at in range(200)]
    assert first_loop(speech + [[5, 5], [6, 6]] * 30) == 200 + 2 + 38


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 12))
def test_the_detector_agrees_with_looking_back(codes: list[int], period: int) -> None:
    """Short random stretches of few codes, then a pattern."""
    frames = [[code] for code in codes + [at % period for at in range(70)]]

    def is_loop_at(end: int) -> bool:
        return any(
            end >= 38 + p and all(frames[at] == frames[at - p] for at in range(end - 38, end))
            for p in range(1, 13)
        )

    expected = next((n for n in range(1, len(frames) + 1) if is_loop_at(n)), None)
    assert first_loop(frames) == expected


def test_four_seconds_under_60_dbfs_are_silence() -> None:
    assert first_silence([np.zeros(SAMPLES, np.float32)] * 60) == 50
    assert first_silence([sine(0.0009)] * 60) == 50


def test_quiet_speech_is_no_silence() -> None:
    assert first_silence([sine(0.0011)] * 200) is None


def test_sound_in_between_starts_the_count_again() -> None:
    quiet, loud = sine(0.0), sine(0.1)
    assert first_silence([*[quiet] * 49, loud, *[quiet] * 49, loud]) is None


def test_silence_is_counted_in_frames_however_large_the_pieces_are() -> None:
    assert first_silence([sine(0.0, 8)] * 10) == 7  # 48 frames are not enough, 56 are
    assert first_silence([sine(0.0, 50)]) == 1
    assert first_silence([np.concatenate([sine(0.0, 49), sine(0.1)])]) is None
