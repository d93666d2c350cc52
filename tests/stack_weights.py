"""Random weights of a decoder stack, under the names that models.qwen3.Stack reads."""

import torch
from torch import Tensor

from qwen3_audio.models.configs import StackConfig


def draw_stack_weights(config: StackConfig, generator: torch.Generator) -> dict[str, Tensor]:
    """float32, all layers; the final norm is the caller's."""
    c = config
    shapes = {
        "self_attn.q_proj": (c.num_heads * c.head_dim, c.hidden_size),
        "self_attn.k_proj": (c.num_kv_heads * c.head_dim, c.hidden_size),
        "self_attn.v_proj": (c.num_kv_heads * c.head_dim, c.hidden_size),
        "self_attn.o_proj": (c.hidden_size, c.num_heads * c.head_dim),
        "mlp.gate_proj": (c.intermediate_size, c.hidden_size),
        "mlp.up_proj": (c.intermediate_size, c.hidden_size),
        "mlp.down_proj": (c.hidden_size, c.intermediate_size),
        "self_attn.q_norm": (c.head_dim,),
        "self_attn.k_norm": (c.head_dim,),
        "input_layernorm": (c.hidden_size,),
        "post_attention_layernorm": (c.hidden_size,),
    }
    return {
        f"layers.{i}.{name}.weight": torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        for i in range(c.num_layers)
        for name, shape in shapes.items()
    }
