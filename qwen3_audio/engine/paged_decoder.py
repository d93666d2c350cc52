"""One Qwen3 stack with its paged cache: whole prompts in, then one row a step for every sequence.

Letters in shapes: B sequences, T rows of a prompt, D hidden size, S slots.
"""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from qwen3_audio.engine.kv_cache import DecodeAttention, KvPool, PrefillAttention
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
        if self.device.type == "cpu":  # one by one: as fast here, and the same bits in any company
            return torch.cat(
                [self._prefill([seq], [prompt]) for seq, prompt in zip(seqs, prompts, strict=True)]
            )
        return self._prefill(seqs, prompts)

    def _prefill(self, seqs: Seq[Sequence], prompts: list[Tensor]) -> Tensor:
        """Prompts packed one after the other."""
        lengths = [len(prompt) for prompt in prompts]
        for seq, length in zip(seqs, lengths, strict=True):
            self.pool.extend(seq.slot, length)
            seq.num_positions = length
            self.positions[seq.slot] = length
        if self.cpu_stack is not None and lengths[0] <= self.cpu_stack.max_prompt_rows:
            return self._prefill_at_once(self.cpu_stack, seqs[0].slot, prompts[0])
        attention = PrefillAttention.build(self.pool, [seq.slot for seq in seqs], lengths)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        hidden = self.stack(torch.cat(prompts), self.stack.rope(positions), attention)
        last = torch.tensor(lengths).cumsum(0) - 1
        return hidden[last.to(self.device)]

    def _prefill_at_once(self, cpu_stack: CpuStack, slot: int, prompt: Tensor) -> Tensor:
        """All rows of one prompt as one step of the kernels: each sees itself and those before."""
        positions = torch.arange(len(prompt))
        pool, lengths = self.pool, (positions + 1).int()
        view = CacheView(pool.k, pool.v, pool.page_of[slot, None], lengths, is_prompt=True)
        hidden, _ = cpu_stack.step(prompt.clone(), self.stack.rope(positions), view)
        return hidden[-1:]

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
