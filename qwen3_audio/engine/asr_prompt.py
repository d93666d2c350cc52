"""What recognition says to the model and what it makes of the answer: ids, text, limits, cuts.

No torch: integers, strings and numpy. The rules are the Qwen3-ASR package's where none is named.
"""

import math
import re
import unicodedata
from collections import deque
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.languages import is_spaced
from qwen3_audio.types import LISTEN_RATE_HZ, Pcm

TEXT_TAG = "<asr_text>"
MAX_PERIOD = 20  # the longest pattern that counts as a loop: characters of text, or tokens
MIN_REPEATS = 20
NO_SPEECH_DBFS = -50.0
_WINDOW_S = 0.1  # what counts as one quiet or loud place
_SEARCH_S = 5.0  # to either side of where a cut is wanted
_SHORTEST_PIECE_S = 1.0
MAX_PIECE_S = 30.0
UNFINISHED = "\ufffd"  # decoded from a character whose last bytes are still to come
_CHARACTER_RUN = re.compile(r"(.)\1{20,}", re.DOTALL)
_SHORTEST_RUN = re.compile(r"(.)\1{19}", re.DOTALL)


class Tokenizer(Protocol):
    """A checkpoint's own tokenizer."""

    def encode(self, text: str) -> list[int]:
        """BPE alone: `<|im_end|>` in a text is ordinary text."""
        ...

    def special(self, name: str) -> int:
        """Id of an added token."""
        ...


@dataclass(frozen=True, slots=True)
class AsrPrompt:
    """Ids of one prompt; the audio's embeddings replace ids[audio_start : audio_start + N]."""

    ids: tuple[int, ...]
    audio_start: int
    num_audio_tokens: int


def build_prompt(
    tokenizer: Tokenizer,
    num_audio_tokens: int,
    *,
    context: str = "",
    language: str | None = None,
) -> AsrPrompt:
    """The chat template: context as system turn; a language is forced by beginning the answer.

    Each stretch between added tokens is encoded as one text, because BPE joins over its parts.
    """
    text, special = tokenizer.encode, tokenizer.special
    start, end = special("<|im_start|>"), special("<|im_end|>")
    system = text(f"system\n{context.strip()}")
    before = (start, *system, end, *text("\n"), start, *text("user\n"), special("<|audio_start|>"))
    audio = [special("<|audio_pad|>")] * num_audio_tokens
    head = [] if language is None else [special(TEXT_TAG)]
    answer = text("assistant\n" if language is None else f"assistant\nlanguage {language}")
    after = (special("<|audio_end|>"), end, *text("\n"), start, *answer, *head)
    return AsrPrompt((*before, *audio, *after), len(before), num_audio_tokens)


def token_limit(duration_s: float) -> int:
    """How many tokens a clip may be answered with: speech has well under 12 a second."""
    return 64 + math.ceil(12 * duration_s)


def parse_output(raw: str, forced_language: str | None = None) -> tuple[str, str]:
    """(language, text) of a decoded answer; language "" where the model names none.

    `raw` is decoded without the special tokens; `<asr_text>` is not one of them and stays.
    """
    answer = collapse_repeats(raw.strip())
    if forced_language is not None and answer:
        return forced_language, answer
    head, tag, text = answer.partition(TEXT_TAG)
    if not tag:
        return "", answer
    return _language_of_head(head), text.strip()


def _language_of_head(head: str) -> str:
    """The name in `language X`; "" for `language None`, which means that nobody speaks."""
    if "language none" in head.lower():
        return ""
    for line in head.splitlines():
        if line.strip().lower().startswith("language "):
            name = line.strip()[len("language ") :].strip()
            return name[:1].upper() + name[1:].lower()
    return ""


def collapse_repeats(text: str) -> str:
    """More than 20 equal characters, or a pattern of 1–20 characters 20 times, become one."""
    text = _CHARACTER_RUN.sub(r"\1", text)
    kept, at = [], 0
    while at <= len(text) - 2 * MIN_REPEATS:
        period = _looping_period(text, at)
        kept.append(text[at : at + max(period, 1)])
        at += 1
        if period:
            pattern = kept[-1]
            at += period - 1
            while text.startswith(pattern, at):
                at += period
    return "".join(kept) + text[at:]


def _looping_period(text: str, at: int) -> int:
    """The shortest period of a pattern that stands 20 times in a row at `at`; 0 for none."""
    for period in range(1, MAX_PERIOD + 1):
        length = period * MIN_REPEATS
        if at + length > len(text):
            return 0
        # Comparing with itself one period later needs no copies of the pattern.
        if text.startswith(text[at : at + length - period], at + period):
            return period
    return 0


class TextStream:
    """The part of a growing answer that will not change any more.

    Held back are the `language X<asr_text>` head, outer white space, half-decoded characters and
    what may still turn out to be a loop, so that all pieces together are parse_output's text.
    """

    def __init__(self, forced_language: str | None = None) -> None:
        self._has_head = forced_language is None
        self._forced_language = forced_language
        self._sent = ""
        self._has_looped = False

    def feed(self, raw: str) -> str:
        """New final text, given everything decoded so far; "" while there is none."""
        text = raw.rstrip(UNFINISHED).strip()
        if self._has_head:
            _, tag, text = text.partition(TEXT_TAG)
            if not tag:
                return ""
        settled = text[: self._num_settled(text)]
        if self._has_looped or len(settled) >= len(self._sent) + MIN_REPEATS:
            settled = self._settle_loops(text, len(settled))
        return self._send(settled.strip())

    def finish(self, raw: str) -> str:
        """The rest of the text, once nothing more will be decoded."""
        return self._send(parse_output(raw, self._forced_language)[1])

    def _send(self, settled: str) -> str:
        if not settled.startswith(self._sent):
            return ""  # what was sent can't be taken back
        new = settled[len(self._sent) :]
        self._sent = settled
        return new

    def _settle_loops(self, text: str, num_settled: int) -> str:
        """What the settled part and the whole text have in common once loops are collapsed."""
        # 20 equal characters count as a loop only where 20 more follow.
        run = _SHORTEST_RUN.search(text, max(0, len(text) - 2 * MIN_REPEATS + 1))
        if run:
            num_settled = min(num_settled, run.start() + 1)
        collapsed = collapse_repeats(text)
        self._has_looped |= collapsed != text
        pairs = zip(collapse_repeats(text[:num_settled]), collapsed, strict=False)
        return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _num_settled(self, text: str) -> int:
        """How many characters stay whatever follows: of a loop only its first pattern does."""
        num_settled = len(text)
        for period in range(1, min(MAX_PERIOD, len(text)) + 1):
            at = len(text) - 1
            while at >= period and text[at] == text[at - period]:
                at -= 1
            num_settled = min(num_settled, at + 1)
            self._has_looped |= len(text) - 1 - at >= period * (MIN_REPEATS - 1)
        return num_settled


class RepetitionStop:
    """Says when the tail of a token sequence is a pattern of 1–20 tokens, 20 times."""

    def __init__(self) -> None:
        self._tail: deque[int] = deque(maxlen=MAX_PERIOD)  # newest first
        self._num_equal = [0] * MAX_PERIOD  # at p - 1: tokens in a row that equal those p before

    def add(self, token: int) -> bool:
        """True once the tokens so far end in a loop; a few microseconds, for every step."""
        has_looped = False
        for at, earlier in enumerate(self._tail):
            self._num_equal[at] = self._num_equal[at] + 1 if token == earlier else 0
            has_looped |= self._num_equal[at] >= (at + 1) * (MIN_REPEATS - 1)
        self._tail.appendleft(token)
        return has_looped


def is_context_echo(
    text: str, context: str, *, loudest_dbfs: float, is_speechless: bool = False
) -> bool:
    """Whether an answer is the context read back from a clip in which nobody speaks.

    `is_speechless`: the model itself, asked without the context, ended its turn at the tag. Only
    letters and digits are compared; in a clip with speech the same words may well have been said.
    """
    heard = _letters_and_digits(text)
    if not heard or heard != _letters_and_digits(context):
        return False
    return is_speechless or loudest_dbfs < NO_SPEECH_DBFS


def could_be_context_echo(text: str, context: str) -> bool:
    """Whether an answer that begins so may still turn out to be the context read back."""
    heard = _letters_and_digits(text)
    return bool(heard) and _letters_and_digits(context).startswith(heard)


def _letters_and_digits(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def measure_loudest_dbfs(samples: Pcm, *, rate_hz: int = LISTEN_RATE_HZ) -> float:
    """Power of the loudest 100 ms in dB of full scale; -inf for digital silence."""
    if not samples.size:
        return -math.inf
    power = _window_means(np.square(samples, dtype=np.float64), round(rate_hz * _WINDOW_S)).max()
    return 10 * math.log10(power) if power > 0 else -math.inf


def cut_points(
    samples: Pcm, *, max_s: float = MAX_PIECE_S, rate_hz: int = LISTEN_RATE_HZ
) -> list[int]:
    """Where to cut long sound so that no piece exceeds `max_s` seconds; [] if it is short enough.

    Each cut is the middle of the quietest 100 ms within the last 10 s of a piece (the last half of
    it where pieces are short); the pieces are an exact partition, none under a second.
    """
    longest = int(max_s * rate_hz)
    search = min(int(2 * _SEARCH_S * rate_hz), longest // 2)
    shortest = min(int(_SHORTEST_PIECE_S * rate_hz), longest // 4)
    cuts: list[int] = []
    start = 0
    while len(samples) - start > longest:
        last = min(start + longest, len(samples) - shortest)
        first = start + longest - search
        start = first + _quietest(samples[first:last], round(rate_hz * _WINDOW_S))
        cuts.append(start)
    return cuts


def _quietest(samples: Pcm, window: int) -> int:
    """Middle of the window with the least sound; the latest of equals, so that pieces are long."""
    means = _window_means(np.abs(samples, dtype=np.float64), window)
    return len(means) - 1 - int(np.argmin(means[::-1])) + min(window, len(samples)) // 2


def _window_means(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    window = min(window, len(values))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means: NDArray[np.float64] = (sums[window:] - sums[:-window]) / window
    return means


def piece_separator(before: str, after: str) -> str:
    """What stands between the texts of two pieces, by their languages."""
    return " " if is_spaced(before) and is_spaced(after) else ""


def merge_languages(languages: list[str]) -> str:
    """The languages of all pieces, consecutive duplicates and unknown ones left out."""
    named = [language for language in languages if language]
    return ",".join(name for at, name in enumerate(named) if at == 0 or name != named[at - 1])
