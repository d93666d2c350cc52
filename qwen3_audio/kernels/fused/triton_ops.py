"""The operations of a step as Triton kernels, and the check that they work on a card.

Imported only where Triton is wanted: it is optional. Letters in shapes as in ops.py.
"""

import subprocess

import torch
from torch import Tensor
from triton.errors import TritonError  # type: ignore[import-not-found,import-untyped,unused-ignore]

from qwen3_audio.kernels.fused import (
    triton_attention,
    triton_frame,
    triton_noise,
    triton_products,
    triton_rows,
    triton_sampler,
)
from qwen3_audio.kernels.fused.ops import FusedOps, NoTriton
from qwen3_audio.kernels.fused.shapes import (
    HeadNorms,
    History,
    LayerCache,
    Places,
    RopeTable,
    SampleRows,
)
from qwen3_audio.kernels.fused.trials import Trials, TrialSizes
from qwen3_audio.models.linear import Linear

# A compiler, a driver or a card that is too old fails in one of many ways.
CANNOT_RUN = (
    TritonError,
    RuntimeError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    subprocess.SubprocessError,
)


class TritonOps(FusedOps):
    """Kernels in the place of the twins."""

    name = "Triton"
    sorts = False

    @classmethod
    def open(cls, device: torch.device, *, has_fp8: bool = False) -> "TritonOps":
        """Raises NoTriton where a kernel can't be made on this card or differs from its twin."""
        ops = cls()
        try:
            trials = Trials(ops, device, torch.bfloat16, TrialSizes(), has_fp8=has_fp8)
            differing = trials.differing()
        except CANNOT_RUN as error:
            why = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise NoTriton(f"Triton can't make its kernels here ({why})") from error
        if differing:
            raise NoTriton(f"Triton's {' and '.join(dict.fromkeys(differing))} came out wrong here")
        return ops

    max_few_rows = triton_products.MAX_ROWS

    def add_norm(
        self, x: Tensor, add: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return triton_rows.add_norm(x, add, weight, eps)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return triton_rows.silu_mul(gate_up)

    def place(
        self, qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, places: Places
    ) -> tuple[Tensor, Tensor, Tensor]:
        return triton_attention.place(qkv, norms, rope, cache, places)

    def attend(self, q: Tensor, cache: LayerCache, places: Places) -> Tensor:
        return triton_attention.attend(q, cache, places)

    def attend_frame(
        self, qkv: Tensor, norms: HeadNorms, rope: RopeTable, cache: LayerCache, start: int
    ) -> Tensor:
        return triton_frame.attend_frame(qkv, norms, rope, cache, start)

    def draw_keys(self, seeds: Tensor, steps: Tensor, num_groups: int) -> Tensor:
        return triton_noise.draw_keys(seeds, steps, num_groups)

    def choose_ids(
        self, logits: Tensor, keys: Tensor, rows: SampleRows, most: int | None = None
    ) -> Tensor:
        return triton_sampler.choose(logits, keys, rows)

    def choose_first(
        self, logits: Tensor, keys: Tensor, rows: SampleRows, history: History
    ) -> Tensor:
        return triton_sampler.choose_first(logits, keys, rows, history)

    def product(self, x: Tensor, linear: Linear, norm: Tensor | None, eps: float) -> Tensor:
        return triton_products.product(x, linear, norm=norm, eps=eps)

    def product_sum(self, x: Tensor, linear: Linear, add: Tensor) -> Tensor:
        return triton_products.product(x, linear, add=add)

    def product_act(self, x: Tensor, linear: Linear, norm: Tensor, eps: float) -> Tensor:
        return triton_products.product(x, linear, norm=norm, eps=eps, is_gated=True)
