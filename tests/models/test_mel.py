"""Both mel front ends: numbers of the official extractor, lengths, and what a filter hears."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwen3_audio.models.mel import (
    LISTEN_MIN_SAMPLES,
    NUM_MELS,
    log_mel_16k,
    log_mel_24k,
    mel_filters,
)

# transformers 4.57.3, WhisperFeatureExtractor(feature_size=128), of `swelling_tone(16_077)`.
OFFICIAL = [
    [1.151992, 0.2582032, 0.315975, 0.3590971],
    [0.5228562, 0.1984439, 0.2409046, 0.1202478],
    [0.3585507, 0.3550692, 0.2357604, 0.268424],
    [0.0280365, 0.4000941, 0.1630974, 0.3259731],
    [0.1714763, 0.2206541, 0.3416141, 0.2239111],
    [0.268808, 0.2618196, 0.3229632, 0.3259981],
]


def swelling_tone(num_samples: int) -> torch.Tensor:
    t = np.arange(num_samples) / 24_000
    noise = np.random.default_rng(0).standard_normal(num_samples)
    tone = np.sin(2 * np.pi * (180 + 6 * t) * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    sound = np.round(np.clip(0.3 * tone + 0.02 * noise, -1, 1) * 32767) / 32768
    return torch.from_numpy(sound.astype(np.float32))


def tone(frequency_hz: float, rate_hz: int) -> torch.Tensor:
    return torch.sin(2 * torch.pi * frequency_hz * torch.arange(rate_hz) / rate_hz)


def test_listening_mel_has_the_official_numbers() -> None:
    log_mel = log_mel_16k(swelling_tone(16_077))
    np.testing.assert_allclose(log_mel[::25, ::33], OFFICIAL, atol=2e-6)


def test_nothing_lies_more_than_eighty_decibels_under_the_loudest() -> None:
    samples = swelling_tone(16_077)
    samples[8000:] = 0
    log_mel = log_mel_16k(samples)
    assert log_mel.min() == pytest.approx(log_mel.max() - 2.0)


@given(num_samples=st.integers(LISTEN_MIN_SAMPLES, 5000))
def test_a_listening_frame_is_ten_milliseconds_and_a_rest_is_dropped(num_samples: int) -> None:
    assert log_mel_16k(torch.zeros(num_samples)).shape == (NUM_MELS, num_samples // 160)


@given(num_samples=st.integers(2400, 9000))
def test_a_speaker_frame_is_256_samples(num_samples: int) -> None:
    assert log_mel_24k(torch.zeros(num_samples)).shape == (NUM_MELS, num_samples // 256)


@pytest.mark.parametrize("frequency_hz", [300, 1000, 3000, 7000])
def test_a_tone_is_loudest_where_its_frequency_lies(frequency_hz: int) -> None:
    for log_mel, rate_hz, window in (
        (log_mel_16k(tone(frequency_hz, 16_000)), 16_000, 400),
        (log_mel_24k(tone(frequency_hz, 24_000)), 24_000, 1024),
    ):
        loudest = mel_filters(rate_hz, window)[int(log_mel[:, 20].argmax())]
        bins_hz = torch.linspace(0, rate_hz / 2, window // 2 + 1)
        center_hz = (loudest * bins_hz).sum() / loudest.sum()
        assert abs(center_hz - frequency_hz) < max(60, 0.05 * frequency_hz)


def test_filters_have_the_same_area_and_leave_no_gap() -> None:
    filters = mel_filters(24_000, 1024)
    wide = filters[64:]  # narrow ones cover too few bins for their sum to be their area
    np.testing.assert_allclose(wide.sum(1) * 12_000 / 512, 1.0, atol=0.05)
    assert (filters.sum(0)[1:-1] > 0).all()


def test_silence_gives_finite_numbers() -> None:
    assert log_mel_16k(torch.zeros(1600)).isfinite().all()
    assert log_mel_24k(torch.zeros(2400)).isfinite().all()


def test_sixteen_bit_floats_are_computed_in_single_precision() -> None:
    samples = swelling_tone(4000).half()
    assert log_mel_16k(samples).dtype == torch.float32
    assert log_mel_24k(samples).dtype == torch.float32
