"""What each user used: counters a day and key, added up when a request ends."""

from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, select

from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.tables import NO_KEY, Route, usage_days
from qwen3_audio.store.upserts import add_up


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters of a day, a key or everything; tokens are characters."""

    tokens_tts: int = 0
    tokens_batch: int = 0
    tokens_speech: int = 0
    tokens_voices: int = 0
    tts_calls: int = 0
    batch_calls: int = 0
    speech_calls: int = 0
    transcription_calls: int = 0
    voices_created: int = 0
    transcribed_ms: int = 0

    @property
    def tokens_total(self) -> int:
        return self.tokens_tts + self.tokens_batch + self.tokens_speech + self.tokens_voices


COUNTERS = tuple(field.name for field in fields(Usage))
TOKENS_OF = {
    Route.TTS: "tokens_tts",
    Route.BATCH: "tokens_batch",
    Route.SPEECH: "tokens_speech",
}
CALLS_OF = {Route.TTS: "tts_calls", Route.SPEECH: "speech_calls"}  # a batch is a call as a whole


def add_usage(
    conn: Connection,
    user_id: int,
    *,
    key_id: int | None,
    counters: dict[str, int],
    now: datetime | None = None,
) -> None:
    """Add to today's counters; those that are 0 change nothing."""
    changes = {name: value for name, value in counters.items() if value}
    if changes:
        key = {"user_id": user_id, "day": day_of(now), "key_id": key_id or NO_KEY}
        add_up(conn, usage_days, key=key, counters=changes)


def total_usage(conn: Connection, user_id: int) -> Usage:
    """Everything this user ever used."""
    row = conn.execute(_sums(user_id)).one()
    return Usage(*map(int, row))


def usage_by_day(conn: Connection, user_id: int, *, max_days: int = 366) -> dict[date, Usage]:
    """The latest days on which something was used, newest first."""
    day = usage_days.c.day
    query = _sums(user_id, day).group_by(day).order_by(day.desc()).limit(max(max_days, 1))
    return {row[0]: Usage(*map(int, row[1:])) for row in conn.execute(query)}


def usage_by_key(conn: Connection, user_id: int) -> dict[int, Usage]:
    """By key; NO_KEY stands for local mode."""
    key_id = usage_days.c.key_id
    query = _sums(user_id, key_id).group_by(key_id).order_by(key_id)
    return {row[0]: Usage(*map(int, row[1:])) for row in conn.execute(query)}


def tokens_on_day(conn: Connection, user_id: int, *, day: date) -> int:
    """What counts against a quota of tokens a day."""
    row = conn.execute(_sums(user_id).where(usage_days.c.day == day)).one()
    return Usage(*map(int, row)).tokens_total


def day_of(now: datetime | None = None) -> date:
    return (now or utc_now()).astimezone(UTC).date()


def _sums(user_id: int, *groups: Column[Any]) -> Select[Any]:
    sums: list[ColumnElement[Any]] = [
        func.coalesce(func.sum(usage_days.c[name]), 0) for name in COUNTERS
    ]
    return select(*groups, *sums).where(usage_days.c.user_id == user_id)
