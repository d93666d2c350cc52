"""A server whose device is gone as soon as somebody says "break"; run by test_broken_engine.py."""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import closing

from qwen3_audio.assembly import open_server_store
from qwen3_audio.commands import serve
from qwen3_audio.errors import EngineFailed
from qwen3_audio.fake import FakeBackend
from qwen3_audio.settings import Settings
from qwen3_audio.types import Pcm, SpeechEnd, SpeechRequest

SENTENCE = "The GPU has stopped working; the server has to start again"


class BreakingBackend(FakeBackend):
    """As an engine is whose device is gone: everyone hears the same sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Callable[[str], None]] = []
        self.is_broken = False

    def trouble(self) -> str | None:
        return SENTENCE if self.is_broken else None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
        if request.text == "break":
            self.is_broken = True
            for tell in self.told:
                tell(SENTENCE)
            raise EngineFailed(SENTENCE)
        async for item in super().speak(request):
            yield item


def main() -> int:
    settings, backend = Settings.from_env(), BreakingBackend()
    with (
        serve.open_port(settings.host, settings.port) as port,
        closing(open_server_store(settings)) as store,
    ):
        what = "what breaks"
        return serve._serve(backend, settings, port, store, what, backend.told.append)


if __name__ == "__main__":
    sys.exit(main())
