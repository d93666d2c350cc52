"""One Qwen3 stack with its paged cache: whole prompts in, then one row a step for every sequence.

Letters in shapes: B sequences, T rows of a prompt, D hidden size, S slots.
"""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from qwen3_audio.engine.kv_cache import DecodeAttention, KvPool, PrefillAttention
from qwen3_audio.engine.memory import Room
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.kernels.cpu_stack import CacheView, CpuStack
from qwen3_audio.models.qwen3 import Stack


class PagedDecoder:
    """Knows rows and positions; what goes in and what comes of it is the runners' business."""

    def __init__(
        self, stack: Stack, pool: KvPool, num_slots: int, cpu_stack: CpuStack | None = None
    ) -> None:
        """`cpu_stack`, where there is one, advances instead of the torch stack."""
        self.stack, self.pool, self.cpu_stack = stack, pool, cpu_stack
        self.num_slots = num_slots
        self.device = stack.norm.device
        self.positions = torch.zeros(num_slots, dtype=torch.int64, device=self.device)

    def prefill(self, seqs: Seq[Sequence], prompts: list[Tensor]) -> Tensor:
        """prompts: [T, D] of each → hidden state of each one's last row [B, D]."""
        for seq, prompt in zip(seqs, prompts, strict=True):
            self.pool.extend(seq.slot, len(prompt))
            seq.num_positions = len(prompt)
            self.positions[seq.slot] = len(prompt)
        if self.device.type != "cpu":
            return self._prefill(seqs, prompts)
        hidden, start = [], 0
        while start < len(seqs):
            end = start + self._num_together(prompts[start:])
            prefill = self._prefill if end == start else self._prefill_at_once
            end = max(end, start + 1)
            hidden.append(prefill(seqs[start:end], prompts[start:end]))
            start = end
        return torch.cat(hidden)

    def _num_together(self, prompts: list[Tensor]) -> int:
        """How many of the next prompts go through the kernels as one step.

        0: the first is torch's, alone: as fast here, and the same bits in any company.
        """
        most = 0 if self.cpu_stack is None else self.cpu_stack.max_prompt_rows
        num_rows = 0
        for at, prompt in enumerate(prompts):
            num_rows += len(prompt)
            if num_rows > most:
                return at
        return len(prompts)

    def _prefill(self, seqs: Seq[Sequence], prompts: list[Tensor]) -> Tensor:
        """Prompts packed one after the other."""
        lengths = [len(prompt) for prompt in prompts]
        attention = PrefillAttention.build(self.pool, [seq.slot for seq in seqs], lengths)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        hidden = self.stack(torch.cat(prompts), self.stack.rope(positions), attention)
        last = torch.tensor(lengths).cumsum(0) - 1
        return hidden[last.to(self.device)]

    def _prefill_at_once(self, seqs: Seq[Sequence], prompts: list[Tensor]) -> Tensor:
        """The same as one step of the kernels; a row's numbers do not depend on the other rows."""
        assert self.cpu_stack is not None
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        positions = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
        pages = self.pool.page_of[self.index(seqs)].repeat_interleave(lengths, 0)
        view = CacheView(self.pool.k, self.pool.v, pages, (positions + 1).int(), is_prompt=True)
        hidden, _ = self.cpu_stack.step(torch.cat(prompts), self.stack.rope(positions), view)
        return hidden[lengths.cumsum(0) - 1]

    def advance(self, seqs: Seq[Sequence], slots: Tensor, rows: Tensor) -> Tensor:
        """slots int64 [B], rows [B, D], one for each → hidden states [B, D]."""
        for seq in seqs:
            seq.num_positions += 1
            self.pool.extend(seq.slot, seq.num_positions)
        positions = self.positions[slots]
        rope = self.stack.rope(positions)
        if self.cpu_stack is not None:
            pages, lengths = self.pool.page_of[slots], (positions + 1).int()
            view = CacheView(self.pool.k, self.pool.v, pages, lengths)
            hidden, _ = self.cpu_stack.step(rows, rope, view)
        else:
            max_length = max(seq.num_positions for seq in seqs)
            attention = DecodeAttention.build(self.pool, slots, positions, max_length)
            hidden = self.stack(rows, rope, attention)
        self.positions[slots] = positions + 1
        return hidden

    def release(self, seq: Sequence) -> None:
        self.pool.free(seq.slot, seq.num_reserved_positions)

    def index(self, seqs: Seq[Sequence]) -> Tensor:
        """Slots of sequences as int64 [B]."""
        return torch.tensor([seq.slot for seq in seqs], device=self.device)


def count_streams(decoder: PagedDecoder) -> int:
    """Requests of usual length that fit at once."""
    return Room(decoder.num_slots, decoder.pool.num_positions).num_streams
