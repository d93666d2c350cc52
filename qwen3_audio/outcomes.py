"""How requests end: every one exactly once, as done, failed or cancelled."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Work = Literal["speech", "transcription"]
Outcome = Literal["done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one order ended."""

    work: Work
    outcome: Outcome
    first_s: float | None  # from receipt to the first sound or text
    total_s: float
    audio_s: float


Listener = Callable[[Ended], None]


def outcome_of(error: type[BaseException] | None) -> Outcome:
    """What it means that work was left by this error, or by none."""
    if error in (GeneratorExit, asyncio.CancelledError):
        return "cancelled"
    return "done" if error is None else "failed"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended, as far as every kind of row wants to know it."""

    outcome: Outcome
    latency_ms: int
    number: int | None = None  # of its row, if that was begun before
    audio_ms: int = 0
    was_heard: bool = False  # some of its sound was given out
    finish_reason: str | None = None
    seed: int | None = None  # that made the sound; after a retry another one than was asked for
    language: str | None = None  # that was heard
    error: str | None = None

    @property
    def is_charged(self) -> bool:
        """Failed ones are free, and so are those that were left before the first sound."""
        return self.outcome == "done" or (self.outcome == "cancelled" and self.was_heard)


class Tally:
    """Watches one order and tells the listeners, once, how it ended."""

    def __init__(self, work: Work, received_s: float, listeners: Iterable[Listener]) -> None:
        self.audio_s = 0.0
        self._work = work
        self._received_s = received_s
        self._listeners = listeners
        self._first_s: float | None = None

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Nothing is awaited here: after a disconnect, any await would be cancelled again.
        outcome = outcome_of(kind)
        total_s = time.perf_counter() - self._received_s
        ended = Ended(self._work, outcome, self._first_s, total_s, self.audio_s)
        for listener in self._listeners:
            listener(ended)

    def note_first(self) -> None:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._received_s
