"""Locks between processes: who migrates, and whether another server uses the same database."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, text

FIRST_PART = 0x5133  # of PostgreSQL's two-part advisory locks; those of blobs have one part
MIGRATING, SERVING = 1, 2
_KEY = f"({FIRST_PART}, :lock)"


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the file exclusively; others wait. The system frees it when the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_transaction(conn: Connection, lock: int) -> None:
    """Hold a PostgreSQL lock until this transaction ends; others wait, however long it takes."""
    conn.execute(text("SET LOCAL lock_timeout = 0"))
    conn.execute(text(f"SELECT pg_advisory_xact_lock{_KEY}"), {"lock": lock})


class FilePresence:
    """A server's mark on a SQLite database, as a lock on a file beside it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def is_alone(self) -> bool:
        """True if no other server is present; then none can come before `stay`."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def stay(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def leave(self) -> None:
        os.close(self._descriptor)


class PostgresPresence:
    """A server's mark on a PostgreSQL database, as an advisory lock of one connection."""

    def __init__(self, engine: Engine) -> None:
        self._conn = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._conn.detach()
        self._conn.execute(text("SET lock_timeout = 0"))  # the first server may have much to sweep
        self._is_exclusive = False

    def is_alone(self) -> bool:
        """True if no other server is present; then none can come before `stay`."""
        query = text(f"SELECT pg_try_advisory_lock{_KEY}")
        self._is_exclusive = bool(self._conn.execute(query, {"lock": SERVING}).scalar_one())
        return self._is_exclusive

    def stay(self) -> None:
        # A session may hold both; in this order nobody else is alone in between.
        self._conn.execute(text(f"SELECT pg_advisory_lock_shared{_KEY}"), {"lock": SERVING})
        if self._is_exclusive:
            self._conn.execute(text(f"SELECT pg_advisory_unlock{_KEY}"), {"lock": SERVING})

    def leave(self) -> None:
        self._conn.close()
