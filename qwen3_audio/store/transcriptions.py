"""Transcription requests: how long the audio was and how it ended; never what was said."""

from dataclasses import asdict, dataclass, field
from datetime import datetime

from sqlalchemy import Connection, insert, select

from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import UNENDED, Status, transcriptions
from qwen3_audio.store.usage import add_usage


@dataclass(frozen=True, slots=True)
class NewTranscription:
    """One that has ended."""

    status: Status
    audio_ms: int
    latency_ms: int | None = None
    language: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    key_id: int | None = None
    created_at: datetime = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        if self.status in UNENDED:
            raise ValueError("a transcription is booked when it has ended")


@dataclass(frozen=True, slots=True)
class Transcription:
    transcription_id: int
    status: str
    audio_ms: int
    latency_ms: int | None
    language: str | None
    model: str | None
    finish_reason: str | None
    error: str | None
    created_at: datetime


def add_transcription(conn: Connection, user_id: int, new: NewTranscription) -> int:
    """Book it: its row, and the usage unless it failed."""
    values = {**asdict(new), "user_id": user_id}
    added = insert(transcriptions).values(values).returning(transcriptions.c.transcription_id)
    transcription_id = int(conn.execute(added).scalar_one())
    if new.status is not Status.FAILED:
        counters = {"transcription_calls": 1, "transcribed_ms": new.audio_ms}
        add_usage(conn, user_id, key_id=new.key_id, counters=counters)
    return transcription_id


def list_transcriptions(
    conn: Connection, user_id: int, *, before: int | None = None, page_size: int = 100
) -> Page[Transcription]:
    """Newest first, those below transcription `before`."""
    query = select(*columns_of(Transcription, transcriptions)).where(
        transcriptions.c.user_id == user_id
    )
    rows = newest_first(
        conn, query, transcriptions.c.transcription_id, before=before, page_size=page_size
    )
    return build_page([Transcription(**row) for row in rows], page_size)
