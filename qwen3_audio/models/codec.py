"""Codes → sound at 24 kHz, in pieces of any length that join without a seam.

Letters in shapes: S slots, B rows of a call, T frames of a call (the same for all rows),
Q code groups, C channels. Source of the architecture: the Qwen3-TTS-Tokenizer-12Hz release.
Everything a piece needs from the past is state in slots: left contexts of the convolutions,
keys and values of the last `window - 1` frames, and the number of frames so far. Nothing depends
on the values of tensors, so a call with fixed B and T can be captured in a CUDA graph.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from qwen3_audio.models.codec_config import DecoderConfig
from qwen3_audio.models.codec_layers import Contexts, load_conv
from qwen3_audio.models.codec_transformer import CodecTransformer, visible_frames
from qwen3_audio.models.codec_vocoder import Vocoder
from qwen3_audio.models.configs import Json
from qwen3_audio.models.qwen3 import Rope

_MIN_USAGE = 1e-5
_PIECE_FRAMES = 25  # through the vocoder at once: more costs memory and cache, and gains nothing


@dataclass(frozen=True, slots=True)
class CodecSnapshot:
    """The state of one slot at one moment; fits the decoder that made it."""

    tensors: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class CodecState:
    """The past of every slot. All zeros is the beginning of a sound."""

    position: Tensor  # int64 [S], frames so far
    frame_contexts: Tensor  # [S, rows of the convolution before the transformer]
    keys_values: Tensor  # [S, 2 * layers, window - 1, key heads * head size]
    sound_contexts: Tensor  # [S, rows of all convolutions after the transformer]

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.position, self.frame_contexts, self.keys_values, self.sound_contexts)

    def reset(self, slots: Tensor) -> None:
        """Start new sounds in these slots, int64 [B]."""
        for tensor in self.tensors():
            tensor.index_fill_(0, slots, 0)

    def snapshot(self, slot: int) -> CodecSnapshot:
        return CodecSnapshot(tuple(tensor[slot].clone() for tensor in self.tensors()))

    def restore(self, slot: int, snapshot: CodecSnapshot) -> None:
        for tensor, saved in zip(self.tensors(), snapshot.tensors, strict=True):
            tensor[slot] = saved


class CodecDecoder(nn.Module):
    """The decoder half of the codec. Tables, rotation and last convolution stay in float32."""

    table: Tensor  # float32 [Q * codebook size, C]
    table_starts: Tensor  # int64 [Q]

    def __init__(
        self, config: DecoderConfig, weights: Mapping[str, Tensor], *, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        tables = _load_tables(weights, config.num_quantizers)
        self.register_buffer("table", tables.flatten(0, 1))
        starts = torch.arange(config.num_quantizers, device=tables.device) * tables.shape[1]
        self.register_buffer("table_starts", starts)
        self.pre_conv = load_conv(weights, "decoder.pre_conv.conv").to(dtype)
        self.transformer = CodecTransformer(config, weights, "decoder.pre_transformer").to(dtype)
        self.rope = Rope(config.head_dim, config.rope_theta, dtype).to(tables.device)
        self.vocoder = Vocoder(config, weights, dtype=dtype)

    @classmethod
    def from_weights(
        cls, config: Json, weights: Mapping[str, Tensor], *, dtype: torch.dtype | None = None
    ) -> Self:
        """From speech_tokenizer's config.json and tensors by their official names.

        Computes in `dtype`, or in that of the weights; float32 weights give the best tables.
        """
        dtype = dtype or weights["decoder.pre_conv.conv.weight"].dtype
        return cls(DecoderConfig.from_json(config), weights, dtype=dtype)

    @property
    def samples_per_frame(self) -> int:
        return self.config.samples_per_frame

    def new_state(self, num_slots: int) -> CodecState:
        """Slots that all stand at the beginning of a sound."""
        c, device = self.config, self.table.device
        num_past, num_keys = c.window - 1, c.num_kv_heads * c.head_dim
        return CodecState(
            position=torch.zeros(num_slots, dtype=torch.int64, device=device),
            frame_contexts=self._zeros(num_slots, self.pre_conv.context_size),
            keys_values=self._zeros(num_slots, 2 * c.num_layers, num_past, num_keys),
            sound_contexts=self._zeros(num_slots, self.vocoder.context_size),
        )

    def reset(self, state: CodecState, slots: Tensor) -> None:
        """Start new sounds in these slots, int64 [B]."""
        state.reset(slots)

    def decode(self, codes: Tensor, state: CodecState, slots: Tensor) -> Tensor:
        """codes int64 [B, T, Q], slots int64 [B], all different → float32 samples [B, T * 1920].

        Continues the sound of each slot. Samples lie in [-1, 1].
        """
        return self._sound(self._latents(codes, state, slots), state, slots)

    def warm(self, codes: Tensor, state: CodecState, slots: Tensor) -> None:
        """Like `decode` for sound that nobody hears: only the last frames reach the vocoder."""
        latents = self._latents(codes, state, slots)
        self._sound(latents[:, -self.vocoder.num_context_frames :], state, slots)

    def _latents(self, codes: Tensor, state: CodecState, slots: Tensor) -> Tensor:
        """codes [B, T, Q] → [B, T, C], moving the first half of the state on."""
        num_seqs, num_frames, num_groups = codes.shape
        rows = (codes + self.table_starts).view(-1, num_groups)
        x = functional.embedding_bag(rows, self.table, mode="sum")
        contexts = Contexts(state.frame_contexts.index_select(0, slots))
        x = self.pre_conv(x.to(self.dtype).view(num_seqs, num_frames, -1), contexts)
        position = state.position.index_select(0, slots)
        frames = position[:, None] + torch.arange(num_frames, device=position.device)
        past = state.keys_values.index_select(0, slots)
        mask = visible_frames(position, num_frames, past.shape[2])
        x, following = self.transformer(x, past, self.rope(frames.flatten()), mask)
        state.frame_contexts.index_copy_(0, slots, contexts.following())
        state.position.index_copy_(0, slots, position + num_frames)
        state.keys_values.index_copy_(0, slots, following)
        return x

    def _sound(self, latents: Tensor, state: CodecState, slots: Tensor) -> Tensor:
        """latents [B, T, C] → samples [B, T * 1920], moving the second half of the state on."""
        flat = state.sound_contexts.index_select(0, slots)
        pieces = []
        for piece in latents.split(_PIECE_FRAMES, 1):
            contexts = Contexts(flat)
            pieces.append(self.vocoder(piece, contexts))
            flat = contexts.following()
        state.sound_contexts.index_copy_(0, slots, flat)
        return torch.cat(pieces, 1).clamp(-1.0, 1.0)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.table.device)


def _load_tables(weights: Mapping[str, Tensor], num_quantizers: int) -> Tensor:
    """What each code of each group adds before the first convolution, float32 [Q, codes, C].

    The first group has a projection of its own, the others share one; both are linear, so they
    are multiplied into the tables.
    """
    tables = [_load_table(weights, "rvq_first", 0)]
    tables += [_load_table(weights, "rvq_rest", i) for i in range(num_quantizers - 1)]
    return torch.stack(tables)


def _load_table(weights: Mapping[str, Tensor], part: str, layer: int) -> Tensor:
    book = f"decoder.quantizer.{part}.vq.layers.{layer}._codebook"
    usage = weights[f"{book}.cluster_usage"].float().clamp(min=_MIN_USAGE)
    projection = weights[f"decoder.quantizer.{part}.output_proj.weight"].float()[:, :, 0]
    return (weights[f"{book}.embedding_sum"].float() / usage[:, None]) @ projection.t()
