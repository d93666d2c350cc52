"""Random English sentences over the word lists, for both pocket models.

The patterns are in sentences.txt. One sentence in twenty is held out by its hash: training never
sees it, neither whole nor as one of the sentences of an utterance, whatever makes the utterance.
"""

import hashlib
import re
from collections.abc import Callable
from functools import cache
from random import Random

from training.world import numbers
from training.world.words import categories, forms, normalise, plain_words, read_lines

MAX_WORDS = 15  # of one sentence
HELD_OUT_OF_256 = 13
_SHORTEST_HELD_OUT = 3  # words: shorter sentences are too few to lose any of them

_SLOT = re.compile(r"\[([^\[\]]*)\]|<([a-z_]+)(?::(\d))?>")
_WEIGHTED = re.compile(r"([\d.]+) \* (.+)")
_RULE = re.compile(r"([a-z_]+) = (.+)")
_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=([a-zA-Z]+))")
_SOUNDS_LIKE_VOWEL = re.compile(
    r"hour|honest|[AF](?:[A-Z]|\b)|MP|SQL|(?!uni|use|euro|one|URL)[aeiou]", re.I
)


def _spelled(rng: Random) -> str:
    if rng.random() < 0.5:
        return " ".join(rng.choice(forms("names", 0)).upper())
    return " ".join(rng.choice(forms("letters", 0)) for _ in range(rng.randrange(3, 7)))


_BUILT_IN: dict[str, Callable[[Random], str]] = {
    "number": numbers.random_number,
    "small_number": lambda rng: numbers.number_words(rng.randrange(2, 61)),
    "digit": lambda rng: rng.choice(numbers.ONES[:10]),
    "digits": numbers.random_digits,
    "year": numbers.random_year,
    "clock": numbers.random_clock,
    "spelled": _spelled,
}


@cache
def rules() -> dict[str, tuple[str, ...]]:
    """Named parts of sentences, each with its alternatives."""
    found = filter(None, map(_RULE.fullmatch, read_lines("sentences.txt")))
    return {match[1]: tuple(part.strip() for part in _split(match[2])) for match in found}


@cache
def patterns() -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Sentence patterns and their weights."""
    found = [m for m in map(_WEIGHTED.fullmatch, read_lines("sentences.txt")) if m]
    return tuple(m[2] for m in found), tuple(float(m[1]) for m in found)


def _split(text: str) -> list[str]:
    """At strokes outside square brackets."""
    return re.split(r"\|(?![^\[]*\])", text)


def _fill(slot: re.Match[str], rng: Random) -> str:
    choice: str | None = slot[1]
    name, form = slot[2], slot[3]
    if choice is not None:
        return rng.choice(choice.split("|"))
    if name in _BUILT_IN:
        return _BUILT_IN[name](rng)
    if name in rules():
        return rng.choice(rules()[name])
    if name not in categories():
        raise ValueError(f"sentences.txt names {name!r}, which is neither a rule nor a word list")
    return rng.choice(forms(name, int(form or 0)))


def _expand(pattern: str, rng: Random) -> str:
    while slot := _SLOT.search(pattern):
        pattern = pattern[: slot.start()] + _fill(slot, rng) + pattern[slot.end() :]
    pattern = " ".join(pattern.split()).replace(" ,", ",").replace(" .", ".").replace(" ?", "?")
    return _BEFORE_VOWEL.sub(_article, pattern)


def _article(found: re.Match[str]) -> str:
    return f"{found[1]}n " if _SOUNDS_LIKE_VOWEL.match(found[2]) else f"{found[1]} "


def _random_string(rng: Random) -> str:
    """Words in no order: they make a listener listen instead of guessing."""
    return " ".join(rng.choice(plain_words()) for _ in range(rng.randrange(1, 9))) + "."


def _draw(rng: Random, random_share: float) -> str:
    if rng.random() < random_share:
        text = _random_string(rng)
    elif rng.random() < 0.01:
        return rng.choice(phrases())
    else:
        templates, weights = patterns()
        text = _expand(rng.choices(templates, weights)[0], rng)
    return text[0].upper() + text[1:]


def sentence(rng: Random, *, held_out: bool = False, random_share: float = 0.2) -> str:
    """One sentence of at most 15 words: one of those held out, or one of all others."""
    while True:
        text = _draw(rng, random_share)
        parts = split_sentences(text)
        if held_out and len(parts) > 1:
            continue
        if any(len(part.split()) > MAX_WORDS for part in parts):
            continue
        if held_out == any(map(is_held_out, parts)):
            return text


def utterance(
    rng: Random,
    *,
    held_out: bool = False,
    random_share: float = 0.2,
    num_sentences: int | None = None,
) -> str:
    """One to three sentences, or `num_sentences`; of a held-out one every sentence is held out."""
    count = num_sentences or rng.choices([1, 2, 3], [65, 23, 12])[0]
    drawn = (sentence(rng, held_out=held_out, random_share=random_share) for _ in range(count))
    return " ".join(drawn)


@cache
def phrases() -> tuple[str, ...]:
    """What the documents and examples let a server speak; never held out."""
    return tuple(read_lines("phrases.txt"))


@cache
def _phrase_sentences() -> frozenset[str]:
    return frozenset(normalise(part) for text in phrases() for part in split_sentences(text))


def split_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", text.strip())


def is_held_out(text: str) -> bool:
    """Whether a single sentence belongs to evaluation alone."""
    plain = normalise(text)
    if len(plain.split()) < _SHORTEST_HELD_OUT or plain in _phrase_sentences():
        return False
    return hashlib.sha256(plain.encode()).digest()[0] < HELD_OUT_OF_256
