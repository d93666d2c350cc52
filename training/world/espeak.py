"""espeak-ng in this process: sound, and when each word and phoneme of it begins.

The library is looked for by its name; the program itself is not used. One voice at a time: the
library has global state, so a process has one Espeak.
"""

import ctypes
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_char, c_char_p, c_int, c_short, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.words import read_lines

LIBRARIES = ("libespeak-ng.so.1", "libespeak-ng.so", "libespeak-ng.dylib", "libespeak-ng.dll")
_SYNCHRONOUS, _PHONEME_EVENTS = 2, 1
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7
_UTF8, _BY_CHARACTER = 1, 1
_END, _WORD, _PHONEME = 0, 1, 7


class EspeakMissing(RuntimeError):
    """espeak-ng is not installed, or has no such voice."""


class _Event(Structure):
    _fields_ = (
        ("type", c_int),
        ("unique", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_ms", c_int),
        ("sample", c_int),
        ("user", c_void_p),
        ("phoneme", c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))


@dataclass(frozen=True, slots=True)
class Style:
    """How something is said: espeak's voice (`en-us+f3`), words a minute, pitch and its range."""

    voice: str = "en-us"
    words_per_minute: int = 175
    pitch: int = 50
    pitch_range: int = 50
    word_gap: int = 0  # pauses between words, in units of 10 ms


@dataclass(frozen=True, slots=True)
class Utterance:
    """Sound at the library's rate, with the starts of words (by their place) and phonemes."""

    samples: NDArray[np.float32]
    rate_hz: int
    words: tuple[tuple[int, int], ...]  # (ms, number of the word in the text)
    phonemes: tuple[tuple[int, str], ...]  # (ms, espeak's name; "_..." is a pause)


class Espeak:
    """The library, initialised. Raises EspeakMissing in one sentence if it is not there."""

    def __init__(self) -> None:
        self._library = _load()
        self.rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        if self.rate_hz <= 0:
            raise EspeakMissing("espeak-ng finds no data: reinstall the package espeak-ng-data")
        self._pieces: list[NDArray[np.float32]] = []
        self._words: list[tuple[int, int]] = []
        self._phonemes: list[tuple[int, str]] = []
        self._callback = _Callback(self._take)  # kept: the library holds only the address
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, style: Style = Style()) -> Utterance:
        """Say a text. Words are numbered as `text.split()` counts them."""
        if self._library.espeak_SetVoiceByName(style.voice.encode()) != 0:
            raise EspeakMissing(f"espeak-ng has no voice {style.voice!r}")
        values = (style.words_per_minute, style.pitch, style.pitch_range, style.word_gap)
        for parameter, value in zip((_RATE, _PITCH, _RANGE, _WORD_GAP), values, strict=True):
            self._library.espeak_SetParameter(parameter, value, 0)
        for found in (self._pieces, self._words, self._phonemes):
            found.clear()
        given = spoken_form(text)
        data = given.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None)
        samples = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)
        words = tuple(_in_order([(ms, _word_at(given, at)) for ms, at in self._words]))
        return Utterance(samples, self.rate_hz, words, tuple(self._phonemes))

    def _take(self, pcm: Any, count: int, events: Any) -> int:
        if pcm and count > 0:
            samples = np.ctypeslib.as_array(pcm, (count,))
            self._pieces.append(samples.astype(np.float32) / np.float32(32768))
        for event in _until_end(events):
            if event.type == _WORD:
                self._words.append((event.audio_ms, event.text_position))
            elif event.type == _PHONEME:
                name = event.phoneme.decode("utf-8", "replace")
                self._phonemes.append((event.audio_ms, name))
        return 0


def _until_end(events: Any) -> Iterator[_Event]:
    number = 0
    while events[number].type != _END:
        yield events[number]
        number += 1


def _load() -> ctypes.CDLL:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.espeak_Synth.argtypes = (
            c_char_p, ctypes.c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p, c_void_p
        )  # fmt: skip
        return library
    raise EspeakMissing("espeak-ng is not installed; making training data needs its library")


def _word_at(text: str, position: int) -> int:
    """The number of the word that contains a character; espeak counts characters from 1."""
    before = text[:position]
    return max(len(before.split()) - 1, 0)


def _in_order(words: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Without the events that close a sentence by naming an earlier word once more."""
    latest = -1
    for ms, number in words:
        if number > latest:
            latest = number
            yield ms, number


def spoken_form(text: str) -> str:
    """The text as espeak-ng has to be given it: word for word, some respelt.

    A capital A among single capitals is the letter, not the article.
    """
    words = text.split()
    respelt = _respelt()
    for number, word in enumerate(words):
        stem = word.rstrip(".,?!")
        ending = word[len(stem) :]
        beside = words[number - 1 : number] + words[number + 1 : number + 2]
        is_letter = stem == "A" and any(_is_letter(other) for other in beside)
        words[number] = "eigh" + ending if is_letter else respelt.get(stem, stem) + ending
    return " ".join(words)


def _is_letter(word: str) -> bool:
    stem = word.rstrip(".,?!")
    return len(stem) == 1 and stem.isupper() and stem != "I"


@cache
def _respelt() -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in read_lines("spoken.txt"))
    return dict(pairs)
