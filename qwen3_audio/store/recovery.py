"""At the start: what a killed process left behind."""

from dataclasses import dataclass

from sqlalchemy import Connection, Table, update

from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.db import Database
from qwen3_audio.store.files import Blobs
from qwen3_audio.store.tables import UNENDED, Status, batches, generations

INTERRUPTED = "The server stopped before this ended"


@dataclass(frozen=True, slots=True)
class Recovered:
    """How much there was to repair."""

    num_failed: int  # requests that had begun
    num_files: int  # without a row, or unfinished


def recover(db: Database, blobs: Blobs) -> Recovered:
    """End what was begun, remove files that nothing refers to. Once, before requests are taken.

    Requests are only ended if no other server uses the database: they might be its own.
    """
    with db.arrival() as is_alone, db.for_start():
        num_failed = _fail_interrupted(db) if is_alone else 0
        return Recovered(num_failed, blobs.sweep(db))


def _fail_interrupted(db: Database) -> int:
    with db.write() as conn:
        return sum(_fail_unended(conn, table) for table in (generations, batches))


def _fail_unended(conn: Connection, table: Table) -> int:
    unended = update(table).where(table.c.ended_at.is_(None), table.c.status.in_(UNENDED))
    values = {"status": Status.FAILED, "error": INTERRUPTED, "tokens": 0, "ended_at": utc_now()}
    return conn.execute(unended.values(values)).rowcount
