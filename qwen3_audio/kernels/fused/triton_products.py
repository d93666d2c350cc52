"""A Triton kernel for products of one to four rows, which are as fast as weights can be read.

Imported only where Triton is wanted: it is optional. The norm before a product, the sum or SiLU
behind it and the scales of 8-bit weights are inside; each weight is read once for all rows.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from qwen3_audio.models.linear import Linear

MAX_ROWS = 4
_FULL = 256  # programs that keep a large card busy
_BLOCK_IN = 1024  # 4 warps read 16 bytes of bfloat16 in each thread


@triton.jit
def _scale_of(x, row, eps, NUM_IN: tl.constexpr, IS_WANTED: tl.constexpr, BLOCK_IN: tl.constexpr):
    """1 / RMS of a row; of one that is not wanted nothing is read, and it is some number."""
    squares = tl.full([BLOCK_IN], 0.0 if IS_WANTED else 1.0, tl.float32)
    for begin in range(0, NUM_IN if IS_WANTED else 0, BLOCK_IN):
        at = begin + tl.arange(0, BLOCK_IN)
        part = tl.load(x + row * NUM_IN + at, mask=at < NUM_IN, other=0.0).to(tl.float32)
        squares += part * part
    return tl.rsqrt(tl.sum(squares, 0) / NUM_IN + eps)


@triton.jit
def _part_of(x, row, at, norm, scale, NUM_IN: tl.constexpr, HAS_NORM: tl.constexpr):
    """Some of a row [1, BLOCK_IN], normed where there is a norm: float32, rounded as by torch."""
    at = at[None, :]  # loaded in the shape of the weights, so that no thread waits for another
    part = tl.load(x + row * NUM_IN + at, mask=at < NUM_IN, other=0.0)
    exact = part.to(tl.float32)
    if HAS_NORM:
        weight = tl.load(norm + at, mask=at < NUM_IN, other=0.0).to(tl.float32)
        exact = (exact * scale * weight).to(part.dtype).to(tl.float32)
    return exact


@triton.jit
def _finish(
    sums,
    row,
    first_out,
    outs,
    scales,
    bias,
    add,
    out,
    NUM_OUT: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADD: tl.constexpr,
    IS_GATED: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Sums of products with weights `outs` [BLOCK_OUT] → what comes out of one row."""
    dtype = out.dtype.element_ty
    inside = outs < (2 * NUM_OUT if IS_GATED else NUM_OUT)
    if HAS_SCALES:
        sums *= tl.load(scales + outs, mask=inside, other=0.0)
    if HAS_BIAS:
        sums += tl.load(bias + outs, mask=inside, other=0.0).to(tl.float32)
    if IS_GATED:
        gate, up = tl.split(tl.reshape(sums.to(dtype).to(tl.float32), (BLOCK_OUT // 2, 2)))
        sums = (gate / (1 + tl.exp(-gate))).to(dtype).to(tl.float32) * up
        outs = first_out + tl.arange(0, BLOCK_OUT // 2)
    if HAS_ADD:
        more = tl.load(add + row * NUM_OUT + outs, mask=outs < NUM_OUT, other=0.0)
        sums = sums.to(dtype).to(tl.float32) + more.to(tl.float32)
    tl.store(out + row * NUM_OUT + outs, sums.to(dtype), mask=outs < NUM_OUT)


@triton.jit
def _product(
    x,
    weight,
    scales,
    bias,
    norm,
    add,
    out,
    eps,
    NUM_ROWS: tl.constexpr,
    NUM_IN: tl.constexpr,
    NUM_OUT: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_ADD: tl.constexpr,
    IS_GATED: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """A program for BLOCK_OUT weights of all inputs; gate and up of an output are neighbours."""
    i = tl.arange(0, BLOCK_OUT)
    first_out = tl.program_id(0) * (BLOCK_OUT // 2 if IS_GATED else BLOCK_OUT)
    outs = first_out + (i // 2 if IS_GATED else i)
    if IS_GATED:  # behind the last output: behind the last weight
        outs = tl.where(outs < NUM_OUT, outs + (i % 2) * NUM_OUT, 2 * NUM_OUT)
    is_out = outs < (2 * NUM_OUT if IS_GATED else NUM_OUT)
    scale0 = _scale_of(x, 0, eps, NUM_IN, HAS_NORM, BLOCK_IN)
    scale1 = _scale_of(x, 1, eps, NUM_IN, HAS_NORM and NUM_ROWS > 1, BLOCK_IN)
    scale2 = _scale_of(x, 2, eps, NUM_IN, HAS_NORM and NUM_ROWS > 2, BLOCK_IN)
    scale3 = _scale_of(x, 3, eps, NUM_IN, HAS_NORM and NUM_ROWS > 3, BLOCK_IN)
    sums0 = tl.zeros([BLOCK_OUT, BLOCK_IN], tl.float32)
    sums1, sums2, sums3 = sums0, sums0, sums0
    for begin in range(0, NUM_IN, BLOCK_IN):
        at = begin + tl.arange(0, BLOCK_IN)
        is_weight = is_out[:, None] & (at < NUM_IN)[None, :]
        tile = weight + outs.to(tl.int64)[:, None] * NUM_IN + at[None, :]
        weights = tl.load(tile, mask=is_weight, other=0.0).to(tl.float32)
        part = _part_of(x, 0, at, norm, scale0, NUM_IN, HAS_NORM)
        sums0 += weights * part
        if NUM_ROWS > 1:
            part = _part_of(x, 1, at, norm, scale1, NUM_IN, HAS_NORM)
            sums1 += weights * part
        if NUM_ROWS > 2:
            part = _part_of(x, 2, at, norm, scale2, NUM_IN, HAS_NORM)
            sums2 += weights * part
        if NUM_ROWS > 3:
            part = _part_of(x, 3, at, norm, scale3, NUM_IN, HAS_NORM)
            sums3 += weights * part
    for row in tl.static_range(NUM_ROWS):
        sums = sums0 if row == 0 else (sums1 if row == 1 else (sums2 if row == 2 else sums3))
        _finish(
            tl.sum(sums, 1), row, first_out, outs, scales, bias, add, out, NUM_OUT,
            HAS_SCALES, HAS_BIAS, HAS_ADD, IS_GATED, BLOCK_OUT,
        )  # fmt: skip


def product(
    x: Tensor,
    linear: Linear,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    add: Tensor | None = None,
    is_gated: bool = False,
) -> Tensor:
    """x [R, in], R at most MAX_ROWS → [R, out]; see FusedOps.product, _sum and _act."""
    x, weight = x.contiguous(), linear.weight
    scales: Tensor | None = getattr(linear, "scale", None)
    num_rows, num_in = x.shape
    num_out = weight.shape[0] // 2 if is_gated else weight.shape[0]
    block_out, block_in = _blocks(num_rows, num_in, weight.shape[0])
    out = x.new_empty(num_rows, num_out)
    grid = (triton.cdiv(weight.shape[0], block_out),)
    _product[grid](
        x,
        weight,
        x if scales is None else scales,
        x if linear.bias is None else linear.bias,
        x if norm is None else norm,
        x if add is None else add.contiguous(),
        out,
        eps,
        NUM_ROWS=num_rows,
        NUM_IN=num_in,
        NUM_OUT=num_out,
        HAS_SCALES=scales is not None,
        HAS_BIAS=linear.bias is not None,
        HAS_NORM=norm is not None,
        HAS_ADD=add is not None,
        IS_GATED=is_gated,
        BLOCK_OUT=block_out,
        BLOCK_IN=block_in,
        enable_fp_fusion=True,
        num_warps=4,
    )
    return out


def _blocks(num_rows: int, num_in: int, num_weights: int) -> tuple[int, int]:
    """Weights and inputs of a tile. As many inputs as the threads of a program read at once, so
    that rows and weights lie in the same threads; few weights, so that a whole card has work.
    """
    block_out = 8 if num_rows <= 2 and num_weights >= 8 * _FULL else 4
    return block_out, min(_BLOCK_IN, triton.next_power_of_2(num_in))
