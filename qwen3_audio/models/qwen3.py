"""The Qwen3 decoder stack: one implementation for talker, code predictor, ASR decoder and aligner.

Letters in shapes: R rows (tokens of any mix of sequences), D hidden size, H query heads,
K key/value heads, E head size. Rows are packed: who may see whom is the attention's business.
Rules: pre-norm RMSNorm with float32 statistics, RMSNorm per head on q and k before the rotation,
grouped-query attention, SwiGLU, no biases (Qwen3 technical report; the official packages agree).
The three position streams of M-RoPE are equal in speech models, so it is plain 1-D RoPE with
half-split rotation.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.configs import StackConfig
from qwen3_audio.models.linear import load_linear


class Attention(Protocol):
    """Stores the new keys and values of a layer and attends; owns cache and mask."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [R, H, E], k and v [R, K, E] → [R, H * E]."""
        ...


class Rope(nn.Module):
    """Cosines and sines of positions, computed in float32 and cast to the model's dtype."""

    inverse_frequencies: Tensor

    def __init__(self, head_dim: int, theta: float, dtype: torch.dtype) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.dtype = dtype
        self.register_buffer("inverse_frequencies", 1.0 / theta**exponents)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions int64 [R] → cos, sin [R, 1, E]."""
        angles = positions[:, None].float() * self.inverse_frequencies
        angles = torch.cat([angles, angles], -1)[:, None]
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [R, heads, E] by cos, sin [R, 1, E]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Layer(nn.Module):
    """One pre-norm block; q, k, v and gate, up are fused into one product each."""

    q_norm: Tensor
    k_norm: Tensor
    input_norm: Tensor
    mlp_norm: Tensor

    def __init__(
        self,
        config: StackConfig,
        weights: Mapping[str, Tensor],
        prefix: str,
        activations: torch.dtype,
    ) -> None:
        super().__init__()
        self.config = config
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        self.qkv = load_linear(weights, [attention + f"{name}_proj" for name in "qkv"])
        self.out = load_linear(weights, attention + "o_proj")
        self.gate_up = load_linear(weights, [mlp + "gate_proj", mlp + "up_proj"])
        self.down = load_linear(weights, mlp + "down_proj")
        norms = {
            "q_norm": attention + "q_norm",
            "k_norm": attention + "k_norm",
            "input_norm": prefix + "input_layernorm",
            "mlp_norm": prefix + "post_attention_layernorm",
        }
        for name, stored in norms.items():
            self.register_buffer(name, weights[f"{stored}.weight"].to(activations))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], layer: int, attention: Attention
    ) -> Tensor:
        """x [R, D] → [R, D]."""
        c = self.config
        qkv = self.qkv(self._norm(x, self.input_norm)).view(x.shape[0], -1, c.head_dim)
        q, k, v = qkv.split([c.num_heads, c.num_kv_heads, c.num_kv_heads], 1)
        q = rotate(self._norm(q, self.q_norm), *rope)
        k = rotate(self._norm(k, self.k_norm), *rope)
        x = x + self.out(attention(layer, q, k, v))
        gate, up = self.gate_up(self._norm(x, self.mlp_norm)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)


class Stack(nn.Module):
    """All layers and the final norm."""

    norm: Tensor

    def __init__(
        self,
        config: StackConfig,
        weights: Mapping[str, Tensor],
        prefix: str,
        activations: torch.dtype,
    ) -> None:
        """`prefix` is the tensor name up to and including 'model.'.

        `activations` is the dtype of everything between the products; the weights may be smaller.
        """
        super().__init__()
        self.config = config
        self.activations = activations
        self.layers = nn.ModuleList(
            Layer(config, weights, f"{prefix}layers.{i}.", activations)
            for i in range(config.num_layers)
        )
        self.register_buffer("norm", weights[prefix + "norm.weight"].to(activations))
        self.rope = Rope(config.head_dim, config.rope_theta, activations).to(self.norm.device)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attention: Attention) -> Tensor:
        """x [R, D] and `self.rope(positions)` → hidden states after the final norm [R, D]."""
        for i, layer in enumerate(self.layers):
            x = layer(x, rope, i, attention)
        return functional.rms_norm(x, self.norm.shape, self.norm, self.config.rms_norm_eps)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention without repeating keys: the queries of a group become rows.

    q [B, T, H, E], k and v [B, C, K, E], mask bool broadcastable to [B, 1, T, C] (True: visible),
    or as it is added, repeated for the queries of a group [B, 1, G * T, C] → [B * T, H * E].
    """
    num_seqs, num_rows, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[2]
    group = num_heads // num_kv_heads
    q = q.view(num_seqs, num_rows, num_kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
    q = q.reshape(num_seqs, num_kv_heads, group * num_rows, head_dim)
    if mask is not None and mask.shape[-2] == num_rows > 1:
        mask = mask.repeat(1, 1, group, 1)
    out = functional.scaled_dot_product_attention(
        q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    out = out.view(num_seqs, num_kv_heads, group, num_rows, head_dim).permute(0, 3, 1, 2, 4)
    return out.reshape(num_seqs * num_rows, num_heads * head_dim)
