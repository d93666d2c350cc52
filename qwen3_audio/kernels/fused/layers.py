"""The layers of a stack, made of fused operations; who sees whom is the caller's business.

Letters in shapes: R rows, D hidden size, H query heads, K key/value heads, E head size.
"""

from collections.abc import Callable
from typing import cast

from torch import Tensor

from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import HeadNorms
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Layer, Stack

# layer, qkv [R, (H + 2 * K) * E], the norms of its heads → [R, H * E]
Attention = Callable[[int, Tensor, HeadNorms], Tensor]


class FusedLayers:
    """Runs a Stack's layers; nothing is copied, so other weights put into the Stack count too."""

    def __init__(self, ops: FusedOps, stack: Stack) -> None:
        self.ops, self.stack = ops, stack
        self.eps = stack.config.rms_norm_eps
        self._layers = [cast(Layer, layer) for layer in stack.layers]
        self._norms = [HeadNorms(layer.q_norm, layer.k_norm, self.eps) for layer in self._layers]

    def run(self, rows: Tensor, attention: Attention, head: Linear | None = None) -> Tensor:
        """rows [R, D] → hidden states after the final norm [R, D], or a head's logits of them."""
        if len(rows) <= self.ops.max_few_rows:
            return self._run_few(rows, attention, head)
        x, add = rows, None
        for i, layer in enumerate(self._layers):
            normed, x = self.ops.add_norm(x, add, layer.input_norm, self.eps)
            attended = attention(i, layer.qkv(normed), self._norms[i])
            normed, x = self.ops.add_norm(x, layer.out(attended), layer.mlp_norm, self.eps)
            add = layer.down(self.ops.silu_mul(layer.gate_up(normed)))
        hidden, _ = self.ops.add_norm(x, add, self.stack.norm, self.eps)
        return hidden if head is None else cast(Tensor, head(hidden))

    def _run_few(self, x: Tensor, attention: Attention, head: Linear | None) -> Tensor:
        """The norms and sums inside the products, which read the weights once for all rows."""
        ops, eps = self.ops, self.eps
        for i, layer in enumerate(self._layers):
            qkv = ops.product(x, layer.qkv, layer.input_norm, eps)
            x = ops.product_sum(attention(i, qkv, self._norms[i]), layer.out, x)
            acted = ops.product_act(x, layer.gate_up, layer.mlp_norm, eps)
            x = ops.product_sum(acted, layer.down, x)
        if head is None:
            return ops.add_norm(x, None, self.stack.norm, eps)[0]
        return ops.product(x, head, self.stack.norm, eps)
