"""One database, SQLite or PostgreSQL, from one URL; transactions for worker threads."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from qwen3_audio.errors import SpeechError, StartError
from qwen3_audio.store.failures import BUSY, is_busy, speech_error, start_error, unavailable
from qwen3_audio.store.locks import FilePresence, PostgresPresence

BUSY_TIMEOUT_MS = 5000
WRITE_TURN_TIMEOUT_S = 30.0
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
    "PRAGMA foreign_keys=ON",
)


class Database:
    """An engine with the two kinds of transactions this program has; safe from any thread."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgres_engine(url)
        self._writer = self.engine.execution_options(begin="BEGIN IMMEDIATE")
        # SQLite has one writer at a time; waiting here is fair and wakes at once, while its own
        # busy handler polls and may pass a thread over for seconds.
        self._write_turn = threading.Lock() if self.is_sqlite else None
        self._gave_up_s = 0.0  # when a writer last waited for another program in vain
        self._presence: FilePresence | PostgresPresence | None = None

    @property
    def place(self) -> str:
        """The database by name, for messages to the operator; without a password."""
        if self.is_sqlite:
            return f"The database {self.url.database}"
        host = self.url.host or self.url.query.get("host") or "localhost"
        return f"The PostgreSQL database {self.url.database!r} on {host}"

    @property
    def file(self) -> Path:
        """SQLite's file."""
        return sqlite_file(self.url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state and is rolled back: nothing written in it stays."""
        with _for_clients(), self.engine.connect() as conn:
            yield conn

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or rolled back if an error leaves it.

        Keep it short. Not to be nested: SQLite has one writer.
        """
        with _for_clients(), self._turn(), self._writer.begin() as conn:
            yield conn

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._write_turn is None:
            yield
            return
        came_s = time.monotonic()
        if not self._write_turn.acquire(timeout=WRITE_TURN_TIMEOUT_S):
            raise unavailable(BUSY)
        try:
            if self._gave_up_s > came_s:  # it waited as long as the one before, for the same
                raise unavailable(BUSY)
            yield
        except OperationalError as error:
            if is_busy(error):
                self._gave_up_s = time.monotonic()
            raise
        finally:
            self._write_turn.release()

    @contextmanager
    def arrival(self) -> Iterator[bool]:
        """Mark this server as present; True: it is the only one, and no other arrives meanwhile."""
        with self.for_start():
            presence = (
                FilePresence(Path(f"{self.file}.serving"))
                if self.is_sqlite
                else PostgresPresence(self.engine)
            )
            self._presence = presence
            is_alone = presence.is_alone()
        try:
            yield is_alone
        finally:
            presence.stay()

    @contextmanager
    def for_start(self) -> Iterator[None]:
        """Around work at the start: a refusal of the database becomes a StartError."""
        try:
            yield
        except DBAPIError as error:
            raise start_error(error, self.place) from None
        except SpeechError as error:
            raise StartError(f"{self.place} can't be used: {error}") from None
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise StartError(f"{self.place} can't be used: {reason}") from None

    def close(self) -> None:
        if self._presence is not None:
            self._presence.leave()
            self._presence = None
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Connects nothing yet. StartError in one sentence if the URL can't be used."""
    try:
        return Database(_parsed(url))
    except NoSuchModuleError as error:
        raise StartError(f"DATABASE_URL names a database that is not served: {error}") from None
    except ModuleNotFoundError:
        raise StartError(
            'DATABASE_URL names PostgreSQL; install its driver: pip install "qwen3-audio[postgres]"'
        ) from None


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StartError(
            "DATABASE_URL is not a database's URL, like sqlite:///data/qwen3-audio.db"
            " or postgresql://user:password@host/database"
        ) from None
    name = parsed.get_backend_name()
    if name in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if name != "sqlite":
        raise StartError(f"DATABASE_URL names {name}; sqlite and postgresql are served")
    if not parsed.database or parsed.database == ":memory:":
        raise StartError("DATABASE_URL must name a file: sqlite:///data/qwen3-audio.db")
    return parsed.set(drivername="sqlite+pysqlite")


def sqlite_file(url: URL) -> Path:
    """The file a SQLite URL names, in either of its forms."""
    return Path((url.database or "").removeprefix("file:"))


def sqlite_engine_without_pragmas(url: URL, **options: Any) -> Engine:
    """An engine whose transactions begin as this program says, not as the driver guesses."""
    connect_args = {"timeout": BUSY_TIMEOUT_MS / 1000}
    engine = create_engine(url, connect_args=connect_args, hide_parameters=True, **options)
    event.listen(engine, "connect", _leave_transactions_to_us)
    event.listen(engine, "begin", _begin)
    return engine


def _sqlite_engine(url: URL) -> Engine:
    engine = sqlite_engine_without_pragmas(url, pool_size=16, max_overflow=64)
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _postgres_engine(url: URL) -> Engine:
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=20,
        pool_pre_ping=True,
        hide_parameters=True,  # users' texts are nothing for a log
        connect_args={"connect_timeout": 10},
    )
    event.listen(engine, "connect", _bound_waiting)
    return engine


def _bound_waiting(connection: Any, record: ConnectionPoolEntry) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    connection.commit()


def _leave_transactions_to_us(connection: Any, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None


def _set_pragmas(connection: Any, record: ConnectionPoolEntry) -> None:
    for pragma in PRAGMAS:
        connection.execute(pragma)


def _begin(conn: Connection) -> None:
    # A write transaction takes its lock at once: upgrading later fails without waiting.
    conn.exec_driver_sql(conn.get_execution_options().get("begin", "BEGIN"))


@contextmanager
def _for_clients() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        meant = speech_error(error)
        if meant is None:
            raise
        raise meant from error
