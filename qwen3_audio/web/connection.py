"""What happens when a client leaves: its work is cancelled, its generators are closed."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from qwen3_audio.errors import SpeechError

log = logging.getLogger(__name__)

# A proxy that collects an answer before it passes it on would undo the streaming.
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
T = TypeVar("T")


class ClientLeftError(Exception):
    """The client closed the connection before its answer began."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work; if the client leaves first, the work is cancelled.

    Only after the whole body has been read: the next thing a client sends is its farewell.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_until_left(request.receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class LiveResponse(StreamingResponse):
    """A body made while it is sent. `close` runs on every way out, also if nothing was sent.

    An error in midstream leaves the body unfinished, which is how the client learns of it.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes],
        *,
        close: Callable[[], Coroutine[Any, Any, None]],
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(content, media_type=media_type, headers={**headers, **UNBUFFERED})
        self._content = content
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SpeechError as error:
            log.error("A stream broke off: %s", error)
        finally:
            await self._content.aclose()
            await self._close()
