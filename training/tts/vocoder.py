"""The codec decoder with the official tensor names, made to be trained on whole utterances.

Letters in shapes: B utterances, T frames, R positions in time, C channels, G code groups.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.tts.stack import rotate, rotations

Json = dict[str, Any]
_DILATIONS = (1, 3, 9)


class _SnakeFunction(torch.autograd.Function):
    """x + sin²(ax) / b with one sine in each direction instead of a graph of eight products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frequency: Tensor, amplitude: Tensor) -> Tensor:
        sine = torch.mul(x, frequency).sin_()
        ctx.save_for_backward(x, sine, frequency, amplitude)
        return torch.addcmul(x, sine * amplitude, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        x, sine, frequency, amplitude = ctx.saved_tensors
        weighted = torch.mul(x, frequency).cos_().mul_(sine).mul_(gradient)  # sin(2ax) / 2 * g
        to_x = torch.addcmul(gradient, weighted, 2 * amplitude * frequency)
        to_frequency = 2 * amplitude * weighted.mul_(x).sum((0, 2), keepdim=True)[0]
        to_amplitude = sine.square().mul_(gradient).sum((0, 2), keepdim=True)[0]
        return to_x, to_frequency, to_amplitude


class Snake(nn.Module):
    """SnakeBeta: x + sin²(x * e^alpha) / (e^beta + 1e-9)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(num_channels))
        self.beta = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R] → [B, C, R]."""
        amplitude = 1.0 / (self.beta.exp() + 1e-9)
        y: Tensor = _SnakeFunction.apply(x, self.alpha.exp()[:, None], amplitude[:, None])
        return y


class CausalConv(nn.Module):
    """A convolution that sees its own position and what is left of it."""

    def __init__(
        self, num_in: int, num_out: int, kernel: int, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(num_in, num_out, kernel, dilation=dilation, groups=groups)
        self.num_left = (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R] → [B, C_out, R]."""
        out: Tensor = self.conv(functional.pad(x, (self.num_left, 0)))
        return out


class Upsampling(nn.Module):
    """A transposed convolution, trimmed on the right."""

    def __init__(self, num_in: int, num_out: int, kernel: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(num_in, num_out, kernel, stride=stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R] → [B, C_out, R * stride]."""
        out: Tensor = self.conv(x)[..., : x.shape[2] * self.stride]
        return out


class ConvNeXt(nn.Module):
    """A depthwise convolution and a wide gated-by-scale layer around a skip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dwconv = CausalConv(size, size, 7, groups=size)
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.pwconv1 = nn.Linear(size, 4 * size)
        self.pwconv2 = nn.Linear(4 * size, size)
        self.gamma = nn.Parameter(torch.full((size,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R] → [B, C, R]."""
        hidden = self.norm(self.dwconv(x).transpose(1, 2))
        hidden = self.gamma * self.pwconv2(functional.gelu(self.pwconv1(hidden)))
        out: Tensor = x + hidden.transpose(1, 2)
        return out


class ResidualUnit(nn.Module):
    """Two activations and convolutions around a skip."""

    def __init__(self, size: int, dilation: int) -> None:
        super().__init__()
        self.act1, self.act2 = Snake(size), Snake(size)
        self.conv1 = CausalConv(size, size, 7, dilation=dilation)
        self.conv2 = CausalConv(size, size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R] → [B, C, R]."""
        out: Tensor = x + self.conv2(self.act2(self.conv1(self.act1(x))))
        return out


class VocoderBlock(nn.Module):
    """An upsampling to half the channels and three residual units."""

    def __init__(self, size: int, rate: int) -> None:
        super().__init__()
        half = size // 2
        units = [ResidualUnit(half, dilation) for dilation in _DILATIONS]
        up = Upsampling(size, half, 2 * rate, stride=rate)
        self.block = nn.ModuleList([Snake(size), up, *units])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R] → [B, C / 2, R * rate]."""
        for module in self.block:
            x = module(x)
        return x


class _Scale(nn.Module):
    def __init__(self, size: int, value: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((size,), value))


class _CodecAttention(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        size, self.head_dim = config["hidden_size"], config["head_dim"]
        width = config["num_attention_heads"] * self.head_dim
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(size, width, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(width, size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return projected


class _CodecMlp(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return projected


class _CodecLayer(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        size, scale = config["hidden_size"], config["layer_scale_initial_scale"]
        self.self_attn = _CodecAttention(config)
        self.mlp = _CodecMlp(size, config["intermediate_size"])
        self.input_layernorm = nn.RMSNorm(size, config["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(size, config["rms_norm_eps"])
        self.self_attn_layer_scale = _Scale(size, scale)
        self.mlp_layer_scale = _Scale(size, scale)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotation, mask)
        x = x + self.self_attn_layer_scale.scale * attended
        hidden = self.mlp(self.post_attention_layernorm(x))
        out: Tensor = x + self.mlp_layer_scale.scale * hidden
        return out


class CodecTransformer(nn.Module):
    """Each frame sees itself and the `sliding_window - 1` frames before it."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        self.config = config
        self.input_proj = nn.Linear(config["latent_dim"], config["hidden_size"])
        self.output_proj = nn.Linear(config["hidden_size"], config["latent_dim"])
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.layers = nn.ModuleList(_CodecLayer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C] → [B, T, C]."""
        positions = torch.arange(x.shape[1], device=x.device)
        ago = positions[:, None] - positions
        mask = (ago >= 0) & (ago < self.config["sliding_window"])
        rotation = rotations(positions, self.config["head_dim"], self.config["rope_theta"])
        x = self.input_proj(x)
        for layer in self.layers:
            x = layer(x, rotation, mask)
        projected: Tensor = self.output_proj(self.norm(x))
        return projected


class _Codebook(nn.Module):
    """A table in the stored form: sums and counts. Never trained: k-means made it."""

    def __init__(self, num_codes: int, size: int) -> None:
        super().__init__()
        self.cluster_usage = nn.Parameter(torch.ones(num_codes), requires_grad=False)
        self.embedding_sum = nn.Parameter(torch.zeros(num_codes, size), requires_grad=False)


class _Quantised(nn.Module):
    def __init__(self, num_codes: int, size: int) -> None:
        super().__init__()
        self._codebook = _Codebook(num_codes, size)

    def table(self) -> Tensor:
        return self._codebook.embedding_sum


class _Books(nn.Module):
    def __init__(self, num_books: int, num_codes: int, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Quantised(num_codes, size) for _ in range(num_books))

    def books(self) -> list[_Quantised]:
        return [layer for layer in self.layers if isinstance(layer, _Quantised)]


class _Residual(nn.Module):
    def __init__(self, config: Json, num_books: int) -> None:
        super().__init__()
        wide, narrow = config["codebook_dim"], config["codebook_dim"] // 2
        self.input_proj = nn.Conv1d(wide, narrow, 1, bias=False).requires_grad_(False)
        self.output_proj = nn.Conv1d(narrow, wide, 1, bias=False)
        self.vq = _Books(num_books, config["codebook_size"], narrow)

    def forward(self, codes: Tensor) -> Tensor:
        """codes [B, T, books] → [B, C, T]."""
        tables = [layer.table() for layer in self.vq.books()]
        rows = torch.stack(
            [functional.embedding(codes[..., i], table) for i, table in enumerate(tables)]
        ).sum(0)
        summed: Tensor = self.output_proj(rows.transpose(1, 2))
        return summed


class SplitQuantizer(nn.Module):
    """Rows of the tables, projected and summed: one projection for group 0, one for the rest."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        self.rvq_first = _Residual(config, 1)
        self.rvq_rest = _Residual(config, config["num_quantizers"] - 1)

    def forward(self, codes: Tensor) -> Tensor:
        """codes [B, T, G] → [B, C, T]."""
        summed: Tensor = self.rvq_first(codes[..., :1]) + self.rvq_rest(codes[..., 1:])
        return summed


class CodecDecoder(nn.Module):
    """Codes → sound; the names of its tensors are the official ones without `decoder.`."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        self.config = config
        latent, width, rates = config["latent_dim"], config["decoder_dim"], config["upsample_rates"]
        self.quantizer = SplitQuantizer(config)
        self.pre_conv = CausalConv(config["codebook_dim"], latent, 3)
        self.pre_transformer = CodecTransformer(config)
        self.upsample = nn.ModuleList(
            nn.ModuleList([Upsampling(latent, latent, ratio, stride=ratio), ConvNeXt(latent)])
            for ratio in config["upsampling_ratios"]
        )
        blocks = [VocoderBlock(width >> i, rate) for i, rate in enumerate(rates)]
        last = width >> len(rates)
        self.decoder = nn.ModuleList(
            [CausalConv(latent, width, 7), *blocks, Snake(last), CausalConv(last, 1, 7)]
        )

    def forward(self, codes: Tensor) -> Tensor:
        """codes int64 [B, T, G] → samples [B, T * 1920], not clamped."""
        x = self.pre_conv(self.quantizer(codes))
        x = self.pre_transformer(x.transpose(1, 2)).transpose(1, 2)
        stages = [module for stage in self.upsample for module in stage.children()]
        for module in (*stages, *self.decoder):
            x = module(x)
        samples: Tensor = x[:, 0]
        return samples


def initialise(decoder: CodecDecoder, tables: Tensor) -> None:
    """Unit gain everywhere (the official start freezes whole branches); tables float [G, K, C]."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.normal_(module.weight, 0, 1 / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.ConvTranspose1d):
            fan_in = module.weight.shape[0] * module.kernel_size[0] / module.stride[0]
            nn.init.normal_(module.weight, 0, 1 / math.sqrt(fan_in))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    for unit in decoder.modules():
        if isinstance(unit, ResidualUnit):
            unit.conv2.conv.weight.data.mul_(0.3)
    last = decoder.decoder[-1]
    assert isinstance(last, CausalConv)
    last.conv.weight.data.mul_(0.1)
    set_tables(decoder, tables)


def set_tables(decoder: CodecDecoder, tables: Tensor) -> None:
    """Rows that stand for nothing (1e3 in the encoder, so that nothing is near) decode to 0."""
    quantizer = decoder.quantizer
    books = [*quantizer.rvq_first.vq.books(), *quantizer.rvq_rest.vq.books()]
    for book, table in zip(books, tables, strict=True):
        is_unused = table.abs().amax(1, keepdim=True) > 100
        book.table().data.copy_(table.masked_fill(is_unused, 0.0))
