"""Sound in which nobody speaks: silence, noise, hum, tones, chords, melodies, beats."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
Samples = NDArray[np.float32]
Draw = np.random.Generator
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0,), (0, 7, 12))  # semitones
_SCALE = (0, 2, 4, 5, 7, 9, 11, 12)


def silence(rng: Draw, num_samples: int) -> Samples:
    """Digital silence, or what a sound card makes of it."""
    level = rng.choice([0.0, 1e-5, 1e-4])
    return np.float32(level) * rng.standard_normal(num_samples, np.float32)


def noise(rng: Draw, num_samples: int) -> Samples:
    """White to brown, sometimes swelling, sometimes through a narrow band."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    hz = np.maximum(np.fft.rfftfreq(num_samples, 1 / RATE_HZ), 40)
    spectrum *= hz ** -rng.choice([-0.5, 0.0, 0.5, 1.0])
    if rng.random() < 0.3:
        low = rng.uniform(50, 4000)
        spectrum *= (hz > low) & (hz < low * rng.uniform(1.3, 8))
    samples = _levelled(np.fft.irfft(spectrum, num_samples))
    if rng.random() < 0.3:
        samples *= _swell(rng, num_samples)
    return samples


def hum(rng: Draw, num_samples: int) -> Samples:
    """Mains, an engine, a fan: many harmonics of a low tone, and a little noise."""
    base_hz = rng.choice([50, 60, 100, 120, rng.uniform(30, 200)])
    harmonics = [(float(base_hz) * k, rng.uniform(0, 1) / k) for k in range(1, 25)]
    samples = _tones(rng, num_samples, harmonics)
    return _levelled(samples + 0.02 * rng.standard_normal(num_samples))


def tone(rng: Draw, num_samples: int) -> Samples:
    """One pure tone, steady, gliding, trembling or beeping."""
    time_s = np.arange(num_samples) / RATE_HZ
    hz = np.full(num_samples, np.exp(rng.uniform(np.log(80), np.log(6000))))
    kind = rng.choice(["steady", "steady", "glide", "tremble", "beep"])
    if kind == "glide":
        hz = np.linspace(hz[0], np.exp(rng.uniform(np.log(80), np.log(6000))), num_samples)
    if kind == "tremble":
        hz = hz * (1 + 0.03 * np.sin(2 * np.pi * rng.uniform(3, 8) * time_s))
    samples = np.sin(2 * np.pi * np.cumsum(hz) / RATE_HZ)
    if kind == "beep":
        samples *= np.sin(2 * np.pi * rng.uniform(0.5, 5) * time_s) > rng.uniform(-0.5, 0.7)
    return _levelled(samples)


def music(rng: Draw, num_samples: int) -> Samples:
    """Chords or a melody of an instrument with harmonics, perhaps over a beat."""
    samples = np.zeros(num_samples)
    at, root = 0, rng.integers(40, 64)
    beat = int(RATE_HZ * rng.uniform(0.2, 0.8))
    timbre = rng.uniform(0.2, 1.5)
    steps = _CHORDS[rng.integers(len(_CHORDS))]
    while at < num_samples:
        length = min(beat * int(rng.integers(1, 4)), num_samples - at)
        note = root + _SCALE[rng.integers(len(_SCALE))]
        pitches = [440 * 2 ** ((note + step - 69 + 12) / 12) for step in steps]
        parts = [(hz * k, k**-timbre / len(steps)) for hz in pitches for k in range(1, 9)]
        decay = np.exp(-np.arange(length) / RATE_HZ * rng.uniform(0.3, 6))
        attack = np.minimum(np.arange(length) / (0.01 * RATE_HZ), 1)
        samples[at : at + length] += _tones(rng, length, parts) * decay * attack
        at += length
    if rng.random() < 0.5:
        samples = _levelled(samples) + rng.uniform(0.2, 1) * beats(rng, num_samples)
    return _levelled(samples)


def beats(rng: Draw, num_samples: int) -> Samples:
    """A drum machine: low thumps, hisses and clicks on a grid."""
    samples = np.zeros(num_samples)
    step = int(RATE_HZ * rng.uniform(0.1, 0.35))
    pattern = rng.random((3, 8)) < [[0.4], [0.5], [0.3]]
    for number, at in enumerate(range(0, num_samples, step)):
        time_s = np.arange(min(int(0.25 * RATE_HZ), num_samples - at)) / RATE_HZ
        hits = pattern[:, number % 8]
        thump = np.sin(2 * np.pi * (50 * time_s + 6 * (1 - np.exp(-time_s * 25))))
        hiss = np.diff(rng.standard_normal(len(time_s)), prepend=0.0)
        snare = rng.standard_normal(len(time_s)) + np.sin(2 * np.pi * 190 * time_s)
        sounds = (thump * np.exp(-12 * time_s), hiss * np.exp(-50 * time_s),
                  0.6 * snare * np.exp(-20 * time_s))  # fmt: skip
        samples[at : at + len(time_s)] += sum(h * s for h, s in zip(hits, sounds, strict=True))
    return _levelled(samples)


KINDS = {
    "silence": silence,
    "noise": noise,
    "hum": hum,
    "tone": tone,
    "music": music,
    "beats": beats,
}


def draw_sound(rng: Draw, kind: str, num_samples: int) -> Samples:
    """float32 at 16 kHz, at a random level between very quiet and full scale."""
    samples = KINDS[kind](rng, num_samples)
    if kind == "silence":
        return samples
    return (samples * 10 ** rng.uniform(-2, 0)).astype(np.float32)


def _tones(
    rng: Draw, num_samples: int, parts: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    time_s = np.arange(num_samples) / RATE_HZ
    samples = np.zeros(num_samples)
    for hz, level in parts:
        if hz < RATE_HZ / 2:
            samples += level * np.sin(2 * np.pi * (hz * time_s + rng.random()))
    return samples


def _swell(rng: Draw, num_samples: int) -> Samples:
    points = max(num_samples // 8000, 2)
    levels = 10 ** rng.uniform(-1.5, 0, points)
    return np.interp(np.linspace(0, points - 1, num_samples), range(points), levels).astype(
        np.float32
    )


def _levelled(samples: NDArray[np.float64]) -> Samples:
    return (samples / max(float(np.abs(samples).max()), 1e-9) * 0.9).astype(np.float32)
