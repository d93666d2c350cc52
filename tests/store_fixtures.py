"""Fixtures for all folders: `store` is on SQLite, and on PostgreSQL where its programs are.

Alice owns, Bob must see nothing.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from postgres_cluster import Cluster, find_programs, running_cluster
from store_places import SECRET, Place

from qwen3_audio.store.db import open_database
from qwen3_audio.store.files import Blobs
from qwen3_audio.store.migrate import migrate
from qwen3_audio.store.opening import Store
from qwen3_audio.store.users import add_user

BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    with running_cluster(programs) as running:
        yield running


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("migrated") / "template.db"
    with closing(open_database(f"sqlite:///{file}")) as db:
        migrate(db)
    return file


@pytest.fixture(scope="session")
def migrated_database(cluster: Cluster) -> str:
    name = cluster.create()
    with closing(open_database(cluster.url(name))) as db:
        migrate(db)
    return name


@pytest.fixture
def sqlite_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the present schema, for what is true of SQLite alone."""
    return Path(shutil.copy(migrated_file, tmp_path_factory.mktemp("sqlite") / "a.db"))


@pytest.fixture(params=BOTH)
def empty_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database; the test migrates it."""
    if request.param == "sqlite":
        yield Place("sqlite", f"sqlite:///{tmp_path}/qwen3-audio.db")
        return
    running: Cluster = request.getfixturevalue("cluster")
    name = running.create()
    yield Place("postgres", running.url(name))
    running.drop(name)


@pytest.fixture(params=BOTH)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database with the present schema."""
    if request.param == "sqlite":
        file = tmp_path / "qwen3-audio.db"
        shutil.copy(request.getfixturevalue("migrated_file"), file)
        yield Place("sqlite", f"sqlite:///{file}")
        return
    running: Cluster = request.getfixturevalue("cluster")
    name = request.getfixturevalue("migrated_database")
    yield Place("postgres", running.url(name))
    running.clear(name)


@pytest.fixture
def store(place: Place, tmp_path: Path) -> Iterator[Store]:
    opened = Store(place.open(), Blobs(tmp_path / "blobs"), SECRET)
    with closing(opened):
        yield opened


@pytest.fixture
def alice(store: Store) -> int:
    with store.db.write() as conn:
        return add_user(conn, name="Alice")


@pytest.fixture
def bob(store: Store) -> int:
    with store.db.write() as conn:
        return add_user(conn, name="Bob")
