"""speech_tokenizer/config.json → dataclasses, with the official classes' defaults."""

import math
from dataclasses import dataclass

from qwen3_audio.models.configs import Json, need


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What the codec decoder needs to know beyond the shapes of its tensors."""

    num_quantizers: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int  # frames that a frame sees, itself included
    rope_theta: float
    rms_norm_eps: float
    upsampling_ratios: tuple[int, ...]  # in the latent stage
    upsample_rates: tuple[int, ...]  # in the vocoder

    @classmethod
    def from_json(cls, config: Json) -> "DecoderConfig":
        """From the whole file."""
        decoder = need(config, "decoder_config", "speech_tokenizer ")
        num_heads = decoder.get("num_attention_heads", 16)
        return cls(
            num_quantizers=decoder.get("num_quantizers", 16),
            num_layers=decoder.get("num_hidden_layers", 8),
            num_heads=num_heads,
            num_kv_heads=decoder.get("num_key_value_heads", 16),
            head_dim=decoder.get("head_dim") or decoder.get("hidden_size", 1024) // num_heads,
            window=decoder.get("sliding_window", 72),
            rope_theta=float(decoder.get("rope_theta", 10_000)),
            rms_norm_eps=decoder.get("rms_norm_eps", 1e-5),
            upsampling_ratios=tuple(decoder.get("upsampling_ratios", (2, 2))),
            upsample_rates=tuple(decoder.get("upsample_rates", (8, 5, 4, 3))),
        )

    @property
    def samples_per_frame(self) -> int:
        return math.prod((*self.upsampling_ratios, *self.upsample_rates))


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """What the codec encoder (Mimi) needs to know beyond the shapes of its tensors."""

    num_quantizers: int  # that are kept, of all that are stored
    num_semantic: int
    num_residual_layers: int
    dilation_growth: int
    strides: tuple[int, ...]  # in their order of use
    num_layers: int
    head_dim: int
    rope_theta: float
    norm_eps: float
    samples_per_frame: int

    @classmethod
    def from_json(cls, config: Json) -> "EncoderConfig":
        """From the whole file."""
        encoder = need(config, "encoder_config", "speech_tokenizer ")
        num_heads = encoder.get("num_attention_heads", 8)
        return cls(
            num_quantizers=config.get("encoder_valid_num_quantizers", 16),
            num_semantic=encoder.get("num_semantic_quantizers", 1),
            num_residual_layers=encoder.get("num_residual_layers", 1),
            dilation_growth=encoder.get("dilation_growth_rate", 2),
            strides=tuple(reversed(encoder.get("upsampling_ratios") or (8, 6, 5, 4))),
            num_layers=encoder.get("num_hidden_layers", 8),
            head_dim=encoder.get("head_dim") or encoder.get("hidden_size", 512) // num_heads,
            rope_theta=float(encoder.get("rope_theta", 10_000)),
            norm_eps=encoder.get("norm_eps", 1e-5),
            samples_per_frame=config.get("encode_downsample_rate", 1920),
        )
