"""The numbers of recognition and alignment checkpoints: two small ones and the published sizes.

No torch here, so a command line can list the presets without loading it.
"""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

NUM_MELS = 128
NUM_CLASSES = 5000  # of the aligner
SEGMENT_MS = 80  # what one class of the aligner stands for

_ASR_LANGUAGES_TEXT = (
    "Chinese English Cantonese Arabic German French Spanish Portuguese Indonesian Italian Korean "
    "Russian Thai Vietnamese Japanese Turkish Hindi Malay Dutch Swedish Danish Finnish Polish "
    "Czech Filipino Persian Greek Romanian Hungarian Macedonian"
)
ASR_LANGUAGES = _ASR_LANGUAGES_TEXT.split()
_ALIGNER_LANGUAGES_TEXT = (
    "Chinese Cantonese English German Spanish French Italian Portuguese Russian Korean Japanese"
)
ALIGNER_LANGUAGES = _ALIGNER_LANGUAGES_TEXT.split()


@dataclass(frozen=True, slots=True)
class EncoderSize:
    num_layers: int
    width: int
    num_heads: int
    inner: int
    conv_channels: int


@dataclass(frozen=True, slots=True)
class DecoderSize:
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inner: int


@dataclass(frozen=True, slots=True)
class AsrSize:
    encoder: EncoderSize
    decoder: DecoderSize
    vocab_size: int | None = None  # None: what the chosen vocabulary needs
    is_aligner: bool = False

    @property
    def max_positions(self) -> int:
        return 8192 if self.is_aligner else 65536


_TINY = (EncoderSize(2, 64, 4, 128, 16), DecoderSize(2, 64, 4, 2, 16, 128))
_LARGE_ENCODER = EncoderSize(24, 1024, 16, 4096, 480)
_SMALL_DECODER = DecoderSize(28, 1024, 16, 8, 128, 3072)

ASR_PRESETS = {
    "tiny-asr": AsrSize(*_TINY),
    "tiny-aligner": AsrSize(*_TINY, is_aligner=True),
    "asr-0.6b": AsrSize(EncoderSize(18, 896, 14, 3584, 480), _SMALL_DECODER, vocab_size=151936),
    "asr-1.7b": AsrSize(_LARGE_ENCODER, DecoderSize(28, 2048, 16, 8, 128, 6144), vocab_size=151936),
    "aligner-0.6b": AsrSize(_LARGE_ENCODER, _SMALL_DECODER, vocab_size=152064, is_aligner=True),
}

PREPROCESSOR_CONFIG: Json = {
    "chunk_length": 30,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": NUM_MELS,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "Qwen3ASRProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16000,
}

# The official processor only ever renders one system text and one user message with one sound.
CHAT_TEMPLATE = (
    "{%- set s = namespace(t='', a='') -%}{%- for m in messages -%}"
    "{%- if m.role == 'system' and m.content is string -%}{%- set s.t = s.t + m.content -%}"
    "{%- elif m.content is not string -%}{%- for c in m.content -%}{%- if c.type == 'audio' -%}"
    "{%- set s.a = s.a + '<|audio_start|><|audio_pad|><|audio_end|>' -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
    "{{- '<|im_start|>system\\n' + s.t + '<|im_end|>\\n<|im_start|>user\\n' + s.a"
    " + '<|im_end|>\\n' -}}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

_NAMED_TOKENS = {
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "audio_token": "<|audio_pad|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


def build_tokenizer_config(added: list[str]) -> Json:
    """What tokenizer_config.json says beyond the vocabulary itself."""
    special = ["<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>"]
    special += ["<tts_text_bos_single>", "<|audio_pad|>"]
    return {
        "additional_special_tokens": [*added[1:14], *special],
        "extra_special_tokens": _NAMED_TOKENS,
        "processor_class": "Qwen3ASRProcessor",
        **_NAMED_TOKENS,
    }


def build_generation_config(added_ids: dict[str, int]) -> Json:
    return {
        "_from_model_config": True,
        "eos_token_id": [added_ids["<|endoftext|>"], added_ids["<|im_end|>"]],
        "pad_token_id": added_ids["<|endoftext|>"],
        "do_sample": False,
    }


def build_asr_config(
    size: AsrSize, *, vocab_size: int, added_ids: dict[str, int], dtype: str, layout: str
) -> Json:
    """config.json in the original layout, or flat as in the `-hf` repositories."""
    audio, text = _audio_config(size), _text_config(size, vocab_size)
    ids = {
        "audio_token_id": added_ids["<|audio_pad|>"],
        "audio_start_token_id": added_ids["<|audio_start|>"],
        "audio_end_token_id": added_ids["<|audio_end|>"],
    }
    if layout == "hf":
        return _flat_config(size, audio, text) | ids | _aligner_keys(size, added_ids)
    thinker = {
        "model_type": "qwen3_forced_aligner" if size.is_aligner else "qwen3_asr",
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "audio_config": audio,
        "text_config": text,
        **ids,
        "dtype": dtype,
        "initializer_range": 0.02,
    }
    if size.is_aligner:
        thinker["classify_num"] = NUM_CLASSES
    return {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": ALIGNER_LANGUAGES if size.is_aligner else ASR_LANGUAGES,
        "thinker_config": thinker,
        "transformers_version": "4.57.6",
        **_aligner_keys(size, added_ids),
    }


def _aligner_keys(size: AsrSize, added_ids: dict[str, int]) -> Json:
    if not size.is_aligner:
        return {}
    return {
        "timestamp_token_id": added_ids["<timestamp>"],
        "timestamp_segment_time": SEGMENT_MS,
    }


def _flat_config(size: AsrSize, audio: Json, text: Json) -> Json:
    """The converted layout: other key names for the same numbers."""
    dropped = {
        "num_hidden_layers",
        "max_source_positions",
        "conv_chunksize",
        "tie_word_embeddings",
    }
    audio = {key: value for key, value in audio.items() if key not in dropped}
    theta = text.pop("rope_theta")
    del text["rope_scaling"]
    head = "TokenClassification" if size.is_aligner else "ConditionalGeneration"
    flat: Json = {
        "architectures": [f"Qwen3ASRFor{head}"],
        "model_type": "qwen3_asr",
        "audio_config": audio | {"model_type": "qwen3_asr_encoder"},
        "text_config": text | {"rope_parameters": {"rope_type": "default", "rope_theta": theta}},
        "tie_word_embeddings": not size.is_aligner,
    }
    return flat | ({"num_labels": NUM_CLASSES} if size.is_aligner else {})


def _audio_config(size: AsrSize) -> Json:
    encoder = size.encoder
    return {
        "model_type": "qwen3_asr_audio_encoder",
        "num_mel_bins": NUM_MELS,
        "encoder_layers": encoder.num_layers,
        "num_hidden_layers": encoder.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "encoder_ffn_dim": encoder.inner,
        "d_model": encoder.width,
        "dropout": 0,
        "attention_dropout": 0,
        "activation_function": "gelu",
        "activation_dropout": 0,
        "scale_embedding": False,
        "initializer_range": 0.02,
        "max_source_positions": 1500,
        "n_window": 50,
        "n_window_infer": 800,
        "conv_chunksize": 500,
        "downsample_hidden_size": encoder.conv_channels,
        "output_dim": size.decoder.hidden,
        "tie_word_embeddings": not size.is_aligner,
    }


def _text_config(size: AsrSize, vocab_size: int) -> Json:
    decoder = size.decoder
    return {
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.inner,
        "num_hidden_layers": decoder.num_layers,
        "num_attention_heads": decoder.num_heads,
        "num_key_value_heads": decoder.num_kv_heads,
        "head_dim": decoder.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": size.max_positions,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "tie_word_embeddings": not size.is_aligner,
        "rope_theta": 1000000,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_scaling": {
            "interleaved": True,
            "mrope_interleaved": True,
            "mrope_section": _mrope_section(decoder.head_dim),
            "rope_type": "default",
            "type": "default",
        },
    }


def _mrope_section(head_dim: int) -> list[int]:
    if head_dim == 128:
        return [24, 20, 20]
    half = head_dim // 2
    return [half - 2 * (half // 3), half // 3, half // 3]
