"""Prompts into the cache: all that join in a step packed one after the other, by graphs.

What comes out of the stack is not needed: the last row of a prompt is left to its first decode
step, so that those who join and those who run are rows of the same batch.
Letters in shapes: R rows, N pages of a slot, D hidden size.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import Graphs, Lane, Run, round_up, sizes_up_to
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, KvPool, PrefillAttention
from qwen3_audio.engine.kv_cache import Places as PoolPlaces
from qwen3_audio.kernels.fused.layers import FusedLayers
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import HeadNorms, LayerCache, Places, RopeTable
from qwen3_audio.models.qwen3 import Stack, grouped_attention

# Rows of a graph; a longer prompt goes without one. Three clips of 30 s are 1,215, four 1,620.
ROWS = (16, 32, 64, 128, 256, 512, 1024, 1280, 1664, 2048)

FEW_PAGES = (8, 32, 128, 512)  # of a sequence, where attention reads all that it is given


def page_sizes(ops: FusedOps, pool: KvPool) -> tuple[int, ...]:
    """How many pages of each slot a decode step may be given; kernels read what is needed."""
    num_pages = pool.page_of.shape[1]
    return (num_pages,) if ops.name == "Triton" else sizes_up_to(num_pages, FEW_PAGES)


class Part(NamedTuple):
    """One prompt's part of the rows that are there."""

    slot: int
    start: int  # its first row
    num_rows: int


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What a graph reads: rows [R, D], and of each its slot and its position [2, R]."""

    rows: Tensor
    where: Tensor


class PackedPrefill:
    """Reads prompts through a stack into its pool."""

    def __init__(self, lane: Lane, ops: FusedOps, stack: Stack, pool: KvPool, padding: int) -> None:
        """`padding`: the slot of rows that only fill up; they write nothing."""
        self._lane, self._ops, self._stack, self._pool = lane, ops, stack, pool
        self._padding = padding
        self._layers = FusedLayers(ops, stack)
        self._rope = RopeTable.build(stack.rope, pool.max_positions)
        num_layers = stack.config.num_layers
        self._caches = [LayerCache(pool.k[:, i], pool.v[:, i]) for i in range(num_layers)]
        self._buffers: dict[int, _Buffers] = {}
        self._graphs: Graphs[int] = Graphs(lane, self._build)

    def prepare(self, most_rows: int) -> None:
        self._graphs.prepare(size for size in ROWS if size < 2 * most_rows)

    def run(self, rows: Tensor, parts: Seq[Part]) -> None:
        """rows [R, D]; the pages of the slots must be in the pool's table."""
        parts = [part for part in parts if part.num_rows]
        num_rows = sum(part.num_rows for part in parts)
        if not parts:
            return
        if num_rows > ROWS[-1]:
            for part in parts:
                self._run_long(rows, part)
            return
        size = round_up(num_rows, ROWS)
        self._graphs.prepare([size])
        buffers = self._buffers[size]
        where = np.zeros((3, size), np.int64)
        where[0] = self._padding
        end = 0
        for slot, start, length in parts:
            numbers = np.arange(length)
            where[:, end : end + length] = np.full(length, slot), numbers, start + numbers
            end += length
        uploaded = self._lane.upload(where)
        buffers.where.copy_(uploaded[:2])
        torch.index_select(rows, 0, uploaded[2], out=buffers.rows)
        self._graphs.run(size)

    def _build(self, size: int) -> Run:
        norm, device = self._stack.norm, self._lane.device
        rows = torch.zeros(size, len(norm), dtype=self._stack.activations, device=device)
        where = torch.zeros(2, size, dtype=torch.int64, device=device)
        where[0] = self._padding
        self._buffers[size] = _Buffers(rows, where)
        return partial(self._prefill, self._buffers[size])

    def _prefill(self, buffers: _Buffers) -> None:
        slots, positions = buffers.where
        lengths = torch.where(slots != self._padding, positions + 1, 0)
        places = Places(positions, lengths, self._pool.page_of.index_select(0, slots))
        is_seen = (slots[:, None] == slots) & (positions[:, None] >= positions)
        # As attention wants it, made once: from a bool every layer would make it anew.
        mask = torch.zeros_like(is_seen, dtype=self._stack.activations)
        mask.masked_fill_(~is_seen, -torch.inf)
        config = self._stack.config
        mask = mask.repeat(config.num_heads // config.num_kv_heads, 1)[None, None]

        def attention(layer: int, qkv: Tensor, norms: HeadNorms) -> Tensor:
            q, k, v = self._ops.place(qkv, norms, self._rope, self._caches[layer], places)
            return grouped_attention(q[None], k[None], v[None], mask)

        self._layers.run(buffers.rows, attention)

    def _run_long(self, rows: Tensor, part: Part) -> None:
        """One prompt as long as it is, with an attention that needs no mask in memory."""
        positions = torch.arange(part.num_rows, device=self._lane.device)
        pages = self._pool.page_of[part.slot].index_select(0, positions // PAGE_POSITIONS)
        places = PoolPlaces(pages, positions % PAGE_POSITIONS)
        attention = PrefillAttention(self._pool, [part.num_rows], places)
        own = rows[part.start : part.start + part.num_rows]
        self._stack(own, self._stack.rope(positions), attention)
