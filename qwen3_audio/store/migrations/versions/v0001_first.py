"""The first schema, and user 1, who owns everything in local mode."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

STATUSES = "status IN ('waiting', 'running', 'done', 'failed', 'cancelled')"

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sa.DateTime(timezone=True).with_variant(sa.String(32), "sqlite")


def upgrade() -> None:
    _create_accounts()
    _create_voices()
    _create_names()
    _create_requests()
    _create_generations()
    _create_usage()
    _add_first_rows()


def _id(name: str) -> sa.Column[Any]:
    return sa.Column(name, Number, sa.Identity(), primary_key=True)


def _owner(**options: Any) -> sa.Column[Any]:
    users = sa.ForeignKey("users.user_id", ondelete="CASCADE")
    return sa.Column("user_id", Number, users, nullable=False, **options)


def _blob(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.String(64), sa.ForeignKey("blobs.sha256"))


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), **options)


def _created_at() -> sa.Column[Any]:
    return sa.Column("created_at", Time, nullable=False)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")


def _status() -> sa.Column[Any]:
    return sa.Column("status", sa.String(12), nullable=False)


def _index(table: str, *columns: str, where: str | None = None, name: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    name = name or f"ix_{table}_{'_'.join(columns)}"
    op.create_index(name, table, list(columns), sqlite_where=condition, postgresql_where=condition)


def _create_accounts() -> None:
    op.create_table(
        "users",
        _id("user_id"),
        _text("name"),
        _created_at(),
        sa.Column("disabled_at", Time),
        sa.Column("max_tokens_per_day", sa.BigInteger()),
        sa.Column("max_requests_per_minute", sa.BigInteger()),
        sa.Column("max_requests_at_once", sa.BigInteger()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "api_keys",
        _id("key_id"),
        _owner(),
        _text("name"),
        _text("prefix", nullable=False),
        sa.Column("key_hmac", sa.LargeBinary(32), nullable=False),
        _created_at(),
        sa.Column("last_used_at", Time),
        sa.Column("revoked_at", Time),
        sqlite_autoincrement=True,
    )
    _index("api_keys", "user_id")
    _index("api_keys", "prefix")
    op.create_table(
        "invites",
        _id("invite_id"),
        _owner(),
        sa.Column("code_hmac", sa.LargeBinary(32), nullable=False, unique=True),
        _created_at(),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("used_at", Time),
        sa.Column("revoked_at", Time),
        sqlite_autoincrement=True,
    )
    _index("invites", "user_id")


def _create_voices() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _created_at(),
    )
    op.create_table(
        "consents",
        _id("consent_id"),
        _owner(),
        _text("name", nullable=False),
        _text("language", nullable=False),
        _blob("recording_sha256"),
        _text("recording_type"),
        _created_at(),
        sqlite_autoincrement=True,
    )
    _index("consents", "user_id")
    _index("consents", "recording_sha256")
    op.create_table(
        "voices",
        _id("voice_id"),
        _owner(),
        _text("name", nullable=False),
        _text("name_key", nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        _text("language", nullable=False),
        _text("ref_text"),
        _text("description"),
        _blob("reference_sha256"),
        sa.Column("reference_ms", sa.BigInteger()),
        sa.Column("upload_sha256", sa.String(64)),
        sa.Column("consent_id", Number, sa.ForeignKey("consents.consent_id", ondelete="SET NULL")),
        _text("model_fingerprint"),
        _count("tokens"),
        _count("use_count"),
        _created_at(),
        sa.Column("deleted_at", Time),
        sa.Column("prompt", sa.LargeBinary()),
        sa.CheckConstraint("kind IN ('clone', 'design')", name="kind"),
        sqlite_autoincrement=True,
    )
    _index("voices", "user_id", "voice_id")
    _index("voices", "user_id", "name_key")
    _index("voices", "reference_sha256")
    _index("voices", "consent_id")


def _create_names() -> None:
    for table, owner in (("voice_names", [_owner(primary_key=True)]), ("shared_names", [])):
        voices = sa.ForeignKey("voices.voice_id", ondelete="CASCADE")
        op.create_table(
            table,
            *owner,
            _text("name_key", primary_key=True),
            _text("name", nullable=False),
            sa.Column("voice_id", Number, voices),
            _text("speaker"),
            _created_at(),
            sa.CheckConstraint("(voice_id IS NULL) <> (speaker IS NULL)", name="one_target"),
        )
        _index(table, "voice_id")


def _create_requests() -> None:
    op.create_table(
        "batches",
        _id("batch_id"),
        _owner(),
        sa.Column("key_id", Number),
        sa.Column("voice_id", Number),
        _text("response_format", nullable=False),
        _text("language", nullable=False),
        sa.Column("is_stored", sa.Boolean(), nullable=False),
        _count("num_texts"),
        _status(),
        _count("tokens"),
        sa.Column("discount", sa.Float()),
        sa.Column("latency_ms", sa.BigInteger()),
        _text("error"),
        _created_at(),
        sa.Column("ended_at", Time),
        sa.CheckConstraint(STATUSES, name="status"),
        sqlite_autoincrement=True,
    )
    _index("batches", "user_id", "batch_id")
    _index("batches", "status", where="ended_at IS NULL", name="ix_batches_unended")
    op.create_table(
        "transcriptions",
        _id("transcription_id"),
        _owner(),
        sa.Column("key_id", Number),
        _text("model"),
        _status(),
        _count("audio_ms"),
        sa.Column("latency_ms", sa.BigInteger()),
        _text("language"),
        _text("finish_reason"),
        _text("error"),
        _created_at(),
        sa.CheckConstraint(STATUSES, name="status"),
        sqlite_autoincrement=True,
    )
    _index("transcriptions", "user_id", "transcription_id")


def _create_generations() -> None:
    op.create_table(
        "generations",
        _id("generation_id"),
        _owner(),
        sa.Column("key_id", Number),
        sa.Column("voice_id", Number),
        _text("speaker"),
        _text("model"),
        sa.Column("batch_id", Number, sa.ForeignKey("batches.batch_id", ondelete="CASCADE")),
        sa.Column("position", sa.BigInteger()),
        sa.Column("route", sa.String(12), nullable=False),
        _status(),
        _count("num_chars"),
        _count("tokens"),
        sa.Column("latency_ms", sa.BigInteger()),
        sa.Column("audio_ms", sa.BigInteger()),
        _text("response_format", nullable=False),
        _text("language", nullable=False),
        sa.Column("seed", sa.BigInteger()),
        _text("finish_reason"),
        _text("error"),
        _created_at(),
        sa.Column("ended_at", Time),
        _blob("audio_sha256"),
        _text("text"),
        sa.CheckConstraint(STATUSES, name="status"),
        sqlite_autoincrement=True,
    )
    _index("generations", "user_id", "generation_id")
    _index("generations", "batch_id", where="batch_id IS NOT NULL")
    _index("generations", "audio_sha256", where="audio_sha256 IS NOT NULL")
    _index("generations", "status", where="ended_at IS NULL", name="ix_generations_unended")


def _create_usage() -> None:
    op.create_table(
        "usage_days",
        _owner(primary_key=True),
        sa.Column("day", sa.Date(), primary_key=True),
        sa.Column("key_id", Number, primary_key=True),
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
    op.create_table(
        "request_minutes",
        _owner(primary_key=True),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        _count("num_requests"),
    )
    op.create_table(
        "runtime_stats",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Float()),
        sa.Column("updated_at", Time),
    )


def _add_first_rows() -> None:
    now = datetime.now(UTC)
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    moment = now.isoformat(timespec="microseconds") if is_sqlite else now
    users = sa.table("users", sa.column("name"), sa.column("created_at"))
    op.bulk_insert(users, [{"name": "local", "created_at": moment}])
    stats = sa.table("runtime_stats", sa.column("name"))
    op.bulk_insert(
        stats, [{"name": "batch_discount_current"}, {"name": "single_latency_per_char_ms"}]
    )
