"""Sound → embeddings on a GPU: mel, convolutions and windows of several clips, by graphs.

The sound is cut into the encoder's one-second chunks on the host, each with the edges that its mel
frames reach into, so that the number of chunks is all that a graph depends on; the windows of the
transformer are a second graph by their own number. A clip's numbers do not depend on its company.
Letters in shapes: C chunks, T mel frames of a chunk, M filters, W windows, D and H widths.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import Graphs, Lane, Run, round_up
from qwen3_audio.models.asr import AudioEncoder, num_audio_tokens
from qwen3_audio.models.mel import LISTEN_HOP, LISTEN_RATE_HZ, LISTEN_WINDOW, mel_filters
from qwen3_audio.models.windows import Windows, window_spans
from qwen3_audio.types import Pcm

CHUNKS = (1, 2, 4, 8, 16, 32, 64, 96)  # three pieces of 30 s: more needs memory and gains nothing
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 96)
_EDGE = LISTEN_WINDOW // 2


class ChunkKey(NamedTuple):
    """What the graph of mel and convolutions depends on."""

    num_chunks: int
    has_short: bool  # some clip is shorter than a chunk


@dataclass(frozen=True, slots=True)
class Heard:
    """The embeddings of some clips, until the next ones are heard."""

    clips: list[int]  # their numbers
    embeddings: Tensor  # [W * window tokens, H]
    rows: list[NDArray[np.int64]]  # of each clip


class GpuHearing:
    """An audio encoder's work for the clips of a step."""

    def __init__(self, lane: Lane, encoder: AudioEncoder) -> None:
        self._lane, self._encoder, c = lane, encoder, encoder.config
        device = lane.device
        self._chunk_samples = c.chunk_frames * LISTEN_HOP
        num_samples = self._chunk_samples + LISTEN_WINDOW - LISTEN_HOP
        self._samples = torch.zeros(CHUNKS[-1], num_samples, device=device)
        self._chunks = torch.zeros(3, CHUNKS[-1], dtype=torch.int64, device=device)
        dtype = encoder.stem.positions.dtype
        tokens = (CHUNKS[-1], c.chunk_tokens, c.width)
        self._tokens = torch.zeros(tokens, dtype=dtype, device=device)
        self._windows = torch.zeros(2, WINDOWS[-1], dtype=torch.int64, device=device)
        self._windows[1] = 1
        width = encoder.proj2.weight.shape[0]
        num_rows = WINDOWS[-1] * c.window_tokens
        self._embeddings = torch.zeros(num_rows, width, dtype=dtype, device=device)
        self._filters = mel_filters(LISTEN_RATE_HZ, LISTEN_WINDOW, c.num_mels).to(device)
        self._hann = torch.hann_window(LISTEN_WINDOW, device=device)
        self._chunk_graphs: Graphs[ChunkKey] = Graphs(lane, self._build_chunks)
        self._window_graphs: Graphs[int] = Graphs(lane, self._build_windows)

    def prepare(self) -> None:
        self._chunk_graphs.prepare(
            ChunkKey(size, has_short) for size in CHUNKS[::-1] for has_short in (False, True)
        )
        self._window_graphs.prepare(WINDOWS[::-1])

    def hear(self, clips: Seq[Pcm]) -> Iterator[Heard]:
        """All clips, as many at a time as the largest graph takes."""
        group: list[int] = []
        num_chunks = 0
        for number, clip in enumerate(clips):
            own = self._count_chunks(clip)
            if group and num_chunks + own > CHUNKS[-1]:
                yield self._hear(group, [clips[at] for at in group])
                group, num_chunks = [], 0
            group.append(number)
            num_chunks += own
        if group:
            yield self._hear(group, [clips[at] for at in group])

    def _count_chunks(self, clip: Pcm) -> int:
        return -(-(len(clip) // LISTEN_HOP) // self._encoder.config.chunk_frames)

    def _hear(self, numbers: list[int], clips: list[Pcm]) -> Heard:
        c = self._encoder.config
        frames = [len(clip) // LISTEN_HOP for clip in clips]
        self._make_tokens(clips, frames)
        spans = window_spans(
            [num_audio_tokens(num, c.chunk_frames) for num in frames],
            chunk_tokens=c.chunk_tokens,
            window_tokens=c.window_tokens,
        )
        size = round_up(len(spans), WINDOWS)
        windows = np.zeros((2, size), np.int64)
        windows[1] = 1
        windows[:, : len(spans)] = np.array([(span.start, span.length) for span in spans]).T
        self._window_graphs.prepare([size])
        self._lane.send(windows, self._windows[:, :size])
        self._window_graphs.run(size)
        parts: list[list[NDArray[np.int64]]] = [[] for _ in clips]
        for at, span in enumerate(spans):
            parts[span.clip].append(at * c.window_tokens + np.arange(span.length))
        return Heard(numbers, self._embeddings, [np.concatenate(part) for part in parts])

    def _make_tokens(self, clips: list[Pcm], frames: list[int]) -> None:
        length = self._encoder.config.chunk_frames
        num_chunks = sum(-(-num // length) for num in frames)
        key = ChunkKey(round_up(num_chunks, CHUNKS), min(frames) < length)
        samples = np.zeros((key.num_chunks, self._samples.shape[1]), np.float32)
        # Frames that there are, a chunk that all chunks of a clip name, frames that may be seen.
        about = np.zeros((3, key.num_chunks), np.int64)
        about[1:] = np.arange(key.num_chunks), np.full(key.num_chunks, length)
        first = 0
        for clip, num in zip(clips, frames, strict=True):
            end = first + -(-num // length)
            self._cut(clip, samples[first:end])
            about[0, first:end] = np.clip(num - length * np.arange(end - first), 0, length)
            about[1, first:end], about[2, first:end] = first, min(num, length)
            first = end
        self._chunk_graphs.prepare([key])
        self._lane.send(samples, self._samples[: key.num_chunks])
        self._lane.send(about, self._chunks[:, : key.num_chunks])
        self._chunk_graphs.run(key)

    def _cut(self, clip: Pcm, chunks: NDArray[np.float32]) -> None:
        """A clip with mirrored edges into rows that overlap, the last one filled up with zeros."""
        mirrored = np.concatenate([clip[_EDGE:0:-1], clip, clip[-2 : -_EDGE - 2 : -1]])
        for number, chunk in enumerate(chunks):
            part = mirrored[number * self._chunk_samples :][: len(chunk)]
            chunk[: len(part)] = part

    def _build_chunks(self, key: ChunkKey) -> Run:
        return partial(self._encode_chunks, key)

    def _encode_chunks(self, key: ChunkKey) -> None:
        num_frames, clips, num_valid = self._chunks[:, : key.num_chunks]
        mel = self._log_mel(self._samples[: key.num_chunks], num_frames, clips)
        chunks = mel.transpose(1, 2).to(self._tokens.dtype)
        tokens = self._encoder.stem(chunks, num_valid if key.has_short else None)
        self._tokens[: key.num_chunks].copy_(tokens)

    def _log_mel(self, samples: Tensor, num_frames: Tensor, clips: Tensor) -> Tensor:
        """models.mel.log_mel_16k of every chunk's frames, [C, T, M]; zeros where there are none."""
        frames = samples.unfold(1, LISTEN_WINDOW, LISTEN_HOP) * self._hann
        # abs() of complex numbers is compiled at run time on a GPU, by a library of its own.
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1)
        log_mel = (power @ self._filters.t()).clamp(min=1e-10).log10()
        is_there = torch.arange(frames.shape[1], device=samples.device) < num_frames[:, None]
        is_there = is_there[:, :, None]
        peaks = log_mel.masked_fill(~is_there, -torch.inf).amax((1, 2))
        of_clips = torch.full_like(peaks, -torch.inf).scatter_reduce(0, clips, peaks, "amax")
        floor = of_clips.gather(0, clips)[:, None, None] - 8.0
        return torch.where(is_there, (torch.maximum(log_mel, floor) + 4.0) / 4.0, 0.0)

    def _build_windows(self, size: int) -> Run:
        return partial(self._encode_windows, size)

    def _encode_windows(self, size: int) -> None:
        length = self._encoder.config.window_tokens
        starts, lengths = self._windows[:, :size]
        at = torch.arange(length, device=starts.device)
        rows = starts[:, None] + torch.minimum(at, lengths[:, None] - 1)
        tokens = self._tokens.flatten(0, 1).index_select(0, rows.flatten())
        is_token = (at < lengths[:, None])[:, None, None]
        embeddings = self._encoder(tokens, Windows(((size, length),), is_token))
        self._embeddings[: size * length].copy_(embeddings)
