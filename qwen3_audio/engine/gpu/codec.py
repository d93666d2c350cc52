"""Codes that lie on a GPU → sound: the codec in graphs of its own, in a lane beside the talker's.

A piece is asked for as soon as its frames are certain to come: the first frames of a request before
the host has seen their codes. The codec looks only back, so a piece that is shorter than its graph
is decoded together with whatever follows it in the ring, and cut.
Letters in shapes: S slots, F frames of the ring, Q code groups, B rows, T frames of a piece.
"""

import time
from collections.abc import Sequence as Seq
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import Graphs, Lane, Late, Mark, Run, round_up, sizes_up_to
from qwen3_audio.engine.speech_sound import SoundMaker, SpeechSequence, most_urgent
from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.types import Codes

RING_FRAMES = 256  # of a slot: the talker stops when it is so far ahead of the codec
# Frames of the first pieces. A player needs two to begin, and so early there is no end to wait for:
# the codec is asked for both at once, a frame and a call sooner than for one after the other.
RAMP = (2, 4, 8)
# Pieces in one call; more would keep the next first sound waiting.
BATCHES = (1, 2, 4, 6, 8, 12, 16, 24, 32)
MAX_CALLS = 2  # at a time: one that runs, and one that waits for it


class CodecKey(NamedTuple):
    """What a graph depends on."""

    num_rows: int
    num_frames: int


class GpuSoundMaker(SoundMaker):
    """The codec of one runner; `executor` waits for the sound and hands it out."""

    def __init__(
        self,
        codec: CodecDecoder,
        num_slots: int,
        *,
        frames_per_s: float,
        executor: Executor | None,
        lane: Lane,
    ) -> None:
        super().__init__(
            codec, num_slots + 1, frames_per_s=frames_per_s, executor=executor, ramp=RAMP
        )
        self._lane, self._padding = lane, num_slots
        self.frames_mark: Mark | None = None  # behind the newest frames that were asked for
        shape = (num_slots + 1, RING_FRAMES, codec.config.num_quantizers)
        self.ring = torch.zeros(shape, dtype=torch.int64, device=lane.device)
        self._slots = torch.arange(num_slots + 1, device=lane.device)
        self.sizes = sizes_up_to(min(num_slots, BATCHES[-1]), BATCHES)
        self._inputs: dict[CodecKey, Tensor] = {}  # slots and first frames [2, B]
        num_samples = RAMP[-1] * codec.samples_per_frame
        self._sound = torch.zeros(self.sizes[-1], num_samples, device=lane.device)
        self._graphs: Graphs[CodecKey] = Graphs(lane, self._build)

    def prepare(self) -> None:
        with self._lane.active():
            self._graphs.prepare(
                CodecKey(size, frames) for frames in RAMP[::-1] for size in self.sizes[::-1]
            )

    def forget(self) -> None:
        """Nobody runs: what is on its way belongs to requests that have failed."""
        self._jobs.clear()

    def has_room(self, seq: SpeechSequence) -> bool:
        """Whether the next frame's codes overwrite none that are still to be decoded."""
        num_heard = seq.num_decoded - RAMP[-1]
        return seq.num_launched - num_heard < RING_FRAMES

    def begin(self, slot: int, reference: Codes | None) -> None:
        """A new sound in a slot, as if these codes [T, Q] had been heard before it."""
        with self._lane.active():
            where = self._slots[slot : slot + 1]
            self.codec.reset(self._state, where)
            if reference is not None:
                codes = self._lane.upload(reference.astype(np.int64))
                self.codec.warm(codes[None], self._state, where)

    def start(self, seqs: Seq[SpeechSequence]) -> bool:
        """Decode the most urgent pieces that are due; False if there are none, or no room."""
        if len(self._jobs) >= MAX_CALLS:
            return False
        group = most_urgent(seqs, self._runs_dry_s, _graph_frames)[: self.sizes[-1]]
        if not group:
            return False
        late = self._launch(group)
        counts = [self._num_due(seq) for seq in group]
        for seq, num_frames in zip(group, counts, strict=True):
            seq.num_chunks += 1
            seq.num_decoded += num_frames
            seq.is_decoding = True
        self._add_job(group, self._executor.submit(self._hand_out, group, counts, late))
        return True

    def _launch(self, group: list[SpeechSequence]) -> Late:
        key = CodecKey(round_up(len(group), self.sizes), _graph_frames(group[0]))
        where = np.zeros((2, key.num_rows), np.int64)
        where[0] = self._padding
        where[:, : len(group)] = np.array([(seq.slot, seq.num_decoded) for seq in group]).T
        is_ahead = any(seq.num_decoded + self._num_due(seq) > seq.num_frames for seq in group)
        with self._lane.active():
            self._graphs.prepare([key])
            if is_ahead and self.frames_mark is not None:
                self._lane.follow(self.frames_mark)
            self._lane.send(where, self._inputs[key])
            self._graphs.run(key)
            num_samples = key.num_frames * self.codec.samples_per_frame
            return self._lane.fetch(self._sound[: len(group), :num_samples])

    def _build(self, key: CodecKey) -> Run:
        where = torch.zeros(2, key.num_rows, dtype=torch.int64, device=self._lane.device)
        where[0] = self._padding
        self._inputs[key] = where
        return partial(self._decode_ring, key, where)

    def _decode_ring(self, key: CodecKey, where: Tensor) -> None:
        slots, starts = where
        frames = starts[:, None] + torch.arange(key.num_frames, device=starts.device)
        codes = self.ring[slots[:, None], frames % RING_FRAMES]
        sound = self.codec.decode(codes, self._state, slots)
        self._sound[: key.num_rows, : sound.shape[1]].copy_(sound)

    def _hand_out(
        self, group: list[SpeechSequence], counts: list[int], late: Late
    ) -> list[SpeechSequence]:
        """On a thread that may wait, where there is one."""
        sound = late.read().numpy()
        silent = []
        for seq, num_frames, row in zip(group, counts, sound, strict=True):
            samples = row[: num_frames * self.codec.samples_per_frame].copy()
            seq.emit(samples)
            seq.first_sound_s = seq.first_sound_s or time.monotonic()
            if seq.silence.is_silence(samples):
                silent.append(seq)
        return silent


def _graph_frames(seq: SpeechSequence) -> int:
    """Frames of the graph that makes a sequence's next piece; 0 if none is due."""
    return round_up(seq.num_due(RAMP), (0, *RAMP))
