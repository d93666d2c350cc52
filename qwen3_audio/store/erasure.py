"""Deleting a user with everything that is theirs."""

from typing import Any

from sqlalchemy import Column, Connection, Table, delete, select

from qwen3_audio.errors import BadRequest
from qwen3_audio.store.blob_rows import release
from qwen3_audio.store.db import Database
from qwen3_audio.store.files import Blobs
from qwen3_audio.store.tables import (
    LOCAL_USER_ID,
    consents,
    generations,
    transcriptions,
    users,
    voices,
)
from qwen3_audio.store.users import disable_user, no_user

ROWS_AT_ONCE = 500  # so that a million rows never keep other writers waiting

# Table by table: its number, and its file if it has one. Voices before the consents they name.
OWNED: tuple[tuple[Table, Column[int], Column[str] | None], ...] = (
    (generations, generations.c.generation_id, generations.c.audio_sha256),
    (transcriptions, transcriptions.c.transcription_id, None),
    (voices, voices.c.voice_id, voices.c.reference_sha256),
    (consents, consents.c.consent_id, consents.c.recording_sha256),
)


def delete_user(db: Database, blobs: Blobs, user_id: int) -> None:
    """Disable the user, remove everything that is theirs, then the user.

    If it is interrupted, doing it again goes on. Other users' copies of the same sound stay.
    NotFound if there is no such user, BadRequest for user 1.
    """
    if user_id == LOCAL_USER_ID:
        raise BadRequest("User 1 belongs to local mode and can only be disabled", param="user_id")
    with db.write() as conn:
        disable_user(conn, user_id)
    for table, number, file in OWNED:
        while True:
            with db.write() as conn:
                num_rows, files = _delete_some(conn, user_id, table, number, file)
                released = release(conn, files)
            blobs.remove(db, released)
            if num_rows < ROWS_AT_ONCE:
                break
    blobs.remove(db, _delete_last(db, user_id))


def _delete_last(db: Database, user_id: int) -> list[str]:
    """The user, and what requests in flight added meanwhile; gives back its files."""
    with db.write() as conn:
        found = select(users.c.user_id).where(users.c.user_id == user_id).with_for_update()
        if conn.execute(found).one_or_none() is None:
            raise no_user(user_id)
        files = [sha256 for owned in OWNED for sha256 in _delete_some(conn, user_id, *owned)[1]]
        conn.execute(delete(users).where(users.c.user_id == user_id))
        return release(conn, files)


def _delete_some(
    conn: Connection,
    user_id: int,
    table: Table,
    number: Column[int],
    file: Column[str] | None,
) -> tuple[int, list[str | None]]:
    """Delete the oldest rows: how many there were, and the files they referred to."""
    some = select(number).where(table.c.user_id == user_id).order_by(number).limit(ROWS_AT_ONCE)
    shown: Column[Any] = number if file is None else file
    deleted = conn.execute(delete(table).where(number.in_(some)).returning(shown)).all()
    return len(deleted), [] if file is None else [row[0] for row in deleted]
