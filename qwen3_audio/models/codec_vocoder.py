"""The second half of the codec decoder: latents of frames → samples, by convolutions alone.

Letters in shapes: B rows of a batch, T frames, R positions in time, C channels.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.codec_config import DecoderConfig
from qwen3_audio.models.codec_layers import (
    Contexts,
    DepthwiseConv,
    SampleConv,
    StreamedConv,
    load_conv,
    load_snake,
    load_upsampling,
)
from qwen3_audio.models.linear import Linear, load_linear

_DILATIONS = (1, 3, 9)  # of the residual units in a block
_LAYER_NORM_EPS = 1e-6


class Vocoder(nn.Module):
    """Upsamples in the latent width first, then with half the channels in each block."""

    def __init__(
        self, config: DecoderConfig, weights: Mapping[str, Tensor], *, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            LatentStage(weights, f"decoder.upsample.{i}", ratio)
            for i, ratio in enumerate(config.upsampling_ratios)
        ).to(dtype)
        prefix, num_blocks = "decoder.decoder", len(config.upsample_rates)
        self.first = load_conv(weights, f"{prefix}.0.conv").to(dtype)
        self.blocks = nn.ModuleList(
            VocoderBlock(weights, f"{prefix}.{i + 1}.block", rate)
            for i, rate in enumerate(config.upsample_rates)
        ).to(dtype)
        self.snake = load_snake(weights, f"{prefix}.{num_blocks + 1}").to(dtype)
        last = f"{prefix}.{num_blocks + 2}.conv"
        self.last = SampleConv(weights[f"{last}.weight"], weights[f"{last}.bias"])

    def forward(self, latents: Tensor, contexts: Contexts) -> Tensor:
        """latents [B, T, C] → float32 samples [B, T * samples of a frame], not yet clamped."""
        x = latents
        for stage in self.stages:
            x = stage(x, contexts)
        x = self.first(x, contexts)
        for block in self.blocks:
            x = block(x, contexts)
        samples: Tensor = self.last(self.snake(x), contexts)
        return samples

    @property
    def context_size(self) -> int:
        """Numbers that one sound carries from call to call."""
        return sum(conv.context_size for conv in self._convs())

    @property
    def num_context_frames(self) -> int:
        """Frames after which nothing of what came before them is left in the contexts."""
        num_frames, rows_per_frame = 0.0, 1
        for conv in self._convs():
            num_frames += conv.num_context / rows_per_frame
            rows_per_frame *= conv.stride
        return math.ceil(num_frames)

    def _convs(self) -> list[StreamedConv]:
        """In the order of use, which is the order of registration."""
        return [module for module in self.modules() if isinstance(module, StreamedConv)]


class LatentStage(nn.Module):
    """One upsampling and a ConvNeXt block; gamma is multiplied into its last weights at load."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, ratio: int) -> None:
        super().__init__()
        self.upsampling = load_upsampling(weights, f"{prefix}.0.conv", stride=ratio)
        name = f"{prefix}.1.dwconv.conv"
        self.depthwise = DepthwiseConv(weights[f"{name}.weight"], weights[f"{name}.bias"])
        self.norm_weight: Tensor
        self.norm_bias: Tensor
        self.register_buffer("norm_weight", weights[f"{prefix}.1.norm.weight"])
        self.register_buffer("norm_bias", weights[f"{prefix}.1.norm.bias"])
        self.widen = load_linear(weights, f"{prefix}.1.pwconv1")
        narrow, gamma = load_linear(weights, f"{prefix}.1.pwconv2"), weights[f"{prefix}.1.gamma"]
        bias = None if narrow.bias is None else narrow.bias * gamma
        self.narrow = Linear(narrow.weight * gamma[:, None], bias)

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → [B, R * ratio, C]."""
        x = self.upsampling(x, contexts)
        hidden = self.depthwise(x, contexts)
        hidden = functional.layer_norm(
            hidden, self.norm_weight.shape, self.norm_weight, self.norm_bias, _LAYER_NORM_EPS
        )
        return x + self.narrow(functional.gelu(self.widen(hidden)))


class VocoderBlock(nn.Module):
    """An upsampling to half the channels and three residual units."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, rate: int) -> None:
        super().__init__()
        self.snake = load_snake(weights, f"{prefix}.0")
        self.upsampling = load_upsampling(weights, f"{prefix}.1.conv", stride=rate)
        self.units = nn.ModuleList(
            ResidualUnit(weights, f"{prefix}.{i + 2}", dilation)
            for i, dilation in enumerate(_DILATIONS)
        )

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → [B, R * rate, C / 2]."""
        x = self.upsampling(self.snake(x), contexts)
        for unit in self.units:
            x = unit(x, contexts)
        return x


class ResidualUnit(nn.Module):
    """Two activations and convolutions, the first of them dilated, around a skip."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, dilation: int) -> None:
        super().__init__()
        self.snake1 = load_snake(weights, f"{prefix}.act1")
        self.conv1 = load_conv(weights, f"{prefix}.conv1.conv", dilation=dilation)
        self.snake2 = load_snake(weights, f"{prefix}.act2")
        self.conv2 = load_conv(weights, f"{prefix}.conv2.conv")

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [B, R, C] → [B, R, C]."""
        hidden = self.conv1(self.snake1(x), contexts)
        hidden = self.conv2(self.snake2(hidden), contexts)
        return hidden.add_(x)
