"""One frame of every running speech request as one piece of work on the device.

The talker's step on each one's last input, the first code with penalty, bans and end test, the code
predictor's passes, the next input: everything is read from and written to slots, and only codes and
ends leave. Letters in shapes: B rows, Q code groups, F frames of the ring, S slots, D talker width.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import Graphs, Lane, Late, Run, round_up, sizes_up_to
from qwen3_audio.engine.gpu.prefill import page_sizes
from qwen3_audio.engine.gpu.slots import (
    FRAME,
    NUM_TRAILING,
    POSITION,
    SEED,
    BatchSlots,
    SlotRows,
    SpeechSlots,
)
from qwen3_audio.engine.kv_cache import KvPool
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.predictor import FusedPredictor
from qwen3_audio.kernels.fused.shapes import History
from qwen3_audio.kernels.fused.stack import FusedStack
from qwen3_audio.models.talker import Talker


class FrameKey(NamedTuple):
    """What a graph depends on."""

    num_rows: int
    num_pages: int
    has_text: bool  # some request's text is still to come beside its frames


class FrameGraphs:
    """Frames of batches of any size; launches follow each other in one lane."""

    def __init__(
        self,
        lane: Lane,
        ops: FusedOps,
        talker: Talker,
        slots: SpeechSlots,
        pool: KvPool,
        *,
        pad: Tensor,
        history: History,
        ring: Tensor,
    ) -> None:
        """`pad` [1, D] is the text side where no text is left; codes go to `ring` [S, F, Q].

        `history` is taken for all slots; its rows are those of the batch.
        """
        self._lane, self._talker, self._slots, self._pool = lane, talker, slots, pool
        self._ops, self._pad, self._history, self._ring = ops, pad, history, ring
        self.sizes = sizes_up_to(slots.padding)
        self.pages = page_sizes(ops, pool)
        self._stack = FusedStack(
            ops, talker.stack, pool.k, pool.v, max_positions=pool.max_positions
        )
        self._predictor = FusedPredictor(ops, talker.predictor, self.sizes[-1])
        self._inputs = BatchSlots(lane, slots.padding)
        num_groups = talker.config.num_code_groups
        self._results = torch.zeros(
            self.sizes[-1], num_groups + 1, dtype=torch.int64, device=lane.device
        )
        self._graphs: Graphs[FrameKey] = Graphs(lane, self._build)

    def prepare(self) -> None:
        """Capture what an ordinary step needs, the largest first: the others fit its memory."""
        self._graphs.prepare(FrameKey(size, self.pages[0], False) for size in self.sizes[::-1])

    def launch(self, slots: list[int], *, num_pages: int, has_text: bool) -> Late:
        """One frame of these slots → int64 [B, Q + 1] codes, and 1 in the last column at an end.

        `num_pages`: the most that one of them has written on.
        """
        key = FrameKey(round_up(len(slots), self.sizes), round_up(num_pages, self.pages), has_text)
        self._graphs.prepare([key])
        self._inputs.send(slots, key.num_rows)
        self._graphs.run(key)
        return self._lane.fetch(self._results[: len(slots)])

    def _build(self, key: FrameKey) -> Run:
        # What is captured is run before it counts: with nobody in it.
        return partial(self._frame, key, self._inputs.empty(key.num_rows))

    def _frame(self, key: FrameKey, slots: Tensor) -> None:
        rows = self._slots.gather(slots)
        pages = self._pool.page_of.index_select(0, slots)[:, : key.num_pages]
        inputs = self._slots.inputs.index_select(0, slots)
        hidden = self._stack.step(inputs, rows.whole[POSITION], pages, rows.lengths)
        num_groups = self._talker.config.num_code_groups
        keys = self._ops.draw_keys(rows.whole[SEED], rows.whole[FRAME], num_groups)
        first = self._choose_first(hidden, keys[:, 0], rows)
        embedded = self._talker.embed_codec(first)
        rest = self._predictor(hidden, embedded, keys, rows.predictor)
        codes = torch.cat([first[:, None], rest], 1)
        inputs = embedded + self._talker.predictor.embed(rest) + self._text_side(key, rows)
        self._slots.inputs.index_copy_(0, slots, inputs)
        self._ring[slots, rows.whole[FRAME] % self._ring.shape[1]] = codes
        is_end = first == self._history.eos
        self._slots.advance(rows, is_end)
        self._results[: key.num_rows].copy_(torch.cat([codes, is_end[:, None]], 1))

    def _choose_first(self, hidden: Tensor, keys: Tensor, rows: SlotRows) -> Tensor:
        history = replace(self._history, slots=rows.slots)
        return self._ops.choose_first(self._talker.head(hidden), keys, rows.talker, history)

    def _text_side(self, key: FrameKey, rows: SlotRows) -> Tensor:
        """What each request's text adds to its next input: mostly padding."""
        if not key.has_text:
            return self._pad
        frames = rows.whole[FRAME]
        at = torch.minimum(frames, (rows.whole[NUM_TRAILING] - 1).clamp(min=0))
        ids = self._slots.trailing[rows.slots, at].long()
        is_text = frames < rows.whole[NUM_TRAILING]
        return torch.where(is_text[:, None], self._talker.embed_text(ids), self._pad)
