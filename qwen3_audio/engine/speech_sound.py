"""Codes in, sound out: the codec with the state of each slot.

On a CPU with two threads or more the codec has threads beside the engine's (`CodecThreads`): one
while frames are made, as a talker step waits for memory and the codec for arithmetic, so that side
by side they cost little more than the talker alone; two when only sound is left to make. Pieces are
cut by count, so that sound never depends on who was faster.
"""

import ctypes
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from qwen3_audio.engine.device import Device
from qwen3_audio.engine.guards import LoopDetector, SilenceDetector
from qwen3_audio.engine.prompts import Prompt
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.models.codec import CodecDecoder
from qwen3_audio.types import Codes, EndReason, SpeechRequest

RAMP = (1, 2, 4, 8)  # frames of the first pieces of sound; the last size stays
MIN_THREADS = 2  # of the process, for the codec to have one of its own
THREADS_PER_CODEC_THREAD = 4
MAX_JOBS = 2  # of a runner at a time, when no frames are made meanwhile
WAITERS = 8  # threads that wait for a GPU's sound


@dataclass(slots=True, eq=False, kw_only=True)
class SpeechSequence(Sequence):
    """A speech request in flight."""

    request: SpeechRequest
    prompt: Prompt
    max_frames: int
    loop: LoopDetector
    silence: SilenceDetector
    num_frames: int = 0
    num_launched: int = 0  # frames asked of a device whose results come late
    num_sure: int = 0  # of those, the ones that can't turn out to be the end
    num_chunks: int = 0
    num_decoded: int = 0  # frames given to the codec
    first_sound_s: float = 0.0  # when the first piece left
    reason: EndReason | None = None  # no more frames are made; sound may still be due
    is_decoding: bool = False
    waiting_codes: list[list[int]] = field(default_factory=list)  # frames not yet decoded
    trailing: torch.Tensor | None = None  # [N, D] text side of the frames to come

    @property
    def num_waiting(self) -> int:
        """Frames that the codec can have."""
        return max(self.num_frames, self.num_sure) - self.num_decoded

    def num_due(self, ramp: Seq[int]) -> int:
        """Frames of the next piece, 0 if it is not complete."""
        wanted = ramp[min(self.num_chunks, len(ramp) - 1)]
        num_waiting = self.num_waiting
        if self.is_decoding or (self.reason is None and num_waiting < wanted):
            return 0
        return min(num_waiting, wanted)

    @property
    def is_over(self) -> bool:
        return self.reason is not None and not self.num_waiting and not self.is_decoding

    def drop_waiting(self) -> None:
        """Leave out the frames that the codec has not had."""
        self.waiting_codes.clear()
        self.num_frames = self.num_sure = self.num_decoded


class InlineExecutor(Executor):
    """Does everything at once, on the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # handed to the caller, whatever it is
            future.set_exception(error)
        return future


class CodecThreads(Executor):
    """Threads for the codecs of all runners, which begin in the order of their calls.

    While one works, the kernels leave it the cores that it takes; on a GPU it only waits for sound.
    """

    def __init__(self, kernels: Kernels | None, enter: Callable[[], None] = lambda: None) -> None:
        """`enter` is the first that each thread does."""
        self._kernels, self._enter = kernels, enter
        num_threads = 1 if kernels is None else kernels.num_threads
        self._num_cores = max(1, num_threads // THREADS_PER_CODEC_THREAD)
        num_workers = WAITERS if kernels is None else MAX_JOBS
        self._threads = ThreadPoolExecutor(num_workers, "codec", self._begin)

    @classmethod
    def beside(cls, device: Device) -> "CodecThreads | None":
        """None where the codec's place is on the engine's thread, such as on a single core."""
        kernels = device.kernels
        if kernels is None:
            return None if device.lanes is None else cls(None, device.enter)
        return None if kernels.num_threads < MIN_THREADS else cls(kernels)

    def _begin(self) -> None:
        """On each thread, before its work."""
        keep_torch_to(self._num_cores)
        self._enter()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        kernels = self._kernels
        if kernels is None:
            return self._threads.submit(fn, *args, **kwargs)

        def work() -> Any:
            kernels.lend(self._num_cores)
            try:
                return fn(*args, **kwargs)
            finally:
                kernels.lend(-self._num_cores)

        return self._threads.submit(work)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


def keep_torch_to(num_threads: int) -> None:
    """For the calling thread alone; torch.set_num_threads would also mean later threads."""
    torch.get_num_threads()  # at its first question torch sets this thread's number itself
    set_number = getattr(ctypes.CDLL(None), "omp_set_num_threads", None)
    if set_number is not None:
        set_number(num_threads)


@dataclass(frozen=True, slots=True)
class _Job:
    """Pieces of the same length that are being decoded."""

    group: list[SpeechSequence]
    silent: Future[list[SpeechSequence]]


def most_urgent(
    seqs: Seq[SpeechSequence],
    runs_dry_s: Callable[[SpeechSequence], float],
    length: Callable[[SpeechSequence], int],
) -> list[SpeechSequence]:
    """Equally long pieces, those first whose listener waits or runs dry the soonest.

    `length`: of the next piece of a sequence, 0 if none is due.
    """
    due = sorted(filter(length, seqs), key=runs_dry_s)
    return [seq for seq in due if length(seq) == length(due[0])]


class SoundMaker:
    """The codec of one runner. All but the codec's own work happens on the engine's thread."""

    def __init__(
        self,
        codec: CodecDecoder,
        num_slots: int,
        *,
        frames_per_s: float,
        executor: Executor | None = None,
        ramp: Seq[int] = RAMP,
    ) -> None:
        """Without an `executor` everything is done at once."""
        self.ramp = ramp
        self.wake: Callable[[], None] = lambda: None  # called from any thread when work is done
        self.codec, self._frames_per_s = codec, frames_per_s
        self._state = codec.new_state(num_slots)
        self._is_beside = executor is not None
        self._executor = executor or InlineExecutor()
        self._begun: dict[int, Future[None]] = {}  # by slot
        self._jobs: list[_Job] = []

    @property
    def has_news(self) -> bool:
        return any(job.silent.done() for job in self._jobs)

    def begin(self, slot: int, reference: Codes | None) -> None:
        """A new sound in a slot, as if these codes [T, Q] had been heard before it."""
        # Whoever had the slot before may have left in the middle of either.
        before: list[Future[Any]] = [job.silent for job in self._jobs]
        if slot in self._begun:
            before.append(self._begun[slot])
        self._begun[slot] = self._executor.submit(self._begin, slot, reference, before)

    def start(self, seqs: Seq[SpeechSequence]) -> bool:
        """Decode the most urgent pieces that are due; False if there are none, or no thread."""
        makes_frames = any(seq.reason is None for seq in seqs)
        if len(self._jobs) >= (1 if makes_frames else MAX_JOBS):
            return False
        group = self._most_urgent(seqs)
        if not group:
            return False
        num_frames = self._num_due(group[0])
        codes = torch.tensor([seq.waiting_codes[:num_frames] for seq in group])
        begun = [self._begun.pop(seq.slot) for seq in group if seq.slot in self._begun]
        for seq in group:
            del seq.waiting_codes[:num_frames]
            seq.num_chunks += 1
            seq.num_decoded += num_frames
            seq.is_decoding = True
        slots = [seq.slot for seq in group]
        self._add_job(group, self._executor.submit(self._decode, group, codes, slots, begun))
        return True

    def collect(self) -> list[SpeechSequence]:
        """Those whose last piece has made it too long a silence; raises what the codec raised."""
        done = [job for job in self._jobs if job.silent.done()]
        self._jobs = [job for job in self._jobs if job not in done]
        for job in done:
            for seq in job.group:
                seq.is_decoding = False
        return [seq for job in done for seq in job.silent.result()]

    def _add_job(self, group: list[SpeechSequence], silent: Future[list[SpeechSequence]]) -> None:
        self._jobs.append(_Job(group, silent))
        silent.add_done_callback(lambda _: self.wake())

    def _most_urgent(self, seqs: Seq[SpeechSequence]) -> list[SpeechSequence]:
        group = most_urgent(seqs, self._runs_dry_s, self._num_due)
        # Beside the talker a long call would only keep the next first sound waiting.
        is_bounded = bool(group) and self._is_beside
        return group[: self.ramp[-1] // self._num_due(group[0])] if is_bounded else group

    def _num_due(self, seq: SpeechSequence) -> int:
        return seq.num_due(self.ramp)

    def _runs_dry_s(self, seq: SpeechSequence) -> float:
        if not seq.num_chunks:
            return 0.0
        return seq.first_sound_s + seq.num_decoded / self._frames_per_s

    # -- on a codec thread, where there are some -----------------------------------------------

    @torch.inference_mode()
    def _begin(self, slot: int, reference: Codes | None, before: list[Future[Any]]) -> None:
        wait(before)
        device = self._state.position.device
        slots = torch.tensor([slot], device=device)
        self.codec.reset(self._state, slots)
        if reference is not None:
            codes = torch.from_numpy(reference.astype(np.int64)).to(device)
            self.codec.warm(codes[None], self._state, slots)

    @torch.inference_mode()
    def _decode(
        self,
        group: list[SpeechSequence],
        codes: torch.Tensor,
        slots: list[int],
        begun: list[Future[None]],
    ) -> list[SpeechSequence]:
        for beginning in begun:
            beginning.result()
        device = self._state.position.device
        where = torch.tensor(slots, device=device)
        sound = self.codec.decode(codes.to(device), self._state, where).cpu().numpy()
        silent = []
        for seq, samples in zip(group, sound, strict=True):
            seq.emit(samples)
            seq.first_sound_s = seq.first_sound_s or time.monotonic()
            if seq.silence.is_silence(samples):
                silent.append(seq)
        return silent
