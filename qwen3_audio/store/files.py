"""Sounds as files named after their content, each kept once however many rows refer to it.

The order that survives a crash at any point: the bytes go to a temporary name and to the disk
before the transaction; the transaction renames and then adds the row; a row is removed before its
file. So there is never a row without a file, and a file without a row goes with the next sweep.
"""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from qwen3_audio.errors import NotFound, SpeechError, StorageFull
from qwen3_audio.store.blob_rows import add_row, known, known_from, lock_blobs
from qwen3_audio.store.db import Database
from qwen3_audio.store.users import hold_user
from qwen3_audio.store.writer_mark import WriterMark, living_writers, new_token

FOLDER = re.compile(r"[0-9a-f]{2}")
REST = re.compile(r"[0-9a-f]{62}")
UNFINISHED = re.compile(r"\.([0-9a-f]{16})-\d+")
MAX_LOCKED = 500  # blobs in one transaction; PostgreSQL's lock table is small
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_LEFT = "The server's disk is full: nothing was kept or changed; ask the operator for room"


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """Bytes that are on the disk under a temporary name, ready for a transaction to keep."""

    sha256: str
    size_bytes: int
    unfinished: Path


def _go_on() -> None:
    """Nothing happens between a file and its row, except in tests that crash there."""


class Blobs:
    """The folder of all kept sounds. Safe from any thread and from several processes at once."""

    def __init__(self, folder: Path, *, before_row: Callable[[], None] = _go_on) -> None:
        self._folder = folder
        self._before_row = before_row
        self._lock = threading.Lock()
        self._token = new_token()
        self._mark: WriterMark | None = None
        self._num_staged = 0
        self._left: set[str] = set()  # files to remove when the database takes changes again

    def path(self, sha256: str) -> Path:
        """Where the file is, if it is kept."""
        return self._folder / sha256[:2] / sha256[2:]

    def read(self, sha256: str) -> bytes:
        """The bytes; NotFound if they were deleted meanwhile."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound("This sound is no longer kept here") from None

    @contextmanager
    def staged(self, db: Database, *contents: bytes) -> Iterator[tuple[StagedBlob, ...]]:
        """Write outside any transaction; inside one, `keep` what comes and add the rows.

        What was not kept at the end, because of an error or otherwise, is gone from the disk.
        StorageFull if there is no room.
        """
        staged = [self._planned(content) for content in contents]
        is_done = False
        try:
            with _clear_refusal():
                for blob, content in zip(staged, contents, strict=True):
                    self._write(blob, content)
            yield tuple(staged)
            is_done = True
        finally:
            named = [blob.sha256 for blob in staged if not _unlinked(blob.unfinished)]
            if named and not is_done:
                self.remove(db, named)

    def keep(self, conn: Connection, user_id: int, staged: Iterable[StagedBlob]) -> None:
        """Give the files their names and add their rows, in the caller's write transaction.

        Before the rows that refer to them. NotFound if the user was deleted meanwhile.
        """
        hold_user(conn, user_id)  # before the blobs, as a deletion does: no two wait for each other
        by_hash = {blob.sha256: blob for blob in staged}
        for sha256 in lock_blobs(conn, by_hash):
            blob = by_hash[sha256]
            with _clear_refusal():
                self._give_name(blob)
            self._before_row()
            add_row(conn, sha256=sha256, size_bytes=blob.size_bytes)

    def remove(self, db: Database, sha256s: Iterable[str]) -> int:
        """Remove the files that have no row, after the transaction that released them.

        Never fails, as that is over: what can't be removed now goes with the next removal, or
        the next start's sweep. Gives back how many files there were.
        """
        with self._lock:
            wanted, self._left = self._left.union(sha256s), set()
        try:
            return self._remove_all(db, wanted)
        except SpeechError:
            with self._lock:
                self._left |= wanted
            return 0

    def _remove_all(self, db: Database, sha256s: set[str]) -> int:
        wanted = sorted(sha256s)
        return sum(
            self._remove_some(db, wanted[first : first + MAX_LOCKED])
            for first in range(0, len(wanted), MAX_LOCKED)
        )

    def sweep(self, db: Database) -> int:
        """Remove what crashes left: files without a row, unfinished files of dead writers.

        Harmless at any time: a file whose row is just being added is locked by its transaction,
        and unfinished files belong to a process that holds its mark.
        """
        if not self._folder.is_dir():
            return 0
        return (
            sum(
                self._sweep_folder(db, folder)
                for folder in sorted(self._folder.iterdir())
                if FOLDER.fullmatch(folder.name)
            )
            + self._sweep_unfinished()
        )

    def missing(self, conn: Connection) -> list[str]:
        """Hashes of rows whose file is not there: somebody took it away by hand."""
        return sorted(
            sha256 for sha256 in known_from(conn, "", "g") if not self.path(sha256).is_file()
        )

    def close(self) -> None:
        """Give up this process's mark as a writer."""
        with self._lock:
            if self._mark is not None:
                self._mark.close()
                self._mark = None

    def _planned(self, content: bytes) -> StagedBlob:
        sha256 = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._num_staged += 1
            unfinished = self.path(sha256).with_name(f".{self._token}-{self._num_staged}")
        return StagedBlob(sha256, len(content), unfinished)

    def _write(self, blob: StagedBlob, content: bytes) -> None:
        blob.unfinished.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self._mark is None:
                self._mark = WriterMark(self._folder, self._token)
        _write_synced(blob.unfinished, content)

    def _give_name(self, blob: StagedBlob) -> None:
        path = self.path(blob.sha256)
        if path.exists():
            return
        blob.unfinished.rename(path)
        _sync_folder(path.parent)

    def _remove_some(self, db: Database, sha256s: list[str]) -> int:
        with db.write() as conn:
            rows = known(conn, lock_blobs(conn, sha256s))
            return sum(_unlinked(self.path(sha256)) for sha256 in sha256s if sha256 not in rows)

    def _sweep_folder(self, db: Database, folder: Path) -> int:
        names = [path.name for path in folder.iterdir() if REST.fullmatch(path.name)]
        files = {folder.name + name for name in names}
        if not files:
            return 0
        with db.read() as conn:
            rows = known_from(conn, min(files), max(files))
        return self._remove_all(db, files - rows)

    def _sweep_unfinished(self) -> int:
        unfinished = [
            (path, found[1])
            for path in self._folder.glob("??/.*")
            if (found := UNFINISHED.fullmatch(path.name))
        ]
        # Asked after listing: whoever wrote one of these had its mark before.
        living = living_writers(self._folder)
        return sum(_unlinked(path) for path, token in unfinished if token not in living)


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlinked(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:  # not there, or on a disk that takes no changes; the next start tries again
        return False
    return True


@contextmanager
def _clear_refusal() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFull(NO_ROOM_LEFT) from error
        reason = os.strerror(error.errno or 0)
        raise StorageFull(f"The server can't keep files at the moment ({reason})") from error
