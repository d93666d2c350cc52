"""The forward pass for training: Qwen3-ASR over weights by their official names, in batches.

All clips of a batch have the same number of mel frames, so nothing needs a mask. Letters in
shapes: B clips, T mel frames, N audio tokens, L positions of the decoder, H heads, D widths.
"""

import math
from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from qwen3_audio.random_weights.asr_configs import AsrSize
from training.asr.weights import DECODER, EMBEDDING, TOWER

Weights = Mapping[str, Tensor]
CHUNK_FRAMES = 100  # mel frames that go through the convolutions together: 1 s
CHUNK_TOKENS = 13
WINDOW_TOKENS = 104  # tokens that attend to each other in the tower: 8 s
ROPE_THETA = 1e6
EPSILON = 1e-6


def num_tokens(num_frames: int) -> int:
    """Audio tokens of a clip: 13 for each full second, a third of a stride for the rest."""
    full, rest = divmod(num_frames, CHUNK_FRAMES)
    for _ in range(3):
        rest = -(-rest // 2)
    return full * CHUNK_TOKENS + rest


def encode(weights: Weights, size: AsrSize, mels: Tensor) -> Tensor:
    """Log-mels [B, T, 128] → embeddings [B, N, D] for the decoder."""
    x = _stem(weights, mels)
    span = x.shape[1]
    hidden = None
    if span > WINDOW_TOKENS:
        window = torch.arange(span, device=x.device) // WINDOW_TOKENS
        hidden = torch.zeros(span, span, dtype=x.dtype, device=x.device)
        hidden = hidden.masked_fill(window[:, None] != window, -math.inf)
    for number in range(size.encoder.num_layers):
        layer = f"{TOWER}layers.{number}."
        x = x + _attend_both_ways(weights, layer, size.encoder.num_heads, x, hidden)
        y = _layer_norm(weights, layer + "final_layer_norm", x)
        x = x + _linear(weights, layer + "fc2", F.gelu(_linear(weights, layer + "fc1", y)))
    x = _layer_norm(weights, TOWER + "ln_post", x)
    return _linear(weights, TOWER + "proj2", F.gelu(_linear(weights, TOWER + "proj1", x)))


def _stem(weights: Weights, mels: Tensor) -> Tensor:
    """Chunks of a second through three convolutions with stride 2, and positions within them."""
    num_clips, num_frames, num_mels = mels.shape
    num_chunks = -(-num_frames // CHUNK_FRAMES)
    if num_chunks > 1:
        mels = F.pad(mels, (0, 0, 0, num_chunks * CHUNK_FRAMES - num_frames))
    x = mels.reshape(num_clips * num_chunks, 1, -1, num_mels).transpose(2, 3)
    x = x.contiguous(memory_format=torch.channels_last)
    for number in (1, 2, 3):
        name = f"{TOWER}conv2d{number}."
        x = F.gelu(F.conv2d(x, weights[name + "weight"], weights[name + "bias"], 2, 1))
    x = x.permute(0, 3, 1, 2).flatten(2)
    x = F.linear(x, weights[TOWER + "conv_out.weight"])
    x = x + _sinusoids(x.shape[1], x.shape[2]).to(x)
    return x.reshape(num_clips, -1, x.shape[2])[:, : num_tokens(num_frames)]


def _attend_both_ways(
    weights: Weights, layer: str, num_heads: int, x: Tensor, hidden: Tensor | None
) -> Tensor:
    num_clips, span, width = x.shape
    y = _layer_norm(weights, layer + "self_attn_layer_norm", x)
    names = [f"{layer}self_attn.{part}_proj." for part in "qkv"]
    matrix = torch.cat([weights[name + "weight"] for name in names])
    bias = torch.cat([weights[name + "bias"] for name in names])
    qkv = F.linear(y, matrix, bias).view(num_clips, span, 3, num_heads, width // num_heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y = _attend(q, k, v, hidden).transpose(1, 2).reshape(num_clips, span, width)
    return _linear(weights, layer + "self_attn.out_proj", y)


def _attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
    """[B, H, L, D] each. On CPUs the fused kernel's backward pass is slower than products."""
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if hidden is not None:
        scores = scores + hidden
    return torch.matmul(scores.softmax(-1), v)


def decode(weights: Weights, size: AsrSize, x: Tensor, middle: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings [B, L, D] → what the head reads, and the stream behind layer `middle`."""
    span = x.shape[1]
    cos, sin = _rotation(span, size.decoder.head_dim)
    turn = (cos.to(x), sin.to(x))
    future = torch.full((span, span), -math.inf, dtype=x.dtype, device=x.device).triu(1)
    kept = x
    for number in range(size.decoder.num_layers):
        layer = f"{DECODER}layers.{number}."
        y = _rms_norm(x, weights[layer + "input_layernorm.weight"])
        x = x + _attend_back(weights, size, layer, y, turn, future)
        y = _rms_norm(x, weights[layer + "post_attention_layernorm.weight"])
        gate = F.linear(y, weights[layer + "mlp.gate_proj.weight"])
        up = F.linear(y, weights[layer + "mlp.up_proj.weight"])
        x = x + F.linear(F.silu(gate) * up, weights[layer + "mlp.down_proj.weight"])
        if number + 1 == middle:
            kept = x
    return _rms_norm(x, weights[DECODER + "norm.weight"]), kept


def _attend_back(
    weights: Weights,
    size: AsrSize,
    layer: str,
    y: Tensor,
    turn: tuple[Tensor, Tensor],
    future: Tensor,
) -> Tensor:
    num_clips, span, _ = y.shape
    attention = layer + "self_attn."
    parts = []
    for part, num_heads in (
        ("q", size.decoder.num_heads),
        ("k", size.decoder.num_kv_heads),
        ("v", size.decoder.num_kv_heads),
    ):
        rows = F.linear(y, weights[f"{attention}{part}_proj.weight"])
        rows = rows.view(num_clips, span, num_heads, size.decoder.head_dim)
        if part != "v":
            rows = _rotate(_rms_norm(rows, weights[f"{attention}{part}_norm.weight"]), turn)
        rows = rows.transpose(1, 2)
        parts.append(rows.repeat_interleave(size.decoder.num_heads // num_heads, 1))
    q, k, v = parts
    mixed = _attend(q, k, v, future).transpose(1, 2).reshape(num_clips, span, -1)
    return F.linear(mixed, weights[attention + "o_proj.weight"])


def _rotate(rows: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on [B, L, H, D]."""
    cos, sin = turn
    one, two = rows.chunk(2, -1)
    return rows * cos[:, None] + torch.cat([-two, one], -1) * sin[:, None]


def logits(weights: Weights, hidden: Tensor) -> Tensor:
    return F.linear(hidden, weights[EMBEDDING]).float()


def embed(weights: Weights, ids: Tensor) -> Tensor:
    return F.embedding(ids, weights[EMBEDDING])


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])


def _layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"])


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, EPSILON)


@cache
def _sinusoids(length: int, width: int) -> Tensor:
    slowing = math.log(10_000) / (width // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-slowing * torch.arange(width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@cache
def _rotation(length: int, head_dim: int) -> tuple[Tensor, Tensor]:
    slowing = ROPE_THETA ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length), slowing).repeat(1, 2)
    return angles.cos(), angles.sin()
