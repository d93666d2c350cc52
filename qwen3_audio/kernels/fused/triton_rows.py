"""Triton kernels that go over whole rows: sum and norm, SiLU and product.

Imported only where Triton is wanted: it is optional.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor


@triton.jit
def _add_norm(
    x, add, weight, normed, total, width, eps, HAS_ADD: tl.constexpr, BLOCK: tl.constexpr
):
    begin = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + begin + at, mask=inside, other=0.0)
    if HAS_ADD:
        more = tl.load(add + begin + at, mask=inside, other=0.0)
        value = (value.to(tl.float32) + more.to(tl.float32)).to(value.dtype)
        tl.store(total + begin + at, value, mask=inside)
    exact = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(exact * exact, 0) / width + eps)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + begin + at, (exact * scale * factor).to(value.dtype), mask=inside)


def add_norm(x: Tensor, add: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See FusedOps.add_norm."""
    x = x.contiguous()
    normed, total = torch.empty_like(x), x if add is None else torch.empty_like(x)
    num_rows, width = x.shape
    block = triton.next_power_of_2(width)
    _add_norm[(num_rows,)](
        x,
        x if add is None else add.contiguous(),
        weight,
        normed,
        total,
        width,
        eps,
        HAS_ADD=add is not None,
        BLOCK=block,
        enable_fp_fusion=True,
        num_warps=_num_warps(block),
    )
    return normed, total


@triton.jit
def _silu_mul(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=inside, other=0.0)
    exact = gate.to(tl.float32)
    acted = (exact / (1 + tl.exp(-exact))).to(gate.dtype)  # rounded, as torch's silu is
    product = (acted.to(tl.float32) * up.to(tl.float32)).to(gate.dtype)
    tl.store(out + row * width + at, product, mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """See FusedOps.silu_mul."""
    gate_up = gate_up.contiguous()
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(num_rows, width)
    block = min(1024, triton.next_power_of_2(width))
    grid = (num_rows, triton.cdiv(width, block))
    _silu_mul[grid](gate_up, out, width, BLOCK=block, enable_fp_fusion=True, num_warps=4)
    return out


def _num_warps(block: int) -> int:
    return max(1, min(8, block // 256))
