"""What is done to a voice's reference before a model hears it; arithmetic and nothing else."""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.languages import is_spaced
from qwen3_audio.types import SPEECH_RATE_HZ, Pcm

WINDOW_SAMPLES = SPEECH_RATE_HZ // 50  # 20 ms
QUIET_BELOW_PEAK = 10 ** (-40 / 20)
MARGIN_WINDOWS = 5  # kept of the quiet around the speech, so that no soft sound is cut
PAUSE_S = 0.5  # behind the reference, or its last word runs into what is spoken


def prepare_reference(samples: Pcm) -> Pcm:
    """The copy that a prompt is computed from: quiet at both ends cut, then half a second of it."""
    pause = np.zeros(round(PAUSE_S * SPEECH_RATE_HZ), np.float32)
    return np.concatenate((trim(samples), pause))


def trim(samples: Pcm) -> Pcm:
    """Without what is 40 dB below the loudest 20 ms, at both ends, but for 0.1 s."""
    num_windows = -(-len(samples) // WINDOW_SAMPLES)
    padded = np.zeros(num_windows * WINDOW_SAMPLES, np.float32)
    padded[: len(samples)] = samples
    levels = np.sqrt(np.square(padded.reshape(num_windows, -1)).mean(axis=1))
    loud = np.flatnonzero(levels > levels.max(initial=0.0) * QUIET_BELOW_PEAK)
    if not len(loud):
        return samples
    first = max(0, int(loud[0]) - MARGIN_WINDOWS)
    last = int(loud[-1]) + 1 + MARGIN_WINDOWS
    return samples[first * WINDOW_SAMPLES : last * WINDOW_SAMPLES]


def transcript_error_rate(transcript: str, heard: str, *, language: str) -> float:
    """Words to change (characters where words are not spaced) by words of the transcript."""
    said, got = _units(transcript, language), _units(heard, language)
    return _distance(said, got) / max(len(said), 1)


def _units(text: str, language: str) -> list[str]:
    """Letters and digits alone count, in lower case."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    spaced = "".join(char if char.isalnum() else "" if char in "'’" else " " for char in plain)
    return spaced.split() if is_spaced(language) else list("".join(spaced.split()))


def _distance(said: list[str], got: list[str]) -> int:
    """Levenshtein's, a row at a time, so that long transcripts take no Python loop over pairs."""
    numbers = {unit: number for number, unit in enumerate({*said, *got})}
    row_units = np.array([numbers[unit] for unit in said], np.int64)
    steps: NDArray[np.int64] = np.arange(len(said) + 1)
    row = steps.copy()
    for unit in got:
        best = np.minimum(row[1:] + 1, row[:-1] + (row_units != numbers[unit]))
        row = np.minimum.accumulate(np.concatenate((row[:1] + 1, best)) - steps) + steps
    return int(row[-1])
