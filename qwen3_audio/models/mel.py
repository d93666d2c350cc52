"""The two log-mel front ends: 16 kHz for speech recognition, 24 kHz for the speaker encoder.

Both use filters on the Slaney scale with Slaney's normalisation. Shape letters: N samples,
T mel frames, K mel filters, F frequency bins. Everything is computed in float32, one clip at a
time, so that a clip gives the same numbers whatever it is served together with.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

NUM_MELS = 128

LISTEN_RATE_HZ = 16_000
LISTEN_WINDOW = 400
LISTEN_HOP = 160  # samples in one mel frame
LISTEN_MIN_SAMPLES = LISTEN_WINDOW // 2 + 1  # the reflected edges need this many

SPEAKER_RATE_HZ = 24_000
SPEAKER_WINDOW = 1024
SPEAKER_HOP = 256

_LINEAR_HZ_PER_MEL = 200.0 / 3.0  # the Slaney scale is linear up to 1 kHz, logarithmic above
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def log_mel_16k(samples: Tensor) -> Tensor:
    """Whisper's log-mel of one clip: samples [N] at 16 kHz -> float32 [128, N // 160].

    Values more than 80 dB under this clip's own maximum are raised to that level. N must be at
    least `LISTEN_MIN_SAMPLES`.
    """
    samples = samples.float()
    window = _hann_window(LISTEN_WINDOW, samples.device)
    spectrum = torch.stft(samples, LISTEN_WINDOW, LISTEN_HOP, window=window, return_complex=True)
    power = spectrum[:, :-1].abs() ** 2  # [F, T]: the frame that only holds the padded end is out
    filters = mel_filters(LISTEN_RATE_HZ, LISTEN_WINDOW).to(samples.device)
    log_mel = (filters @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0


def log_mel_24k(samples: Tensor) -> Tensor:
    """The speaker encoder's log-mel: samples [N] at 24 kHz -> float32 [128, T], T = N // 256."""
    samples = samples.float()
    edge = (SPEAKER_WINDOW - SPEAKER_HOP) // 2
    padded = F.pad(samples[None], (edge, edge), mode="reflect")[0]
    window = _hann_window(SPEAKER_WINDOW, samples.device)
    spectrum = torch.stft(
        padded, SPEAKER_WINDOW, SPEAKER_HOP, window=window, center=False, return_complex=True
    )
    magnitude = (spectrum.abs() ** 2 + 1e-9).sqrt()  # [F, T]
    filters = mel_filters(SPEAKER_RATE_HZ, SPEAKER_WINDOW).to(samples.device)
    return (filters @ magnitude).clamp(min=1e-5).log()


@cache
def mel_filters(sample_rate_hz: int, window: int, num_mels: int = NUM_MELS) -> Tensor:
    """Triangles of equal area from 0 Hz to half the sample rate, float32 [K, F]."""
    nyquist_hz = sample_rate_hz / 2
    edges_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(nyquist_hz), num_mels + 2))
    bins_hz = np.linspace(0.0, nyquist_hz, window // 2 + 1)
    widths_hz = np.diff(edges_hz)
    rising = (bins_hz[None] - edges_hz[:-2, None]) / widths_hz[:-1, None]
    falling = (edges_hz[2:, None] - bins_hz[None]) / widths_hz[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    triangles *= (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]
    return torch.from_numpy(triangles.astype(np.float32))


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < _KNEE_HZ:
        return frequency_hz / _LINEAR_HZ_PER_MEL
    return float(_KNEE_MEL + np.log(frequency_hz / _KNEE_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear_hz = mel * _LINEAR_HZ_PER_MEL
    logarithmic_hz = _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel >= _KNEE_MEL, logarithmic_hz, linear_hz)


def _hann_window(length: int, device: torch.device) -> Tensor:
    return torch.hann_window(length, device=device)
