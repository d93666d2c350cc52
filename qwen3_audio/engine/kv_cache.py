"""Paged keys and values. The book-keeping is integers; the tensors are made once, at start.

Letters in shapes: B sequences, R rows, C positions read, K key/value heads, E head size.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from qwen3_audio.models.configs import StackConfig
from qwen3_audio.models.qwen3 import grouped_attention

PAGE_POSITIONS = 32


class PageBook:
    """Which pages are free. A request reserves its worst case, so that it can never run dry."""

    def __init__(self, num_pages: int) -> None:
        self._free = list(reversed(range(num_pages)))
        self._num_reserved = 0
        self.num_pages = num_pages

    @staticmethod
    def pages_for(num_positions: int) -> int:
        return -(-num_positions // PAGE_POSITIONS)

    def can_reserve(self, num_positions: int) -> bool:
        return self._num_reserved + self.pages_for(num_positions) <= self.num_pages

    def reserve(self, num_positions: int) -> None:
        self._num_reserved += self.pages_for(num_positions)

    def release(self, num_positions: int, pages: list[int]) -> None:
        """Give back a reservation and the pages that were taken under it."""
        self._num_reserved -= self.pages_for(num_positions)
        self._free += reversed(pages)

    def take(self) -> int:
        return self._free.pop()


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory page by page as they are written, where the device is a CPU."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    untouched = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(untouched).view(dtype).view(shape)


class KvPool:
    """Keys and values of all layers, and the map from (slot, position) to a row of the pool.

    A page is one piece of memory with all layers, one behind the other: with a region for each
    layer a short request would touch 2 MB (a huge page of Linux) in every layer. Rows are counted
    through the whole memory, so that row r of layer l begins l * PAGE_POSITIONS rows further on.
    """

    def __init__(
        self,
        config: StackConfig,
        *,
        num_pages: int,
        num_slots: int,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.book = PageBook(num_pages)
        self.max_positions = max_positions
        self._page_rows = config.num_layers * PAGE_POSITIONS
        rows = num_pages * self._page_rows
        shape = (rows, config.num_kv_heads, config.head_dim)
        # Masked rows must be finite.
        self.k, self.v = (
            _by_layer(lazy_zeros(shape, dtype, device), config.num_layers) for _ in range(2)
        )
        self.row_of = lazy_zeros((num_slots, max_positions), torch.int64, device)
        self._pages: list[list[int]] = [[] for _ in range(num_slots)]

    def extend(self, slot: int, num_positions: int) -> None:
        """Make sure that a slot has pages for its first `num_positions` positions."""
        pages = self._pages[slot]
        while len(pages) * PAGE_POSITIONS < num_positions:
            page, start = self.book.take(), len(pages) * PAGE_POSITIONS
            end = min(start + PAGE_POSITIONS, self.max_positions)
            first = page * self._page_rows
            self.row_of[slot, start:end] = torch.arange(first, first + end - start)
            pages.append(page)

    def free(self, slot: int, num_reserved_positions: int) -> None:
        self.book.release(num_reserved_positions, self._pages[slot])
        self._pages[slot] = []


def _by_layer(rows: Tensor, num_layers: int) -> Tensor:
    """[rows of all layers, K, E] → views [layers, rows, K, E], each beginning where its layer does.

    They overlap as a whole; the rows that a layer uses are its own.
    """
    num_rows, num_heads, size = rows.shape
    row = num_heads * size
    return rows.as_strided(
        (num_layers, num_rows - (num_layers - 1) * PAGE_POSITIONS, num_heads, size),
        (PAGE_POSITIONS * row, row, size, 1),
    )


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """One new row for each sequence; reads everything before it through the row map."""

    pool: KvPool
    write_rows: Tensor  # int64 [B]
    read_rows: Tensor  # int64 [B, C]
    mask: Tensor | None  # bool [B, 1, 1, C]; None: all rows are visible

    @classmethod
    def build(
        cls, pool: KvPool, slots: Tensor, positions: Tensor, max_length: int
    ) -> "DecodeAttention":
        """slots, positions int64 [B]; max_length: longest position + 1 (host value)."""
        read_rows = pool.row_of[slots, :max_length]
        mask = torch.arange(max_length, device=slots.device) <= positions[:, None]
        is_one = slots.shape[0] == 1
        return cls(
            pool, pool.row_of[slots, positions], read_rows, None if is_one else mask[:, None, None]
        )

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.pool.k[layer], self.pool.v[layer]
        keys.index_copy_(0, self.write_rows, k.to(keys.dtype))
        values.index_copy_(0, self.write_rows, v.to(keys.dtype))
        shape = (*self.read_rows.shape, *k.shape[1:])
        flat = self.read_rows.reshape(-1)
        return grouped_attention(
            q[:, None],
            keys.index_select(0, flat).view(shape).to(q.dtype),
            values.index_select(0, flat).view(shape).to(q.dtype),
            self.mask,
        )


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Whole prompts of several sequences, packed one after the other; each sees only itself."""

    pool: KvPool
    lengths: list[int]
    write_rows: Tensor  # int64 [R]

    @classmethod
    def build(cls, pool: KvPool, slots: list[int], lengths: list[int]) -> "PrefillAttention":
        rows = [pool.row_of[slot, :length] for slot, length in zip(slots, lengths, strict=True)]
        return cls(pool, lengths, torch.cat(rows))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.pool.k[layer], self.pool.v[layer]
        keys.index_copy_(0, self.write_rows, k.to(keys.dtype))
        values.index_copy_(0, self.write_rows, v.to(keys.dtype))
        parts = [
            _causal(*part) for part in zip(*(x.split(self.lengths) for x in (q, k, v)), strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [T, H, E], k and v [T, K, E] of one sequence → [T, H * E]."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.transpose(0, 1).repeat_interleave(group, 0)[None] for x in (k, v))
    out = functional.scaled_dot_product_attention(q.transpose(0, 1)[None], k, v, is_causal=True)
    return out[0].transpose(0, 1).reshape(q.shape[0], -1)
