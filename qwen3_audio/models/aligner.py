"""Qwen3-ForcedAligner beside encoder and decoder: words, token layout, and classes into seconds.

The aligner reads sound, then each word with two time-stamp tokens behind it, in one pass; at those
tokens its head gives a class that counts steps (80 ms) from the start of the clip: where the word
begins and where it ends. Rules from the official package. Two differences, both for want of its
dictionaries: Japanese is split where the script changes and Korean at spaces.
"""

import math
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from torch import Tensor, nn

from qwen3_audio.models.linear import load_linear

_MAX_SNAPPED = 2  # stamps out of order in a row that move to a neighbour; more are spread evenly
_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF)),
)
_OPENING = ("Ps", "Pi")  # Unicode categories of signs that belong to what follows


@dataclass(frozen=True, slots=True)
class AlignedWord:
    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class AlignLayout:
    """Ids of one prompt; the audio's embeddings replace ids[audio_start : audio_start + N]."""

    ids: tuple[int, ...]
    audio_start: int
    num_audio_tokens: int
    stamps: tuple[int, ...]  # positions whose classes are start, end, start, end, …


class AlignerHead(nn.Module):
    """Hidden states → the best class."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.head = load_linear(weights, "thinker.lm_head")

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [R, D] → int64 [R]."""
        classes: Tensor = self.head(hidden).argmax(-1)
        return classes


def split_words(text: str, language: str) -> list[str]:
    """The words of a transcript, without anything but letters, numbers and the apostrophe.

    White space separates; each ideograph is a word of its own, except in Japanese, where words
    are runs of one script.
    """
    words = []
    for part in text.split():
        kept = "".join(filter(_is_kept, part))
        if language == "Japanese":
            words += ["".join(run) for _, run in groupby(kept, _script)]
        else:
            words += _split_ideographs(kept)
    return words


def _is_kept(letter: str) -> bool:
    return letter == "'" or unicodedata.category(letter)[0] in "LN"


def _is_ideograph(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _IDEOGRAPHS)


def _split_ideographs(word: str) -> Iterator[str]:
    for is_ideograph, run in groupby(word, _is_ideograph):
        if is_ideograph:
            yield from run
        else:
            yield "".join(run)


def _script(letter: str) -> str:
    if _is_ideograph(letter) or letter in "々〆":
        return "kanji"
    if "\u3041" <= letter <= "\u309f":
        return "hiragana"
    if "\u30a0" <= letter <= "\u30ff" or "\uff66" <= letter <= "\uff9f":
        return "katakana"
    return "other"


def lay_out(
    words: Sequence[str],
    num_audio_tokens: int,
    *,
    encode: Callable[[str], list[int]],
    special: Callable[[str], int],
) -> AlignLayout:
    """The prompt of a clip and its words; no chat turns around it, they would shift the stamps."""
    ids = [special("<|audio_start|>")]
    ids += [special("<|audio_pad|>")] * num_audio_tokens
    ids += [special("<|audio_end|>")]
    stamp = special("<timestamp>")
    stamps: list[int] = []
    for word in words:
        ids += encode(word)
        stamps += [len(ids), len(ids) + 1]
        ids += [stamp, stamp]
    return AlignLayout(tuple(ids), 1, num_audio_tokens, tuple(stamps))


def place_words(
    words: Sequence[str], classes: Sequence[int], *, step_ms: float
) -> list[AlignedWord]:
    """Words with their seconds; two classes a word, put in order where they are not."""
    stamps_ms = repair_stamps([number * step_ms for number in classes])
    return [
        AlignedWord(word, round(start_ms / 1000, 3), round(end_ms / 1000, 3))
        for word, start_ms, end_ms in zip(words, stamps_ms[::2], stamps_ms[1::2], strict=True)
    ]


def repair_stamps(stamps: Sequence[float]) -> list[int]:
    """Whole numbers that never decrease: what is outside the longest such subsequence moves.

    One or two stamps in a row take the value of the nearer neighbour, more are spread evenly
    between both.
    """
    repaired = list(stamps)
    kept = [-1, *_longest_ordered(stamps), len(stamps)]
    for before, after in pairwise(kept):
        left = stamps[before] if before >= 0 else None
        right = stamps[after] if after < len(stamps) else left
        left = right if left is None else left
        if left is not None and right is not None:
            repaired[before + 1 : after] = _fill(left, right, after - before - 1)
    return [int(stamp) for stamp in repaired]


def _fill(left: float, right: float, num_missing: int) -> list[float]:
    if num_missing <= _MAX_SNAPPED:
        return [left, right][:num_missing]
    step = (right - left) / (num_missing + 1)
    return [left + step * (at + 1) for at in range(num_missing)]


def _longest_ordered(values: Sequence[float]) -> list[int]:
    """Indices of the longest subsequence that never decreases, the earliest one of several.

    levels[n] holds the indices at which a longest subsequence of n + 1 values ends. Along a level
    values fall, so that the first that may stand before a given one is found by halving.
    """
    levels: list[list[int]] = []
    ends: list[float] = []  # the smallest value of each level; these never decrease
    for at, value in enumerate(values):
        level = bisect_right(ends, value)
        if level == len(levels):
            levels.append([])
            ends.append(value)
        levels[level].append(at)
        ends[level] = value
    chain: list[int] = []
    for ending in reversed(levels):
        limit = values[chain[-1]] if chain else math.inf
        chain.append(ending[bisect_left(ending, -limit, key=lambda at: -values[at])])
    return chain[::-1]


def restore_text(words: Sequence[AlignedWord], text: str) -> list[AlignedWord]:
    """The same words as the transcript writes them: with punctuation, marks and inner signs.

    `words` are split_words of `text`, in order; together they hold all of it but white space.
    """
    spans = []
    at = 0
    for word in words:
        start = at = text.index(word.text[0], at)
        for letter in word.text:
            at = text.index(letter, at) + 1
        spans.append((start, at))
    cuts = [0, *(_cut_gap(text, end, start) for (_, end), (start, _) in pairwise(spans)), len(text)]
    return [
        replace(word, text=text[first:last].strip())
        for word, (first, last) in zip(words, pairwise(cuts), strict=bool(words))
    ]


def _cut_gap(text: str, start: int, end: int) -> int:
    """Where the signs between two words part: before an opening sign, else at the last space.

    An opening sign right behind a word closes, as in „so“.
    """
    spaces = [at for at in range(start, end) if text[at].isspace()]
    for at in range(start, end):
        is_opening = unicodedata.category(text[at]) in _OPENING
        if is_opening and (not spaces or text[at - 1].isspace()):
            return at
    return spaces[-1] if spaces else end
