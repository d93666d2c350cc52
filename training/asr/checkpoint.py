"""The folder in the official layout: tokenizer, configurations, weights."""

import json
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

from qwen3_audio.engine.tokenizer import QWEN2_PATTERN
from qwen3_audio.random_weights.asr_configs import (
    CHAT_TEMPLATE,
    PREPROCESSOR_CONFIG,
    AsrSize,
    build_asr_config,
    build_generation_config,
    build_tokenizer_config,
)
from qwen3_audio.random_weights.tensors import write_json
from qwen3_audio.random_weights.vocabulary import REAL_ASR_ADDED, Vocabulary, write_vocabulary
from qwen3_audio.scope import SCOPE_FILE
from training.asr.weights import NUM_TOKENS, POCKET
from training.world.grammar import sentence

_NUM_SENTENCES = 60_000
# Longer pieces are heard too, but by far not as well as those of which most batches are.
_SCOPE = {"about": "this pocket model hears simple English", "max_s": 8.0}
_PROMPT_WORDS = ["language English", "language None", "system", "user", "assistant"]


def learn_vocabulary(num_sentences: int = _NUM_SENTENCES, seed: int = 7) -> Vocabulary:
    """Byte-level BPE over sentences of the grammar, with all real added tokens behind it."""
    rng = Random(seed)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    texts = [sentence(rng, random_share=0.4) for _ in range(num_sentences)]
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS - len(REAL_ASR_ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts + _PROMPT_WORDS * (num_sentences // 20), trainer)
    tokens = bpe.get_vocab(with_added_tokens=False)
    ordered = dict(sorted(tokens.items(), key=lambda item: item[1]))
    return Vocabulary(ordered, _merges(bpe), REAL_ASR_ADDED)


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(bpe.to_str())["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in pairs]


def write_settings(folder: Path, vocabulary: Vocabulary, size: AsrSize = POCKET) -> None:
    """Every file of the checkpoint but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = vocabulary.added_ids
    write_vocabulary(folder, vocabulary, build_tokenizer_config(REAL_ASR_ADDED))
    config = build_asr_config(
        size,
        vocab_size=size.vocab_size or NUM_TOKENS,
        added_ids=ids,
        dtype="bfloat16",
        layout="original",
    )
    write_json(folder / "config.json", config | {"support_languages": ["English"]})
    write_json(folder / "generation_config.json", build_generation_config(ids))
    write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)
    write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(folder / SCOPE_FILE, _SCOPE)


def write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """bfloat16 safetensors, as a whole or not at all."""
    half = {name: t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in weights.items()}
    temporary = folder / "model.safetensors.tmp"
    save_file(half, temporary, metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")
