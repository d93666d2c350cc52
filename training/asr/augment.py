"""Making clips harder, on log-mels: loudness, noise, narrow bands, silence before and after.

Log-mels are in the product's units: (log10 of power + 4) / 4, so 0.5 is 20 dB.
"""

from random import Random

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.models.mel import LISTEN_RATE_HZ, log_mel_16k

FLOOR = -1.5  # of digital silence
DYNAMIC_RANGE = 2.0  # what is further below a clip's loudest value is raised to that level
PER_DB = 0.025

_NOISE_SHARE, _BAND_SHARE = 0.5, 0.15
_SNR_DB = (3.0, 35.0)
_LOWEST_BANDS, _HIGHEST_BANDS = (0, 16), (84, 128)  # mel filters: up to 370 Hz, from 2.6 kHz on
_GAIN_DB = (-44.0, 10.0)
_COLOURS = (0.0, 0.25, 0.5, 1.0)  # white to brown
_NOISE_S = 40


def noise_bank(seed: int = 0) -> list[Tensor]:
    """Mel powers [T, 128] of steady noises of several colours, each with mean one."""
    rng = np.random.default_rng(seed)
    bank = []
    for colour in _COLOURS:
        spectrum = np.fft.rfft(rng.standard_normal(LISTEN_RATE_HZ * _NOISE_S))
        hz = np.maximum(np.arange(len(spectrum)) / _NOISE_S, 50)
        samples = np.fft.irfft(spectrum / hz**colour)
        loud = torch.from_numpy((samples / np.abs(samples).max() / 2).astype(np.float32))
        power = _power(log_mel_16k(loud)).T.contiguous()
        bank.append(power / power.mean())
    return bank


def augment(mels: Tensor, is_speech: Tensor, bank: list[Tensor], rng: Random) -> Tensor:
    """[B, T, 128] float32 → the same, heard under worse conditions.

    Random numbers of the batch are torch's; those of single clips come from `rng`.
    """
    mels = _add_noise(mels, is_speech, bank, rng)
    mels = _narrow(mels, rng)
    low, high = (PER_DB * db for db in _GAIN_DB)
    gain = torch.empty(len(mels), 1, 1).uniform_(low, high)
    return (mels + gain).clamp(min=FLOOR)


def _add_noise(mels: Tensor, is_speech: Tensor, bank: list[Tensor], rng: Random) -> Tensor:
    share = torch.where(is_speech, _NOISE_SHARE, 0.3)
    chosen = (torch.rand(len(mels)) < share).nonzero()[:, 0]
    if not len(chosen):
        return mels
    power = _power(mels[chosen])
    snr_db = torch.empty(len(chosen)).uniform_(*_SNR_DB)
    levels = power.mean((1, 2)) * 10 ** (-snr_db / 10)
    num_frames = power.shape[1]
    for row, level in zip(power, levels, strict=True):
        noise = rng.choice(bank)
        start = rng.randrange(len(noise) - num_frames)
        row += level * noise[start : start + num_frames]
    noisy = (torch.log10(power.clamp(min=1e-10)) + 4) / 4
    mels = mels.clone()
    mels[chosen] = _limited(noisy)
    return mels


def _narrow(mels: Tensor, rng: Random) -> Tensor:
    """Telephones and bad microphones: nothing below or above some frequency."""
    mels = mels.clone()
    for number in range(len(mels)):
        if rng.random() < _BAND_SHARE:
            low, high = rng.randrange(*_LOWEST_BANDS), rng.randrange(*_HIGHEST_BANDS)
            depth = rng.uniform(0.5, 2.0)
            mels[number, :, :low] -= depth
            mels[number, :, high:] -= depth
            mels[number] = _limited(mels[number][None])[0]
    return mels


def _limited(mels: Tensor) -> Tensor:
    return torch.maximum(mels, mels.amax((1, 2), keepdim=True) - DYNAMIC_RANGE)


def _power(mels: Tensor) -> Tensor:
    return 10 ** (4 * mels - 4)
