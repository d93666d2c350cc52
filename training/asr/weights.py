"""Pocket-ASR's sizes, and its weights by their official names, freshly drawn."""

import math

import torch
from torch import Generator, Tensor

from qwen3_audio.random_weights.asr import plan_asr
from qwen3_audio.random_weights.asr_configs import AsrSize, DecoderSize, EncoderSize

NUM_TOKENS = 2048  # rows of the embedding, which is the head too
POCKET = AsrSize(
    EncoderSize(num_layers=4, width=160, num_heads=5, inner=704, conv_channels=32),
    DecoderSize(num_layers=4, hidden=160, num_heads=4, num_kv_heads=2, head_dim=32, inner=448),
    vocab_size=NUM_TOKENS,
)

TOWER, DECODER = "thinker.audio_tower.", "thinker.model."
EMBEDDING = DECODER + "embed_tokens.weight"
_HEAD = "thinker.lm_head.weight"  # tied: not stored a second time
_EMBEDDING_SCALE = 0.06  # the official 0.02 is too small for so narrow a model
_GELU_GAIN = 1.4


def tensor_shapes(size: AsrSize = POCKET) -> dict[str, tuple[int, ...]]:
    """Official name → shape of every tensor that is trained and written."""
    plan = plan_asr(size, size.vocab_size or NUM_TOKENS, lambda _: torch.empty(0), 1.0)
    return {tensor.name: tensor.shape for tensor in plan.tensors if tensor.name != _HEAD}


def draw_weights(size: AsrSize = POCKET, *, seed: int = 0) -> dict[str, Tensor]:
    """float32 weights that keep activations near one; deep branches begin small."""
    generator = Generator().manual_seed(seed)
    shapes = tensor_shapes(size)
    return {name: _draw(name, shape, size, generator) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...], size: AsrSize, generator: Generator) -> Tensor:
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    scale = 1 / math.sqrt(math.prod(shape[1:]))
    if name == EMBEDDING:
        scale = _EMBEDDING_SCALE
    elif "conv2d" in name:
        scale *= _GELU_GAIN
    elif "o_proj" in name or "down_proj" in name:
        scale /= math.sqrt(2 * size.decoder.num_layers)
    elif "out_proj" in name or "fc2" in name:
        scale /= math.sqrt(2 * size.encoder.num_layers)
    return torch.randn(shape, generator=generator) * scale
