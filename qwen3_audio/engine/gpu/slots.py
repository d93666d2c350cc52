"""What a GPU keeps of every running request between steps, indexed by slot.

One slot more than there can be requests: rows that only fill up a batch work there, and nobody
reads it. Letters in shapes: S slots with that one, B rows, D talker width, V codec vocabulary,
N pages of a slot, M positions of a slot.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import Lane
from qwen3_audio.engine.kv_cache import KvPool
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.engine.tts import RowSetting
from qwen3_audio.kernels.fused.shapes import SampleRows
from qwen3_audio.models.talker import Talker

# Rows of SpeechSlots.whole
SEED, FRAME, POSITION, TOP_K, PREDICTOR_TOP_K, NUM_TRAILING, LEFT = range(7)
# Rows of SpeechSlots.real
TEMPERATURE, TOP_P, PREDICTOR_TEMPERATURE, PREDICTOR_TOP_P = range(4)


@dataclass(frozen=True, slots=True)
class NewSpeech:
    """A request that takes its slot: what the talker has read of its prompt, and how it speaks."""

    seq: SpeechSequence
    talker: RowSetting
    predictor: RowSetting

    @property
    def num_read(self) -> int:
        """Rows of the prompt before the last, which is the first frame's input."""
        return len(self.seq.prompt.rows) - 1

    @property
    def whole(self) -> list[int]:
        seq, top_k, predictor_top_k = self.seq, self.talker[1], self.predictor[1]
        num_trailing = len(seq.prompt.trailing)
        start = [seq.request.seed, 0, self.num_read]
        return [*start, top_k, predictor_top_k, num_trailing, seq.max_frames]

    @property
    def real(self) -> list[float]:
        (heat, _, top_p), (predictor_heat, _, predictor_top_p) = self.talker, self.predictor
        return [heat, top_p, predictor_heat, predictor_top_p]


@dataclass(frozen=True, slots=True)
class SlotRows:
    """The numbers of one batch: each row of `whole` and `real` gathered by its slots."""

    slots: Tensor  # int64 [B]
    whole: Tensor  # int64 [7, B]
    real: Tensor  # float32 [4, B]

    @property
    def is_going(self) -> Tensor:
        """Neither ended nor padding: bool [B]."""
        return self.whole[LEFT] > 0

    @property
    def lengths(self) -> Tensor:
        """Positions with the new one, int64 [B]; 0: nothing is written."""
        return torch.where(self.is_going, self.whole[POSITION] + 1, 0)

    @property
    def talker(self) -> SampleRows:
        return SampleRows(self.real[TEMPERATURE], self.whole[TOP_K], self.real[TOP_P])

    @property
    def predictor(self) -> SampleRows:
        heat, top_p = self.real[PREDICTOR_TEMPERATURE], self.real[PREDICTOR_TOP_P]
        return SampleRows(heat, self.whole[PREDICTOR_TOP_K], top_p)


class SpeechSlots:
    """Tensors that stay where they are; only the frames' graphs and `admit` write them."""

    def __init__(self, talker: Talker, pool: KvPool, num_slots: int) -> None:
        device, config = talker.device, talker.config
        self.padding, self._pool = num_slots, pool
        num = num_slots + 1
        self.whole = torch.zeros(7, num, dtype=torch.int64, device=device)
        self.real = torch.zeros(4, num, device=device)
        width = config.stack.hidden_size
        self.inputs = torch.zeros(num, width, dtype=talker.stack.activations, device=device)
        self.seen = torch.zeros(num, config.stack.vocab_size, dtype=torch.bool, device=device)
        self.trailing = torch.zeros(num, pool.max_positions, dtype=torch.int32, device=device)
        steps = torch.zeros(7, 1, dtype=torch.int64)
        steps[FRAME], steps[POSITION], steps[LEFT] = 1, 1, -1
        self._steps = steps.to(device)

    def admit(self, lane: Lane, news: Seq[NewSpeech], inputs: Tensor) -> None:
        """Fill the slots of new requests; inputs [B, D] are the last rows of their prompts."""
        slots = lane.upload(np.array([new.seq.slot for new in news], np.int64))
        whole = np.array([new.whole for new in news], np.int64).T
        real = np.array([new.real for new in news], np.float32).T
        self.whole.index_copy_(1, slots, lane.upload(whole))
        self.real.index_copy_(1, slots, lane.upload(real))
        self.inputs.index_copy_(0, slots, inputs)
        self.seen.index_fill_(0, slots, False)
        take_pages(lane, self._pool, [new.seq for new in news], slots)
        for new in news:
            if new.seq.prompt.trailing:
                ids = np.array(new.seq.prompt.trailing, np.int32)
                lane.send(ids, self.trailing[new.seq.slot, : len(ids)])

    def gather(self, slots: Tensor) -> SlotRows:
        """slots int64 [B]."""
        whole, real = self.whole.index_select(1, slots), self.real.index_select(1, slots)
        return SlotRows(slots, whole, real)

    def advance(self, rows: SlotRows, is_end: Tensor) -> None:
        """One frame further, is_end bool [B]; who has ended and padding stay where they are."""
        following = rows.whole + self._steps * rows.is_going
        following[LEFT].masked_fill_(is_end, 0)
        self.whole.index_copy_(1, rows.slots, following)


def take_pages(lane: Lane, pool: KvPool, seqs: Seq[Sequence], slots: Tensor) -> None:
    """Every page that each will ever need: what was reserved is there from the start."""
    table = np.zeros((len(seqs), pool.page_of.shape[1]), np.int64)
    for row, seq in zip(table, seqs, strict=True):
        pages = pool.take(seq.slot, seq.num_reserved_positions)
        row[: len(pages)] = pages
    pool.page_of.index_copy_(0, slots, lane.upload(table))


class BatchSlots:
    """The slots of a batch, in one tensor for each size, filled up with the slot that nobody has.

    Batches seldom change from step to step, and what has not changed is not sent again.
    """

    def __init__(self, lane: Lane, padding: int) -> None:
        self._lane, self._padding = lane, padding
        self._tensors: dict[int, Tensor] = {}
        self._sent: dict[int, list[int]] = {}

    def empty(self, size: int) -> Tensor:
        """The tensor of a size with nobody in it: int64 [size]."""
        if size not in self._tensors:
            device = self._lane.device
            self._tensors[size] = torch.empty(size, dtype=torch.int64, device=device)
        self._sent[size] = [self._padding] * size
        return self._tensors[size].fill_(self._padding)

    def send(self, slots: list[int], size: int) -> None:
        padded = slots + [self._padding] * (size - len(slots))
        if self._sent[size] != padded:
            self._lane.send(np.array(padded, np.int64), self._tensors[size])
            self._sent[size] = padded
