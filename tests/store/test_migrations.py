"""The schema at the start: made, brought up to date, refused in one sentence."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from store_places import Place

from qwen3_audio.errors import StartError
from qwen3_audio.store.backup import backup
from qwen3_audio.store.db import open_database
from qwen3_audio.store.locks import file_lock
from qwen3_audio.store.migrate import SCRIPTS, check, migrate
from qwen3_audio.store.tables import LOCAL_USER_ID, metadata
from qwen3_audio.store.users import add_user, get_user, list_users


def test_the_migrations_make_exactly_the_tables_of_the_program(empty_place: Place) -> None:
    with closing(empty_place.open()) as db:
        migrate(db)
        with db.read() as conn:
            context = MigrationContext.configure(conn, opts={"compare_type": True})
            assert compare_metadata(context, metadata) == []


def test_user_1_is_there_from_the_start_and_the_next_is_another(empty_place: Place) -> None:
    with closing(empty_place.open()) as db:
        migrate(db)
        with db.write() as conn:
            assert get_user(conn, LOCAL_USER_ID).name == "local"
            assert add_user(conn) == LOCAL_USER_ID + 1


def test_migrating_again_changes_nothing(empty_place: Place) -> None:
    with closing(empty_place.open()) as db:
        migrate(db)
        migrate(db)
        check(db)
        with db.read() as conn:
            assert len(list_users(conn).items) == 1


def test_several_workers_may_start_at_once(empty_place: Place) -> None:
    program = """
        import sys
        from qwen3_audio.store.db import open_database
        from qwen3_audio.store.migrate import check, migrate
        db = open_database(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        migrate(db)
        check(db)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), empty_place.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0] * 3


def test_a_second_process_waits_for_the_one_that_migrates(tmp_path: Path) -> None:
    """Switching a new file to WAL at once fails now and then instead of waiting."""
    with closing(open_database(f"sqlite:///{tmp_path}/a.db")) as db:
        second = threading.Thread(target=migrate, args=(db,))
        with file_lock(Path(f"{db.file}.migrating")):
            second.start()
            second.join(timeout=0.2)  # it waits for this lock, however long that takes
            assert second.is_alive()
        second.join()
        check(db)


def test_a_newer_database_is_refused(place: Place) -> None:
    with closing(place.open()) as db:
        with db.write() as conn:
            conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for ask in (migrate, check):
            with pytest.raises(StartError, match="newer version"):
                ask(db)


def test_check_refuses_an_older_database_and_names_the_command(empty_place: Place) -> None:
    with closing(empty_place.open()) as db:
        if empty_place.kind == "sqlite":
            with pytest.raises(StartError, match="does not exist"):
                check(db)
            sqlite3.connect(db.file).execute("CREATE TABLE other (x)").connection.close()
        with pytest.raises(StartError, match="qwen3-audio db upgrade"):
            check(db)


def test_a_database_of_another_program_is_refused(empty_place: Place) -> None:
    with closing(empty_place.open()) as db:
        with db.engine.begin() as conn:
            conn.execute(text("CREATE TABLE users (login TEXT)"))
        with pytest.raises(StartError, match="tables of another program: users"):
            migrate(db)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_bytes(b"These are notes, not tables. " * 100)
    with closing(open_database(f"sqlite:///{file}")) as db:
        for ask in (migrate, check):
            with pytest.raises(StartError, match="is not a database file"):
                ask(db)


def test_a_locked_database_is_refused(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_audio.store.db.BUSY_TIMEOUT_MS", 50)
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with (
            closing(open_database(f"sqlite:///{sqlite_file}")) as db,
            pytest.raises(StartError, match="is locked by another program"),
        ):
            migrate(db)


def test_a_read_only_database_is_refused(sqlite_file: Path) -> None:
    with (
        closing(open_database(f"sqlite:///file:{sqlite_file}?mode=ro&uri=true")) as db,
        pytest.raises(StartError, match="is read-only"),
    ):
        migrate(db)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with (
        closing(open_database(f"sqlite:///{tmp_path}/data/a.db")) as db,
        pytest.raises(StartError, match="can't be used"),
    ):
        migrate(db)


def test_a_postgres_that_is_not_there_is_refused_without_the_password(tmp_path: Path) -> None:
    url = f"postgresql://me:hunter2@/speech?host={tmp_path}"
    with closing(open_database(url)) as db, pytest.raises(StartError) as refusal:
        migrate(db)
    assert "hunter2" not in str(refusal.value)
    assert "'speech'" in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://localhost/speech", "sqlite and postgresql"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("speech.db", "is not a database's URL"),
        ("postgresql://host:port/x", "is not a database's URL"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, says: str) -> None:
    with pytest.raises(StartError, match=says):
        open_database(url)


def test_a_missing_driver_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StartError, match=r"qwen3-audio\[postgres\]"):
        open_database("postgres://localhost/speech")


def test_the_file_is_closed_to_other_users_of_the_machine(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path}/new/speech.db")) as db:
        migrate(db)
        assert os.stat(db.file).st_mode & 0o777 == 0o600


def test_a_backup_of_a_database_in_use_holds_what_was_committed(
    sqlite_file: Path, tmp_path: Path
) -> None:
    with closing(open_database(f"sqlite:///{sqlite_file}")) as db:
        with db.write() as conn:
            carol = add_user(conn, name="Carol")
        with db.engine.execution_options(begin="BEGIN IMMEDIATE").connect() as conn:
            add_user(conn, name="not yet committed")
            backup(db, tmp_path / "copy.db")
            conn.rollback()
    with closing(open_database(f"sqlite:///{tmp_path}/copy.db")) as copy:
        check(copy)
        with copy.read() as conn:
            assert list_users(conn).items[-1].user_id == carol


def test_a_backup_never_replaces_a_file(sqlite_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious.db"
    target.write_bytes(b"precious")
    with (
        closing(open_database(f"sqlite:///{sqlite_file}")) as db,
        pytest.raises(StartError, match="exists already"),
    ):
        backup(db, target)
    assert target.read_bytes() == b"precious"


def test_a_backup_that_cannot_be_written_leaves_nothing(sqlite_file: Path, tmp_path: Path) -> None:
    with (
        closing(open_database(f"sqlite:///{sqlite_file}")) as db,
        pytest.raises(StartError, match="No such file"),
    ):
        backup(db, tmp_path / "absent" / "copy.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgres
def test_a_backup_of_postgres_names_the_right_program(tmp_path: Path) -> None:
    with (
        closing(open_database("postgresql://localhost/speech")) as db,
        pytest.raises(StartError, match="pg_dump"),
    ):
        backup(db, tmp_path / "copy.db")


def test_every_migration_is_part_of_the_package() -> None:
    assert (SCRIPTS / "env.py").is_file()
    assert (SCRIPTS / "script.py.mako").is_file()
    assert len(list((SCRIPTS / "versions").glob("v*.py"))) >= 1
