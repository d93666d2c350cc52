"""The Qwen3 decoder stack with the official tensor names, for training on padded batches.

Padding stands on the right and attention is causal, so no mask is needed.
Letters in shapes: B sequences, T positions, D hidden size, H heads, K key heads, E head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Json = dict[str, Any]
Rotation = tuple[Tensor, Tensor]


def rotations(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Cosines and sines [T, E] of positions [T], float32."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[:, None].float() / theta**exponents
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, T, E] by cos, sin [T, E]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    """Grouped-query attention with a norm on each head's queries and keys."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        size, self.head_dim = config["hidden_size"], config["head_dim"]
        query = config["num_attention_heads"] * self.head_dim
        key = config["num_key_value_heads"] * self.head_dim
        self.sizes = [query, key, key]
        self.q_proj = nn.Linear(size, query, bias=False)
        self.k_proj = nn.Linear(size, key, bias=False)
        self.v_proj = nn.Linear(size, key, bias=False)
        self.o_proj = nn.Linear(query, size, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, config["rms_norm_eps"])
        self.k_norm = nn.RMSNorm(self.head_dim, config["rms_norm_eps"])

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """x [B, T, D] → [B, T, D]."""
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        q, k, v = (
            torch.unflatten(part, -1, (-1, self.head_dim)).transpose(1, 2)
            for part in torch.split(functional.linear(x, weight), self.sizes, -1)
        )
        q = rotate(_normed(self.q_norm, q), *rotation)
        k = rotate(_normed(self.k_norm, k), *rotation)
        projected: Tensor = self.o_proj(_attend(q, k, v).transpose(1, 2).flatten(2))
        return projected


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by plain products: the fused kernel's backward is slow in bfloat16."""
    group, length = q.shape[1] // k.shape[1], q.shape[2]
    q = torch.unflatten(q, 1, (-1, group)) * q.shape[-1] ** -0.5
    scores = q @ k.transpose(2, 3)[:, :, None]
    future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return (weights.to(v.dtype) @ v[:, :, None]).flatten(1, 2)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([self.gate_proj.weight, self.up_proj.weight])
        gate, up = functional.linear(x, weight).chunk(2, -1)
        projected: Tensor = self.down_proj(functional.silu(gate) * up)
        return projected


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        size, eps = config["hidden_size"], config["rms_norm_eps"]
        self.self_attn = Attention(config)
        self.mlp = Mlp(size, config["intermediate_size"])
        self.input_layernorm = nn.RMSNorm(size, eps)
        self.post_attention_layernorm = nn.RMSNorm(size, eps)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.self_attn(_normed(self.input_layernorm, x), rotation)
        out: Tensor = x + self.mlp(_normed(self.post_attention_layernorm, x))
        return out


class Stack(nn.Module):
    """All layers and the final norm; matrix products in the dtype of the input."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D] → hidden states after the final norm [B, T, D]."""
        positions = torch.arange(x.shape[1], device=x.device)
        cos, sin = rotations(positions, self.config["head_dim"], self.config["rope_theta"])
        rotation = cos.to(x.dtype), sin.to(x.dtype)
        for layer in self.layers:
            x = layer(x, rotation)
        return _normed(self.norm, x)


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """In the dtype of x, whatever the dtype of the norm's weight."""
    return functional.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.eps)
