"""Who is still writing: a locked file for each writer, which the system unlocks when it dies."""

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path

NAME = re.compile(r"\.writer-([0-9a-f]{16})")


def new_token() -> str:
    """A writer's name, which its mark and its unfinished files bear."""
    return secrets.token_hex(8)


class WriterMark:
    """One process's right to have unfinished files in a folder, for as long as it lives."""

    def __init__(self, folder: Path, token: str) -> None:
        self._path = folder / f".writer-{token}"
        self._descriptor = _create_locked(self._path)

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._descriptor)


def living_writers(folder: Path) -> set[str]:
    """The tokens of writers that live; removes the marks of those that don't."""
    marks = {found[1]: path for path in folder.iterdir() if (found := NAME.fullmatch(path.name))}
    return {token for token, path in marks.items() if not _removed_as_dead(path)}


def _create_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # removed as dead between its creation and its lock: once more


def _removed_as_dead(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
