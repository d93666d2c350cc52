"""What every transaction promises, and what a database's refusal becomes."""

import inspect
import sqlite3
from contextlib import closing
from importlib import import_module

import psycopg
import pytest
from postgres_cluster import Cluster
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from store_places import Place
from store_rows import at_once

from qwen3_audio.errors import NotFound, Overloaded, StorageFull
from qwen3_audio.store.db import open_database
from qwen3_audio.store.failures import speech_error
from qwen3_audio.store.migrate import migrate
from qwen3_audio.store.opening import Store
from qwen3_audio.store.users import add_user, get_user, rename_user

ON_USER_DATA = (
    "batches",
    "consents",
    "generations",
    "limits",
    "transcriptions",
    "usage",
    "voice_names",
    "voices",
)
WITHOUT_DATA = {"day_of", "seconds_to_next_day", "seconds_to_next_minute"}


@pytest.mark.parametrize("module", ON_USER_DATA)
def test_functions_on_user_data_take_the_owner(module: str) -> None:
    found = import_module(f"qwen3_audio.store.{module}")
    for name, function in inspect.getmembers(found, inspect.isfunction):
        if function.__module__ == found.__name__ and name[0] != "_" and name not in WITHOUT_DATA:
            assert list(inspect.signature(function).parameters)[:2] == ["conn", "user_id"], name


def test_nothing_written_while_reading_stays(store: Store) -> None:
    with store.db.read() as conn:
        user_id = add_user(conn)
    with pytest.raises(NotFound), store.db.read() as conn:
        get_user(conn, user_id)


def test_an_error_undoes_the_whole_transaction(store: Store, alice: int) -> None:
    with pytest.raises(ZeroDivisionError), store.db.write() as conn:
        rename_user(conn, alice, name="Eve")
        raise ZeroDivisionError
    with store.db.write() as conn:
        assert get_user(conn, alice).name == "Alice"


def test_readers_do_not_wait_for_a_writer(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        rename_user(conn, alice, name="Eve")
        with store.db.read() as other:
            assert get_user(other, alice).name == "Alice"


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_sqlite_is_set_up_on_every_connection(place: Place) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 5000, "foreign_keys": 1}
    with closing(place.open()) as db, db.read(), db.read() as second:
        for name, value in wanted.items():
            assert second.execute(text(f"PRAGMA {name}")).scalar_one() == value


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_writer_that_never_gets_its_turn_is_told_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen3_audio.store.db.WRITE_TURN_TIMEOUT_S", 0.01)
    with closing(place.open()) as db, db.write():
        (refusal,) = at_once([lambda: db.write().__enter__()])
    assert isinstance(refusal, Overloaded)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_another_process_s_long_write_is_overload(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen3_audio.store.db.PRAGMAS", ("PRAGMA busy_timeout=20",))
    with closing(place.open()) as db:
        with closing(sqlite3.connect(db.file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Overloaded, match="busy"), db.write():
                pass
        with db.write() as conn:
            add_user(conn)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_database_that_became_read_only_says_so(place: Place) -> None:
    url = place.url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
    with closing(open_database(url)) as db:
        with db.read() as conn:
            assert get_user(conn, 1).name == "local"
        with pytest.raises(Overloaded, match="no changes"), db.write() as conn:
            add_user(conn)


@pytest.mark.postgres
def test_a_postgres_that_went_away_is_overload(cluster: Cluster) -> None:
    name = cluster.create()
    with closing(open_database(cluster.url(name))) as db:
        migrate(db)
        cluster.drop(name)
        with pytest.raises(Overloaded, match="can't be reached"), db.read() as conn:
            get_user(conn, 1)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("53100", StorageFull),
        ("53300", Overloaded),
        ("40P01", Overloaded),
        ("57P01", Overloaded),
        ("08006", Overloaded),
        ("25006", Overloaded),
        ("23503", NotFound),
        ("23505", None),
        ("42P01", None),
    ],
)
def test_a_state_of_postgres_has_its_meaning(state: str, kind: type | None) -> None:
    original = psycopg.errors.lookup(state)("sentence")
    meant = speech_error(DBAPIError("SELECT", {}, original))
    assert (None if meant is None else type(meant)) is kind


def test_a_fault_of_this_program_stays_one(store: Store) -> None:
    with pytest.raises(DBAPIError), store.db.read() as conn:
        conn.execute(text("SELECT nonsense FROM nowhere"))
    with pytest.raises(IntegrityError), store.db.write() as conn:
        conn.execute(text("INSERT INTO shared_names (name_key, name) VALUES ('a', 'a')"))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_fault_shows_no_text_of_a_user(store: Store) -> None:
    with pytest.raises(IntegrityError) as fault, store.db.write() as conn:
        insert = text("INSERT INTO shared_names (name_key, name) VALUES (:key, :name)")
        conn.execute(insert, {"key": "k", "name": "what she said"})
    assert "what she said" not in str(fault.value)


def test_a_pool_without_a_free_connection_is_overload() -> None:
    assert isinstance(speech_error(PoolTimeout("pool")), Overloaded)
    assert isinstance(
        speech_error(OperationalError("", {}, psycopg.OperationalError())), Overloaded
    )


def test_more_threads_than_connections_get_their_turn(store: Store) -> None:
    def ask() -> None:
        with store.db.read() as conn:
            get_user(conn, 1)
        with store.db.write() as conn:
            add_user(conn)

    assert at_once([ask] * 48) == []
