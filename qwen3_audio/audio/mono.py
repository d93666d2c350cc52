"""Samples of any kind and number of channels → mono float32."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.types import Pcm

# Louder floats are nonsense; below it, sums and resampling stay far from float32's own limit.
_MAX_LEVEL = 1e10

_NUM_CHANNELS_BY_HAND = 8


def mix_to_mono(samples: NDArray[Any]) -> Pcm:
    """The mean of the channels. samples [frames, channels]: uint8, a signed integer or a float.

    Integers come out within ±1; floats keep their level, NaN and infinities are silence.
    """
    num_channels = samples.shape[1]
    if num_channels > _NUM_CHANNELS_BY_HAND:
        return np.asarray(_to_float(samples).mean(axis=1), np.float32)
    # Several times faster than a mean over an axis as short as this.
    total = _to_float(samples[:, 0])
    for channel in range(1, num_channels):
        total += _to_float(samples[:, channel])
    if num_channels > 1:
        total /= np.float32(num_channels)
    return total


def _to_float(samples: NDArray[Any]) -> Pcm:
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if samples.dtype.kind == "i":
        full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
        return samples.astype(np.float32) / full_scale
    finite = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(np.clip(finite, -_MAX_LEVEL, _MAX_LEVEL), np.float32)
