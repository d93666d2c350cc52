"""What one request was to the one who asked: when it was due, when what arrived, how it ended."""

from dataclasses import dataclass

REFUSED = "connection refused"


class BenchFailed(Exception):
    """The measurement can't be made or went wrong: one sentence, exit code 1."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Sound that came at once; seconds of the monotonic clock."""

    at_s: float
    audio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Times of the monotonic clock. With an error all figures but the times mean nothing."""

    planned_s: float  # in an open loop earlier than `begin_s` by what the client itself lost
    begin_s: float
    end_s: float
    first_byte_s: float | None = None
    arrivals: tuple[Arrival, ...] = ()  # of speech
    audio_s: float = 0.0  # spoken or heard
    num_tokens: int | None = None  # frames of speech; None: the server does not say
    said: str | None = None  # in a recording of which that is known
    heard: str | None = None
    error: str | None = None  # what kind of

    @property
    def latency_s(self) -> float:
        return self.end_s - self.planned_s
