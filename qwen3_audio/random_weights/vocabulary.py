"""Byte-level BPE vocabularies: small ones, and ones filled up to the real ids."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3_audio.random_weights.tensors import write_json

TOKENIZER_CONFIG = {  # of every checkpoint
    "add_prefix_space": False,
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
    "errors": "replace",
    "split_special_tokens": False,
    "model_max_length": 131072,
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "Qwen2Tokenizer",
}

NUM_REAL_TOKENS = 151_643  # before the added tokens
REAL_VOCAB_SIZE = 151_936

_TTS_ADDED_TEXT = (
    "<|endoftext|> <|im_start|> <|im_end|> <|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> "
    "<tts_text_eod> <tts_text_bos_single> <|audio_pad|>"
)
TTS_ADDED = _TTS_ADDED_TEXT.split()

_REAL_ADDED_TEXT = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think> <|audio_start|> <|audio_end|> <tts_pad> <tts_text_bos> <tts_text_eod> "
    "<tts_text_bos_single>"
)
_REAL_ADDED = _REAL_ADDED_TEXT.split()
REAL_TTS_ADDED = [*_REAL_ADDED, "<|audio_pad|>"]
REAL_ASR_ADDED = [
    *_REAL_ADDED,
    "<non_speech>",
    "<|audio_pad|>",
    *(f"<blank{i}>" for i in range(1, 28)),
    "<asr_text>",
    "<timestamp>",
]
ORDINARY_ADDED = {*_REAL_ADDED[14:26], "<non_speech>", "<asr_text>", "<timestamp>"}

_TTS_MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "a"), ("e", "r"))
_WORDS_TEXT = (
    "language system user assistant None text the and of to in is that it for was on are with as "
    "at be this have from or had by not but what all were we when your can said there use an each "
    "which she do how their if will up other about out many then them these so some her would make "
    "like him into time has look two more write go see number no way could people my than first "
    "water been call who oil its now find long down day did get come made may part Post gre SQL "
    "Redis CUDA Whisper Kokoro"
)
_WORDS = _WORDS_TEXT.split()


@dataclass(frozen=True, slots=True)
class Vocabulary:
    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    added: Sequence[str]

    @property
    def added_ids(self) -> dict[str, int]:
        return {text: len(self.tokens) + i for i, text in enumerate(self.added)}

    def padded_size(self, multiple: int) -> int:
        size = len(self.tokens) + len(self.added)
        return -(-size // multiple) * multiple


def build_tiny_tts_vocabulary() -> Vocabulary:
    """256 bytes and a few merges; "assistant" and "user" are one token each, as in the real one."""
    tokens = {letter: i for i, letter in enumerate(sorted(_byte_letters()))}
    merges: list[tuple[str, str]] = []
    for word in ("assistant", "user"):
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
            tokens.setdefault(word[: end + 1], len(tokens))
    for left, right in _TTS_MERGES:
        merges.append((left, right))
        tokens.setdefault(left + right, len(tokens))
    return Vocabulary(tokens, merges, TTS_ADDED)


def build_word_vocabulary(
    extra_words: Iterable[str], added: Sequence[str], *, num_tokens: int | None = None
) -> Vocabulary:
    """256 bytes and every beginning of common words, with and without a space before them.

    With `num_tokens` it is filled up by tokens that text never becomes but that read as text.
    """
    letters = _byte_letters()
    tokens = {letter: i for i, letter in enumerate(sorted(letters))}
    merges: list[tuple[str, str]] = []
    for word in (*_WORDS, *extra_words):
        for form in (word, f" {word}"):
            spelt = "".join(letters[byte] for byte in form.encode())
            for end in range(1, len(spelt)):
                if spelt[: end + 1] not in tokens:
                    merges.append((spelt[:end], spelt[end]))
                    tokens[spelt[: end + 1]] = len(tokens)
    for i in range(len(tokens), num_tokens or 0):
        tokens[f"~{i:06d}"] = i
    return Vocabulary(tokens, merges, added)


def write_vocabulary(folder: Path, vocabulary: Vocabulary, config: dict[str, object]) -> None:
    """vocab.json, merges.txt and tokenizer_config.json; there is no tokenizer.json officially."""
    text = json.dumps(vocabulary.tokens, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    added = {str(i): _added_token(text) for text, i in vocabulary.added_ids.items()}
    write_json(
        folder / "tokenizer_config.json",
        {
            **TOKENIZER_CONFIG,
            "added_tokens_decoder": added,
            **config,
        },
    )


def _added_token(text: str) -> dict[str, object]:
    return {
        "content": text,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": text not in ORDINARY_ADDED,
    }


def _byte_letters() -> list[str]:
    """A printable letter for each byte, as byte-level BPE spells them."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b if b in printable else 256 + others.index(b)) for b in range(256)]
