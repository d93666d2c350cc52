"""Weights of a stack's feed-forward in 8-bit floats: half the bytes to read for every step.

Letters in shapes: R rows.
"""

import torch
from torch import Tensor

from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Stack

FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max
_MULTIPLE = 16  # of both sizes, for the GPU's product


class Fp8Linear(Linear):
    """Weights as e4m3 with a scale for each output. On a GPU many rows are scaled and rounded row
    by row to e4m3 too; elsewhere, and in few rows by a kernel, only the weights are rounded.
    """

    scale: Tensor  # float32 [out]

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        """weight e4m3 [out, in], scale float32 [out]."""
        super().__init__(weight, bias)
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, linear: Linear) -> "Fp8Linear":
        """The nearest to a Linear's weights."""
        small, scale = quantise(linear.weight)
        return cls(small, scale, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out] in x's dtype."""
        if x.device.type == "cuda" and x.dtype is torch.bfloat16:
            return self._multiply_rounded(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        weight = self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype)
        return torch.nn.functional.linear(x, weight, self.bias)

    def _multiply_rounded(self, x: Tensor) -> Tensor:
        small, scale = quantise(x)
        return torch._scaled_mm(
            small,
            self.weight.t(),
            scale_a=scale[:, None],
            scale_b=self.scale[None],
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [R, in] → e4m3 [R, in] and the float32 scales [R] that give it back."""
    exact = x.float()
    scale = exact.abs().amax(-1).clamp(min=torch.finfo(torch.float32).tiny * 2**20) / _LARGEST
    return (exact / scale[:, None]).clamp(-_LARGEST, _LARGEST).to(FP8), scale


def why_no_fp8(device: torch.device) -> str | None:
    """Why this card can't multiply 8-bit floats with a scale for each row; None: it can."""
    if device.type != "cuda":
        return f"8-bit floats are for GPUs, and this is {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 9:
        return f"8-bit floats need compute capability 9.0, and this card has {major}.{minor}"
    return None


def shrink_feed_forward(stack: Stack) -> None:
    """Put e4m3 in the place of a stack's gate, up and down weights; other sizes stay."""
    for layer in stack.layers:
        for name in ("gate_up", "down"):
            linear = layer.get_submodule(name)
            if isinstance(linear, Linear) and not any(n % _MULTIPLE for n in linear.weight.shape):
                setattr(layer, name, Fp8Linear.of(linear))
