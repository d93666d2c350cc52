"""Convolutions over time that carry their left context from call to call.

Letters in shapes: B rows of a batch, R positions in time, C channels, K taps of a kernel.
Sound is channels-last [B, R, C] throughout: a convolution is then one product of a weight
[C_out, K * C] with K shifted inputs side by side, and the same memory serves `conv2d` in its
channels-last format. Everything is causal, so a piece needs only what stands to its left.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

# From this many positions on conv2d is faster than the product of shifted inputs, which in turn
# spares a short piece the rearranging of the weight inside conv2d. Measured on AVX-512.
_MIN_CONV_ROWS = {torch.float32: 64}
_DEFAULT_MIN_CONV_ROWS = 640


class Contexts:
    """The left contexts of one call in their order of use, and those that the next call needs."""

    def __init__(self, flat: Tensor) -> None:
        """flat [B, all contexts side by side]."""
        self._flat = flat
        self._offset = 0
        self._following: list[Tensor] = []

    def extend(self, x: Tensor, num_rows: int) -> Tensor:
        """x [B, R, C] → [B, num_rows + R, C], what came before in front of it."""
        start, self._offset = self._offset, self._offset + num_rows * x.shape[2]
        left = self._flat[:, start : self._offset].view(-1, num_rows, x.shape[2])
        x = torch.cat([left, x], 1)
        self._following.append(x[:, -num_rows:].flatten(1))
        return x

    def following(self) -> Tensor:
        """[B, all contexts side by side] after everything has been extended."""
        return torch.cat(self._following, 1)


class StreamedConv(nn.Module):
    """A causal convolution: each output sees `num_context` earlier positions and its own."""

    def __init__(self, num_in: int, *, num_context: int, stride: int = 1) -> None:
        super().__init__()
        self.num_context = num_context
        self.context_size = num_context * num_in  # numbers to carry from call to call
        self.stride = stride  # output positions for each input position


class CausalConv(StreamedConv):
    """All channels to all channels."""

    weight: Tensor  # [C_out, K, C]
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, dilation: int = 1, stride: int = 1
    ) -> None:
        """weight [C_out, C, K] as stored."""
        num_context = dilation * (weight.shape[2] - 1)
        super().__init__(weight.shape[1], num_context=num_context, stride=stride)
        self.register_buffer("weight", weight.transpose(1, 2).contiguous())
        self.register_buffer("bias", bias)
        self.dilation = dilation

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → [B, R, C_out]."""
        if not self.num_context:
            return functional.linear(x, self.weight[:, 0], self.bias)
        num_rows = x.shape[1]
        x = contexts.extend(x, self.num_context)
        min_rows = _MIN_CONV_ROWS.get(x.dtype, _DEFAULT_MIN_CONV_ROWS)
        if x.shape[0] * num_rows >= min_rows:
            return self._convolve(x)
        steps = range(0, self.num_context + 1, self.dilation)
        shifted = torch.cat([x[:, step : step + num_rows] for step in steps], 2)
        return functional.linear(shifted, self.weight.flatten(1), self.bias)

    def _convolve(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2)[:, :, None]  # [B, C, 1, R], channels last in memory
        weight = self.weight.transpose(1, 2)[:, :, None]
        out = functional.conv2d(image, weight, self.bias, dilation=(1, self.dilation))
        return out[:, :, 0].transpose(1, 2)


class Upsampling(CausalConv):
    """A transposed convolution whose kernel spans one or two strides, trimmed on the right.

    Each output position sees one or two input positions, so it is a convolution with K taps that
    makes `stride` outputs at once.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, stride: int) -> None:
        """weight [C, C_out, K * stride] as stored, bias [C_out]."""
        num_in, num_out, length = weight.shape
        taps = weight.view(num_in, num_out, length // stride, stride)
        newest_last = taps.flip(2).permute(3, 1, 0, 2)  # [stride, C_out, C, K]
        super().__init__(newest_last.flatten(0, 1), bias.repeat(stride), stride=stride)
        self.num_out = num_out

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → [B, R * stride, C_out]."""
        return super().forward(x, contexts).reshape(x.shape[0], -1, self.num_out)


class DepthwiseConv(StreamedConv):
    """A causal convolution of each channel by itself."""

    weight: Tensor  # [C, 1, K]
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight [C, 1, K] as stored."""
        super().__init__(weight.shape[0], num_context=weight.shape[2] - 1)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → [B, R, C]."""
        image = contexts.extend(x, self.num_context).transpose(1, 2)[:, :, None]
        weight = self.weight[:, :, None]
        out = functional.conv2d(image, weight, self.bias, groups=weight.shape[0])
        return out[:, :, 0].transpose(1, 2)


class SampleConv(StreamedConv):
    """The last convolution, many channels to one, in float32 so that quiet sound stays smooth."""

    weight: Tensor  # [K, C]
    bias: Tensor  # [1]

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight [1, C, K] as stored."""
        super().__init__(weight.shape[1], num_context=weight.shape[2] - 1)
        self.register_buffer("weight", weight[0].t().float().contiguous())
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → float32 [B, R]."""
        num_rows = x.shape[1]
        x = contexts.extend(x, self.num_context)
        parts = functional.linear(x.float(), self.weight)  # [B, R + K - 1, K]
        samples = self.bias.expand(x.shape[0], num_rows)
        for tap in range(self.num_context + 1):
            samples = samples + parts[:, tap : tap + num_rows, tap]
        return samples


class Snake(nn.Module):
    """SnakeBeta: x + sin²(x * e^alpha) / (e^beta + 1e-9), with both factors made once."""

    frequency: Tensor
    amplitude: Tensor

    def __init__(self, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequency", alpha.exp())
        self.register_buffer("amplitude", 1.0 / (beta.exp() + 1e-9))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] → [..., C]."""
        sine = torch.mul(x, self.frequency).sin_()
        return torch.addcmul(x, sine * self.amplitude, sine)


def load_conv(weights: Mapping[str, Tensor], name: str, *, dilation: int = 1) -> CausalConv:
    """The convolution stored as `name`.weight and, if it has one, `name`.bias."""
    bias = weights.get(f"{name}.bias")
    return CausalConv(weights[f"{name}.weight"], bias, dilation=dilation)


def load_upsampling(weights: Mapping[str, Tensor], name: str, *, stride: int) -> Upsampling:
    return Upsampling(weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride)


def load_snake(weights: Mapping[str, Tensor], name: str) -> Snake:
    return Snake(weights[f"{name}.alpha"], weights[f"{name}.beta"])
