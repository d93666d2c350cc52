"""Faster or slower speech at the same pitch (ffmpeg's atempo inside PyAV's filter graph)."""

from fractions import Fraction

import av
import numpy as np

from qwen3_audio.types import Pcm

# atempo keeps up to two windows back at the end; silence behind the sound pushes them out.
_TAIL_S = 0.5


class Tempo:
    """Mono sound, `speed` times as fast; n samples in all come out as round(n / speed) samples."""

    def __init__(self, speed: float, sample_rate_hz: int) -> None:
        self._speed = speed
        self._sample_rate_hz = sample_rate_hz
        self._num_in = 0
        self._num_out = 0
        self._graph = _build_graph(speed, sample_rate_hz)

    def write(self, samples: Pcm) -> Pcm:
        """What is ready once these samples are known; nothing before about 80 ms of them."""
        if not len(samples):
            return samples
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[None]), format="flt", layout="mono"
        )
        frame.sample_rate = self._sample_rate_hz
        frame.pts = self._num_in
        self._num_in += len(samples)
        self._graph.push(frame)
        return self._pull()

    def finish(self) -> Pcm:
        """The rest; nothing may be written afterwards."""
        num_wanted = round(self._num_in / self._speed) - self._num_out
        tail = self.write(np.zeros(round(_TAIL_S * self._sample_rate_hz), np.float32))
        self._graph.push(None)
        return np.append(tail, self._pull())[: max(num_wanted, 0)]

    def _pull(self) -> Pcm:
        pieces = [np.zeros(0, np.float32)]
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                break
            pieces.append(frame.to_ndarray()[0])
        samples = np.concatenate(pieces)
        self._num_out += len(samples)
        return samples


def _build_graph(speed: float, sample_rate_hz: int) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        format="flt",
        sample_rate=sample_rate_hz,
        layout="mono",
        time_base=Fraction(1, sample_rate_hz),
    )
    filters = [graph.add("atempo", repr(factor)) for factor in _factors(speed)]
    graph.link_nodes(source, *filters, graph.add("abuffersink")).configure()
    return graph


def _factors(speed: float) -> list[float]:
    """Equal steps of 0.5 to 2: below, atempo refuses; above, it skips sound instead of blending."""
    num_steps = 1 if 0.5 <= speed <= 2.0 else 2
    return [float(speed ** (1 / num_steps))] * num_steps
