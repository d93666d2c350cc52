"""The talker: text and past frames → the first code of the next frame.

Letters in shapes: N rows, D talker width, Q code groups, V codec vocabulary.
Its input rows are sums of a text side and a codec side; prompts are laid out in engine/prompts.py.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.code_predictor import CodePredictor
from qwen3_audio.models.configs import TalkerConfig
from qwen3_audio.models.linear import load_linear
from qwen3_audio.models.qwen3 import Stack


class Talker(nn.Module):
    """The 28-layer stack with its embeddings, head and the code predictor."""

    codec_embedding: Tensor
    text_embedding: Tensor

    def __init__(
        self, config: TalkerConfig, weights: Mapping[str, Tensor], activations: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        self.stack = Stack(config.stack, weights, "talker.model.", activations)
        self.predictor = CodePredictor(config, weights, activations)
        self.head = load_linear(weights, "talker.codec_head")
        self.register_buffer("codec_embedding", weights["talker.model.codec_embedding.weight"])
        self.register_buffer("text_embedding", weights["talker.model.text_embedding.weight"])
        self.fc1 = load_linear(weights, "talker.text_projection.linear_fc1")
        self.fc2 = load_linear(weights, "talker.text_projection.linear_fc2")

    @property
    def device(self) -> torch.device:
        return self.codec_embedding.device

    def embed_text(self, ids: Tensor) -> Tensor:
        """Text ids [N] → projected embeddings [N, D]."""
        rows = self.text_embedding[ids].to(self.stack.activations)
        projected: Tensor = self.fc2(functional.silu(self.fc1(rows)))
        return projected

    def embed_codec(self, ids: Tensor) -> Tensor:
        """Ids of the codec vocabulary [N] → [N, D]."""
        return self.codec_embedding[ids].to(self.stack.activations)

    def embed_frames(self, codes: Tensor) -> Tensor:
        """Whole frames of codes [N, Q] → summed embeddings [N, D]."""
        return self.embed_codec(codes[:, 0]) + self.predictor.embed(codes[:, 1:])

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, D] → float32 logits of the first code [N, V]."""
        return self.head(hidden).float()
