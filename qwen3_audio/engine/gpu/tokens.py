"""One token of every running recognition as one piece of work on the device.

The decoder's step on each one's last token, the head, the choice, its log-probability and the stop
test: everything is read from and written to slots.
Letters in shapes: B rows, S slots, E end tokens.
"""

from collections.abc import Sequence as Seq
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.asr import AsrSequence
from qwen3_audio.engine.asr_prompt import AsrPrompt
from qwen3_audio.engine.gpu.graphs import Graphs, Lane, Late, Run, round_up, sizes_up_to
from qwen3_audio.engine.gpu.prefill import page_sizes
from qwen3_audio.engine.gpu.slots import BatchSlots, take_pages
from qwen3_audio.engine.kv_cache import KvPool
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import SampleRows
from qwen3_audio.kernels.fused.stack import FusedStack
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Stack

# Rows of TokenGraphs.whole
SEED, STEP, POSITION, TOP_K, TOKEN, LEFT = range(6)
ALL = 1 << 30  # candidates: more than any vocabulary has
FEW_CANDIDATES = (1, 1024)  # of who is greedy, and of who names a temperature and nothing else


class TokenKey(NamedTuple):
    """What a graph depends on."""

    num_rows: int
    num_pages: int
    num_candidates: int  # of a row at most, where choosing means sorting them


class TokenGraphs:
    """Tokens of batches of any size; launches follow each other in one lane."""

    def __init__(
        self,
        lane: Lane,
        ops: FusedOps,
        stack: Stack,
        pool: KvPool,
        *,
        embedding: Tensor,
        head: Linear,
        eos_ids: Seq[int],
        num_slots: int,
    ) -> None:
        self._lane, self._ops, self._pool = lane, ops, pool
        self._embedding, self._head = embedding, head
        device, num = lane.device, num_slots + 1
        self.whole = torch.zeros(6, num, dtype=torch.int64, device=device)
        self.real = torch.zeros(2, num, device=device)  # temperature, top-p
        self._eos = torch.tensor(eos_ids, device=device)
        self._stack = FusedStack(ops, stack, pool.k, pool.v, max_positions=pool.max_positions)
        self.sizes, self.pages = sizes_up_to(num_slots), page_sizes(ops, pool)
        vocab = head.weight.shape[0]
        self.candidates = sizes_up_to(vocab, FEW_CANDIDATES) if ops.sorts else (vocab,)
        self._inputs = BatchSlots(lane, num_slots)
        self._results = torch.zeros(num_slots, 2, dtype=torch.float64, device=device)
        self._graphs: Graphs[TokenKey] = Graphs(lane, self._build)

    def prepare(self) -> None:
        """Capture what an ordinary step needs, the largest first: the others fit its memory."""
        self._graphs.prepare(
            TokenKey(size, self.pages[0], number)
            for size in self.sizes[::-1]
            for number in self.candidates[: len(FEW_CANDIDATES)]
        )

    def admit(self, seqs: Seq[AsrSequence], prompts: Seq[AsrPrompt]) -> None:
        """Fill the slots of pieces whose prompts are read up to their last tokens."""
        slots = self._lane.upload(np.array([seq.slot for seq in seqs], np.int64))
        whole = [_start(seq, prompt.ids) for seq, prompt in zip(seqs, prompts, strict=True)]
        real = [(seq.settings[0], seq.settings[2]) for seq in seqs]
        self.whole.index_copy_(1, slots, self._lane.upload(np.array(whole, np.int64).T))
        self.real.index_copy_(1, slots, self._lane.upload(np.array(real, np.float32).T))
        take_pages(self._lane, self._pool, seqs, slots)

    def launch(self, slots: list[int], *, num_pages: int, num_candidates: int) -> Late:
        """One token of these slots → float64 [B, 2]: its id and its log-probability.

        `num_pages`: the most that one of them has written on. `num_candidates`: the most that one
        of them chooses among, see `count_candidates`.
        """
        key = TokenKey(
            round_up(len(slots), self.sizes),
            round_up(num_pages, self.pages),
            round_up(min(num_candidates, self.candidates[-1]), self.candidates),
        )
        self._graphs.prepare([key])
        self._inputs.send(slots, key.num_rows)
        self._graphs.run(key)
        return self._lane.fetch(self._results[: len(slots)])

    def _build(self, key: TokenKey) -> Run:
        # What is captured is run before it counts: with nobody in it.
        return partial(self._step, key, self._inputs.empty(key.num_rows))

    def _step(self, key: TokenKey, slots: Tensor) -> None:
        whole, real = self.whole.index_select(1, slots), self.real.index_select(1, slots)
        is_going = whole[LEFT] > 0  # neither ended nor padding
        lengths = torch.where(is_going, whole[POSITION] + 1, 0)
        pages = self._pool.page_of.index_select(0, slots)[:, : key.num_pages]
        rows = self._embedding.index_select(0, whole[TOKEN]).to(self._stack.stack.activations)
        hidden = self._stack.step(rows, whole[POSITION], pages, lengths)
        logits = self._head(hidden)
        keys = self._ops.draw_keys(whole[SEED], whole[STEP], 1)[:, 0]
        settings = SampleRows(real[0], whole[TOP_K], real[1])
        chosen = self._ops.choose_ids(logits, keys, settings, key.num_candidates)
        logits = logits.float()
        logprobs = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        is_end = (chosen[:, None] == self._eos).any(1)
        seed, step, position, top_k, _, left = whole
        left = (left - is_going.long()).masked_fill(is_end, 0)
        following = [seed, step + is_going, position + is_going, top_k, chosen, left]
        self.whole.index_copy_(1, slots, torch.stack(following))
        results = torch.stack([chosen.double(), logprobs.double()], 1)
        self._results[: key.num_rows].copy_(results)


def count_candidates(seq: AsrSequence) -> int:
    """How many of the likeliest tokens a request chooses among."""
    temperature, top_k, _ = seq.settings
    if temperature == 0:
        return 1
    return top_k if top_k > 0 else ALL


def _start(seq: AsrSequence, ids: Seq[int]) -> tuple[int, ...]:
    """The rows of TokenGraphs.whole before the first token."""
    top_k = seq.settings[1] if seq.settings[1] > 0 else ALL
    return (seq.request.seed, 0, len(ids) - 1, top_k, ids[-1], seq.max_tokens)
