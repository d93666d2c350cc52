"""Rows of blobs: one for each file, gone with the last row that refers to it."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, exists, select, text

from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.tables import blobs, consents, generations, voices
from qwen3_audio.store.upserts import insert_or

REFERRERS = (voices.c.reference_sha256, consents.c.recording_sha256, generations.c.audio_sha256)


def lock_blobs(conn: Connection, sha256s: Iterable[str]) -> list[str]:
    """Keep others from adding or removing these files and rows until this transaction ends.

    On SQLite a write transaction does that by itself. In order, so that two never wait for
    each other; gives back the hashes in that order, each once.
    """
    ordered = sorted(set(sha256s))
    if conn.dialect.name == "postgresql":
        for sha256 in ordered:
            conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(sha256)})
    return ordered


def _lock_key(sha256: str) -> int:
    return int.from_bytes(bytes.fromhex(sha256[:16]), "big", signed=True)


def add_row(conn: Connection, *, sha256: str, size_bytes: int) -> None:
    """Nothing if the row is there; the blob must be locked."""
    values = {"sha256": sha256, "size_bytes": size_bytes, "created_at": utc_now()}
    conn.execute(insert_or(conn, blobs).values(values).on_conflict_do_nothing())


def release(conn: Connection, sha256s: Iterable[str | None]) -> list[str]:
    """Remove the rows that nothing refers to any more; their files go after the commit.

    Gives back the hashes whose files `Blobs.remove` should look at.
    """
    ordered = lock_blobs(conn, (sha256 for sha256 in sha256s if sha256 is not None))
    return [sha256 for sha256 in ordered if _remove_row_if_unused(conn, sha256)]


def _remove_row_if_unused(conn: Connection, sha256: str) -> bool:
    unused = [~exists().where(column == sha256) for column in REFERRERS]
    removed = conn.execute(delete(blobs).where(blobs.c.sha256 == sha256, *unused))
    return removed.rowcount > 0


def known(conn: Connection, sha256s: Iterable[str]) -> set[str]:
    """Which of these have a row."""
    wanted = list(sha256s)
    return set(conn.scalars(select(blobs.c.sha256).where(blobs.c.sha256.in_(wanted))))


def known_from(conn: Connection, first: str, last: str) -> set[str]:
    """All hashes from `first` to `last`, both included."""
    return set(conn.scalars(select(blobs.c.sha256).where(blobs.c.sha256.between(first, last))))
