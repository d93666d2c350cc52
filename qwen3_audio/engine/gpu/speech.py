"""The speech runner of a GPU: the device makes a frame while the host reads the one before.

One step: prompts that join are read, then one graph makes a frame of everybody, the codec is asked
for what is certain, and only then the results of the step before are looked at. So an end is known
a step late: what its slot still computed is never read, and the next who takes the slot comes after
it in the same lane. Letters in shapes: B requests, D talker width.
"""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch

from qwen3_audio.engine.engine import Ending
from qwen3_audio.engine.gpu.codec import GpuSoundMaker
from qwen3_audio.engine.gpu.frames import FrameGraphs
from qwen3_audio.engine.gpu.graphs import Lane, Late
from qwen3_audio.engine.gpu.prefill import PackedPrefill, Part
from qwen3_audio.engine.gpu.prompts import embed_prompts
from qwen3_audio.engine.gpu.slots import FRAME, NewSpeech, SpeechSlots
from qwen3_audio.engine.kv_cache import PageBook
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.engine.tts import MIN_FRAMES, SpeechRunner
from qwen3_audio.engine.weights import GenerationDefaults
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import History
from qwen3_audio.models.talker import Talker
from qwen3_audio.types import EndReason, ModelKind


@dataclass(frozen=True, slots=True)
class Launch:
    """A frame that the device has been asked for."""

    seqs: list[SpeechSequence]
    late: Late


class GpuSpeechRunner(SpeechRunner):
    """Runs one TTS checkpoint. Everything here happens on the engine's thread."""

    sound: GpuSoundMaker

    def __init__(
        self,
        kind: ModelKind,
        talker: Talker,
        sound: GpuSoundMaker,
        *,
        defaults: GenerationDefaults,
        decoder: PagedDecoder,
        scheduler: Scheduler[SpeechSequence],
        lane: Lane,
        ops: FusedOps,
    ) -> None:
        """The pool of `decoder` has a slot more than the scheduler, for rows that fill up."""
        super().__init__(
            kind, talker, sound, defaults=defaults, decoder=decoder, scheduler=scheduler
        )
        self._lane, pool = lane, decoder.pool
        self.slots = SpeechSlots(talker, pool, scheduler.num_slots)
        self._prefill_graphs = PackedPrefill(
            lane, ops, talker.stack, pool, padding=scheduler.num_slots
        )
        self._frames = FrameGraphs(
            lane,
            ops,
            talker,
            self.slots,
            pool,
            pad=self.pad,
            history=self._history(),
            ring=sound.ring,
        )
        self._launches: deque[Launch] = deque()  # not yet read

    @torch.inference_mode()
    def prepare(self) -> None:
        """Capture everything that a step needs, so that nobody waits for it later."""
        with self._lane.active():
            self._frames.prepare()
            self._prefill_graphs.prepare(self.scheduler.max_prefill_tokens)
        self.sound.prepare()

    @property
    def has_work(self) -> bool:
        """False: the next step would only wait for the codec."""
        going = any(self._may_go(seq) for seq in self.scheduler.running.values())
        waiting = self.sound.has_news or self.scheduler.may_start
        return going or bool(self._launches) or waiting

    @torch.inference_mode()
    def step(self) -> list[Ending]:
        self._end_silent()
        plan = self.scheduler.plan()
        seqs = plan.decode + plan.prefill
        going = [seq for seq in seqs if self._may_go(seq)]
        with self._lane.active():
            if plan.prefill:
                self._prefill(plan.prefill)
            if going:
                self._launch(going)
        self.sound.start(seqs)  # first sounds: their codes need not come here first
        while len(self._launches) > bool(going):
            self._read(self._launches.popleft())
        return self._make_sound(seqs)

    def restart(self) -> None:
        """Nobody runs: what is on its way belongs to requests that have failed."""
        self._launches.clear()
        self.sound.forget()

    def _may_go(self, seq: SpeechSequence) -> bool:
        has_frames = seq.reason is None and seq.num_launched < seq.max_frames
        return has_frames and self.sound.has_room(seq)

    def _history(self) -> History:
        """Of all slots; a batch puts in its own."""
        return History(
            slots=torch.arange(self.slots.padding + 1, device=self._lane.device),
            seen=self.slots.seen,
            frames=self.slots.whole[FRAME],
            is_banned=self.is_banned,
            eos=self.talker.config.codec.eos,
            min_frames=MIN_FRAMES,
            penalty=self.defaults.repetition_penalty,
        )

    def _prefill(self, seqs: list[SpeechSequence]) -> None:
        """All rows of each prompt but the last, which is the input of the first frame."""
        news = [NewSpeech(seq, *self._settings(seq)) for seq in seqs]
        rows = embed_prompts(self._lane, self.talker, [seq.prompt for seq in seqs])
        ends = np.cumsum([len(seq.prompt.rows) for seq in seqs])
        last = self._lane.upload(ends - 1)
        self.slots.admit(self._lane, news, rows.index_select(0, last))
        self._prefill_graphs.run(rows, _parts(news))
        for seq in seqs:
            seq.num_positions = len(seq.prompt.rows) - 1
            self.sound.begin(seq.slot, seq.prompt.reference)

    def _launch(self, seqs: list[SpeechSequence]) -> None:
        for seq in seqs:
            seq.num_positions += 1
        late = self._frames.launch(
            [seq.slot for seq in seqs],
            num_pages=PageBook.pages_for(max(seq.num_positions for seq in seqs)),
            has_text=any(seq.num_launched < len(seq.prompt.trailing) for seq in seqs),
        )
        self.sound.frames_mark = late.mark
        for seq in seqs:
            seq.num_launched += 1
            seq.num_sure = min(seq.num_launched, MIN_FRAMES)
        self._launches.append(Launch(seqs, late))

    def _read(self, launch: Launch) -> None:
        """Results of those who still want them: neither ended nor gone since they were asked."""
        running = self.scheduler.running
        rows: list[list[int]] = launch.late.read().tolist()
        for seq, (*codes, is_end) in zip(launch.seqs, rows, strict=True):
            if seq.reason is None and running.get(seq.seq_id) is seq:
                seq.reason = EndReason.STOP if is_end else self._take_frame(seq, codes)
                seq.num_sure = seq.num_sure if seq.reason is None else 0


def _parts(news: Seq[NewSpeech]) -> list[Part]:
    parts, start = [], 0
    for new in news:
        parts.append(Part(new.seq.slot, start, new.num_read))
        start += new.num_read + 1
    return parts
