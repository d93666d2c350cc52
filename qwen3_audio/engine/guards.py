"""What stops speech that never ends: a frame budget, a loop detector, a silence detector.

Numbers are those of docs/architecture.md: 20 frames a text token + 3 s; 3 s of exactly repeating
frames with a period of at most 12; 4 s under -60 dBFS.
"""

from collections.abc import Sequence

import numpy as np

from qwen3_audio.types import Pcm

FRAMES_PER_TEXT_TOKEN = 20
BUDGET_EXTRA_S = 3.0
LOOP_S = 3.0
MAX_LOOP_PERIOD = 12  # frames
SILENCE_S = 4.0
SILENCE_LEVEL = 10.0 ** (-60 / 20)


def frame_budget(num_text_tokens: int, frames_per_s: float) -> int:
    """The most frames that a text may take."""
    return FRAMES_PER_TEXT_TOKEN * num_text_tokens + round(BUDGET_EXTRA_S * frames_per_s)


class LoopDetector:
    """Counts, for each period, how many frames in a row equal the one a period before."""

    def __init__(self, frames_per_s: float) -> None:
        self._limit = int(np.ceil(LOOP_S * frames_per_s))
        self._recent: list[Sequence[int]] = []
        self._counts = [0] * (MAX_LOOP_PERIOD + 1)

    def is_loop(self, frame: Sequence[int]) -> bool:
        """Take the next frame's codes; True once the limit is reached for some period."""
        recent = self._recent
        for period in range(1, len(recent) + 1):
            same = recent[-period] == frame
            self._counts[period] = self._counts[period] + 1 if same else 0
        recent.append(frame)
        del recent[:-MAX_LOOP_PERIOD]
        return max(self._counts) >= self._limit


class SilenceDetector:
    """Counts samples since the last piece of sound (frame by frame) above the level."""

    def __init__(self, sample_rate_hz: int, samples_per_frame: int) -> None:
        self._limit = int(SILENCE_S * sample_rate_hz)
        self._samples_per_frame = samples_per_frame
        self._num_silent = 0

    def is_silence(self, samples: Pcm) -> bool:
        """Take decoded sound (whole frames); True once the limit is reached."""
        for frame in samples.reshape(-1, self._samples_per_frame):
            level = float(np.sqrt(np.mean(np.square(frame))))
            self._num_silent = self._num_silent + len(frame) if level < SILENCE_LEVEL else 0
        return self._num_silent >= self._limit
