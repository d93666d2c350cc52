"""A Qwen3 stack as the steps of a captured graph: static shapes, no look at what tensors hold.

Letters in shapes: B sequences, D hidden size, N pages of a sequence.
"""

from torch import Tensor

from qwen3_audio.kernels.fused.layers import FusedLayers
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import HeadNorms, LayerCache, Places, RopeTable
from qwen3_audio.models.qwen3 import Stack


class FusedStack:
    """Shares its weights with a torch Stack and its cache with a pool of pages."""

    def __init__(
        self, ops: FusedOps, stack: Stack, k: Tensor, v: Tensor, *, max_positions: int
    ) -> None:
        """k and v [pages, layers, K, P, E]: the pool's own tensors, in the activations' dtype."""
        self.ops, self.stack = ops, stack
        self.rope = RopeTable.build(stack.rope, max_positions)
        self._layers = FusedLayers(ops, stack)
        self._caches = [LayerCache(k[:, i], v[:, i]) for i in range(stack.config.num_layers)]

    def step(self, rows: Tensor, positions: Tensor, pages: Tensor, lengths: Tensor) -> Tensor:
        """One row a sequence: rows [B, D], positions int64 [B], pages int64 [B, N], lengths int64
        [B] (positions + 1; 0: padding, see Places) → hidden states after the final norm [B, D].
        """
        places = Places(positions, lengths, pages)

        def attention(layer: int, qkv: Tensor, norms: HeadNorms) -> Tensor:
            cache = self._caches[layer]
            q, _, _ = self.ops.place(qkv, norms, self.rope, cache, places)
            return self.ops.attend(q, cache, places)

        return self._layers.run(rows, attention)
