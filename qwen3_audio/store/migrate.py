"""The schema's version: brought up to date at the start, checked, never guessed."""

import os
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, event, inspect, text

from qwen3_audio.errors import StartError
from qwen3_audio.store.db import Database, sqlite_engine_without_pragmas
from qwen3_audio.store.locks import MIGRATING, file_lock, lock_transaction
from qwen3_audio.store.tables import metadata

SCRIPTS = Path(__file__).parent / "migrations"


def migrate(db: Database) -> None:
    """Bring the schema to this program's version, in one transaction and one process at a time.

    StartError if the database is newer, read-only, locked, damaged or another program's.
    """
    with db.for_start():
        if db.is_sqlite:
            _migrate_sqlite(db)
        else:
            with db.engine.begin() as conn:
                lock_transaction(conn, MIGRATING)
                _upgrade(conn, db.place)


def check(db: Database) -> None:
    """StartError unless the database is there, sound and of exactly this program's version."""
    if db.is_sqlite and not db.file.exists():
        raise StartError(f"{db.place} does not exist; `qwen3-audio db upgrade` makes it")
    with db.for_start(), db.engine.connect() as conn:
        current = _current_version(conn, db.place)
        if current != _scripts().get_current_head():
            raise StartError(f"{db.place} is of an older version; run `qwen3-audio db upgrade`")
        if db.is_sqlite and conn.exec_driver_sql("PRAGMA quick_check").scalar() != "ok":
            raise StartError(f"{db.place} is damaged; put the last backup in its place")


def _migrate_sqlite(db: Database) -> None:
    file = db.file
    if not db.url.query:  # a URL with options says itself how its file is opened
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # The lock also covers the switch to WAL, which fails instead of waiting for a second process.
    with file_lock(Path(f"{file}.migrating")):
        engine = _migration_engine(db)
        with engine.begin() as conn:
            _upgrade(conn, db.place)
            broken = conn.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise StartError(f"{db.place} has rows in {broken[0]} that refer to nothing")


def _migration_engine(db: Database) -> Engine:
    """Without foreign keys: rebuilding a table would delete what refers to its rows."""
    engine = sqlite_engine_without_pragmas(db.url, poolclass=NullPool)
    event.listen(engine, "connect", lambda conn, _: conn.execute("PRAGMA journal_mode=WAL"))
    return engine.execution_options(begin="BEGIN IMMEDIATE")


def _upgrade(conn: Connection, place: str) -> None:
    if _current_version(conn, place) is None:
        strangers = set(inspect(conn).get_table_names()) & set(metadata.tables)
        if strangers:
            raise StartError(f"{place} holds tables of another program: {min(strangers)}")
    config = _config()
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
    # SQLite notices that a file is read-only at the first change, not before.
    conn.execute(text("UPDATE alembic_version SET version_num = version_num"))


def _current_version(conn: Connection, place: str) -> str | None:
    current = MigrationContext.configure(conn).get_current_revision()
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise StartError(f"{place} was made by a newer version of this program; install that one")
    return current


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
