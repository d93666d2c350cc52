"""Text → the units that say it: what the talker has to learn, and how long a text ought to take.

A known word is one unit, an unknown one the units of its pieces, a number its words. Commas and
full stops are pauses.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from training.tts.lexicon import FAST, PAUSE, PIECE, WORD, Lexicon
from training.tts.quantiser import Codes
from training.tts.vocabulary import split_contraction
from training.world.numbers import ONES, number_words

_PARTS = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?|[0-9]+|[,;:]|[.!?]+|\s-\s|[^\sA-Za-z0-9]")
_MAX_NUMBER_DIGITS = 3  # longer ones are read digit by digit
SHORT_PAUSE, LONG_PAUSE, END_PAUSE = 2, 3, 1  # frames
_LETTER_A = "<A>"  # the letter, not the article
_SYMBOLS = {"%": "percent", "&": "and", "+": "plus", "=": "equals"}


@dataclass(frozen=True)
class Reader:
    """Reads any text over one lexicon."""

    lexicon: Lexicon

    @cached_property
    def aliases(self) -> list[int]:
        return self.lexicon.vocabulary.aliases()

    def token_ids(self, text: str) -> list[int]:
        """Ids as they are trained: capitals as small letters."""
        return [self.aliases[i] for i in self.lexicon.vocabulary.encode(text)]

    def codes(self, text: str, *, is_fast: bool = False, gap: int = 0) -> Codes:
        """Codes [T, G] of the first speaker; `gap` silent frames after each word."""
        names = self.units(text, is_fast=is_fast, gap=gap)
        return np.concatenate([self.lexicon.unit_codes(name) for name in names])

    def units(self, text: str, *, is_fast: bool = False, gap: int = 0) -> list[str]:
        """Names of units, the last of them a pause."""
        parts = _PARTS.findall(text)
        while parts and not self._is_said(parts[-1]):
            parts.pop()
        names: list[str] = []
        for part in _spell_capitals(parts):
            said = list(self._of_part(part, is_fast=is_fast))
            names += said
            if gap and said and said[-1] != PAUSE:
                names += [PAUSE] * gap
        return names + [PAUSE] * END_PAUSE

    def _is_said(self, part: str) -> bool:
        return part[0].isalnum() or part in _SYMBOLS

    def _of_part(self, part: str, *, is_fast: bool) -> Iterator[str]:
        if part[0].isdigit():
            yield from self._of_number(part, is_fast=is_fast)
        elif part in _SYMBOLS:
            yield self._word(_SYMBOLS[part], is_fast=is_fast)
        elif part == _LETTER_A:
            yield f"{PIECE} a"
        elif part[0].isalpha():
            yield from self._of_word(part, is_fast=is_fast)
        elif part[0] in ".!?":
            yield from [PAUSE] * LONG_PAUSE
        elif part.strip() in (",", ";", ":", "-"):
            yield from [PAUSE] * SHORT_PAUSE

    def _of_number(self, digits: str, *, is_fast: bool) -> Iterator[str]:
        if len(digits) <= _MAX_NUMBER_DIGITS and (digits[0] != "0" or digits == "0"):
            words = number_words(int(digits)).split()
        else:
            words = [ONES[int(digit)] for digit in digits]
        for word in words:
            yield self._word(word, is_fast=is_fast)

    def _of_word(self, word: str, *, is_fast: bool) -> Iterator[str]:
        if f"{WORD} {word.lower()}" in self.lexicon.numbers:
            yield self._word(word.lower(), is_fast=is_fast)
            return
        for part in split_contraction(word):
            if f"{WORD} {part.lower()}" in self.lexicon.numbers:
                yield self._word(part.lower(), is_fast=is_fast)
            else:
                yield from self._of_pieces(part)

    def _of_pieces(self, part: str) -> Iterator[str]:
        for i in self.lexicon.vocabulary.encode(part):
            token = self.lexicon.vocabulary.tokens[self.aliases[i]]
            for name in (f"{PIECE} {token}", f"{WORD} {token}"):
                if name in self.lexicon.numbers:
                    yield name
                    break
            else:
                letters = (f"{PIECE} {letter}" for letter in token)
                yield from (name for name in letters if name in self.lexicon.numbers)

    def _word(self, word: str, *, is_fast: bool) -> str:
        return f"{FAST if is_fast else WORD} {word}"


def _spell_capitals(parts: list[str]) -> list[str]:
    """A capital A beside another single capital is the letter."""
    beside = zip(["", *parts], parts, [*parts[1:], ""], strict=False)
    return [
        _LETTER_A if part == "A" and (_is_letter(before) or _is_letter(after)) else part
        for before, part, after in beside
    ]


def _is_letter(part: str) -> bool:
    return len(part) == 1 and part.isupper() and part != "I"
