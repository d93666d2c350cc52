"""The web side on a fake engine: in this process, and behind a real port."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_server import ADMIN_TOKEN, LiveServer, make_tone, serve
from fastapi.testclient import TestClient

from qwen3_audio.fake import FakeBackend
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.store.keys import add_key
from qwen3_audio.store.opening import Store, open_store
from qwen3_audio.web.app import create_app


@pytest.fixture
def tone() -> bytes:
    return make_tone(1.0)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


MakeClient = Callable[..., TestClient]


@pytest.fixture
def make_client() -> Iterator[MakeClient]:
    """Clients of apps with their own back-end, settings and seeds."""
    with ExitStack() as stack:

        def make(
            backend: FakeBackend | None = None,
            *,
            seed: int | None = None,
            store: Store | None = None,
            **settings: object,
        ) -> TestClient:
            chosen = Settings(**settings)  # type: ignore[arg-type]
            draw = {} if seed is None else {"draw_seed": lambda: seed}
            service = SpeechService(backend or FakeBackend(), chosen, store=store, **draw)  # type: ignore[arg-type]
            app = create_app(service, chosen)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture
def client(make_client: MakeClient, backend: FakeBackend) -> TestClient:
    return make_client(backend)


ServeFake = Callable[..., LiveServer]


@pytest.fixture
def serve_fake() -> Iterator[ServeFake]:
    with ExitStack() as stack:

        def start(
            backend: FakeBackend | None = None, *, store: Store | None = None, **settings: object
        ) -> LiveServer:
            return stack.enter_context(serve(backend or FakeBackend(), store=store, **settings))

        yield start


@pytest.fixture
def live_store_server(store: Store, serve_fake: ServeFake) -> LiveServer:
    """A real server with keys (see ADMIN_TOKEN in fake_server.py), on both databases."""
    return serve_fake(store=store, admin_token=ADMIN_TOKEN)


@pytest.fixture
def keyed_client(store: Store, make_client: MakeClient) -> TestClient:
    """The same in this process."""
    return make_client(store=store, admin_token=ADMIN_TOKEN)


@pytest.fixture
def store_client(store: Store, make_client: MakeClient) -> TestClient:
    """Local mode with a store, in this process."""
    return make_client(store=store)


@pytest.fixture(scope="module")
def store_admin(
    migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A server with keys on SQLite, for many requests that change nothing."""
    folder = tmp_path_factory.mktemp("store")
    file = shutil.copy(migrated_file, folder)
    store = open_store(f"sqlite:///{file}", folder)
    settings = Settings(admin_token=ADMIN_TOKEN)
    app = create_app(SpeechService(FakeBackend(), settings, store=store), settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


MakeKey = Callable[[int], str]


@pytest.fixture
def make_key(store: Store) -> MakeKey:
    """A new key of a user."""

    def make(user_id: int) -> str:
        with store.db.write() as conn:
            return add_key(conn, user_id, secret=store.secret).api_key

    return make


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """One server for all tests of a file that need nothing special."""
    with serve(FakeBackend()) as server:
        yield server
