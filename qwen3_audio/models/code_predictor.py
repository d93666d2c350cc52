"""The code predictor: the remaining codes of a frame, one small decoder pass each.

Letters in shapes: B sequences, Q code groups, D talker width, P predictor width, V codebook size.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.models.linear import load_linear
from qwen3_audio.models.qwen3 import Stack, grouped_attention

PREFIX = "talker.code_predictor."

Sampler = Callable[[Tensor, int], Tensor]  # logits [B, V], code group → codes [B]


class FrameCache:
    """Keys and values inside one frame: positions are the same for all rows, so no pages."""

    def __init__(self, predictor: "CodePredictor", max_seqs: int) -> None:
        config = predictor.stack.config
        shape = (
            config.num_layers,
            max_seqs,
            predictor.num_groups + 1,
            config.num_kv_heads,
            config.head_dim,
        )
        reference = predictor.stack.norm
        self.k = torch.zeros(shape, dtype=reference.dtype, device=reference.device)
        self.v = torch.zeros_like(self.k)
        self.start = 0
        self.num_rows = 1
        self._prologue_mask = torch.tensor(
            [[[[True, False], [True, True]]]], device=reference.device
        )

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        num_seqs = q.shape[0] // self.num_rows
        end = self.start + self.num_rows
        keys, values = self.k[layer, :num_seqs], self.v[layer, :num_seqs]
        keys[:, self.start : end] = k.view(num_seqs, self.num_rows, *k.shape[1:])
        values[:, self.start : end] = v.view(num_seqs, self.num_rows, *v.shape[1:])
        return grouped_attention(
            q.reshape(num_seqs, self.num_rows, *q.shape[1:]),
            keys[:, :end],
            values[:, :end],
            self._prologue_mask if self.num_rows == 2 else None,
        )


class CodePredictor(nn.Module):
    """Codes 1 … Q-1 of a frame from the talker's hidden state and its first code."""

    embedding: Tensor
    offsets: Tensor

    def __init__(
        self, config: TalkerConfig, weights: Mapping[str, Tensor], activations: torch.dtype
    ) -> None:
        super().__init__()
        self.num_groups = config.num_code_groups
        self.codebook_size = config.predictor.vocab_size
        self.stack = Stack(config.predictor, weights, PREFIX + "model.", activations)
        tables = [
            weights[f"{PREFIX}model.codec_embedding.{i}.weight"] for i in range(self.num_groups - 1)
        ]
        self.register_buffer("embedding", torch.cat(tables))  # [(Q - 1) * V, D]
        self.heads = nn.ModuleList(
            load_linear(weights, f"{PREFIX}lm_head.{i}") for i in range(self.num_groups - 1)
        )
        projection = PREFIX + "small_to_mtp_projection"
        has_projection = f"{projection}.weight" in weights  # only where the widths differ
        self.projection = load_linear(weights, projection) if has_projection else nn.Identity()
        offsets = torch.arange(self.num_groups - 1) * self.codebook_size
        self.register_buffer("offsets", offsets.to(self.stack.norm.device))

    def embed(self, codes: Tensor) -> Tensor:
        """Sum over groups of the embeddings of codes 1 … Q-1: [N, Q - 1] → [N, D]."""
        return self.embedding[codes + self.offsets].to(self.stack.activations).sum(1)

    def embed_code(self, codes: Tensor, group: int) -> Tensor:
        """Codes of one group 1 … Q-1: [B] → [B, D]."""
        rows = self.embedding[codes + self.offsets[group - 1]]
        return rows.to(self.stack.activations)

    def forward(self, hidden: Tensor, first: Tensor, sample: Sampler, cache: FrameCache) -> Tensor:
        """hidden [B, D] of the talker, embedding of code 0 [B, D] → codes [B, Q - 1] int64.

        Pass 0 has two rows a sequence (hidden, code 0), each later pass the code before it.
        """
        num_seqs = hidden.shape[0]
        rows = torch.stack([hidden, first], 1).view(2 * num_seqs, -1)
        cache.start, cache.num_rows = 0, 2
        out = self._pass(rows, cache)[1::2]
        codes = []
        for group in range(1, self.num_groups):
            codes.append(sample(self.heads[group - 1](out).float(), group))
            if group < self.num_groups - 1:
                cache.start, cache.num_rows = group + 1, 1
                out = self._pass(self.embed_code(codes[-1], group), cache)
        return torch.stack(codes, 1)

    def _pass(self, rows: Tensor, cache: FrameCache) -> Tensor:
        num_seqs = rows.shape[0] // cache.num_rows
        positions = torch.arange(
            cache.start, cache.start + cache.num_rows, device=rows.device
        ).repeat(num_seqs)
        out: Tensor = self.stack(self.projection(rows), self.stack.rope(positions), cache)
        return out
