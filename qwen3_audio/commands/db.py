"""`qwen3-audio db`: bring the database to this version, look whether it is sound, copy it."""

import argparse
from contextlib import closing
from pathlib import Path

from qwen3_audio.commands.arguments import read_settings
from qwen3_audio.settings import Settings
from qwen3_audio.store.backup import backup
from qwen3_audio.store.db import Database, open_database
from qwen3_audio.store.files import Blobs
from qwen3_audio.store.migrate import check, migrate

MAX_NAMED = 5


def run(arguments: argparse.Namespace) -> int:
    """0; for `check` 1 if sounds are missing."""
    settings = read_settings(arguments)
    with closing(open_database(settings.database)) as db:
        match arguments.action:
            case "upgrade":
                migrate(db)
                print(f"{db.place} is of this program's version")
            case "backup":
                backup(db, arguments.file)
                print(f"{db.place} was copied to {arguments.file}; copy {_folder(settings)} next")
            case _:
                return _check(db, settings)
    return 0


def _check(db: Database, settings: Settings) -> int:
    check(db)
    with closing(Blobs(_folder(settings))) as blobs, db.read() as conn:
        missing = blobs.missing(conn)
    if missing:
        shown = ", ".join(missing[:MAX_NAMED]) + (" ..." if missing[MAX_NAMED:] else "")
        print(f"{db.place} is sound, but {len(missing)} of its files are missing: {shown}")
        return 1
    print(f"{db.place} is sound, and every file that it names is there")
    return 0


def _folder(settings: Settings) -> Path:
    return settings.data_dir / "blobs"
