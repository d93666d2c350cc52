"""Reference sound → speaker vector: the ECAPA-TDNN of a Base checkpoint, always in float32.

Letters in shapes: N samples, T mel frames, C channels. Convolutions keep the length; their edges
are reflected. The vector belongs to the checkpoint's own talker: it is as wide as that and is
used without normalisation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.configs import Json
from qwen3_audio.models.mel import log_mel_24k

_MIN_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True)
class SpeakerConfig:
    """What the speaker encoder needs to know beyond the shapes of its tensors."""

    dilations: tuple[int, ...]
    res2net_scale: int

    @classmethod
    def from_json(cls, config: Json) -> "SpeakerConfig":
        """From `speaker_encoder_config`, in which everything may be left out."""
        return cls(
            dilations=tuple(config.get("enc_dilations", (1, 2, 3, 4, 1))),
            res2net_scale=config.get("enc_res2net_scale", 8),
        )


class SpeakerEncoder(nn.Module):
    """One convolution, three Res2Net blocks whose outputs are joined, attentive pooling."""

    def __init__(
        self, config: SpeakerConfig, weights: Mapping[str, Tensor], prefix: str = "speaker_encoder"
    ) -> None:
        super().__init__()
        dilations = config.dilations
        self.first = ReflectConv(weights, f"{prefix}.blocks.0.conv", dilations[0])
        self.blocks = nn.ModuleList(
            Res2NetBlock(weights, f"{prefix}.blocks.{i}", config.res2net_scale, dilations[i])
            for i in range(1, len(dilations) - 1)
        )
        self.join = ReflectConv(weights, f"{prefix}.mfa.conv", dilations[-1])
        self.pooling = AttentivePooling(weights, f"{prefix}.asp")
        self.last = ReflectConv(weights, f"{prefix}.fc")
        self.float()

    @classmethod
    def from_weights(cls, config: Json, weights: Mapping[str, Tensor]) -> Self:
        """From `speaker_encoder_config` and the checkpoint's tensors by their official names."""
        return cls(SpeakerConfig.from_json(config), weights)

    def forward(self, samples: Tensor) -> Tensor:
        """samples [N] at 24 kHz, at least a tenth of a second → float32 vector [width]."""
        x = self.first(log_mel_24k(samples)[None]).relu()
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.join(torch.cat(outputs, 1)).relu()
        vector: Tensor = self.last(self.pooling(x))[0, :, 0]
        return vector


class ReflectConv(nn.Module):
    """A convolution that keeps the length by reflecting both edges."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weights: Mapping[str, Tensor], name: str, dilation: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weights[f"{name}.weight"])
        self.register_buffer("bias", weights[f"{name}.bias"])
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """x [1, C, T] → [1, C_out, T]."""
        edges = self.dilation * (self.weight.shape[2] - 1)
        if edges:
            x = functional.pad(x, (edges // 2, edges - edges // 2), mode="reflect")
        return functional.conv1d(x, self.weight, self.bias, dilation=self.dilation)


class Res2NetBlock(nn.Module):
    """Slices of the channels, each convolved together with the result of the one before."""

    def __init__(
        self, weights: Mapping[str, Tensor], prefix: str, num_slices: int, dilation: int
    ) -> None:
        super().__init__()
        self.num_slices = num_slices
        self.enter = ReflectConv(weights, f"{prefix}.tdnn1.conv")
        self.slices = nn.ModuleList(
            ReflectConv(weights, f"{prefix}.res2net_block.blocks.{i}.conv", dilation)
            for i in range(num_slices - 1)
        )
        self.leave = ReflectConv(weights, f"{prefix}.tdnn2.conv")
        self.squeeze = ReflectConv(weights, f"{prefix}.se_block.conv1")
        self.excite = ReflectConv(weights, f"{prefix}.se_block.conv2")

    def forward(self, x: Tensor) -> Tensor:
        """x [1, C, T] → [1, C, T]."""
        untouched, *others = self.enter(x).relu().chunk(self.num_slices, 1)
        outputs, before = [untouched], torch.zeros_like(untouched)
        for conv, part in zip(self.slices, others, strict=True):
            before = conv(part + before).relu()
            outputs.append(before)
        y = self.leave(torch.cat(outputs, 1)).relu()
        gate = self.excite(self.squeeze(y.mean(2, keepdim=True)).relu()).sigmoid()
        return y * gate + x


class AttentivePooling(nn.Module):
    """Mean and deviation over time, weighted by attention that knows the plain ones."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.hidden = ReflectConv(weights, f"{prefix}.tdnn.conv")
        self.score = ReflectConv(weights, f"{prefix}.conv")

    def forward(self, x: Tensor) -> Tensor:
        """x [1, C, T] → [1, 2 * C, 1]."""
        plain = _mean_and_deviation(x, torch.full_like(x[:, :1], 1 / x.shape[2]))
        context = torch.cat([x, *(value.expand_as(x) for value in plain)], 1)
        attention = self.score(self.hidden(context).relu().tanh()).softmax(2)
        return torch.cat(_mean_and_deviation(x, attention), 1)


def _mean_and_deviation(x: Tensor, attention: Tensor) -> tuple[Tensor, Tensor]:
    mean = (attention * x).sum(2, keepdim=True)
    variance = (attention * (x - mean) ** 2).sum(2, keepdim=True)
    return mean, variance.clamp(min=_MIN_VARIANCE).sqrt()
