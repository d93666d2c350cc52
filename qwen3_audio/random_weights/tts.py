"""Random Qwen3-TTS checkpoints, from two megabytes up to the published sizes."""

from pathlib import Path

import torch

from qwen3_audio.random_weights.codec_tensors import plan_codec_decoder, plan_codec_encoder
from qwen3_audio.random_weights.tensors import TensorPlan, write_json, write_tensors
from qwen3_audio.random_weights.tts_configs import (
    GENERATION_CONFIG,
    TTS_KINDS,
    TTS_PRESETS,
    Json,
    build_codec_config,
    build_tts_config,
    is_tiny,
)
from qwen3_audio.random_weights.tts_tensors import plan_speaker_encoder, plan_talker
from qwen3_audio.random_weights.vocabulary import (
    NUM_REAL_TOKENS,
    REAL_TTS_ADDED,
    REAL_VOCAB_SIZE,
    Vocabulary,
    build_tiny_tts_vocabulary,
    build_word_vocabulary,
    write_vocabulary,
)

# Beside the codec's config.json, the same in every checkpoint.
CODEC_REMOTE = {"framework": "pytorch", "task": "feature-extraction", "allow_remote": True}
CODEC_PREPROCESSOR = {
    "chunk_length_s": None,
    "feature_extractor_type": "EncodecFeatureExtractor",
    "feature_size": 1,
    "overlap": None,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 24000,
}

_CODEC_SEED_OFFSET = 1000  # codec and talker draw from streams of their own


def write_tts_checkpoint(
    folder: Path,
    kind: str = "custom_voice",
    *,
    preset: str = "tiny",
    seed: int = 0,
    dtype: str = "float32",
    eos_scale: float = 2.2,
    num_shards: int = 1,
    device: str = "cpu",
) -> None:
    """Write a complete checkpoint of one kind; the codec inside is float32 as published.

    `eos_scale` makes the end of speech more or less likely; at 2.2 tiny ones end by themselves.
    `device` draws the numbers, and each kind of device draws its own.
    """
    if kind not in TTS_KINDS or preset not in TTS_PRESETS:
        raise ValueError(f"no such checkpoint: {kind} {preset}; {TTS_KINDS} x {TTS_PRESETS}")
    folder.mkdir(parents=True, exist_ok=True)
    config = _write_settings(folder, kind, preset)
    plan = TensorPlan()
    plan_talker(plan, config["talker_config"], eos_scale=eos_scale)
    if "speaker_encoder_config" in config:
        plan_speaker_encoder(plan, config["speaker_encoder_config"])
    torch_dtype: torch.dtype = getattr(torch, dtype)
    write_tensors(folder, plan, seed=seed, dtype=torch_dtype, num_shards=num_shards, device=device)
    _write_codec(folder / "speech_tokenizer", preset, seed + _CODEC_SEED_OFFSET, device)


def _write_settings(folder: Path, kind: str, preset: str) -> Json:
    """Every file but the weights; returns config.json."""
    vocabulary = _build_vocabulary(preset)
    size = vocabulary.padded_size(32) if is_tiny(preset) else REAL_VOCAB_SIZE
    config = build_tts_config(kind, preset, text_vocab_size=size, added_ids=vocabulary.added_ids)
    others: Json = {"additional_special_tokens": vocabulary.added[1:]}
    write_vocabulary(folder, vocabulary, others)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    preprocessor = {
        "padding_side": "left",
        "padding_value": 0.0,
        "processor_class": "Qwen3TTSProcessor",
        "return_attention_mask": True,
    }
    write_json(folder / "preprocessor_config.json", preprocessor)
    return config


def _build_vocabulary(preset: str) -> Vocabulary:
    if is_tiny(preset):
        return build_tiny_tts_vocabulary()
    return build_word_vocabulary((), REAL_TTS_ADDED, num_tokens=NUM_REAL_TOKENS)


def _write_codec(folder: Path, preset: str, seed: int, device: str) -> None:
    folder.mkdir(exist_ok=True)
    config = build_codec_config(preset)
    write_json(folder / "config.json", config)
    write_json(folder / "configuration.json", CODEC_REMOTE)
    write_json(folder / "preprocessor_config.json", CODEC_PREPROCESSOR)
    plan = TensorPlan()
    plan_codec_decoder(plan, config["decoder_config"])
    plan_codec_encoder(plan, config["encoder_config"])
    write_tensors(folder, plan, seed=seed, dtype=torch.float32, device=device)
