"""Descriptions of voices and what they ask for: a speaker, and how fast.

The talker learns the words; the same rule makes the training examples and tells a test what to
expect.
"""

from dataclasses import dataclass

import numpy as np

from training.tts.voices import VOICES, Voice

MALE = ("male", "man", "boy", "gentleman", "masculine", "father", "husband")
FEMALE = ("female", "woman", "girl", "lady", "feminine", "mother", "wife")
LOW = ("low", "deep", "old", "calm", "serious", "dark")
HIGH = ("high", "young", "light", "cheerful", "childlike", "happy")
BRIGHT = ("bright", "thin", "clear", "sharp")
WARM = ("warm", "soft", "rich", "full")
FAST = ("fast", "quick", "quickly", "rapid", "hurried")
SLOW = ("slow", "slowly", "unhurried", "relaxed", "careful")
NORMAL, QUICK, SLOWLY = 0, 1, 2

_TEMPLATES = (
    "A {adjectives} {gender} voice{tempo}.",
    "{adjectives} {gender} voice",
    "{adjectives} voice{tempo}",
    "Speak in a {adjectives} {gender} voice{tempo}.",
    "Speak with a {adjectives} voice{tempo}.",
    "A {adjectives} {gender}{tempo}",
    "Use a {adjectives} {gender} voice{tempo}",
    "The voice of a {adjectives} {gender}{tempo}.",
    "{gender} voice, {adjectives}{tempo}",
    "{gender}{tempo}",
    "Please speak like a {adjectives} {gender}{tempo}",
)
_TEMPOS = {
    QUICK: (", speaking {word}", ", {word}", " with a {word} pace", " who speaks {word}"),
    SLOWLY: (", speaking {word}", ", {word}", " with a {word} pace", " who speaks {word}"),
}
_BRIGHT_WARP, _WARM_WARP, _MEAN_WARP = 1.12, 0.97, 1.04
_WARP_WEIGHT = 12.0
_RANKS = {240: 0, 160: 1, 120: 2, 96: 3}


@dataclass(frozen=True, slots=True)
class Description:
    text: str
    voice: Voice
    tempo: int


def interpret(text: str) -> Description:
    """The voice and tempo that a description asks for; always the same answer."""
    words = set("".join(c if c.isalpha() else " " for c in text.lower()).split())
    voice = min(VOICES, key=lambda voice: _distance(voice, words))
    tempo = QUICK if words & {*FAST} else SLOWLY if words & {*SLOW} else NORMAL
    return Description(text, voice, tempo)


def _distance(voice: Voice, words: set[str]) -> tuple[float, int]:
    is_male, is_female = bool(words & {*MALE}), bool(words & {*FEMALE})
    is_low, is_high = bool(words & {*LOW}), bool(words & {*HIGH})
    rank = (0.0 if is_low else 1.0) if is_male else (2.0 if is_low or not is_high else 3.0)
    if is_male and not (is_low or is_high):
        rank = 0.4
    if not (is_male or is_female) and is_low:
        rank = 0.0
    warp = _BRIGHT_WARP if words & {*BRIGHT} or is_high else _MEAN_WARP
    if words & {*WARM} or is_low:
        warp = _WARM_WARP
    cost = abs(_RANKS[voice.period] - rank) + _WARP_WEIGHT * abs(voice.warp - warp)
    if (is_male and not voice.is_male) or (is_female and voice.is_male):
        cost += 10
    return cost, voice.row


def draw_description(draw: np.random.Generator) -> Description:
    """A random sentence about a voice."""

    def choose(words: tuple[str, ...]) -> str:
        return words[int(draw.integers(len(words)))]

    tempo = int(draw.choice([NORMAL, NORMAL, QUICK, SLOWLY]))
    adjectives = {choose(choose((LOW, HIGH)))}  # type: ignore[arg-type]
    if draw.random() < 0.4:
        adjectives.add(choose(choose((BRIGHT, WARM))))  # type: ignore[arg-type]
    tail = ""
    if tempo != NORMAL:
        tail = choose(_TEMPOS[tempo]).format(word=choose(FAST if tempo == QUICK else SLOW))
    text = choose(_TEMPLATES).format(
        adjectives=" ".join(sorted(adjectives)),
        gender=choose(choose((MALE, FEMALE))),  # type: ignore[arg-type]
        tempo=tail,
    )
    style = draw.random()
    text = text.lower() if style < 0.3 else text[0].upper() + text[1:] if style < 0.9 else text
    return interpret(text)
