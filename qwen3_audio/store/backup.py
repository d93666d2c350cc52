"""A copy of a database that is in use."""

import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from qwen3_audio.errors import StartError
from qwen3_audio.store.db import Database


def backup(db: Database, path: Path) -> None:
    """Copy a SQLite database as it is at one moment, while others use it.

    The sounds beside it are files that never change: copy the folder of blobs after this.
    StartError if the copy can't be made; `path` then does not exist.
    """
    if not db.is_sqlite:
        raise StartError(f"{db.place} is backed up with PostgreSQL's own pg_dump")
    if path.exists():
        raise StartError(f"{path} exists already; a backup never replaces a file")
    if not db.file.exists():
        raise StartError(f"{db.place} does not exist")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        _copy(db.file, unfinished)
        os.link(unfinished, path)  # unlike a rename, never replaces a file
    except FileExistsError:
        raise StartError(f"{path} exists already; a backup never replaces a file") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise StartError(f"{path} can't be written: {reason}") from None
    except sqlite3.Error as error:
        raise StartError(f"{db.place} can't be copied to {path}: {error}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def _copy(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(source)) as from_, closing(sqlite3.connect(target)) as to:
        from_.backup(to)
    with target.open("rb") as copied:
        os.fsync(copied.fileno())
