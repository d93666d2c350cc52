"""The web side on a fake engine: in this process, and behind a real port."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fake_server import LiveServer, make_tone, serve
from fastapi.testclient import TestClient

from qwen3_audio.fake import FakeBackend
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
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
            backend: FakeBackend | None = None, *, seed: int | None = None, **settings: object
        ) -> TestClient:
            chosen = Settings(**settings)  # type: ignore[arg-type]
            draw = {} if seed is None else {"draw_seed": lambda: seed}
            service = SpeechService(backend or FakeBackend(), chosen, **draw)  # type: ignore[arg-type]
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

        def start(backend: FakeBackend | None = None, **settings: object) -> LiveServer:
            return stack.enter_context(serve(backend or FakeBackend(), **settings))

        yield start


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """One server for all tests of a file that need nothing special."""
    with serve(FakeBackend()) as server:
        yield server
