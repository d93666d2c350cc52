"""Triton kernels of attention: norm, rotation and cache of a row; reading the pages of a sequence.

Imported only where Triton is wanted: it is optional. Letters in shapes as in shapes.py; G query
heads of a key/value head. Heads and halves of heads are padded to powers of two and masked.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from qwen3_audio.kernels.fused.shapes import HeadNorms, LayerCache, Places, RopeTable

MOST_SPLITS = 32
PROGRAMS_WANTED = 1024  # of one warp: about eight for each multiprocessor of a large card
_TILE = 16  # positions that a warp reads at a time


@triton.jit
def rotated(start, weight, cos, sin, eps, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """The two halves of a head after norm and rotation, float32 rounded as torch rounds them."""
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    first = tl.load(start + at, mask=inside, other=0.0)
    second = tl.load(start + HALF + at, mask=inside, other=0.0)
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    mean = (tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * HALF)
    scale = tl.rsqrt(mean + eps)
    first *= scale * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    second *= scale * tl.load(weight + HALF + at, mask=inside, other=0.0).to(tl.float32)
    first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
    # Both halves of the tables are the same.
    c = tl.load(cos + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + at, mask=inside, other=0.0).to(tl.float32)
    left = (first * c).to(dtype).to(tl.float32) - (second * s).to(dtype).to(tl.float32)
    right = (second * c).to(dtype).to(tl.float32) + (first * s).to(dtype).to(tl.float32)
    return left.to(dtype).to(tl.float32), right.to(dtype).to(tl.float32)


@triton.jit
def _place(
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    positions,
    lengths,
    pages,
    k_cache,
    v_cache,
    q_out,
    k_out,
    page_stride,
    head_stride,
    pages_per_seq,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    PAGE: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A program for each row and head of q, k and v."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    position = tl.load(positions + row)
    is_real = position < tl.load(lengths + row)
    page = tl.load(pages + row * pages_per_seq + position // PAGE, mask=is_real, other=0)
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    is_kept = at < tl.where(is_real, HALF, 0)
    start = qkv + (row * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * (2 * HALF)
    place = page * page_stride + (position % PAGE) * (2 * HALF) + at
    table = position * (2 * HALF)
    if head < NUM_HEADS:
        left, right = rotated(start, q_norm, cos + table, sin + table, eps, HALF, BLOCK)
        to = q_out + (row * NUM_HEADS + head) * (2 * HALF) + at
        tl.store(to, left.to(q_out.dtype.element_ty), mask=inside)
        tl.store(to + HALF, right.to(q_out.dtype.element_ty), mask=inside)
    elif head < NUM_HEADS + NUM_KV_HEADS:
        kv_head = head - NUM_HEADS
        left, right = rotated(start, k_norm, cos + table, sin + table, eps, HALF, BLOCK)
        to = k_out + (row * NUM_KV_HEADS + kv_head) * (2 * HALF) + at
        tl.store(to, left.to(k_out.dtype.element_ty), mask=inside)
        tl.store(to + HALF, right.to(k_out.dtype.element_ty), mask=inside)
        to = k_cache + kv_head * head_stride + place
        tl.store(to, left.to(k_cache.dtype.element_ty), mask=is_kept)
        tl.store(to + HALF, right.to(k_cache.dtype.element_ty), mask=is_kept)
    else:
        kv_head = head - NUM_HEADS - NUM_KV_HEADS
        first = tl.load(start + at, mask=inside, other=0.0)
        second = tl.load(start + HALF + at, mask=inside, other=0.0)
        to = v_cache + kv_head * head_stride + place
        tl.store(to, first.to(v_cache.dtype.element_ty), mask=is_kept)
        tl.store(to + HALF, second.to(v_cache.dtype.element_ty), mask=is_kept)


def place(
    qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, places: Places
) -> tuple[Tensor, Tensor, Tensor]:
    """See FusedOps.place."""
    qkv = qkv.contiguous()
    num_kv_heads, page, head_dim = cache.k.shape[1:]
    heads = qkv.view(len(qkv), -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    q = qkv.new_empty(len(qkv), num_heads, head_dim)
    k = qkv.new_empty(len(qkv), num_kv_heads, head_dim)
    _place[(len(qkv), heads.shape[1])](
        qkv,
        norms.q,
        norms.k,
        rope.cos,
        rope.sin,
        places.positions.contiguous(),
        places.lengths.contiguous(),
        places.pages.contiguous(),
        cache.k,
        cache.v,
        q,
        k,
        cache.k.stride(0),
        cache.k.stride(1),
        places.pages.shape[1],
        norms.eps,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        PAGE=page,
        HALF=head_dim // 2,
        BLOCK=triton.next_power_of_2(head_dim // 2),
        enable_fp_fusion=True,
        num_warps=1,
    )
    return q, k, heads[:, num_heads + num_kv_heads :]


@triton.jit
def _attend(
    q,
    k_cache,
    v_cache,
    pages,
    lengths,
    out,
    parts,
    peaks,
    sums,
    page_stride,
    head_stride,
    pages_per_seq,
    scale,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """A program for each sequence, key/value head and share of the pages: softmax as it goes.

    One warp, and tiles of (query head, position, element) from the start: no thread waits.
    """
    seq = tl.program_id(0).to(tl.int64)
    head, split = tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + seq).to(tl.int32)
    num_tiles = (length + TILE - 1) // TILE
    share = (num_tiles + SPLITS - 1) // SPLITS
    group, e, p = tl.arange(0, BLOCK_GROUP), tl.arange(0, BLOCK_HEAD), tl.arange(0, TILE)
    first_head = (seq * tl.num_programs(1) + head) * GROUP
    rows = (first_head + group)[:, None] * HEAD + e[None, :]
    is_row = (group < GROUP)[:, None] & (e < HEAD)[None, :]
    query = tl.load(q + rows[:, None, :], mask=is_row[:, None, :], other=0.0).to(tl.float32)
    peak = tl.full([BLOCK_GROUP], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_GROUP], tl.float32)
    mixed = tl.zeros([BLOCK_GROUP, BLOCK_HEAD], tl.float32)
    within, is_head = p[None, :, None] * HEAD + e[None, None, :], (e < HEAD)[None, None, :]
    for n in range(split * share, tl.minimum(split * share + share, num_tiles)):
        page = tl.load(pages + seq * pages_per_seq + n * TILE // PAGE)
        tile = page * page_stride + head * head_stride + (n * TILE % PAGE) * HEAD + within
        keys = tl.load(k_cache + tile, mask=is_head, other=0.0).to(tl.float32)
        values = tl.load(v_cache + tile, mask=is_head, other=0.0).to(tl.float32)
        scores = tl.sum(query * keys, 2) * scale
        scores = tl.where((n * TILE + p < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights, shrink = tl.exp(scores - higher[:, None]), tl.exp(peak - higher)
        mixed = mixed * shrink[:, None] + tl.sum(weights[:, :, None] * values, 1)
        total = total * shrink + tl.sum(weights, 1)
        peak = higher
    if SPLITS == 1:
        mixed = (mixed / tl.where(total > 0, total, 1.0)[:, None]).to(out.dtype.element_ty)
        tl.store(out + rows, mixed, mask=is_row)
        return
    at = (first_head + group) * SPLITS + split
    tl.store(parts + at[:, None] * HEAD + e[None, :], mixed, mask=is_row)
    tl.store(peaks + at, peak, mask=group < GROUP)
    tl.store(sums + at, total, mask=group < GROUP)


@triton.jit
def _combine(
    parts, peaks, sums, out, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, SPLITS: tl.constexpr
):
    """A program for each sequence and query head: its shares as one."""
    row = tl.program_id(0).to(tl.int64)
    at, e = row * SPLITS + tl.arange(0, SPLITS), tl.arange(0, BLOCK_HEAD)
    peak = tl.load(peaks + at)
    highest = tl.max(peak, 0)
    highest = tl.where(highest > float("-inf"), highest, 0.0)  # padding
    weights = tl.exp(peak - highest)
    total = tl.sum(weights * tl.load(sums + at), 0)
    is_head = (e < HEAD)[None, :]
    mixed = tl.load(parts + at[:, None] * HEAD + e[None, :], mask=is_head, other=0.0)
    mixed = tl.sum(mixed * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * HEAD + e, mixed.to(out.dtype.element_ty), mask=e < HEAD)


def count_splits(num_programs: int, num_pages: int) -> int:
    """Into how many shares the pages of a sequence go, a power of two: shapes alone decide."""
    wanted = max(1, min(MOST_SPLITS, PROGRAMS_WANTED // num_programs, num_pages))
    return 1 << (wanted.bit_length() - 1)


def attend(q: Tensor, cache: LayerCache, places: Places) -> Tensor:
    """See FusedOps.attend."""
    num_seqs, num_heads, head_dim = q.shape
    num_kv_heads, page = cache.k.shape[1:3]
    group = num_heads // num_kv_heads
    splits = count_splits(num_seqs * num_kv_heads, places.pages.shape[1])
    out = q.new_empty(num_seqs, num_heads * head_dim)
    shares = (num_seqs * num_heads, splits) if splits > 1 else (1, 1)
    parts = torch.empty(*shares, head_dim, dtype=torch.float32, device=q.device)
    peaks, sums = (torch.empty(shares, dtype=torch.float32, device=q.device) for _ in range(2))
    _attend[(num_seqs, num_kv_heads, splits)](
        q.contiguous(),
        cache.k,
        cache.v,
        places.pages.contiguous(),
        places.lengths.contiguous(),
        out,
        parts,
        peaks,
        sums,
        cache.k.stride(0),
        cache.k.stride(1),
        places.pages.shape[1],
        head_dim**-0.5,
        GROUP=group,
        HEAD=head_dim,
        PAGE=page,
        TILE=math.gcd(_TILE, page),
        BLOCK_GROUP=triton.next_power_of_2(group),
        BLOCK_HEAD=triton.next_power_of_2(head_dim),
        SPLITS=splits,
        enable_fp_fusion=True,
        num_warps=1,
    )
    if splits > 1:
        _combine[(num_seqs * num_heads,)](
            parts,
            peaks,
            sums,
            out,
            HEAD=head_dim,
            BLOCK_HEAD=triton.next_power_of_2(head_dim),
            SPLITS=splits,
            enable_fp_fusion=True,
            num_warps=1,
        )
    return out
