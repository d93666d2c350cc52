"""The code predictor as one piece of a captured graph: all passes of a frame, its sampler inside.

The passes are those of models.code_predictor.CodePredictor.forward.
Letters in shapes: B sequences, Q code groups, D talker width, P predictor width, V codebook size.
"""

from typing import cast

import torch
from torch import Tensor

from qwen3_audio.kernels.fused.layers import Attention, FusedLayers
from qwen3_audio.kernels.fused.ops import FusedOps
from qwen3_audio.kernels.fused.shapes import HeadNorms, LayerCache, RopeTable, SampleRows
from qwen3_audio.models.code_predictor import CodePredictor
from qwen3_audio.models.linear import Linear


class FusedPredictor:
    """Shares its weights with a CodePredictor; keeps the keys and values of one frame.

    Calls share that cache, so they must follow each other in one stream.
    """

    def __init__(self, ops: FusedOps, predictor: CodePredictor, max_seqs: int) -> None:
        self.ops, self.predictor = ops, predictor
        config, norm = predictor.stack.config, predictor.stack.norm
        num_positions = predictor.num_groups + 1
        shape = (
            max_seqs,
            config.num_layers,
            config.num_kv_heads,
            num_positions,
            config.head_dim,
        )
        k, v = (torch.zeros(shape, dtype=norm.dtype, device=norm.device) for _ in range(2))
        self._caches = [LayerCache(k[:, i], v[:, i]) for i in range(config.num_layers)]
        self._rope = RopeTable.build(predictor.stack.rope, num_positions)
        self._layers = FusedLayers(ops, predictor.stack)
        self._heads = [cast(Linear, head) for head in predictor.heads]
        self._tables = predictor.embedding.split(predictor.codebook_size)

    def __call__(self, hidden: Tensor, first: Tensor, keys: Tensor, settings: SampleRows) -> Tensor:
        """hidden [B, D] of the talker, embedding of code 0 [B, D], keys int64 [B, Q] of all groups
        (that of code 0 is not used) → codes 1 … Q - 1 int64 [B, Q - 1].
        """
        logits = self._begin(torch.stack([hidden, first], 1).flatten(0, 1))
        codes = [self.ops.choose_ids(logits, keys[:, 1], settings)]
        for group, head in enumerate(self._heads[1:], start=2):
            rows = self._project(self._embed(codes[-1], group - 1))
            logits = self._layers.run(rows, self._attention(group), head)
            codes.append(self.ops.choose_ids(logits, keys[:, group], settings))
        return torch.stack(codes, 1)

    def _begin(self, rows: Tensor) -> Tensor:
        """The first pass, two rows a sequence [2 * B, D] → logits of code 1 [B, V]."""
        hidden = self._layers.run(self._project(rows), self._attention(0))
        return cast(Tensor, self._heads[0](hidden[1::2]))

    def _attention(self, start: int) -> Attention:
        """Of rows whose positions begin at `start`."""

        def attention(layer: int, qkv: Tensor, norms: HeadNorms) -> Tensor:
            return self.ops.attend_frame(qkv, norms, self._rope, self._caches[layer], start)

        return attention

    def _embed(self, codes: Tensor, group: int) -> Tensor:
        return self._tables[group - 1][codes].to(self.predictor.stack.activations)

    def _project(self, rows: Tensor) -> Tensor:
        projection = self.predictor.projection
        if not isinstance(projection, Linear):  # as wide as the talker
            return rows
        if len(rows) <= self.ops.max_few_rows:
            return self.ops.product(rows, projection, None, 0.0)
        return cast(Tensor, projection(rows))
