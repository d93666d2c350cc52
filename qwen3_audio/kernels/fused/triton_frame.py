"""Triton kernels of attention inside one frame: a few positions, the same for all sequences.

Imported only where Triton is wanted: it is optional. Norm, rotation, cache and attention are one
kernel, a program for each sequence and key/value head; what a row itself brings stays in registers.
Letters in shapes as in shapes.py.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from qwen3_audio.kernels.fused.shapes import HeadNorms, LayerCache, RopeTable
from qwen3_audio.kernels.fused.triton_attention import rotated


@triton.jit
def _keep_value(start, to, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """A value of the row as two float32 halves, and into the cache as it is."""
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    left = tl.load(start + at, mask=inside, other=0.0)
    right = tl.load(start + HALF + at, mask=inside, other=0.0)
    tl.store(to + at, left, mask=inside)
    tl.store(to + HALF + at, right, mask=inside)
    return left.to(tl.float32), right.to(tl.float32)


@triton.jit
def _keep(to, left, right, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Two float32 halves of a head into a row of the cache or of what comes out."""
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    tl.store(to + at, left.to(to.dtype.element_ty), mask=inside)
    tl.store(to + HALF + at, right.to(to.dtype.element_ty), mask=inside)


@triton.jit
def _begin(
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    k_cache,
    v_cache,
    out,
    page_stride,
    head_stride,
    eps,
    scale,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Positions 0 and 1: the first sees itself alone, so that its value is what comes out."""
    seq, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HEAD: tl.constexpr = 2 * HALF
    NUM_HEADS: tl.constexpr = GROUP * NUM_KV_HEADS
    WIDTH: tl.constexpr = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD
    first = qkv + seq * 2 * WIDTH
    second = first + WIDTH
    cache = seq * page_stride + head * head_stride
    k_at = (NUM_HEADS + head) * HEAD
    v_at = k_at + NUM_KV_HEADS * HEAD
    k0_left, k0_right = rotated(first + k_at, k_norm, cos, sin, eps, HALF, BLOCK)
    k1_left, k1_right = rotated(second + k_at, k_norm, cos + HEAD, sin + HEAD, eps, HALF, BLOCK)
    _keep(k_cache + cache, k0_left, k0_right, HALF, BLOCK)
    _keep(k_cache + cache + HEAD, k1_left, k1_right, HALF, BLOCK)
    v0_left, v0_right = _keep_value(first + v_at, v_cache + cache, HALF, BLOCK)
    v1_left, v1_right = _keep_value(second + v_at, v_cache + cache + HEAD, HALF, BLOCK)
    for member in tl.static_range(GROUP):
        q_at = (head * GROUP + member) * HEAD
        left, right = rotated(second + q_at, q_norm, cos + HEAD, sin + HEAD, eps, HALF, BLOCK)
        of_first = (tl.sum(left * k0_left, 0) + tl.sum(right * k0_right, 0)) * scale
        of_second = (tl.sum(left * k1_left, 0) + tl.sum(right * k1_right, 0)) * scale
        peak = tl.maximum(of_first, of_second)
        share, other = tl.exp(of_first - peak), tl.exp(of_second - peak)
        total = share + other
        to = out + seq * 2 * NUM_HEADS * HEAD + q_at
        _keep(to, v0_left, v0_right, HALF, BLOCK)
        left = (v0_left * share + v1_left * other) / total
        right = (v0_right * share + v1_right * other) / total
        _keep(to + NUM_HEADS * HEAD, left, right, HALF, BLOCK)


@triton.jit(do_not_specialize=["start"])
def _go_on(
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    k_cache,
    v_cache,
    out,
    page_stride,
    head_stride,
    start,
    eps,
    scale,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """One position, which sees those before it in the cache and itself."""
    seq, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    HEAD: tl.constexpr = 2 * HALF
    NUM_HEADS: tl.constexpr = GROUP * NUM_KV_HEADS
    row = qkv + seq * (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD
    cache = seq * page_stride + head * head_stride
    cos += start * HEAD
    sin += start * HEAD
    at, p = tl.arange(0, BLOCK), tl.arange(0, POSITIONS)
    tile = cache + p[:, None] * HEAD + at[None, :]
    is_there = (p < start)[:, None] & (at < HALF)[None, :]
    keys_left = tl.load(k_cache + tile, mask=is_there, other=0.0).to(tl.float32)
    keys_right = tl.load(k_cache + tile + HALF, mask=is_there, other=0.0).to(tl.float32)
    values_left = tl.load(v_cache + tile, mask=is_there, other=0.0).to(tl.float32)
    values_right = tl.load(v_cache + tile + HALF, mask=is_there, other=0.0).to(tl.float32)
    k_at = (NUM_HEADS + head) * HEAD
    k_left, k_right = rotated(row + k_at, k_norm, cos, sin, eps, HALF, BLOCK)
    _keep(k_cache + cache + start * HEAD, k_left, k_right, HALF, BLOCK)
    v_at = k_at + NUM_KV_HEADS * HEAD
    v_left, v_right = _keep_value(row + v_at, v_cache + cache + start * HEAD, HALF, BLOCK)
    for member in tl.static_range(GROUP):
        q_at = (head * GROUP + member) * HEAD
        left, right = rotated(row + q_at, q_norm, cos, sin, eps, HALF, BLOCK)
        own = (tl.sum(left * k_left, 0) + tl.sum(right * k_right, 0)) * scale
        scores = tl.sum(keys_left * left[None, :], 1) + tl.sum(keys_right * right[None, :], 1)
        scores = tl.where(p < start, scores * scale, float("-inf"))
        peak = tl.maximum(tl.max(scores, 0), own)
        shares, share = tl.exp(scores - peak), tl.exp(own - peak)
        total = tl.sum(shares, 0) + share
        left = (tl.sum(values_left * shares[:, None], 0) + v_left * share) / total
        right = (tl.sum(values_right * shares[:, None], 0) + v_right * share) / total
        _keep(out + seq * NUM_HEADS * HEAD + q_at, left, right, HALF, BLOCK)


def attend_frame(
    qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, start: int
) -> Tensor:
    """See FusedOps.attend_frame."""
    qkv = qkv.contiguous()
    num_kv_heads, num_positions, head_dim = cache.k.shape[1:]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    num_rows = 2 if start == 0 else 1
    out = qkv.new_empty(len(qkv), num_heads * head_dim)
    tensors = (qkv, norms.q, norms.k, rope.cos, rope.sin, cache.k, cache.v, out)
    strides, numbers = cache.k.stride()[:2], (norms.eps, head_dim**-0.5)
    grid = (len(qkv) // num_rows, num_kv_heads)
    sizes = {
        "GROUP": num_heads // num_kv_heads,
        "NUM_KV_HEADS": num_kv_heads,
        "HALF": head_dim // 2,
        "BLOCK": triton.next_power_of_2(head_dim // 2),
    }
    if start == 0:
        _begin[grid](*tensors, *strides, *numbers, **sizes, enable_fp_fusion=True, num_warps=1)
    else:
        positions = triton.next_power_of_2(num_positions - 2)  # of those before the last row
        _go_on[grid](
            *tensors,
            *strides,
            start,
            *numbers,
            **sizes,
            POSITIONS=positions,
            enable_fp_fusion=True,
            num_warps=1,
        )
    return out
