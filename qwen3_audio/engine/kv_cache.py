"""Paged keys and values. The book-keeping is integers; the tensors are made once, at start.

Letters in shapes: B sequences, R rows, N pages, P positions of a page, K key/value heads, E size
of a head.
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
    """Keys and values of all layers, and which pages each slot has.

    A page is one piece of memory with all layers: with a region for each layer a short request
    would touch 2 MB (a huge page of Linux) in every layer. In it, what a head reads lies together,
    so that decoding a long sequence streams through memory.
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
        shape = (
            num_pages,
            config.num_layers,
            config.num_kv_heads,
            PAGE_POSITIONS,
            config.head_dim,
        )
        # Masked positions must be finite.
        self.k, self.v = (lazy_zeros(shape, dtype, device) for _ in range(2))
        most_pages = self.book.pages_for(max_positions)
        self.page_of = torch.zeros(num_slots, most_pages, dtype=torch.int64, device=device)
        self._pages: list[list[int]] = [[] for _ in range(num_slots)]

    @property
    def num_positions(self) -> int:
        """Of all pages together."""
        return self.book.num_pages * PAGE_POSITIONS

    def extend(self, slot: int, num_positions: int) -> None:
        """Make sure that a slot has pages for its first `num_positions` positions."""
        pages = self._pages[slot]
        while len(pages) * PAGE_POSITIONS < num_positions:
            page = self.book.take()
            self.page_of[slot, len(pages)] = page
            pages.append(page)

    def take(self, slot: int, num_positions: int) -> list[int]:
        """The same, but the caller writes them into `page_of`: all pages of the slot."""
        pages = self._pages[slot]
        while len(pages) * PAGE_POSITIONS < num_positions:
            pages.append(self.book.take())
        return pages

    def free(self, slot: int, num_reserved_positions: int) -> None:
        self.book.release(num_reserved_positions, self._pages[slot])
        self._pages[slot] = []

    def write(self, layer: int, places: "Places", k: Tensor, v: Tensor) -> None:
        """k and v [R, K, E] of new rows."""
        for pool, rows in ((self.k, k), (self.v, v)):
            pool[places.pages, layer, :, places.offsets] = rows.to(pool.dtype)

    def read(self, layer: int, pages: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of pages [B, N] as [B, N * P, K, E]."""
        return tuple(  # type: ignore[return-value]
            pool[pages, layer].transpose(2, 3).flatten(1, 2).to(dtype) for pool in (self.k, self.v)
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Where rows put their keys and values."""

    pages: Tensor  # int64 [R]
    offsets: Tensor  # int64 [R]: position within the page

    @classmethod
    def of(cls, pool: KvPool, slots: Tensor, positions: Tensor) -> "Places":
        """slots, positions int64 [R]."""
        return cls(pool.page_of[slots, positions // PAGE_POSITIONS], positions % PAGE_POSITIONS)


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """One new row for each sequence; reads everything before it, page by page."""

    pool: KvPool
    places: Places
    pages: Tensor  # int64 [B, N]
    max_length: int
    mask: Tensor | None  # bool [B, 1, 1, max_length]; None: all positions are visible

    @classmethod
    def build(
        cls, pool: KvPool, slots: Tensor, positions: Tensor, max_length: int
    ) -> "DecodeAttention":
        """slots, positions int64 [B]; max_length: longest position + 1 (host value)."""
        pages = pool.page_of[slots, : pool.book.pages_for(max_length)]
        mask = torch.arange(max_length, device=slots.device) <= positions[:, None]
        is_one = slots.shape[0] == 1
        places = Places.of(pool, slots, positions)
        return cls(pool, places, pages, max_length, None if is_one else mask[:, None, None])

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.pool.write(layer, self.places, k, v)
        keys, values = self.pool.read(layer, self.pages, q.dtype)
        length = self.max_length
        return grouped_attention(q[:, None], keys[:, :length], values[:, :length], self.mask)


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Whole prompts of several sequences, packed one after the other; each sees only itself."""

    pool: KvPool
    lengths: list[int]
    places: Places

    @classmethod
    def build(cls, pool: KvPool, slots: list[int], lengths: list[int]) -> "PrefillAttention":
        device = pool.page_of.device
        row_slots = torch.tensor(slots).repeat_interleave(torch.tensor(lengths)).to(device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        return cls(pool, lengths, Places.of(pool, row_slots, positions))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.pool.write(layer, self.places, k, v)
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
