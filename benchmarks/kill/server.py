"""Real servers, one after the other, which stop inside a write where they are told to.

    python -m benchmarks.kill.server FOLDER serve --fake

It imports everything once; for each line on standard input, the name of a log, it forks a process
that becomes the command, prints its number, and `dead` when somebody has killed it.

If FOLDER/armed names a point, the first write that comes to it takes that file away, makes
FOLDER/stopped and goes no further.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import uvicorn  # noqa: F401  here and below: what serving imports late
from sqlalchemy import Connection

from qwen3_audio import cli, fake  # noqa: F401
from qwen3_audio.commands import serve  # noqa: F401
from qwen3_audio.store import opening
from qwen3_audio.store.db import Database
from qwen3_audio.store.files import Blobs, StagedBlob
from qwen3_audio.web import app  # noqa: F401

BEFORE_ROW = "between file and row"
BEFORE_COMMIT = "between row and commit"
BEFORE_REMOVAL = "between the end of a row and that of its file"
POINTS = (BEFORE_ROW, BEFORE_COMMIT, BEFORE_REMOVAL)
ARMED, STOPPED = "armed", "stopped"
DEAD = "dead"


class StoppingBlobs(Blobs):
    """The files as they are, with a place to stop at each point of a write."""

    def __init__(self, folder: Path, *, stop: Callable[[str], None]) -> None:
        super().__init__(folder, before_row=lambda: stop(BEFORE_ROW))
        self._stop = stop

    def keep(self, conn: Connection, user_id: int, staged: Iterable[StagedBlob]) -> None:
        super().keep(conn, user_id, staged)
        self._stop(BEFORE_COMMIT)

    def remove(self, db: Database, sha256s: Iterable[str]) -> int:
        wanted = list(sha256s)
        if wanted:
            self._stop(BEFORE_REMOVAL)
        return super().remove(db, wanted)


def stop_if_armed(folder: Path, point: str) -> None:
    armed = folder / ARMED
    try:
        if armed.read_text(encoding="utf-8") != point:
            return
        armed.unlink()
    except FileNotFoundError:
        return
    (folder / STOPPED).touch()
    threading.Event().wait()


def become(command: list[str], folder: Path, log: str) -> None:
    """The server, in a process of its own; does not come back."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), sys.stderr.fileno())
    stopping = partial(StoppingBlobs, stop=partial(stop_if_armed, folder))
    opening.Blobs = stopping  # type: ignore[assignment,misc]
    cli.main(command)


def main() -> None:
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            become(command, folder, line.strip())
        print(number, flush=True)
        os.waitpid(number, 0)
        print(DEAD, flush=True)


if __name__ == "__main__":
    main()
