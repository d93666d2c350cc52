"""The checkpoint's own byte-level BPE, from vocab.json and merges.txt or from tokenizer.json.

The pre-tokenizer is Qwen2's, the one the models were trained with. (The official packages swap in
another one for local folders; see docs/models.md.) User text is encoded by the BPE alone: control
strings such as <|im_end|> in it stay ordinary text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qwen3_audio.engine.weights import read_json
from qwen3_audio.errors import StartError

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Merge = tuple[str, str]
Added = dict[str, Any]  # one added token, as the files describe it


class TextTokenizer:
    """encode: plain text → ids; special: a control token's id; decode: ids → text."""

    def __init__(self, folder: Path) -> None:
        vocab, merges, added = _read_files(folder)
        self._bpe = Tokenizer(models.BPE(vocab, merges))
        self._bpe.normalizer = normalizers.NFC()
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._bpe.decoder = decoders.ByteLevel()
        self._added = {entry["content"]: id_ for id_, entry in added.items()}
        self._added_text = {
            id_: "" if entry.get("special", False) else entry["content"]
            for id_, entry in added.items()
        }

    def encode(self, text: str) -> list[int]:
        """Plain text → ids; nothing in it is a control token."""
        ids: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return ids

    def special(self, name: str) -> int:
        """The id of an added token such as '<|im_start|>'; StartError if there is none."""
        if name not in self._added:
            raise StartError(f"The checkpoint's tokenizer has no token {name}")
        return self._added[name]

    def decode(self, ids: list[int]) -> str:
        """Ids → text without control tokens; half characters appear as U+FFFD.

        Added tokens that are no control tokens (<asr_text>) appear as they are written.
        """
        parts: list[str] = []
        run: list[int] = []
        for id_ in ids:
            if id_ in self._added_text:
                parts += [self._bpe.decode(run), self._added_text[id_]]
                run = []
            else:
                run.append(id_)
        return "".join([*parts, self._bpe.decode(run)])


def _read_files(folder: Path) -> tuple[dict[str, int], list[Merge], dict[int, Added]]:
    """Vocabulary, merges and added tokens; what the official folders have, or one file for all."""
    single = folder / "tokenizer.json"
    if single.is_file() and not (folder / "vocab.json").is_file():
        return _read_single(single)
    vocab = read_json(folder / "vocab.json")
    merges = _read_merges(folder / "merges.txt", vocab)
    added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    return vocab, merges, {int(id_): entry for id_, entry in added.items()}


def _read_single(path: Path) -> tuple[dict[str, int], list[Merge], dict[int, Added]]:
    """tokenizer.json, as newer packages write it; its merges are pairs, or texts in older ones."""
    config = read_json(path)
    model = config.get("model", {})
    if model.get("type") != "BPE" or not model.keys() >= {"vocab", "merges"}:
        raise StartError(f"{path} holds no BPE tokenizer")
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
    merges = _checked(path, pairs, model["vocab"])
    return model["vocab"], merges, {entry["id"]: entry for entry in config.get("added_tokens", [])}


def _read_merges(path: Path, vocab: dict[str, int]) -> list[Merge]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except FileNotFoundError as error:
        raise StartError(f"{path} is missing: the download is incomplete") from error
    except UnicodeDecodeError as error:
        raise StartError(f"{path} is damaged: {error}") from error
    if lines[0].startswith("#version"):
        del lines[0]
    return _checked(path, (line.split(" ") for line in lines if line), vocab)


def _checked(path: Path, pairs: Iterable[list[str]], vocab: dict[str, int]) -> list[Merge]:
    """A merge that makes no token means a file cut off, or one of another checkpoint."""
    merges = []
    for pair in pairs:
        if len(pair) != 2 or any(part not in vocab for part in (*pair, "".join(pair))):
            raise StartError(
                f"{path} is damaged or of another checkpoint: {' '.join(pair)!r} makes no token"
            )
        merges.append((pair[0], pair[1]))
    return merges
