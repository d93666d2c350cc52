"""Random Qwen3-ASR and Qwen3-ForcedAligner checkpoints, from one megabyte up to the real sizes."""

import math
from functools import cache
from pathlib import Path

import torch
from torch import Generator, Tensor

from qwen3_audio.random_weights.asr_configs import (
    ASR_LANGUAGES,
    ASR_PRESETS,
    CHAT_TEMPLATE,
    NUM_CLASSES,
    NUM_MELS,
    PREPROCESSOR_CONFIG,
    AsrSize,
    DecoderSize,
    EncoderSize,
    build_asr_config,
    build_generation_config,
    build_tokenizer_config,
)
from qwen3_audio.random_weights.tensors import Draw, TensorPlan, write_json, write_tensors
from qwen3_audio.random_weights.vocabulary import (
    NUM_REAL_TOKENS,
    REAL_ASR_ADDED,
    REAL_VOCAB_SIZE,
    Vocabulary,
    build_word_vocabulary,
    write_vocabulary,
)

_WEIGHT_GAIN = 1.3
_BIAS_SCALE = 0.05

_HF_NAMES = (  # in this order: the later ones work on what the earlier ones left
    ("thinker.model.", "model.language_model."),
    ("thinker.lm_head.", "lm_head."),
    ("thinker.", "model."),
    ("model.audio_tower.proj1.", "model.multi_modal_projector.linear_1."),
    ("model.audio_tower.proj2.", "model.multi_modal_projector.linear_2."),
)


def write_asr_checkpoint(
    folder: Path,
    *,
    preset: str = "tiny-asr",
    vocab: str = "tiny",
    seed: int = 0,
    dtype: str = "float32",
    eos_scale: float = 0.0,
    qk_gain: float = 2.5,
    layout: str = "original",
    num_shards: int = 1,
    device: str = "cpu",
) -> None:
    """Write a complete checkpoint; `vocab="real"` gives tiny ones the published token ids.

    `eos_scale` 3 to 5 makes greedy decoding stop by itself, 0 leaves the end token alone;
    `qk_gain` sharpens attention, so that greedy output depends on the whole context.
    `device` draws the numbers, and each kind of device draws its own.
    """
    if preset not in ASR_PRESETS or layout not in ("original", "hf"):
        raise ValueError(f"no such checkpoint: {preset} {layout}; presets are {[*ASR_PRESETS]}")
    folder.mkdir(parents=True, exist_ok=True)
    size = ASR_PRESETS[preset]
    num_tokens = NUM_REAL_TOKENS if vocab == "real" or size.vocab_size else None
    vocabulary = build_word_vocabulary(ASR_LANGUAGES, REAL_ASR_ADDED, num_tokens=num_tokens)
    vocab_size = size.vocab_size or (REAL_VOCAB_SIZE if num_tokens else vocabulary.padded_size(64))
    _write_settings(folder, vocabulary)
    ids = vocabulary.added_ids
    config = build_asr_config(
        size, vocab_size=vocab_size, added_ids=ids, dtype=dtype, layout=layout
    )
    write_json(folder / "config.json", config)
    end_id = ids["<|im_end|>"] if eos_scale else None
    embedding = _embedding_draw(vocab_size, size.decoder.hidden, end_id, eos_scale)
    plan = plan_asr(size, vocab_size, embedding, qk_gain)
    if layout == "hf":
        plan.rename(lambda name: _hf_name(name, is_aligner=size.is_aligner))
    torch_dtype: torch.dtype = getattr(torch, dtype)
    write_tensors(folder, plan, seed=seed, dtype=torch_dtype, num_shards=num_shards, device=device)


def _write_settings(folder: Path, vocabulary: Vocabulary) -> None:
    write_vocabulary(folder, vocabulary, build_tokenizer_config(REAL_ASR_ADDED))
    generation = build_generation_config(vocabulary.added_ids)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)
    write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def plan_asr(size: AsrSize, vocab_size: int, embedding: Draw, qk_gain: float) -> TensorPlan:
    """Every tensor of the checkpoint in the original layout; `embedding` draws the tied table."""
    plan, decoder = TensorPlan(), size.decoder
    _plan_audio_tower(plan, size.encoder, decoder.hidden)
    plan.add("thinker.model.embed_tokens.weight", (vocab_size, decoder.hidden), embedding)
    for i in range(decoder.num_layers):
        _plan_decoder_layer(plan, f"thinker.model.layers.{i}", decoder, qk_gain)
    plan.norm("thinker.model.norm", decoder.hidden)
    if size.is_aligner:
        _plan_linear(plan, "thinker.lm_head", NUM_CLASSES, decoder.hidden, bias=False)
    else:  # the published files hold the tied table twice
        plan.add("thinker.lm_head.weight", (vocab_size, decoder.hidden), embedding)
    return plan


def _embedding_draw(num_rows: int, width: int, end_id: int | None, eos_scale: float) -> Draw:
    """Rows of length one, so that the tied head gives logits of the size of the hidden state."""

    @cache
    def draw(generator: Generator) -> Tensor:
        table = torch.randn(num_rows, width, generator=generator).mul_(1 / math.sqrt(width))
        if end_id is not None:
            table[end_id] *= eos_scale
        return table

    return draw


def _plan_audio_tower(plan: TensorPlan, size: EncoderSize, output: int) -> None:
    prefix, width = "thinker.audio_tower", size.width
    for i in (1, 2, 3):
        num_in = 1 if i == 1 else size.conv_channels
        shape = (size.conv_channels, num_in, 3, 3)
        gain = _WEIGHT_GAIN / math.sqrt(num_in * 9)
        plan.normal(f"{prefix}.conv2d{i}.weight", *shape, scale=gain)
        plan.normal(f"{prefix}.conv2d{i}.bias", size.conv_channels, scale=_BIAS_SCALE)
    num_in = size.conv_channels * (NUM_MELS // 8)
    _plan_linear(plan, f"{prefix}.conv_out", width, num_in, bias=False)
    for i in range(size.num_layers):
        layer = f"{prefix}.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _plan_linear(plan, f"{layer}.self_attn.{name}", width, width)
        plan.norm(f"{layer}.self_attn_layer_norm", width, bias=True)
        _plan_linear(plan, f"{layer}.fc1", size.inner, width)
        _plan_linear(plan, f"{layer}.fc2", width, size.inner)
        plan.norm(f"{layer}.final_layer_norm", width, bias=True)
    plan.norm(f"{prefix}.ln_post", width, bias=True)
    _plan_linear(plan, f"{prefix}.proj1", width, width)
    _plan_linear(plan, f"{prefix}.proj2", output, width)


def _plan_decoder_layer(plan: TensorPlan, layer: str, size: DecoderSize, qk_gain: float) -> None:
    hidden, head_dim = size.hidden, size.head_dim
    query, key = size.num_heads * head_dim, size.num_kv_heads * head_dim
    plan.norm(f"{layer}.input_layernorm", hidden)
    plan.norm(f"{layer}.post_attention_layernorm", hidden)
    _plan_linear(plan, f"{layer}.self_attn.q_proj", query, hidden, bias=False)
    _plan_linear(plan, f"{layer}.self_attn.k_proj", key, hidden, bias=False)
    _plan_linear(plan, f"{layer}.self_attn.v_proj", key, hidden, bias=False)
    _plan_linear(plan, f"{layer}.self_attn.o_proj", hidden, query, bias=False)
    for name in ("q_norm", "k_norm"):
        plan.add(
            f"{layer}.self_attn.{name}.weight",
            (head_dim,),
            lambda g: qk_gain * (1 + 0.1 * torch.randn(head_dim, generator=g)),
        )
    _plan_linear(plan, f"{layer}.mlp.gate_proj", size.inner, hidden, bias=False)
    _plan_linear(plan, f"{layer}.mlp.up_proj", size.inner, hidden, bias=False)
    _plan_linear(plan, f"{layer}.mlp.down_proj", hidden, size.inner, bias=False)


def _plan_linear(
    plan: TensorPlan, name: str, num_out: int, num_in: int, *, bias: bool = True
) -> None:
    gain = _WEIGHT_GAIN / math.sqrt(num_in)
    plan.normal(f"{name}.weight", num_out, num_in, scale=gain)
    if bias:
        plan.normal(f"{name}.bias", num_out, scale=_BIAS_SCALE)


def _hf_name(name: str, *, is_aligner: bool) -> str:
    for original, converted in _HF_NAMES:
        name = name.replace(original, converted)
    if is_aligner:
        name = name.replace("lm_head.", "score.")
    return name
