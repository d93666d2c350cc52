"""From the engine's thread to the event loop that waits for a request."""

import asyncio
import contextlib
from typing import Any


class Sink:
    """`emit` from any thread; `get` on the loop that made the sink."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def emit(self, item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> Any:
        """The next item; an exception that was emitted is raised."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item
