"""Qwen3-ASR beside its decoder stack: config.json in both layouts, and the audio encoder.

Letters in shapes: N audio tokens of a clip, T mel frames of a clip, M mel filters, C chunks,
K convolution channels, R rows (tokens of all windows, packed), D width of the encoder,
H width of the decoder. Rules from the official package as it runs with FlashAttention: attention
inside windows of eight chunks, and a clip's numbers do not depend on what it is served with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.errors import StartError
from qwen3_audio.languages import ASR_LANGUAGES
from qwen3_audio.models.configs import Json, StackConfig, need
from qwen3_audio.models.linear import Linear, load_linear
from qwen3_audio.models.windows import Windows, arrange_windows, window_spans

_STRIDES = 3  # convolutions with stride 2
_CPU_CHUNKS = 2  # in the convolutions at a time: their activations fit the caches
_GPU_CHUNKS = 128

# What the two layouts mean by a key that their config.json leaves out.
_NESTED_DEFAULTS = {
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "d_model": 1280,
    "downsample_hidden_size": 480,
    "n_window": 100,
    "n_window_infer": 400,
    "activation_function": "gelu",
}
_FLAT_DEFAULTS = _NESTED_DEFAULTS | {
    "encoder_layers": 24,
    "encoder_attention_heads": 16,
    "d_model": 1024,
    "n_window": 50,
    "n_window_infer": 800,
}


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """Sizes of the audio encoder that its tensors do not tell."""

    num_mels: int
    num_layers: int
    num_heads: int
    width: int
    num_channels: int
    chunk_frames: int  # mel frames that go through the convolutions together: 1 s
    window_chunks: int  # chunks that attend to each other: 8 s

    @property
    def chunk_tokens(self) -> int:
        return _after_strides(self.chunk_frames)

    @property
    def window_tokens(self) -> int:
        return self.window_chunks * self.chunk_tokens

    @classmethod
    def from_json(cls, config: Json) -> "AudioConfig":
        """From a whole config.json, original (thinker_config) or -hf (flat)."""
        thinker, where, is_nested = thinker_of(config)
        defaults: Json = _NESTED_DEFAULTS if is_nested else _FLAT_DEFAULTS
        audio: Json = {**defaults, **need(thinker, "audio_config", where)}
        if audio["activation_function"] != "gelu":
            raise StartError(
                f"{where}audio_config.activation_function is"
                f" {audio['activation_function']!r}; only 'gelu' is known"
            )
        return cls(
            num_mels=audio["num_mel_bins"],
            num_layers=audio["encoder_layers"],
            num_heads=audio["encoder_attention_heads"],
            width=audio["d_model"],
            num_channels=audio["downsample_hidden_size"],
            chunk_frames=2 * audio["n_window"],
            window_chunks=audio["n_window_infer"] // (2 * audio["n_window"]),
        )


@dataclass(frozen=True, slots=True)
class AsrConfig:
    """All of a Qwen3-ASR or Qwen3-ForcedAligner config.json that inference needs."""

    audio: AudioConfig
    stack: StackConfig
    languages: tuple[str, ...]
    timestamp_step_ms: float  # aligner: what one class stands for
    is_tied: bool  # the head is the embedding

    @classmethod
    def from_json(cls, config: Json) -> "AsrConfig":
        thinker, where, _ = thinker_of(config)
        text = need(thinker, "text_config", where)
        return cls(
            audio=AudioConfig.from_json(config),
            stack=StackConfig.from_json(text, f"{where}text_config."),
            languages=tuple(config.get("support_languages") or ASR_LANGUAGES),
            timestamp_step_ms=float(config.get("timestamp_segment_time", 80)),
            is_tied=text.get("tie_word_embeddings", True),
        )


def thinker_of(config: Json) -> tuple[Json, str, bool]:
    """The part of a config.json with the model in it, its name, and whether it is nested."""
    if "thinker_config" in config:
        return config["thinker_config"], "thinker_config.", True
    return config, "", False


def original_name(stored: str) -> str:
    """A tensor's name in the original layout, from either layout's name."""
    for hf_prefix, prefix in _PREFIXES.items():
        if stored.startswith(hf_prefix):
            return prefix + stored.removeprefix(hf_prefix)
    return stored


_PREFIXES = {  # of the -hf layout → of the original one; the first that fits
    "model.language_model.": "thinker.model.",
    "model.multi_modal_projector.linear_1.": "thinker.audio_tower.proj1.",
    "model.multi_modal_projector.linear_2.": "thinker.audio_tower.proj2.",
    "model.": "thinker.",
    "lm_head.": "thinker.lm_head.",
    "score.": "thinker.lm_head.",  # the aligner's head
}


def num_audio_tokens(num_frames: int, chunk_frames: int = 100) -> int:
    """How many tokens the encoder makes of a clip's mel frames: 13 for each full second."""
    full, rest = divmod(num_frames, chunk_frames)
    return full * _after_strides(chunk_frames) + _after_strides(rest)


def _after_strides(length: int) -> int:
    for _ in range(_STRIDES):
        length = -(-length // 2)
    return length


class EncoderLayer(nn.Module):
    """One pre-norm block with bidirectional attention; q, k and v are one product."""

    def __init__(self, num_heads: int, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        attention = prefix + "self_attn."
        self.qkv = load_linear(weights, [attention + f"{name}_proj" for name in "qkv"])
        self.out = load_linear(weights, attention + "out_proj")
        self.fc1 = load_linear(weights, prefix + "fc1")
        self.fc2 = load_linear(weights, prefix + "fc2")
        self.attention_norm = LayerNorm(weights, prefix + "self_attn_layer_norm")
        self.final_norm = LayerNorm(weights, prefix + "final_layer_norm")

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """x [R, D] → [R, D]."""
        qkv = self.qkv(self.attention_norm(x)).view(x.shape[0], 3, self.num_heads, -1)
        x = x + self.out(windows.attend(qkv))
        x = x + self.fc2(functional.gelu(self.fc1(self.final_norm(x))))
        if x.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000  # the official guard against overflow
            x = x.clamp(-limit, limit)
        return x


class LayerNorm(nn.Module):
    """A frozen LayerNorm; its epsilon is PyTorch's default, as in the official package."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weights: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.register_buffer("weight", weights[f"{name}.weight"])
        self.register_buffer("bias", weights[f"{name}.bias"])

    def forward(self, x: Tensor) -> Tensor:
        """x [R, D] → [R, D]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias)


class ConvStem(nn.Module):
    """Three convolutions with stride 2 over one-second chunks, and a position in the second."""

    positions: Tensor

    def __init__(self, config: AudioConfig, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.config = config
        for at in range(1, _STRIDES + 1):
            weight = weights[f"{prefix}conv2d{at}.weight"]
            self.register_buffer(
                f"weight{at}", weight.contiguous(memory_format=torch.channels_last)
            )
            self.register_buffer(f"bias{at}", weights[f"{prefix}conv2d{at}.bias"])
        by_channel = weights[prefix + "conv_out.weight"].unflatten(1, (config.num_channels, -1))
        # [D, K, M'] → [D, M', K]: the convolutions run with their channels last.
        self.out = Linear(by_channel.transpose(1, 2).flatten(1).contiguous())
        table = _sinusoids(config.chunk_tokens, config.width).to(by_channel)
        self.register_buffer("positions", table)

    def forward(self, chunks: Tensor, num_valid: Tensor | None) -> Tensor:
        """chunks [C, M, frames] → [C, tokens of a chunk, D].

        num_valid int64 [C]: frames that the convolutions may see; behind them is nothing, not
        even the bias of the layer before. None: all.
        """
        step = _CPU_CHUNKS if chunks.device.type == "cpu" else _GPU_CHUNKS
        chunks = chunks[:, None].contiguous(memory_format=torch.channels_last)
        valid = repeat(None) if num_valid is None else num_valid.split(step)
        parts = [self._convolve(*part) for part in zip(chunks.split(step), valid, strict=False)]
        return self.out(torch.cat(parts)) + self.positions

    def _convolve(self, x: Tensor, num_valid: Tensor | None) -> Tensor:
        """x [C, 1, M, frames] → [C, tokens, M' * K]."""
        for at in range(1, _STRIDES + 1):
            weight, bias = self.get_buffer(f"weight{at}"), self.get_buffer(f"bias{at}")
            x = functional.gelu(functional.conv2d(x, weight, bias, stride=2, padding=1))
            if num_valid is not None:
                num_valid = (num_valid + 1) // 2
                columns = torch.arange(x.shape[-1], device=x.device)
                x = x * (columns < num_valid[:, None])[:, None, None]
        return x.permute(0, 3, 2, 1).flatten(2)


def _sinusoids(length: int, width: int) -> Tensor:
    """Whisper's table, float32 [length, width]: sines, then cosines, of slowing clocks."""
    slowing = math.log(10_000) / (width // 2 - 1)
    rates = torch.exp(-slowing * torch.arange(width // 2).float())
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class AudioEncoder(nn.Module):
    """Log-mel of any number of clips → the audio tokens' embeddings for the decoder."""

    def __init__(
        self,
        config: AudioConfig,
        weights: Mapping[str, Tensor],
        prefix: str = "thinker.audio_tower.",
    ) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvStem(config, weights, prefix)
        self.layers = nn.ModuleList(
            EncoderLayer(config.num_heads, weights, f"{prefix}layers.{at}.")
            for at in range(config.num_layers)
        )
        self.norm = LayerNorm(weights, prefix + "ln_post")
        self.proj1 = load_linear(weights, prefix + "proj1")
        self.proj2 = load_linear(weights, prefix + "proj2")

    def encode(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Clips [M, T] of any lengths T ≥ 1 → [N, H] each, N = num_audio_tokens(T).

        Each clip's embeddings are those of the clip alone.
        """
        chunks, num_valid = self._cut(mels)
        tokens = self.stem(chunks, num_valid).flatten(0, 1)
        spans = window_spans(
            [num_audio_tokens(mel.shape[1], self.config.chunk_frames) for mel in mels],
            chunk_tokens=self.config.chunk_tokens,
            window_tokens=self.config.window_tokens,
        )
        # On a CPU every padded row costs time; elsewhere few and equal shapes cost less.
        pad_to = None if tokens.device.type == "cpu" else self.config.window_tokens
        rows, windows = arrange_windows(spans, pad_to=pad_to, device=tokens.device)
        embeddings = self(tokens[rows], windows)
        clips: list[list[Tensor]] = [[] for _ in mels]
        for span, part in zip(spans, embeddings.split(windows.lengths), strict=True):
            clips[span.clip].append(part[: span.length])
        return [torch.cat(parts) for parts in clips]

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Rows of whole windows [R, D] → [R, H]."""
        for layer in self.layers:
            x = layer(x, windows)
        return self.proj2(functional.gelu(self.proj1(self.norm(x))))

    def _cut(self, mels: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Mels → chunks [C, M, frames] and the frames of each that the convolutions may see.

        The tail of a clip is padded to a whole chunk and seen as sound; only a clip shorter than
        one chunk is seen as short as it is (the official package's rule).
        """
        frames = self.config.chunk_frames
        chunks, num_valid = [], []
        for mel in mels:
            num_chunks = -(-mel.shape[1] // frames)
            padded = functional.pad(mel, (0, num_chunks * frames - mel.shape[1]))
            chunks.append(padded.unflatten(1, (num_chunks, frames)).transpose(0, 1))
            num_valid += [min(mel.shape[1], frames)] * num_chunks
        packed = torch.cat(chunks).to(self.stem.positions.dtype)
        if min(num_valid) == frames:
            return packed, None
        return packed, torch.tensor(num_valid, device=packed.device)
