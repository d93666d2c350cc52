"""The schema, once, for SQLite and PostgreSQL. A change here needs a file in migrations/versions.

No number is ever used again: identities on PostgreSQL, AUTOINCREMENT on SQLite.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Float,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)

from qwen3_audio.store.columns import AnyText, Id, UtcTime, utc_now

LOCAL_USER_ID = 1  # made by the first migration; owns everything in local mode
NO_KEY = 0  # in usage_days: the request came without a key


class Status(StrEnum):
    """A request's life; it ends in exactly one of the last three."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Route(StrEnum):
    """Which door a speech request came through."""

    TTS = "tts"
    BATCH = "batch"
    SPEECH = "speech"


UNENDED = (Status.WAITING, Status.RUNNING)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id(name: str) -> Column[Any]:
    return Column(name, Id, Identity(), primary_key=True)


def _owner(**options: Any) -> Column[Any]:
    return Column(
        "user_id", Id, ForeignKey("users.user_id", ondelete="CASCADE"), nullable=False, **options
    )


def _blob(name: str) -> Column[Any]:
    # No ON DELETE: a blob's row can't go while a row refers to it.
    return Column(name, String(64), ForeignKey("blobs.sha256"))


def _created_at() -> Column[Any]:
    return Column("created_at", UtcTime, nullable=False, default=utc_now)


def _count(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, default=0, server_default="0")


def _status() -> Column[Any]:
    return Column("status", String(12), nullable=False)


def _status_check() -> CheckConstraint:
    words = ", ".join(f"'{status}'" for status in Status)
    return CheckConstraint(f"status IN ({words})", name="status")


users = Table(
    "users",
    metadata,
    _id("user_id"),
    Column("name", AnyText),
    _created_at(),
    Column("disabled_at", UtcTime),
    Column("max_tokens_per_day", BigInteger),  # NULL: unlimited, here and below
    Column("max_requests_per_minute", BigInteger),
    Column("max_requests_at_once", BigInteger),
    sqlite_autoincrement=True,
)
api_keys = Table(
    "api_keys",
    metadata,
    _id("key_id"),
    _owner(index=True),
    Column("name", AnyText),
    Column("prefix", AnyText, nullable=False, index=True),
    Column("key_hmac", LargeBinary(32), nullable=False),
    _created_at(),
    Column("last_used_at", UtcTime),
    Column("revoked_at", UtcTime),
    sqlite_autoincrement=True,
)
invites = Table(
    "invites",
    metadata,
    _id("invite_id"),
    _owner(index=True),
    Column("code_hmac", LargeBinary(32), nullable=False, unique=True),
    _created_at(),
    Column("expires_at", UtcTime, nullable=False),
    Column("used_at", UtcTime),
    Column("revoked_at", UtcTime),
    sqlite_autoincrement=True,
)
blobs = Table(  # one row a file; the file lives as long as rows of other tables refer to it
    "blobs",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    _created_at(),
)
consents = Table(
    "consents",
    metadata,
    _id("consent_id"),
    _owner(index=True),
    Column("name", AnyText, nullable=False),
    Column("language", AnyText, nullable=False),
    _blob("recording_sha256"),
    Column("recording_type", AnyText),
    _created_at(),
    Index(None, "recording_sha256"),
    sqlite_autoincrement=True,
)
voices = Table(
    "voices",
    metadata,
    _id("voice_id"),
    _owner(),
    Column("name", AnyText, nullable=False),
    Column("name_key", AnyText, nullable=False),
    Column("kind", String(8), nullable=False),  # clone, design
    Column("language", AnyText, nullable=False),
    Column("ref_text", AnyText),
    Column("description", AnyText),
    _blob("reference_sha256"),
    Column("reference_ms", BigInteger),
    Column("upload_sha256", String(64)),
    Column("consent_id", Id, ForeignKey("consents.consent_id", ondelete="SET NULL")),
    Column("model_fingerprint", AnyText),
    _count("tokens"),
    _count("use_count"),
    _created_at(),
    Column("deleted_at", UtcTime),
    Column("prompt", LargeBinary),  # last: SQLite reads the columns before it without it
    CheckConstraint("kind IN ('clone', 'design')", name="kind"),
    Index(None, "user_id", "voice_id"),
    Index(None, "user_id", "name_key"),
    Index(None, "reference_sha256"),
    Index(None, "consent_id"),
    sqlite_autoincrement=True,
)
voice_names = Table(  # a user's own re-mapping
    "voice_names",
    metadata,
    _owner(primary_key=True),
    Column("name_key", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("voice_id", Id, ForeignKey("voices.voice_id", ondelete="CASCADE"), index=True),
    Column("speaker", AnyText),
    _created_at(),
    CheckConstraint("(voice_id IS NULL) <> (speaker IS NULL)", name="one_target"),
)
shared_names = Table(  # the admin's re-mapping for everybody
    "shared_names",
    metadata,
    Column("name_key", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("voice_id", Id, ForeignKey("voices.voice_id", ondelete="CASCADE"), index=True),
    Column("speaker", AnyText),
    _created_at(),
    CheckConstraint("(voice_id IS NULL) <> (speaker IS NULL)", name="one_target"),
)
batches = Table(
    "batches",
    metadata,
    _id("batch_id"),
    _owner(),
    Column("key_id", Id),
    Column("voice_id", Id),  # no foreign key, see generations
    Column("response_format", AnyText, nullable=False),
    Column("language", AnyText, nullable=False),
    Column("is_stored", Boolean, nullable=False),
    _count("num_texts"),
    _status(),
    _count("tokens"),
    Column("discount", Float),
    Column("latency_ms", BigInteger),
    Column("error", AnyText),
    _created_at(),
    Column("ended_at", UtcTime),
    _status_check(),
    Index(None, "user_id", "batch_id"),
    Index(
        "ix_batches_unended",
        "status",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)
generations = Table(
    "generations",
    metadata,
    _id("generation_id"),
    _owner(),
    Column("key_id", Id),
    # A record of what spoke, not a reference to it: voices stay as rows until their owner goes.
    Column("voice_id", Id),
    Column("speaker", AnyText),
    Column("model", AnyText),
    Column("batch_id", Id, ForeignKey("batches.batch_id", ondelete="CASCADE")),
    Column("position", BigInteger),  # in the batch, from 0
    Column("route", String(12), nullable=False),
    _status(),
    _count("num_chars"),
    _count("tokens"),
    Column("latency_ms", BigInteger),
    Column("audio_ms", BigInteger),
    Column("response_format", AnyText, nullable=False),
    Column("language", AnyText, nullable=False),
    Column("seed", BigInteger),
    Column("finish_reason", AnyText),
    Column("error", AnyText),
    _created_at(),
    Column("ended_at", UtcTime),
    _blob("audio_sha256"),  # this and text: only with store=true
    Column("text", AnyText),
    _status_check(),
    Index(None, "user_id", "generation_id"),
    Index(
        "ix_generations_batch_id",
        "batch_id",
        sqlite_where=text("batch_id IS NOT NULL"),
        postgresql_where=text("batch_id IS NOT NULL"),
    ),
    Index(
        "ix_generations_audio_sha256",
        "audio_sha256",
        sqlite_where=text("audio_sha256 IS NOT NULL"),
        postgresql_where=text("audio_sha256 IS NOT NULL"),
    ),
    Index(
        "ix_generations_unended",
        "status",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)
transcriptions = Table(
    "transcriptions",
    metadata,
    _id("transcription_id"),
    _owner(),
    Column("key_id", Id),
    Column("model", AnyText),
    _status(),
    _count("audio_ms"),
    Column("latency_ms", BigInteger),
    Column("language", AnyText),
    Column("finish_reason", AnyText),
    Column("error", AnyText),
    _created_at(),
    _status_check(),
    Index(None, "user_id", "transcription_id"),
    sqlite_autoincrement=True,
)
usage_days = Table(  # what every ended request added up to, so that totals never scan requests
    "usage_days",
    metadata,
    _owner(primary_key=True),
    Column("day", Date, primary_key=True),  # in UTC
    Column("key_id", Id, primary_key=True),
    _count("tokens_tts"),
    _count("tokens_batch"),
    _count("tokens_speech"),
    _count("tokens_voices"),
    _count("tts_calls"),
    _count("batch_calls"),
    _count("speech_calls"),
    _count("transcription_calls"),
    _count("voices_created"),
    _count("transcribed_ms"),
)
request_minutes = Table(  # only users with a limit on requests a minute have a row
    "request_minutes",
    metadata,
    _owner(primary_key=True),
    Column("minute", BigInteger, nullable=False),  # since 1970
    _count("num_requests"),
)
runtime_stats = Table(
    "runtime_stats",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Float),
    Column("updated_at", UtcTime),
)
