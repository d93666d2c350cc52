"""What the operations of a step have in common: where rows lie, and how a row is sampled.

Letters in shapes: R rows, B sequences, N pages of a sequence, P positions of a page, K key/value
heads, E head size, V vocabulary, S slots, M positions. Every tensor lies on the device; the host
reads none, so a captured graph sees what the tensors hold when it is replayed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qwen3_audio.models.qwen3 import Rope


@dataclass(frozen=True, slots=True)
class Places:
    """Where rows lie in their sequences.

    A row whose position is not below its length is padding: it writes no keys. With length 0 it
    attends to nothing, and what comes of it is finite.
    """

    positions: Tensor  # int64 [R]
    lengths: Tensor  # int64 [R]: positions that the row's sequence has, its own included
    pages: Tensor  # int64 [R, N]: those of its sequence


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer: views of a pool's tensors without its layer dimension."""

    k: Tensor  # [pages, K, P, E]
    v: Tensor


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """The norms of q and k, per head, before the rotation."""

    q: Tensor  # [E]
    k: Tensor  # [E]
    eps: float


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Cosines and sines of all positions that there can be: [M, E] in the activations' dtype."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def build(cls, rope: Rope, num_positions: int) -> "RopeTable":
        positions = torch.arange(num_positions, device=rope.inverse_frequencies.device)
        cos, sin = rope(positions)
        return cls(cos[:, 0].contiguous(), sin[:, 0].contiguous())


@dataclass(frozen=True, slots=True)
class SampleRows:
    """How each row of a batch is sampled; the same meaning as engine.sampling.RowSettings."""

    temperature: Tensor  # float32 [B], 0: greedy
    top_k: Tensor  # int64 [B]; as many as there are, or more: all
    top_p: Tensor  # float32 [B]


@dataclass(frozen=True, slots=True)
class History:
    """What forbids or disfavours ids of the first code: rules of the talker's generate()."""

    slots: Tensor  # int64 [B]: each row's place in `seen` and `frames`
    seen: Tensor  # bool [S, V]: ids sampled so far; the chosen one is added
    frames: Tensor  # int64 [S]: frames made so far
    is_banned: Tensor  # bool [V]: never chosen
    eos: int  # banned too while there are fewer than `min_frames`
    min_frames: int
    penalty: float  # of seen ids: logits are divided by it, negative ones multiplied
