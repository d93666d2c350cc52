"""Weights of a stack's feed-forward in 8-bit floats: half the bytes to read for every step.

Letters in shapes: R rows.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qwen3_audio.models.linear import Linear, join_linear

FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max
_MULTIPLE = 16  # of both sizes, for the GPU's product
_LEAST_CAPABILITY = (8, 9)
_TOLERANCE = 2e-2  # of a product that comes out in bfloat16
# A frame's late codes hang on small differences: the code predictor is not rounded.
_EXACT = "code_predictor"


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
            return self.multiply_rounded(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        weight = self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype)
        return torch.nn.functional.linear(x, weight, self.bias)

    def widened(self, dtype: torch.dtype) -> Linear:
        """The same weights, as near as another precision has them."""
        return Linear((self.weight.float() * self.scale[:, None]).to(dtype), self.bias)

    def multiply_rounded(self, x: Tensor) -> Tensor:
        """bfloat16 x [R, in], rounded too → [R, out]."""
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


class Fp8Weights(ChainMap[str, Tensor]):
    """The tensors of `weights`; linear layers of feed-forwards are made Fp8Linear."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)  # type: ignore[arg-type]  # nothing is ever written

    def linear(self, prefixes: Sequence[str]) -> Linear:
        """What load_linear gives for these tensor name prefixes."""
        linear = join_linear(self.maps[0], prefixes)
        return Fp8Linear.of(linear) if becomes_fp8(prefixes[0], linear.weight.shape) else linear


def becomes_fp8(name: str, shape: Sequence[int]) -> bool:
    """Whether a linear layer [out, in] of this name is rounded: gate, up and down of a talker's or
    recogniser's stack, where the GPU's product takes their sizes.
    """
    is_wanted = ".mlp." in name and _EXACT not in name
    return is_wanted and not any(size % _MULTIPLE for size in shape)


def why_no_fp8(device: torch.device) -> str | None:
    """Why this card can't multiply 8-bit floats with a scale for each row; None: it can."""
    if device.type != "cuda":
        return f"8-bit floats are for GPUs, and this is {device.type}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        needed, found = (".".join(map(str, one)) for one in (_LEAST_CAPABILITY, capability))
        return f"8-bit floats need compute capability {needed}, and this card has {found}"
    return find_fault(device)


def find_fault(device: torch.device) -> str | None:
    """Multiplies a few rows as a step does: not every torch can do it on every card."""
    generator = torch.Generator().manual_seed(1)
    x, weight = (
        torch.randn(size, 64, generator=generator).to(device=device, dtype=torch.bfloat16)
        for size in (24, 32)
    )
    linear, (small, scale) = Fp8Linear.of(Linear(weight)), quantise(x)
    try:
        got = linear.multiply_rounded(x).float()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return f"torch {torch.__version__} can't multiply 8-bit floats on this card ({reason})"
    expected = linear.widened(torch.float32)(small.float() * scale[:, None])
    is_near = float((got - expected).abs().max() / expected.abs().max()) <= _TOLERANCE
    return None if is_near else "products of 8-bit floats come out wrong on this card"
