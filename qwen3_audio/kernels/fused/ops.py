"""The operations of a step, chosen once at start: Triton kernels, or their plain torch twins.

Letters in shapes as in shapes.py and twins.py.
"""

import importlib

import torch
from torch import Tensor
from torch.nn import functional

from qwen3_audio.kernels.fused import twins
from qwen3_audio.kernels.fused.shapes import (
    HeadNorms,
    History,
    LayerCache,
    Places,
    RopeTable,
    SampleRows,
)
from qwen3_audio.models.linear import Linear

TRITON = "qwen3_audio.kernels.fused.triton_ops"


class NoTriton(Exception):
    """Why Triton can't be used; a sentence for `doctor`."""


class FusedOps:
    """The twins themselves; TritonOps puts kernels in their place."""

    name = "torch"
    sorts = True  # so it matters to a choice among many how many candidates there are
    max_few_rows = 0  # up to so many rows the products with norms and sums in them are the faster

    def __init__(self, reason: str | None = None) -> None:
        """`reason`: why nothing faster was chosen, a clause for people."""
        self.reason = reason

    @classmethod
    def choose(cls, device: torch.device, *, has_fp8: bool = False) -> "FusedOps":
        """Triton where it imports, compiles and agrees with its twins on this card.

        `has_fp8`: there will be weights in 8-bit floats.
        """
        if device.type != "cuda":
            return cls(f"Triton kernels are for GPUs, and this is {device.type}")
        try:
            return open_triton(device, has_fp8=has_fp8)
        except NoTriton as why:
            return cls(str(why))

    def __str__(self) -> str:
        """What makes a step's small operations, for people."""
        kind = "Triton kernels" if self.name == "Triton" else "plain torch"
        return kind if self.reason is None else f"{kind}: {self.reason}"

    def add_norm(
        self, x: Tensor, add: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """x and add [R, D] → RMSNorm of their sum, and the sum; both [R, D]."""
        return twins.add_norm(x, add, weight, eps)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """Gate and up side by side [R, 2 * I] → silu(gate) * up [R, I]."""
        return twins.silu_mul(gate_up)

    def place(
        self, qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, places: Places
    ) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [R, (H + 2 * K) * E] → q [R, H, E], k and v [R, K, E], normed and rotated; keys and
        values of rows that are no padding are written into their pages.
        """
        return twins.place(qkv, norms, rope, cache, places)

    def attend(self, q: Tensor, cache: LayerCache, places: Places) -> Tensor:
        """One row a sequence: q [B, H, E] and the pages below its length → [B, H * E]."""
        return twins.attend(q, cache, places)

    def attend_frame(
        self, qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, start: int
    ) -> Tensor:
        """Inside one frame: qkv [B * T, (H + 2 * K) * E] of positions start … → [B * T, H * E].

        T is 2 where start is 0, else 1; page b of the cache is sequence b's.
        """
        return twins.attend_frame(qkv, norms, rope, cache, start)

    def draw_keys(self, seeds: Tensor, steps: Tensor, num_groups: int) -> Tensor:
        """Seeds and steps int64 [B] → a key for each group of a step, int64 [B, G]."""
        return twins.draw_keys(seeds, steps, num_groups)

    def choose_ids(
        self, logits: Tensor, keys: Tensor, rows: SampleRows, most: int | None = None
    ) -> Tensor:
        """Logits [B, V] of any precision, keys int64 [B] → ids int64 [B].

        `most`: candidates that a row has at most; 1: all are greedy.
        """
        return twins.choose(logits, keys, rows, most)

    def choose_first(
        self, logits: Tensor, keys: Tensor, rows: SampleRows, history: History
    ) -> Tensor:
        """`choose_ids` after repetition penalty and bans; what is chosen becomes seen."""
        return twins.choose_first(logits, keys, rows, history)

    def product(self, x: Tensor, linear: Linear, norm: Tensor | None, eps: float) -> Tensor:
        """RMSNorm of x [R, D] where there is a `norm`, times the weights → [R, out]; few rows."""
        return linear(x if norm is None else functional.rms_norm(x, norm.shape, norm, eps))

    def product_sum(self, x: Tensor, linear: Linear, add: Tensor) -> Tensor:
        """x [R, in] times the weights, plus add [R, out] → [R, out]; few rows."""
        return add + linear(x)

    def product_act(self, x: Tensor, linear: Linear, norm: Tensor, eps: float) -> Tensor:
        """RMSNorm of x [R, D] times gate and up, silu(gate) * up → [R, I]; few rows."""
        return twins.silu_mul(linear(functional.rms_norm(x, norm.shape, norm, eps)))


def open_triton(device: torch.device, *, has_fp8: bool) -> FusedOps:
    """Raises NoTriton."""
    try:
        module = importlib.import_module(TRITON)
    except (ImportError, OSError) as error:
        raise NoTriton(f"Triton can't be imported ({error})") from error
    ops: FusedOps = module.TritonOps.open(device, has_fp8=has_fp8)
    return ops
