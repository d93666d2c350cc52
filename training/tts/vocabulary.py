"""The text side: a byte-level BPE in which every word of the world is one token of its own.

So a known word is one row of a table. Anything else falls into pieces and letters, and each of
those has a sound of its own too: nothing that can be written in Latin letters is dropped.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from qwen3_audio.random_weights.vocabulary import TOKENIZER_CONFIG

Merge = tuple[str, str]

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>"),
    *("<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>", "<|audio_pad|>"),
)
ROLES = ("assistant", "user")  # the official prompt code takes each for one token
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_ROWS = 32  # the table's height is a multiple of this


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in vocab.json."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


SPACE = byte_letters()[32]


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids, merges in the order of their ranks."""

    tokens: tuple[str, ...]
    merges: tuple[Merge, ...]

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def added_ids(self) -> dict[str, int]:
        return {token: len(self.tokens) + i for i, token in enumerate(ADDED)}

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return -(-(len(self.tokens) + len(ADDED)) // _ROWS) * _ROWS

    def aliases(self) -> list[int]:
        """For every row the row it is a copy of: small letters for capitals, the space for bytes
        that say nothing. Only rows that stand for themselves are trained."""
        space, newline = self.ids[SPACE], self.ids[byte_letters()[10]]
        rows = list(range(self.size))
        for i, token in enumerate(self.tokens):
            is_text = token.isascii() and token.isprintable()
            rows[i] = self.ids.get(token.lower(), i) if is_text else space
        rows[newline] = newline  # part of every prompt
        return rows

    @cached_property
    def encode(self) -> Callable[[str], list[int]]:
        """Plain text → ids; nothing in it is a control token."""
        bpe = Tokenizer(models.BPE(self.ids, list(self.merges)))
        bpe.normalizer = normalizers.NFC()
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

        def encode(text: str) -> list[int]:
            ids: list[int] = bpe.encode(text, add_special_tokens=False).ids
            return ids

        return encode

    def to_json(self) -> str:
        return json.dumps({"tokens": self.tokens, "merges": self.merges})

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        fields = json.loads(text)
        merges = tuple((left, right) for left, right in fields["merges"])
        return cls(tuple(fields["tokens"]), merges)


def build_vocabulary(words: Iterable[str]) -> Vocabulary:
    """Merge until every word is one token, first in small letters, then as written, then with a
    capital; so capitals are made of pieces of small words and never the other way round."""
    written = sorted({part for word in (*words, *ROLES) for part in split_contraction(word)})
    merges: list[Merge] = []
    merge_all(sorted({word.lower() for word in written}), merges)
    merge_all(written, merges)
    merge_all([word[0].upper() + word[1:] for word in written], merges)
    tokens = [*sorted(byte_letters()), *("".join(merge) for merge in merges)]
    return Vocabulary(tuple(dict.fromkeys(tokens)), tuple(merges))


def split_contraction(word: str) -> tuple[str, ...]:
    """As the pattern splits it: `don't` is `don` and `'t`."""
    for end in _CONTRACTIONS:
        if word.lower().endswith(end) and len(word) > len(end):
            return word[: -len(end)], word[-len(end) :]
    return (word,)


def merge_all(words: Sequence[str], merges: list[Merge]) -> None:
    """Append merges, the commonest pair first, until each word is one token."""
    spelt = [apply_merges(word, merges) for word in words]
    places: dict[Merge, set[int]] = {}
    counts: Counter[Merge] = Counter()

    def count(i: int, sign: int) -> None:
        for pair in zip(spelt[i], spelt[i][1:], strict=False):
            counts[pair] += sign
            places.setdefault(pair, set()).add(i)

    for i in range(len(words)):
        count(i, 1)
    while counts:
        pair = max(counts, key=lambda pair: (counts[pair], pair))
        if counts[pair] <= 0:
            break
        merges.append(pair)
        for i in sorted(places.pop(pair)):
            count(i, -1)
            spelt[i] = join_pair(spelt[i], pair)
            count(i, 1)
        counts = +counts


def apply_merges(word: str, merges: Iterable[Merge]) -> list[str]:
    parts = list(word)
    for merge in merges:
        if len(parts) == 1:
            break
        if merge[0] in parts:
            parts = join_pair(parts, merge)
    return parts


def join_pair(parts: Sequence[str], pair: Merge) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """vocab.json, merges.txt, tokenizer_config.json and preprocessor_config.json."""
    write_json(folder / "vocab.json", vocabulary.ids)
    lines = ["#version: 0.2", *(" ".join(merge) for merge in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", _tokenizer_config(vocabulary))
    preprocessor = {
        "padding_side": "left",
        "padding_value": 0.0,
        "processor_class": "Qwen3TTSProcessor",
        "return_attention_mask": True,
    }
    write_json(folder / "preprocessor_config.json", preprocessor)


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {
        **TOKENIZER_CONFIG,
        "additional_special_tokens": ADDED[1:],
        "added_tokens_decoder": {
            str(i): {"content": text, **flags, "special": True}
            for text, i in vocabulary.added_ids.items()
        },
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
