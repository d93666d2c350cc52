"""The references of the speech parity cases: formulas, the same for recorder and tests."""

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 24_000
SHORT_REFERENCE = 48_720  # samples: 2.03 s, 26 frames with a last one that is not full
LONG_REFERENCE = 312_777  # 13 s: longer than the 10 s window that the codec's encoder ignores


def make_reference(num_samples: int) -> NDArray[np.float32]:
    """A humming tone and noise, in steps of 16 bits.

    The rounding makes it the same sound wherever sines differ in their last digit.
    """
    t = np.arange(num_samples) / RATE_HZ
    noise = np.random.default_rng(0).standard_normal(num_samples)
    tone = np.sin(2 * np.pi * (180 + 6 * t) * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    sound = np.clip(0.3 * tone + 0.02 * noise, -1, 1)
    return (np.round(sound * 32767) / 32768).astype(np.float32)
