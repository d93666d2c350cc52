"""The numbers of speech checkpoints: two small ones and the two published sizes.

Plain dictionaries in the shape of the files on disk; no torch here, so a command line can list
the presets without loading it.
"""

from typing import Any

Json = dict[str, Any]

TTS_KINDS = ("base", "custom_voice", "voice_design")
TTS_PRESETS = ("tiny", "tiny-same-width", "0.6b", "1.7b")

_LANGUAGES = {
    "chinese": 2055,
    "english": 2050,
    "german": 2053,
    "italian": 2070,
    "portuguese": 2071,
    "spanish": 2054,
    "japanese": 2058,
    "korean": 2064,
    "french": 2061,
    "russian": 2069,
}
_DIALECTS = {"beijing_dialect": 2074, "sichuan_dialect": 2062}
_SPEAKERS = {
    "serena": 3066,
    "vivian": 3065,
    "uncle_fu": 3010,
    "ryan": 3061,
    "aiden": 2861,
    "ono_anna": 2873,
    "sohee": 2864,
    "eric": 2875,
    "dylan": 2878,
}
_SPEAKS_DIALECT = {"eric": "sichuan_dialect", "dylan": "beijing_dialect"}
_CODEC_IDS = {
    "codec_bos_id": 2149,
    "codec_eos_token_id": 2150,
    "codec_pad_id": 2148,
    "codec_think_id": 2154,
    "codec_nothink_id": 2155,
    "codec_think_bos_id": 2156,
    "codec_think_eos_id": 2157,
}
_QWEN3: Json = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
    "use_cache": True,
    "initializer_range": 0.02,
}
_TALKER_SIZES: dict[str, Json] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "text_hidden_size": 96,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "text_hidden_size": 2048,
    },
}
_TALKER_SIZES["tiny-same-width"] = _TALKER_SIZES["tiny"]
_TALKER_SIZES["0.6b"] = _TALKER_SIZES["1.7b"] | {"hidden_size": 1024, "intermediate_size": 3072}
_TINY_PREDICTOR: Json = {
    "hidden_size": 48,  # another width than the talker's, which needs a projection as in the 1.7B
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
_REAL_PREDICTOR: Json = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 5,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
_PREDICTOR_SIZES: dict[str, Json] = {
    "tiny": _TINY_PREDICTOR,
    "tiny-same-width": _TINY_PREDICTOR | {"hidden_size": 64},
    "0.6b": _REAL_PREDICTOR,
    "1.7b": _REAL_PREDICTOR,
}
_TINY_SPEAKER_ENCODER: Json = {
    "enc_dim": 64,
    "sample_rate": 24000,
    "mel_dim": 128,
    "enc_channels": [32, 32, 32, 32, 96],
    "enc_kernel_sizes": [5, 3, 3, 3, 1],
    "enc_dilations": [1, 2, 3, 4, 1],
    "enc_attention_channels": 16,
    "enc_res2net_scale": 8,
    "enc_se_channels": 16,
}
SPEAKER_ENCODER_DEFAULTS: Json = {
    "mel_dim": 128,
    "enc_channels": [512, 512, 512, 512, 1536],
    "enc_kernel_sizes": [5, 3, 3, 3, 1],
    "enc_dilations": [1, 2, 3, 4, 1],
    "enc_attention_channels": 128,
    "enc_res2net_scale": 8,
    "enc_se_channels": 128,
}
_TINY_DECODER: Json = {
    "latent_dim": 48,
    "codebook_dim": 32,
    "decoder_dim": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "sliding_window": 12,
    "vector_quantization_hidden_dimension": 32,
}
_REAL_DECODER: Json = {
    "latent_dim": 1024,
    "codebook_dim": 512,
    "decoder_dim": 1536,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "head_dim": 64,
    "num_attention_heads": 16,
    "num_hidden_layers": 8,
    "num_key_value_heads": 16,
    "sliding_window": 72,
    "vector_quantization_hidden_dimension": 512,
}
_DECODER: Json = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "codebook_size": 2048,
    "hidden_act": "silu",
    "layer_scale_initial_scale": 0.01,
    "max_position_embeddings": 8000,
    "num_quantizers": 16,
    "num_semantic_quantizers": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "semantic_codebook_size": 4096,
    "upsample_rates": [8, 5, 4, 3],
    "upsampling_ratios": [2, 2],
}
_TINY_ENCODER: Json = {
    "num_filters": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "num_quantizers": 18,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "upsample_groups": 32,
}
_REAL_ENCODER: Json = {
    "num_filters": 64,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_quantizers": 32,
    "codebook_dim": 256,
    "vector_quantization_hidden_dimension": 256,
    "upsample_groups": 512,
}
_ENCODER: Json = {
    "audio_channels": 1,
    "sampling_rate": 24000,
    "kernel_size": 7,
    "residual_kernel_size": 3,
    "last_kernel_size": 3,
    "num_residual_layers": 1,
    "dilation_growth_rate": 2,
    "compress": 2,
    "upsampling_ratios": [8, 6, 5, 4],
    "hidden_act": "gelu",
    "norm_eps": 1e-5,
    "layer_scale_initial_scale": 0.01,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8000,
    "sliding_window": 250,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "num_semantic_quantizers": 1,
    "codebook_size": 2048,
    "pad_mode": "constant",
    "use_causal_conv": True,
    "use_conv_shortcut": False,
    "normalize": False,
    "trim_right_ratio": 1.0,
    "use_streaming": False,
    "_frame_rate": 12.5,
}

GENERATION_CONFIG: Json = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.9,
    "top_p": 1.0,
    "top_k": 50,
    "subtalker_dosample": True,
    "subtalker_temperature": 0.9,
    "subtalker_top_p": 1.0,
    "subtalker_top_k": 50,
    "max_new_tokens": 8192,
}


def is_tiny(preset: str) -> bool:
    return preset.startswith("tiny")


def build_tts_config(
    kind: str, preset: str, *, text_vocab_size: int, added_ids: dict[str, int]
) -> Json:
    """config.json of a speech checkpoint."""
    config: Json = {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "tts_model_size": "0b6" if preset in ("tiny-same-width", "0.6b") else "1b7",
        "tts_model_type": kind,
        "im_start_token_id": added_ids["<|im_start|>"],
        "im_end_token_id": added_ids["<|im_end|>"],
        "tts_pad_token_id": added_ids["<tts_pad>"],
        "tts_bos_token_id": added_ids["<tts_text_bos>"],
        "tts_eos_token_id": added_ids["<tts_text_eod>"],
        "talker_config": _talker_config(kind, preset, text_vocab_size),
    }
    if kind == "base":
        config["speaker_encoder_config"] = _speaker_encoder_config(preset)
    return config


def build_codec_config(preset: str) -> Json:
    """speech_tokenizer/config.json."""
    tiny = is_tiny(preset)
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": 16,
        "input_sample_rate": 24000,
        "output_sample_rate": 24000,
        "decode_upsample_rate": 1920,
        "encode_downsample_rate": 1920,
        "decoder_config": _DECODER | (_TINY_DECODER if tiny else _REAL_DECODER),
        "encoder_config": _ENCODER | (_TINY_ENCODER if tiny else _REAL_ENCODER),
    }


def _talker_config(kind: str, preset: str, text_vocab_size: int) -> Json:
    speaks = kind == "custom_voice"
    return {
        **_QWEN3,
        **_CODEC_IDS,
        **_TALKER_SIZES[preset],
        "model_type": "qwen3_tts_talker",
        "max_position_embeddings": 32768,
        "rope_scaling": _rope_scaling(preset),
        "vocab_size": 3072,
        "text_vocab_size": text_vocab_size,
        "num_code_groups": 16,
        "position_id_per_seconds": 13,
        "codec_language_id": _LANGUAGES | (_DIALECTS if speaks else {}),
        "spk_id": _SPEAKERS if speaks else {},
        "spk_is_dialect": {s: _SPEAKS_DIALECT.get(s, False) for s in _SPEAKERS} if speaks else {},
        "code_predictor_config": _predictor_config(preset),
    }


def _predictor_config(preset: str) -> Json:
    sizes = _PREDICTOR_SIZES[preset]
    return {
        **_QWEN3,
        **sizes,
        "model_type": "qwen3_tts_talker_code_predictor",
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "layer_types": ["full_attention"] * sizes["num_hidden_layers"],
        "rope_scaling": None,
        "vocab_size": 2048,
        "num_code_groups": 16,
    }


def _rope_scaling(preset: str) -> Json:
    section = [6, 5, 5] if is_tiny(preset) else [24, 20, 20]
    return {
        "interleaved": True,
        "mrope_section": section,
        "rope_type": "default",
        "type": "default",
    }


def _speaker_encoder_config(preset: str) -> Json:
    """The published files give two numbers and leave the rest to the defaults."""
    if is_tiny(preset):
        return _TINY_SPEAKER_ENCODER
    return {"enc_dim": _TALKER_SIZES[preset]["hidden_size"], "sample_rate": 24000}
