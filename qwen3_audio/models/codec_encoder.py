"""Sound at 24 kHz → codes, for the reference of an in-context voice; always in float32.

Letters in shapes: N samples, R positions in time, T positions at twice the frame rate, C channels,
D hidden size, H heads, E head size. This is Mimi's encoder with the first of its codebooks, as the
Qwen3-TTS-Tokenizer-12Hz release uses it: attention is over everything before, the window that
config.json names is not applied. The convolutions are causal and run piece by piece, so memory
does not grow with the length of the reference.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.codec_config import EncoderConfig
from qwen3_audio.models.codec_layers import CausalConv, Contexts, StreamedConv, load_conv
from qwen3_audio.models.configs import Json
from qwen3_audio.models.linear import Linear, load_linear
from qwen3_audio.models.qwen3 import Rope, rotate

_PIECE_FRAMES = 24
_MIN_USAGE = 1e-5


class CodecEncoder(nn.Module):
    """The encoder half of the codec."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.convs = EncoderConvs(config, weights)
        self.layers = nn.ModuleList(
            EncoderLayer(config, weights, f"encoder.encoder_transformer.layers.{i}")
            for i in range(config.num_layers)
        )
        self.downsample: Tensor
        self.register_buffer("downsample", weights["encoder.downsample.conv.weight"])
        num_acoustic = config.num_quantizers - config.num_semantic
        self.semantic = ResidualQuantizer(weights, "semantic", config.num_semantic)
        self.acoustic = ResidualQuantizer(weights, "acoustic", num_acoustic)
        self.rope = Rope(config.head_dim, config.rope_theta, torch.float32)
        self.float().to(self.downsample.device)

    @classmethod
    def from_weights(cls, config: Json, weights: Mapping[str, Tensor]) -> Self:
        """From speech_tokenizer's config.json and tensors by their official names."""
        return cls(EncoderConfig.from_json(config), weights)

    def encode(self, samples: Tensor) -> Tensor:
        """samples [N], N > 0, in [-1, 1] → int16 codes [ceil(N / 1920), code groups]."""
        x = self._features(samples.float())
        rotation = self.rope(torch.arange(len(x), device=x.device))
        for layer in self.layers:
            x = layer(x, rotation)
        latents = self._halve(x)
        codes = [*self.semantic(latents), *self.acoustic(latents)]
        return torch.stack(codes, 1).to(torch.int16)

    def _features(self, samples: Tensor) -> Tensor:
        """samples [N] → [T, D], a piece at a time."""
        contexts = samples.new_zeros(1, self.convs.context_size)
        features = []
        for piece in samples.split(_PIECE_FRAMES * self.config.samples_per_frame):
            ahead = Contexts(contexts)
            features.append(self.convs(piece[None, :, None], ahead)[0])
            contexts = ahead.following()
        return torch.cat(features)

    def _halve(self, x: Tensor) -> Tensor:
        """[T, D] → [T / 2, D]: four taps, two apart, edges repeated; an odd last one is doubled."""
        stride = 2
        num_left = self.downsample.shape[2] - stride
        image = functional.pad(x.t()[None], (num_left, len(x) % stride), mode="replicate")
        return functional.conv1d(image, self.downsample, stride=stride)[0].t()


class EncoderConvs(nn.Module):
    """Samples → features at twice the frame rate, in four strides."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        prefix, index = "encoder.encoder.layers", 1  # the stored numbers count activations too
        self.first = load_conv(weights, f"{prefix}.0.conv")
        stages: list[nn.Module] = []
        for stride in config.strides:
            for i in range(config.num_residual_layers):
                dilation = config.dilation_growth**i
                stages.append(EluUnit(weights, f"{prefix}.{index}.block", dilation))
                index += 1
            stages.append(StridedConv(weights, f"{prefix}.{index + 1}.conv", stride))
            index += 2
        self.stages = nn.ModuleList(stages)
        self.last = load_conv(weights, f"{prefix}.{index + 1}.conv")

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """samples [1, N, 1] → [1, T, D]."""
        x = self.first(x, contexts)
        for stage in self.stages:
            x = stage(x, contexts)
        features: Tensor = self.last(functional.elu(x), contexts)
        return features

    @property
    def context_size(self) -> int:
        return sum(m.context_size for m in self.modules() if isinstance(m, StreamedConv))


class EluUnit(nn.Module):
    """A residual unit: a dilated convolution to fewer channels and one back."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, dilation: int) -> None:
        super().__init__()
        self.conv1 = load_conv(weights, f"{prefix}.1.conv", dilation=dilation)
        self.conv2 = load_conv(weights, f"{prefix}.3.conv")

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [1, R, C] → [1, R, C]."""
        hidden = self.conv1(functional.elu(x), contexts)
        hidden = self.conv2(functional.elu(hidden), contexts)
        return hidden + x


class StridedConv(CausalConv):
    """An activation and a convolution over two strides: two taps on blocks of positions."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, block: int) -> None:
        weight = weights[f"{name}.weight"]
        num_out, num_in, length = weight.shape
        taps = weight.view(num_out, num_in, length // block, block).permute(0, 3, 1, 2)
        super().__init__(taps.flatten(1, 2), weights[f"{name}.bias"])
        self.block = block

    def forward(self, x: Tensor, contexts: Contexts) -> Tensor:
        """x [1, R, C] → [1, ceil(R / block), C_out]; a last block is filled up with zeros."""
        missing = -x.shape[1] % self.block
        x = functional.pad(functional.elu(x), (0, 0, 0, missing))
        return super().forward(x.reshape(1, -1, self.block * x.shape[2]), contexts)


class EncoderLayer(nn.Module):
    """One transformer block; the scales of both branches are multiplied in at load."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.head_dim, self.eps = config.head_dim, config.norm_eps
        self.q, self.k, self.v = (
            load_linear(weights, f"{prefix}.self_attn.{name}_proj") for name in "qkv"
        )
        self.out = _load_scaled(weights, f"{prefix}.self_attn.o_proj", f"{prefix}.self_attn")
        self.widen = load_linear(weights, f"{prefix}.mlp.fc1")
        self.narrow = _load_scaled(weights, f"{prefix}.mlp.fc2", f"{prefix}.mlp")
        self.input_norm = _load_norm(weights, f"{prefix}.input_layernorm", self.eps)
        self.mlp_norm = _load_norm(weights, f"{prefix}.post_attention_layernorm", self.eps)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [T, D], rotation [T, 1, E] twice → [T, D]."""
        hidden = self.input_norm(x)
        q, k, v = (
            linear(hidden).view(len(x), -1, self.head_dim) for linear in (self.q, self.k, self.v)
        )
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        attended = functional.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        x = x + self.out(attended[0].transpose(0, 1).flatten(1))
        return x + self.narrow(functional.gelu(self.widen(self.mlp_norm(x))))


class ResidualQuantizer(nn.Module):
    """Nearest rows of one codebook after the other, each of what the ones before left over."""

    def __init__(self, weights: Mapping[str, Tensor], part: str, num_books: int) -> None:
        super().__init__()
        prefix = f"encoder.quantizer.{part}_residual_vector_quantizer"
        self.projection = Linear(weights[f"{prefix}.input_proj.weight"][:, :, 0])
        self.books: Tensor  # [num_books, codes, C]
        books = [_load_book(weights, f"{prefix}.layers.{i}.codebook") for i in range(num_books)]
        self.register_buffer("books", torch.stack(books))

    def forward(self, latents: Tensor) -> list[Tensor]:
        """latents [T, D] → int64 codes [T] of each book."""
        rest, codes = self.projection(latents), []
        for book in self.books:
            nearest = torch.cdist(rest[None], book[None])[0].argmin(-1)
            codes.append(nearest)
            rest = rest - book[nearest]
        return codes


def _load_book(weights: Mapping[str, Tensor], name: str) -> Tensor:
    usage = weights[f"{name}.cluster_usage"].float().clamp(min=_MIN_USAGE)
    return weights[f"{name}.embed_sum"].float() / usage[:, None]


def _load_norm(weights: Mapping[str, Tensor], name: str, eps: float) -> nn.LayerNorm:
    weight = weights[f"{name}.weight"]
    norm = nn.LayerNorm(weight.shape, eps=eps)
    norm.weight = nn.Parameter(weight, requires_grad=False)
    norm.bias = nn.Parameter(weights[f"{name}.bias"], requires_grad=False)
    return norm


def _load_scaled(weights: Mapping[str, Tensor], name: str, branch: str) -> Linear:
    scale = weights[f"{branch}_layer_scale.scale"]
    return Linear(weights[f"{name}.weight"] * scale[:, None])
