"""`app` for any ASGI server (`uvicorn server:app`): reads settings, loads when it is started."""

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack, closing
from typing import Any

from qwen3_audio.assembly import build_app, choose_checkpoints, load_backend, open_server_store
from qwen3_audio.errors import StartError
from qwen3_audio.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger("qwen3_audio")

BROKEN_S = 2  # for answers that are on their way and whoever asks /health


class LateApp:
    """Importing costs nothing; the models are loaded in the lifespan, before the port opens."""

    def __init__(self, build: Callable[[], App]) -> None:
        self._build = build
        self._app: App | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self._app is None:
            try:
                self._app = await asyncio.to_thread(self._build)
            except StartError as error:
                await receive()
                await send({"type": "lifespan.startup.failed", "message": f"qwen3-audio: {error}"})
                return
        if self._app is None:
            raise RuntimeError("This application needs a server that runs its lifespan")
        await self._app(scope, receive, send)


def build() -> App:
    """The application that the environment describes; raises StartError."""
    settings = Settings.from_env()
    checkpoints = choose_checkpoints(settings, [], is_demo=False)
    with ExitStack() as until_served:
        store = until_served.enter_context(closing(open_server_store(settings)))
        backend = load_backend(checkpoints, settings)
        until_served.pop_all()
    # Whoever runs this starts another process: uvicorn does, and every supervisor.
    backend.when_broken(lambda trouble: threading.Timer(BROKEN_S, end_process).start())
    what = ", ".join(f"{c.kind} from {c.folder}" for c in checkpoints)
    log.info("Ready: %s on %s", what, backend.where)
    return build_app(backend, settings, store=store)


def end_process() -> None:
    """As if somebody had asked for it: what can still be answered is."""
    signal.raise_signal(signal.SIGTERM)


app = LateApp(build)
