"""Triton kernels of the randomness that hangs on nothing but seed, step, group and candidate.

Imported only where Triton is wanted: it is optional. The rule is that of engine/sampling.py.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
from torch import Tensor

from qwen3_audio.kernels.fused import twins

_GOLDEN = tl.constexpr(twins.GOLDEN)
_MIX_1 = tl.constexpr(twins.MIX_1)
_MIX_2 = tl.constexpr(twins.MIX_2)
_UNUSED_BITS = tl.constexpr(64 - twins.UNIFORM_BITS)
_UNIFORM_STEP = tl.constexpr(2.0**-twins.UNIFORM_BITS)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * _MIX_1
    x = (x ^ (x >> 27)) * _MIX_2
    return x ^ (x >> 31)


@triton.jit(do_not_specialize_on_alignment=["seeds", "steps"])  # rows of larger tensors
def _draw_keys(seeds, steps, out, NUM_GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """All keys of a row."""
    row = tl.program_id(0).to(tl.int64)
    groups = tl.arange(0, BLOCK)
    counters = tl.load(steps + row).to(tl.uint64) * NUM_GROUPS + groups.to(tl.uint64) + 1
    keys = _mix(_mix(tl.load(seeds + row).to(tl.uint64)) + counters * _GOLDEN)
    tl.store(out + row * NUM_GROUPS + groups, keys.to(tl.int64), mask=groups < NUM_GROUPS)


@triton.jit
def gumbel(key, ids):
    """Noise of candidates: key int64, ids int32 [BLOCK] → float32 [BLOCK]."""
    x = _mix(key.to(tl.uint64) + (ids.to(tl.uint64) + 1) * _GOLDEN)
    uniform = (x >> _UNUSED_BITS).to(tl.int32).to(tl.float32) + 0.5
    return -tl.log(-tl.log(uniform * _UNIFORM_STEP))


def draw_keys(seeds: Tensor, steps: Tensor, num_groups: int) -> Tensor:
    """See FusedOps.draw_keys."""
    out = torch.empty(len(seeds), num_groups, dtype=torch.int64, device=seeds.device)
    _draw_keys[(len(seeds),)](
        seeds.contiguous(),
        steps.contiguous(),
        out,
        NUM_GROUPS=num_groups,
        BLOCK=triton.next_power_of_2(num_groups),
        num_warps=1,
    )
    return out
