"""The checkpoint's own byte-level BPE, read from vocab.json and merges.txt.

The pre-tokenizer is Qwen2's, the one the models were trained with. (The official packages swap in
another one for local folders; see docs/models.md.) User text is encoded by the BPE alone: control
strings such as <|im_end|> in it stay ordinary text.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qwen3_audio.errors import StartError

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextTokenizer:
    """encode: plain text → ids; special: a control token's id; decode: ids → text."""

    def __init__(self, folder: Path) -> None:
        try:
            vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
            lines = (folder / "merges.txt").read_text("utf-8").split("\n")
            config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        except FileNotFoundError as error:
            raise StartError(f"{error.filename} is missing: the download is incomplete") from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise StartError(f"The tokenizer files in {folder} are damaged: {error}") from error
        merges = [
            (first, second)
            for first, _, second in (line.partition(" ") for line in lines)
            if second and not first.startswith("#version")
        ]
        self._bpe = Tokenizer(models.BPE(vocab, merges))
        self._bpe.normalizer = normalizers.NFC()
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._bpe.decoder = decoders.ByteLevel()
        self._added = {
            entry["content"]: int(id_)
            for id_, entry in config.get("added_tokens_decoder", {}).items()
        }
        self._added_text = {id_: text for text, id_ in self._added.items()}

    def encode(self, text: str) -> list[int]:
        """Plain text → ids; nothing in it is a control token."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def special(self, name: str) -> int:
        """The id of an added token such as '<|im_start|>'; StartError if there is none."""
        if name not in self._added:
            raise StartError(f"tokenizer_config.json has no token {name}")
        return self._added[name]

    def decode(self, ids: list[int]) -> str:
        """Ids → text. Added tokens appear as their own text, half characters as U+FFFD."""
        parts: list[str] = []
        run: list[int] = []
        for id_ in ids:
            if id_ in self._added_text:
                parts += [self._bpe.decode(run), self._added_text[id_]]
                run = []
            else:
                run.append(id_)
        return "".join([*parts, self._bpe.decode(run)])
