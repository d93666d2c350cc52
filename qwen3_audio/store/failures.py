"""What a database's refusal means: for a client while serving, for a person at the start."""

import sqlite3
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from qwen3_audio.errors import NotFound, Overloaded, SpeechError, StartError, StorageFull

BUSY = "The database is busy; please try again"
FULL = "The disk of the database is full; nothing was changed"
GONE = "What this belongs to was deleted meanwhile"
READ_ONLY = "The database takes no changes at the moment; please tell the operator"
UNREACHABLE = "The database can't be reached at the moment; please try again"
UNAVAILABLE = "database_unavailable"


def unavailable(message: str) -> Overloaded:
    """Not the waiting line is full: the database can't be read or changed now."""
    return Overloaded(message, code=UNAVAILABLE)


BUSY_CODES = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03")
# SQLITE_… and PostgreSQL's SQLSTATE, each by how it begins.
MEANING: dict[str, tuple[Callable[[str], SpeechError], str]] = {
    "SQLITE_BUSY": (unavailable, BUSY),
    "SQLITE_LOCKED": (unavailable, BUSY),
    "SQLITE_FULL": (StorageFull, FULL),
    "SQLITE_READONLY": (unavailable, READ_ONLY),
    "SQLITE_IOERR": (unavailable, UNREACHABLE),
    "SQLITE_CANTOPEN": (unavailable, UNREACHABLE),
    "SQLITE_CONSTRAINT_FOREIGNKEY": (NotFound, GONE),
    "53100": (StorageFull, FULL),
    "53": (unavailable, BUSY),  # out of memory, of connections
    "40": (unavailable, BUSY),  # deadlock, serialization
    "55P03": (unavailable, BUSY),
    "57": (unavailable, UNREACHABLE),  # the server stops
    "08": (unavailable, UNREACHABLE),
    "25006": (unavailable, READ_ONLY),
    "23503": (NotFound, GONE),
}


def _code(error: DBAPIError) -> str:
    """SQLite's name or PostgreSQL's SQLSTATE; empty if there is none."""
    original = error.orig
    name = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    return str(name or "")


def is_busy(error: DBAPIError) -> bool:
    """True if somebody else held the database for too long."""
    return _code(error).startswith(BUSY_CODES)


def speech_error(error: DBAPIError | PoolTimeout) -> SpeechError | None:
    """The error that a client should see, or None if it is a fault of this program."""
    if isinstance(error, PoolTimeout):
        return unavailable(BUSY)
    code = _code(error)
    for beginning, (kind, message) in MEANING.items():
        if code.startswith(beginning):
            return kind(message)
    if isinstance(error, OperationalError) and not isinstance(error.orig, sqlite3.Error):
        return unavailable(UNREACHABLE)  # a broken connection has no SQLSTATE
    return None


def start_error(error: DBAPIError, place: str) -> StartError:
    """One sentence for the person who starts the program; `place` names the database."""
    code = _code(error)
    if code.startswith(BUSY_CODES):
        return StartError(f"{place} is locked by another program; stop that one first")
    if code.startswith("SQLITE_NOTADB"):
        return StartError(f"{place} is not a database file")
    if code.startswith("SQLITE_CORRUPT"):
        return StartError(f"{place} is damaged; put the last backup in its place")
    if code.startswith("SQLITE_FULL"):
        return StartError(f"{place} can't grow: its disk is full")
    if code.startswith(("SQLITE_READONLY", "25006")):
        return StartError(f"{place} is read-only; it must be writable for this program")
    if code.startswith("SQLITE_CANTOPEN"):
        return StartError(f"{place} can't be opened; its folder must exist and be writable")
    reason = " ".join(str(error.orig).split())
    return StartError(f"{place} can't be used: {reason}")
