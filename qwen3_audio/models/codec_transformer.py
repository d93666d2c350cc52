"""The codec decoder's transformer: each frame sees itself and the `window - 1` frames before it.

Letters in shapes: B rows of a batch, T frames of a call, D hidden size, P = window - 1 frames of
the past, L layers, H query heads, K key/value heads, E head size. Rules: pre-norm RMSNorm, no
norm on q and k, rotation by the absolute frame number, SwiGLU, a learnt scale on each branch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.codec_config import DecoderConfig
from qwen3_audio.models.linear import Linear, load_linear
from qwen3_audio.models.qwen3 import grouped_attention, rotate

Rotation = tuple[Tensor, Tensor]  # cosines and sines [B * T, 1, E]


class CodecTransformer(nn.Module):
    """All layers and the final norm, between two projections from and to the latent width."""

    norm: Tensor

    def __init__(self, config: DecoderConfig, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.config = config
        self.num_past = config.window - 1
        self.input_proj = load_linear(weights, f"{prefix}.input_proj")
        self.output_proj = load_linear(weights, f"{prefix}.output_proj")
        self.register_buffer("norm", weights[f"{prefix}.norm.weight"])
        self.layers = nn.ModuleList(
            CodecLayer(config, weights, f"{prefix}.layers.{i}") for i in range(config.num_layers)
        )

    def forward(
        self, x: Tensor, past: Tensor, rotation: Rotation, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, latent], past [B, 2L, P, K * E], mask from `visible_frames` → same shapes."""
        x = self.input_proj(x)
        following: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, keys, values = layer(x, past[:, 2 * i : 2 * i + 2], rotation, mask)
            following += [keys[:, keys.shape[1] - self.num_past :]]
            following += [values[:, values.shape[1] - self.num_past :]]
        x = functional.rms_norm(x, self.norm.shape, self.norm, self.config.rms_norm_eps)
        return self.output_proj(x), torch.stack(following, 1)


class CodecLayer(nn.Module):
    """One block. The scales of both branches are multiplied into their last weights at load."""

    input_norm: Tensor
    mlp_norm: Tensor

    def __init__(self, config: DecoderConfig, weights: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        self.config = config
        self.qkv = load_linear(weights, [f"{prefix}.self_attn.{name}_proj" for name in "qkv"])
        self.out = _load_scaled(weights, f"{prefix}.self_attn.o_proj", f"{prefix}.self_attn")
        self.gate_up = load_linear(weights, [f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj"])
        self.down = _load_scaled(weights, f"{prefix}.mlp.down_proj", f"{prefix}.mlp")
        self.register_buffer("input_norm", weights[f"{prefix}.input_layernorm.weight"])
        self.register_buffer("mlp_norm", weights[f"{prefix}.post_attention_layernorm.weight"])

    def forward(
        self, x: Tensor, past: Tensor, rotation: Rotation, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D], past [B, 2, P, K * E] → x, keys and values [B, P + T, K * E]."""
        c, (num_seqs, num_frames, _) = self.config, x.shape
        qkv = self.qkv(self._norm(x, self.input_norm)).view(
            -1, c.num_heads + 2 * c.num_kv_heads, c.head_dim
        )
        rotated = rotate(qkv[:, : c.num_heads + c.num_kv_heads], *rotation)
        q, k = rotated.split([c.num_heads, c.num_kv_heads], 1)
        v = qkv[:, c.num_heads + c.num_kv_heads :]
        keys = torch.cat([past[:, 0], k.reshape(num_seqs, num_frames, -1)], 1)
        values = torch.cat([past[:, 1], v.reshape(num_seqs, num_frames, -1)], 1)
        attended = grouped_attention(
            q.reshape(num_seqs, num_frames, c.num_heads, c.head_dim),
            keys.view(num_seqs, -1, c.num_kv_heads, c.head_dim),
            values.view(num_seqs, -1, c.num_kv_heads, c.head_dim),
            mask,
        )
        x = x + self.out(attended).view_as(x)
        gate, up = self.gate_up(self._norm(x, self.mlp_norm)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up), keys, values

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)


def visible_frames(position: Tensor, num_frames: int, num_past: int) -> Tensor:
    """Which keys each frame sees: position [B] → bool [B, 1, T, P + T].

    Key j lies P - j frames before the first frame of the call; before frame 0 there is nothing.
    """
    frames = torch.arange(num_frames, device=position.device)[:, None]
    keys = torch.arange(num_past + num_frames, device=position.device)
    in_window = (keys >= frames) & (keys <= frames + num_past)
    exists = keys >= num_past - position[:, None]
    return (in_window & exists[:, None])[:, None]


def _load_scaled(weights: Mapping[str, Tensor], name: str, branch: str) -> Linear:
    scale = weights[f"{branch}_layer_scale.scale"]
    linear = load_linear(weights, name)
    bias = None if linear.bias is None else linear.bias * scale
    return Linear(linear.weight * scale[:, None], bias)
