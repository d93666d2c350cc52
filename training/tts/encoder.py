"""The codec encoder with the official tensor names, taught to find the quantiser's latents.

The tables stay as k-means made them, so it is a plain regression, and its codes are the ones that
decoder and talker know. Letters in shapes: B clips, R positions, T frames, C channels.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.tts.codec import Utterances
from training.tts.features import FRAME, HOP, SUBFRAMES
from training.tts.lexicon import Lexicon, speaker_point
from training.tts.quantiser import (
    NUM_CODES,
    NUM_COMPONENTS,
    NUM_GROUPS,
    NUM_LATENTS,
    SPEAKER_GROUP,
)
from training.tts.stack import Rotation, rotate, rotations
from training.tts.trainer import Losses, Schedule, Step, Trainer, device_of
from training.tts.voices import VOICES

Json = dict[str, Any]

_NUM_CLIPS, _NUM_FRAMES = 6, 16
_LOUDEST, _QUIETEST = 1.3, 0.5


def encoder_config() -> Json:
    """`encoder_config` of speech_tokenizer/config.json."""
    return {
        "audio_channels": 1,
        "sampling_rate": 24000,
        "num_filters": 8,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "num_residual_layers": 1,
        "dilation_growth_rate": 2,
        "compress": 2,
        "upsampling_ratios": [8, 6, 5, 4],
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "layer_scale_initial_scale": 0.1,
        "rope_theta": 10000.0,
        "max_position_embeddings": 8000,
        "sliding_window": 250,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "num_quantizers": NUM_GROUPS,
        "num_semantic_quantizers": 1,
        "codebook_size": NUM_CODES,
        "codebook_dim": NUM_LATENTS,
        "vector_quantization_hidden_dimension": NUM_LATENTS,
        "pad_mode": "constant",
        "use_causal_conv": True,
        "use_conv_shortcut": False,
        "normalize": False,
        "trim_right_ratio": 1.0,
        "upsample_groups": 128,
        "use_streaming": False,
        "_frame_rate": 12.5,
    }


class _Conv(nn.Module):
    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(num_in, num_out, kernel, stride=stride)
        self.num_left = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.pad(x, (self.num_left, 0)))
        return out


class _Unit(nn.Module):
    def __init__(self, size: int, config: Json) -> None:
        super().__init__()
        narrow = size // config["compress"]
        first = _Conv(size, narrow, config["residual_kernel_size"])
        self.block = nn.ModuleList([nn.ELU(), first, nn.ELU(), _Conv(narrow, size, 1)])

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for module in self.block:
            hidden = module(hidden)
        return x + hidden


class _Convolutions(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        size = config["num_filters"]
        layers: list[nn.Module] = [_Conv(1, size, config["kernel_size"])]
        for stride in reversed(config["upsampling_ratios"]):
            layers += [_Unit(size, config), nn.ELU(), _Conv(size, 2 * size, 2 * stride, stride)]
            size *= 2
        layers += [nn.ELU(), _Conv(size, config["hidden_size"], config["last_kernel_size"])]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Attention(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        size, self.head_dim = config["hidden_size"], config["head_dim"]
        width = config["num_attention_heads"] * self.head_dim
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(size, width, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(width, size, bias=False)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return projected


class _Mlp(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config["hidden_size"], config["intermediate_size"], bias=False)
        self.fc2 = nn.Linear(config["intermediate_size"], config["hidden_size"], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return projected


class _Scale(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        value = torch.full((config["hidden_size"],), config["layer_scale_initial_scale"])
        self.scale = nn.Parameter(value)


class _Layer(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        size, eps = config["hidden_size"], config["norm_eps"]
        self.self_attn, self.mlp = _Attention(config), _Mlp(config)
        self.input_layernorm = nn.LayerNorm(size, eps)
        self.post_attention_layernorm = nn.LayerNorm(size, eps)
        self.self_attn_layer_scale, self.mlp_layer_scale = _Scale(config), _Scale(config)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotation)
        x = x + self.self_attn_layer_scale.scale * attended
        out: Tensor = x + self.mlp_layer_scale.scale * self.mlp(self.post_attention_layernorm(x))
        return out


class _Transformer(nn.Module):
    def __init__(self, config: Json) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        rotation = rotations(positions, self.config["head_dim"], self.config["rope_theta"])
        for layer in self.layers:
            x = layer(x, rotation)
        return x


class _Downsample(nn.Module):
    """Two positions to one; the left edge is repeated."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, size, 4, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(functional.pad(x, (2, 0), mode="replicate"))
        return out


class _Codebook(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("initialized", torch.ones(1))
        self.register_buffer("cluster_usage", torch.ones(len(table)))
        self.register_buffer("embed_sum", table.clone())


class _Book(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.codebook = _Codebook(table)


class _Quantizer(nn.Module):
    def __init__(self, tables: Tensor, size: int) -> None:
        super().__init__()
        narrow = tables.shape[2]
        self.input_proj = nn.Conv1d(size, narrow, 1, bias=False)
        self.output_proj = nn.Conv1d(narrow, size, 1, bias=False).requires_grad_(False)
        self.layers = nn.ModuleList(_Book(table) for table in tables)


class _Quantizers(nn.Module):
    def __init__(self, tables: Tensor, size: int) -> None:
        super().__init__()
        self.semantic_residual_vector_quantizer = _Quantizer(tables[:1], size)
        self.acoustic_residual_vector_quantizer = _Quantizer(tables[1:], size)


class CodecEncoder(nn.Module):
    """Names of tensors are the official ones without the first `encoder.`."""

    def __init__(self, config: Json, tables: Tensor) -> None:
        super().__init__()
        self.encoder = _Convolutions(config)
        self.encoder_transformer = _Transformer(config)
        self.downsample = _Downsample(config["hidden_size"])
        self.quantizer = _Quantizers(tables, config["hidden_size"])

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """samples [B, T * 1920] → semantic and acoustic latents [B, T, Z]."""
        x = self.encoder(samples[:, None])
        x = self.encoder_transformer(x.transpose(1, 2)).transpose(1, 2)
        x = self.downsample(x)
        quantizer = self.quantizer
        semantic = quantizer.semantic_residual_vector_quantizer.input_proj(x)
        acoustic = quantizer.acoustic_residual_vector_quantizer.input_proj(x)
        return semantic.transpose(1, 2), acoustic.transpose(1, 2)


def build_encoder(lexicon: Lexicon) -> CodecEncoder:
    torch.manual_seed(1)
    tables = torch.from_numpy(lexicon.quantiser.tables)
    encoder = CodecEncoder(encoder_config(), tables)
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.normal_(module.weight, 0, 1 / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return encoder


class _Clips:
    """Sound of random utterances that begins anywhere in a frame, with the latents of it."""

    def __init__(self, lexicon: Lexicon, utterances: Utterances) -> None:
        self.lexicon, self.utterances = lexicon, utterances
        self.points = torch.tensor([speaker_point(voice) for voice in VOICES])

    def draw(self, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """samples [B, T * 1920] and latents [B, T, Z]."""
        batch = self.utterances.draw(draw, _NUM_CLIPS, _NUM_FRAMES + 1)
        late = int(draw.integers(SUBFRAMES)) if draw.random() < 0.5 else 0
        samples = batch.samples[:, late * HOP : late * HOP + _NUM_FRAMES * FRAME]
        gains = torch.from_numpy(draw.uniform(_QUIETEST, _LOUDEST, (_NUM_CLIPS, 1))).float()
        noise = torch.randn_like(samples) * 1e-3 * torch.rand(_NUM_CLIPS, 1)
        latents = [self._latents(codes, late) for codes in batch.codes.numpy()]
        speakers = self.points[batch.codes[:, 0, SPEAKER_GROUP]][:, None].expand(
            -1, _NUM_FRAMES, -1
        )
        return samples * gains + noise, torch.cat([torch.stack(latents), speakers], 2)

    def _latents(self, codes: np.ndarray[Any, Any], late: int) -> Tensor:
        features = self.lexicon.quantiser.decode(codes)
        features = features[late : late + _NUM_FRAMES * SUBFRAMES]
        return torch.from_numpy(self.lexicon.quantiser.latents(features))


def make_encoder_trainer(work: Path, lexicon: Lexicon, budget_s: float) -> tuple[Trainer, Step]:
    schedule = Schedule(budget_s, learning_rate=2e-3)
    encoder = build_encoder(lexicon)
    sound = np.load(work / "lexicon" / "sound.npy", mmap_mode="r")
    clips = _Clips(lexicon, Utterances(lexicon, sound))

    def step(draw: np.random.Generator, share: float) -> Losses:
        device = device_of(encoder)
        samples, latents = (tensor.to(device) for tensor in clips.draw(draw))
        semantic, acoustic = encoder(samples)
        content = latents[..., :NUM_COMPONENTS]
        first = (semantic[..., :NUM_COMPONENTS] - content).square().mean()
        rest = (acoustic - latents).square().mean()
        return {"loss": first + rest, "semantic": first, "acoustic": rest}

    return Trainer(work, "encoder", encoder, schedule), step
