"""Cuts long text where a speaker would breathe. Pure functions on strings.

Only white space at a cut is left out; every other character stays, in order.
"""

import re
import unicodedata
from bisect import bisect_right

MAX_WHOLE_CHARS = 600  # up to here a text is one prompt
MAX_PART_CHARS = 400

_CLOSING = "\"'”’»）)］]｝}」』】〉》›"
_SPACED_END = re.compile(rf"[.!?…।؟]+[{re.escape(_CLOSING)}]*(?=\s)")
_UNSPACED_END = re.compile(rf"[。！？｡．]+[{re.escape(_CLOSING)}]*")
_LINE_END = re.compile(r"\n+")
_CLAUSE_END = re.compile(rf"(?:[,;:–—،؛][{re.escape(_CLOSING)}]*(?=\s)|[，、；：])")
_SPACE = re.compile(r"\s+")
_LAST_WORD = re.compile(r"[^\W\d_]+\.$")
_ABBREVIATIONS = frozenset(
    f"{word}."
    for word in (
        *("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "no", "nr", "ca", "bzw"),
        *("fig", "vol", "approx"),
    )
)


def split_text(
    text: str, *, whole_chars: int = MAX_WHOLE_CHARS, part_chars: int = MAX_PART_CHARS
) -> list[str]:
    """Parts of at most `part_chars`, as whole sentences as can be; a short text stays one part."""
    text = text.strip()
    if len(text) <= whole_chars:
        return [text]
    ends = [_sentence_ends(text), _ends(_CLAUSE_END, text), _ends(_SPACE, text)]
    parts: list[str] = []
    start = 0
    while start < len(text):
        end = _find_cut(text, start, part_chars, ends)
        parts.append(text[start:end].rstrip())
        start = end + _num_spaces(text, end)
    return parts


def _find_cut(text: str, start: int, part_chars: int, ends: list[list[int]]) -> int:
    limit = start + part_chars
    if limit >= len(text):
        return len(text)
    for positions in ends:
        index = bisect_right(positions, limit) - 1
        if index >= 0 and positions[index] > start:
            return positions[index]
    return _before_marks(text, start, limit)


def _before_marks(text: str, start: int, limit: int) -> int:
    """A cut at the limit, or earlier where it would part a letter from its marks."""
    end = limit
    while end > start + 1 and (
        unicodedata.combining(text[end])
        or text[end] in "\u200d\ufe0e\ufe0f"
        or text[end - 1] == "\u200d"
    ):
        end -= 1
    return end if end > start + 1 else limit


def _sentence_ends(text: str) -> list[int]:
    spaced = [m.end() for m in _SPACED_END.finditer(text) if _ends_sentence(text, m)]
    return sorted({*spaced, *_ends(_UNSPACED_END, text), *_ends(_LINE_END, text)})


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """False for the full stop of an abbreviation, an initial or a number in front of its noun."""
    following = text[match.end() : match.end() + 16].lstrip()[:1]
    if match.group() != ".":
        return not following.islower() or match.group()[0] in "!?"
    word = _LAST_WORD.search(text, max(0, match.start() - 16), match.end())
    is_short = word is not None and (
        word.group().lower() in _ABBREVIATIONS or len(word.group()) == 2
    )
    return not (is_short or following.islower())


def _ends(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.end() for match in pattern.finditer(text)]


def _num_spaces(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return 0 if match is None else match.end() - position
