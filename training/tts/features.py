"""What a word sounds like apart from its voice: loudness in 30 bands and voicing, every 10 ms.

Letters in shapes: S sub-frames of 10 ms, N samples at 24 kHz, F features of a sub-frame.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

RATE_HZ = 24_000
HOP = 240  # samples of a sub-frame
SUBFRAMES = 8  # in a frame of 80 ms
FRAME = HOP * SUBFRAMES
NUM_BANDS, NUM_VOICINGS = 30, 2
NUM_FEATURES = NUM_BANDS + NUM_VOICINGS
VOICING_SCALE = 20.0  # so that voicing weighs as much as decibels
FLOOR_DB = -66.0
SILENCE = np.array([FLOOR_DB] * NUM_BANDS + [0.0] * NUM_VOICINGS, np.float32)

_WINDOW, _FFT = 600, 1024
_MIN_WIDTH_HZ = 110
_LOUD_DB = -18.0  # where the loudest bands of every word are put
_ONSET_DB, _END_DB = 52.0, 42.0  # below the loudest band: where a word begins and ends
_NOTHING_DB = -70.0  # never part of a word
_GAP = 3  # sub-frames of silence after each word


def _to_mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


def band_centers() -> NDArray[np.float64]:
    """Centres of the bands in Hz, evenly spread in mel."""
    mels = np.linspace(_to_mel(90), _to_mel(10_300), NUM_BANDS)
    centers: NDArray[np.float64] = 700 * (10 ** (mels / 2595) - 1)
    return centers


CENTERS_HZ = band_centers()


def _filters() -> Array:
    """Triangles that sum to one [bands, bins]."""
    hz = np.linspace(0, RATE_HZ / 2, _FFT // 2 + 1)
    edges = np.concatenate([[CENTERS_HZ[0] - _MIN_WIDTH_HZ], CENTERS_HZ, [11_900]])
    rows = []
    for low, center, high in zip(edges, edges[1:], edges[2:], strict=False):
        left, right = max(center - low, _MIN_WIDTH_HZ), max(high - center, _MIN_WIDTH_HZ)
        row = np.where(hz < center, 1 - (center - hz) / left, 1 - (hz - center) / right).clip(0)
        rows.append(row / row.sum())
    return np.stack(rows).astype(np.float32)


_FILTERS = _filters()


def slide(samples: Array, length: int) -> Array:
    """Windows [S, length] around every 10 ms."""
    count = len(samples) // HOP + 1
    padded = np.pad(samples, (length // 2, length))
    windows: Array = np.lib.stride_tricks.sliding_window_view(padded, length)[::HOP][:count]
    return windows


def voicing(samples: Array, low_hz: float, high_hz: float, *, of_envelope: bool = False) -> Array:
    """The highest autocorrelation at a pitch of 60 to 300 Hz inside a band, 0 to 1 [S]."""
    spectrum = np.fft.rfft(samples)
    hz = np.linspace(0, RATE_HZ / 2, len(spectrum))
    band = np.fft.irfft(spectrum * ((hz >= low_hz) & (hz <= high_hz)), len(samples))
    if of_envelope:
        band = np.convolve(np.abs(band), np.hanning(31) / 15, "same")
    windows = slide(band.astype(np.float32), 960)
    if of_envelope:
        windows = windows - windows.mean(1, keepdims=True)
    taper = np.hanning(960).astype(np.float32)
    power = np.abs(np.fft.rfft(windows * taper, 2048)) ** 2
    correlation = np.fft.irfft(power)[:, :480]
    of_taper = np.correlate(taper, taper, "full")[959 : 959 + 480]
    correlation = correlation / (of_taper / of_taper[0])
    ratio = correlation[:, 80:400].max(1) / (correlation[:, 0] + 1e-7)
    clipped: Array = ratio.clip(0, 1).astype(np.float32)
    return clipped


def analyse(samples: Array) -> Array:
    """Samples [N] → features [S, F]: 30 levels in dB, low and high voicing."""
    windows = slide(samples, _WINDOW) * np.hanning(_WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 / (_WINDOW * 0.375)
    levels = 10 * np.log10(power @ _FILTERS.T + 1e-8)
    low = voicing(samples, 60, 1500)
    high = voicing(samples, 2500, 7000, of_envelope=True)
    smooth = [
        np.convolve(((v - 0.45) / 0.35).clip(0, 1), [0.25, 0.5, 0.25], "same") for v in (low, high)
    ]
    is_quiet = (levels.max(1) < -55)[:, None]
    voicings = VOICING_SCALE * np.where(is_quiet, 0, np.stack(smooth, 1))
    return np.concatenate([levels, voicings], 1).astype(np.float32)


def lay_on_grid(features: Array, *, tempo: float = 1.0) -> Array:
    """Trim a word, level it and stretch it to whole frames with a gap at its end [8n, F]."""
    peaks = features[:, :NUM_BANDS].max(1)
    begin = int(np.argmax(peaks > max(peaks.max() - _ONSET_DB, _NOTHING_DB)))
    end = len(peaks) - int(np.argmax(peaks[::-1] > max(peaks.max() - _END_DB, _NOTHING_DB)))
    word = features[max(0, begin - 1) : end + 1]
    shift = np.percentile(peaks, 97) - _LOUD_DB
    levels = np.maximum(word[:, :NUM_BANDS] - shift, FLOOR_DB)
    word = np.concatenate([levels, word[:, NUM_BANDS:]], 1)
    num_frames = max(2, round((len(word) / tempo + _GAP) / SUBFRAMES))
    stretched = stretch(word, SUBFRAMES * num_frames - _GAP)
    fade = np.arange(1, _GAP + 1)[:, None] / _GAP
    gap = SILENCE * fade + stretched[-1] * (1 - fade)
    return np.concatenate([stretched, gap]).astype(np.float32)


def stretch(features: Array, length: int) -> Array:
    """Linear interpolation in time to `length` sub-frames."""
    times = np.linspace(0, len(features) - 1, length)
    before = np.floor(times).astype(int)
    after = np.minimum(before + 1, len(features) - 1)
    share = (times - before)[:, None]
    mixed: Array = (features[before] * (1 - share) + features[after] * share).astype(np.float32)
    return mixed
