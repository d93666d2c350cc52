"""From one sample rate to another, piece by piece."""

import numpy as np
import soxr

from qwen3_audio.types import Pcm


class Resampler:
    """Mono sound through soxr HQ; n samples in all come out as ceil(n · to / from) samples.

    The same numbers as librosa's `soxr_hq` over the whole, however the sound is cut into pieces.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz = from_hz
        self._to_hz = to_hz
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1)
        self._num_in = 0
        self._num_out = 0

    def write(self, samples: Pcm) -> Pcm:
        """What is ready once these samples are known; may be empty."""
        if self._stream is None:
            return samples
        self._num_in += len(samples)
        return self._count(self._stream.resample_chunk(np.ascontiguousarray(samples)))

    def finish(self) -> Pcm:
        """The rest; nothing may be written afterwards."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest = self._count(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
        num_wanted = -(-self._num_in * self._to_hz // self._from_hz)
        # soxr rounds the length to the nearest sample, librosa up and fills with silence.
        return np.append(rest, np.zeros(max(num_wanted - self._num_out, 0), np.float32))

    def _count(self, samples: Pcm) -> Pcm:
        self._num_out += len(samples)
        return samples
