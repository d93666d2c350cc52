"""The sound of the ASR parity cases: formulas and recordings, the same for recorder and tests."""

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
DATA = Path(__file__).parent.parent / "data"


def read_clip(clip: str) -> NDArray[np.float32]:
    """`name.wav` from tests/data, or `made:SAMPLES:SEED`."""
    if clip.endswith(".wav"):
        with wave.open(str(DATA / clip)) as file:
            frames = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        return frames.astype(np.float32) / 32768
    _, num_samples, seed = clip.split(":")
    return make_clip(int(num_samples), int(seed))


def make_clip(num_samples: int, seed: int) -> NDArray[np.float32]:
    """A rising tone and noise that swells three times a second, in steps of 16 bits.

    The rounding makes it the same sound wherever sines differ in their last digit.
    """
    t = np.arange(num_samples) / RATE_HZ
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    tone = np.sin(2 * np.pi * (150 + 20 * seed + 90 * t) * t) * (1 + np.sin(2 * np.pi * 1.3 * t))
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)
    sound = np.clip(0.2 * tone + 0.1 * noise * swell, -1, 1)
    return (np.round(sound * 32767) / 32768).astype(np.float32)
