"""Features → the sound that the codec shall make of them: a source and a filter, nothing learnt.

Both sources repeat every 40 ms, half a frame, and have a flat spectrum: a chirp at each pitch
period and one fixed noise. So the sound is a function of the codes alone, and a plain regression
can learn it; a real noise would have to be guessed, and a guess of noise is silence.
Letters in shapes: S sub-frames of 10 ms, F features, W windows, N samples at 24 kHz.
"""

import math

import numpy as np
import torch
from torch import Tensor

from training.tts.features import (
    CENTERS_HZ,
    FLOOR_DB,
    HOP,
    NUM_BANDS,
    RATE_HZ,
    SILENCE,
    SUBFRAMES,
    VOICING_SCALE,
    Array,
)
from training.tts.voices import Voice

PATTERN = 960  # samples after which both sources repeat
_WINDOW, _STEP, _FFT = 480, 120, 1024
_DELAY = 240  # samples by which the sound follows its features: the codec is causal
_CHIRP = 60  # samples over which the highest frequency of a pulse follows the lowest
_GAIN = 7.2
_PIECE_FRAMES = 256
_FADE_DB = 6.0  # above the floor, within which sound dies away to nothing


def _periodic(amplitudes: Array, phases: Array) -> Array:
    spectrum = amplitudes * np.exp(1j * phases)
    return np.asarray(np.fft.irfft(spectrum, PATTERN), np.float32)


def pulses(period: int) -> Array:
    """One pattern of a voiced source with unit power: all harmonics alike, spread as a chirp."""
    bins = np.arange(PATTERN // 2 + 1)
    is_harmonic = (bins % (PATTERN // period) == 0) & (bins > 0)
    amplitudes = np.where(is_harmonic, math.sqrt(PATTERN * PATTERN / period), 0.0)
    phases = -math.pi * _CHIRP * bins**2 / (PATTERN * len(bins))
    return _periodic(amplitudes.astype(np.float32), phases.astype(np.float32))


def noise() -> Array:
    """One pattern of an unvoiced source with unit power: the same level in every bin."""
    phases = np.random.default_rng(5).uniform(0, 2 * np.pi, PATTERN // 2 + 1)
    amplitudes = np.full(PATTERN // 2 + 1, math.sqrt(PATTERN))
    amplitudes[0] = 0
    return _periodic(amplitudes.astype(np.float32), phases.astype(np.float32))


def synthesise(features: Array, voice: Voice) -> Array:
    """Features [8n, F], beginning after silence → samples [1920 n]."""
    step = _PIECE_FRAMES * SUBFRAMES
    pieces = []
    for start in range(0, len(features), step):
        before = features[start - SUBFRAMES : start] if start else np.tile(SILENCE, (SUBFRAMES, 1))
        piece = torch.from_numpy(np.concatenate([before, features[start : start + step]]))
        pieces.append(_synthesise(piece, voice)[SUBFRAMES * HOP :])
    return torch.cat(pieces).numpy()


def _synthesise(features: Tensor, voice: Voice) -> Tensor:
    num_samples = len(features) * HOP
    times = (torch.arange(0, num_samples + _WINDOW, _STEP) - _DELAY) / HOP
    voiced, unvoiced = _responses(_at_times(features, times), voice.warp)
    window = torch.hann_window(_WINDOW) / 2  # four windows overlap: their sum is one
    starts = torch.arange(len(times))[:, None] * _STEP - _WINDOW // 2
    places = (starts + torch.arange(_WINDOW)) % PATTERN
    spectra = [
        torch.fft.rfft(torch.from_numpy(source)[places] * window, _FFT)
        for source in (pulses(voice.period), noise())
    ]
    mixed = torch.fft.irfft(spectra[0] * voiced + spectra[1] * unvoiced, _FFT)
    # the filters have no phase: what rings before a window wraps around to the end of the row
    mixed = torch.cat([mixed[:, -_lead() :], mixed[:, : _FFT - _lead()]], 1)
    total = _overlap_add(mixed)
    begin = _lead() + _WINDOW // 2
    return total[begin : begin + num_samples] * _GAIN


def _lead() -> int:
    return (_FFT - _WINDOW) // 2


def _overlap_add(rows: Tensor) -> Tensor:
    """Rows [W, FFT], each _STEP after the one before → their sum [N]."""
    length = (len(rows) - 1) * _STEP + _FFT
    folded = torch.nn.functional.fold(
        rows.t()[None], (1, length), kernel_size=(1, _FFT), stride=(1, _STEP)
    )
    return folded[0, 0, 0]


def _at_times(features: Tensor, times: Tensor) -> Tensor:
    """Interpolated features [W, F] at times in sub-frames."""
    before = times.floor().long()
    share = (times - before)[:, None]
    last = len(features) - 1
    return features[before.clamp(0, last)] * (1 - share) + (
        features[(before + 1).clamp(0, last)] * share
    )


def _responses(features: Tensor, warp: float) -> tuple[Tensor, Tensor]:
    """Amplitudes of the voiced and the unvoiced part in every bin, [W, bins] each."""
    hz = torch.linspace(0, RATE_HZ / 2, _FFT // 2 + 1) / warp
    place = torch.from_numpy(np.interp(hz.numpy(), CENTERS_HZ, np.arange(NUM_BANDS))).float()
    low = place.floor().long().clamp(0, NUM_BANDS - 2)
    share = place - low
    levels = features[:, low] * (1 - share) + features[:, low + 1] * share
    levels = levels - (hz - float(CENTERS_HZ[-1])).clamp(min=0) / 60 - 20.0 * (hz < 60)
    amplitudes = 10 ** (levels / 20) * ((levels - FLOOR_DB) / _FADE_DB).clamp(0, 1)
    voicing = features[:, NUM_BANDS:].clamp(0, VOICING_SCALE) / VOICING_SCALE
    is_high = torch.sigmoid((hz - 2500) / 300)
    low_voicing, high_voicing = voicing[:, :1], voicing.min(1, keepdim=True).values
    share_voiced = low_voicing * (1 - is_high) + high_voicing * is_high
    return amplitudes * share_voiced.sqrt(), amplitudes * (1 - share_voiced).sqrt()
