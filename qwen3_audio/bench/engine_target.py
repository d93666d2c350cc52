"""The engine alone, in this process and without HTTP: what the web side adds is the difference."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from qwen3_audio.assembly import load_backend
from qwen3_audio.bench.sample import Arrival, Sample
from qwen3_audio.bench.work import FRAME_S, count_pieces, make_recording
from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.errors import SpeechError
from qwen3_audio.settings import Settings
from qwen3_audio.types import (
    SPEECH_RATE_HZ,
    Backend,
    ModelInfo,
    Sampling,
    SpeechEnd,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """A request by its number; the loop of the engine's callers is another thread's."""

    backend: Backend
    loop: asyncio.AbstractEventLoop
    model: ModelInfo
    texts: Sequence[str]
    num_frames: int | None
    clip_s: float | None  # None: speak, else listen for so long
    num_tokens: int | None  # of each piece

    def __call__(self, number: int, planned_s: float) -> Sample:
        work = self._listen if self.clip_s is not None else self._speak
        begin_s = time.perf_counter()
        try:
            figures = self._wait(work(number))
        except SpeechError as error:
            figures = {"error": type(error).__name__}
        return Sample(planned_s=planned_s, begin_s=begin_s, end_s=time.perf_counter(), **figures)

    def _wait(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _speak(self, number: int) -> dict[str, Any]:
        request = SpeechRequest(
            self.model.kind,
            self.texts[number % len(self.texts)],
            number,
            language="English",
            speaker=next(iter(self.model.speakers), None),
            max_frames=self.num_frames,
        )
        arrivals, num_frames = list[Arrival](), 0
        async for item in self.backend.speak(request):
            if isinstance(item, SpeechEnd):
                num_frames = item.num_frames
            else:
                arrivals.append(Arrival(time.perf_counter(), len(item) / SPEECH_RATE_HZ))
        wanted = self.num_frames or num_frames
        return {
            "first_byte_s": arrivals[0].at_s if arrivals else None,
            "arrivals": tuple(arrivals),
            "audio_s": num_frames * FRAME_S,
            "num_tokens": num_frames,
            "error": None if num_frames == wanted else f"{num_frames} frames instead of {wanted}",
        }

    async def _listen(self, number: int) -> dict[str, Any]:
        """Forced lengths are sampled: greedy random weights repeat themselves, until a guard."""
        clip_s, is_forced = self.clip_s or 0.0, self.num_tokens is not None
        request = TranscriptionRequest(
            make_recording(clip_s),
            seed=number,
            sampling=Sampling(temperature=1.0 if is_forced else 0.0),
            max_new_tokens=self.num_tokens,
        )
        first_s, num_made = None, 0
        async for item in self.backend.transcribe(request):
            first_s = first_s or time.perf_counter()
            if isinstance(item, Transcript):
                num_made = item.num_output_tokens
        wanted = num_made if self.num_tokens is None else self.num_tokens * count_pieces(clip_s)
        return {
            "first_byte_s": first_s,
            "audio_s": clip_s,
            "num_tokens": num_made,
            "error": None if num_made == wanted else f"{num_made} tokens instead of {wanted}",
        }


@contextmanager
def run_engine(
    checkpoint: Checkpoint,
    settings: Settings,
    *,
    texts: Sequence[str],
    num_frames: int | None,
    clip_s: float | None,
    num_tokens: int | None,
    num_threads: int | None,
) -> Iterator[EngineRun]:
    """Load one checkpoint and take requests until the block ends."""
    if num_threads is not None:
        settings = replace(settings, omp_num_threads=num_threads)
    backend = load_backend([checkpoint], settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield EngineRun(
            backend=backend,
            loop=loop,
            model=backend.models()[0],
            texts=texts,
            num_frames=num_frames,
            clip_s=clip_s,
            num_tokens=num_tokens,
        )
    finally:
        asyncio.run_coroutine_threadsafe(backend.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
