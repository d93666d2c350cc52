"""One Qwen3 stack with its paged cache: whole prompts in, then one row a step for every sequence.

Letters in shapes: B sequences, T rows of a prompt, D hidden size, S slots.
"""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from qwen3_audio.engine.kv_cache import DecodeAttention, KvPool, PrefillAttention
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.models.qwen3 import Stack


class PagedDecoder:
    """Knows rows and positions; what goes in and what comes of it is the runners' business."""

    def __init__(self, stack: Stack, pool: KvPool, num_slots: int) -> None:
        self.stack, self.pool = stack, pool
        self.device = stack.norm.device
        self.positions = torch.zeros(num_slots, dtype=torch.int64, device=self.device)

    def prefill(self, seqs: Seq[Sequence], prompts: list[Tensor]) -> Tensor:
        """prompts: [T, D] of each, run packed → hidden state of each one's last row [B, D]."""
        lengths = [len(prompt) for prompt in prompts]
        for seq, length in zip(seqs, lengths, strict=True):
            self.pool.extend(seq.slot, length)
            seq.num_positions = length
            self.positions[seq.slot] = length
        attention = PrefillAttention.build(self.pool, [seq.slot for seq in seqs], lengths)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        hidden = self.stack(torch.cat(prompts), self.stack.rope(positions), attention)
        last = torch.tensor(lengths).cumsum(0) - 1
        return hidden[last.to(self.device)]

    def advance(self, seqs: Seq[Sequence], slots: Tensor, rows: Tensor) -> Tensor:
        """slots int64 [B], rows [B, D], one for each → hidden states [B, D]."""
        for seq in seqs:
            seq.num_positions += 1
            self.pool.extend(seq.slot, seq.num_positions)
        positions = self.positions[slots]
        max_length = max(seq.num_positions for seq in seqs)
        attention = DecodeAttention.build(self.pool, slots, positions, max_length)
        hidden: Tensor = self.stack(rows, self.stack.rope(positions), attention)
        self.positions[slots] = positions + 1
        return hidden

    def release(self, seq: Sequence) -> None:
        self.pool.free(seq.slot, seq.num_reserved_positions)

    def index(self, seqs: Seq[Sequence]) -> Tensor:
        """Slots of sequences as int64 [B]."""
        return torch.tensor([seq.slot for seq in seqs], device=self.device)
