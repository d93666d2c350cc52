"""Our engine without HTTP as one arm of a comparison; see side_by_side.py."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.arms import draw_sound, serve_runs
from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.local import LocalBackend, build_backend
from qwen3_audio.settings import Settings
from qwen3_audio.types import (
    ModelKind,
    SpeechEnd,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
)


def main() -> None:
    serve_runs(make_run)


def make_run(order: dict[str, Any]) -> Callable[[int], dict[str, float]]:
    torch.set_num_threads(order["threads"])
    settings = Settings.from_env(
        {"QWEN_TTS_DTYPE": order["dtype"], "QWEN_TTS_DEVICE": "cpu", "HOME": os.environ["HOME"]}
    )
    backend = build_backend([open_checkpoint(Path(order["folder"]))], settings, lambda *_: None)
    task = {"custom_voice": speak, "base": clone, "asr": transcribe}[order["task"]]
    loop = asyncio.new_event_loop()

    def run(seed: int) -> dict[str, float]:
        return loop.run_until_complete(measure(task(backend, order, seed)))

    return run


async def measure(work: Awaitable[dict[str, float]]) -> dict[str, float]:
    start_s = time.perf_counter()
    counts = await work
    return counts | {"seconds": time.perf_counter() - start_s}


async def speak(backend: LocalBackend, order: dict[str, Any], seed: int) -> dict[str, float]:
    request = SpeechRequest(
        ModelKind.CUSTOM_VOICE,
        order["text"],
        seed,
        language="English",
        speaker="ryan",
        max_frames=order["num_frames"],
    )
    return await _count(backend, request)


async def clone(backend: LocalBackend, order: dict[str, Any], seed: int) -> dict[str, float]:
    reference = draw_sound(order["reference_s"], 24_000)
    voice = await backend.make_voice_prompt(reference, order["reference_text"])
    request = SpeechRequest(
        ModelKind.BASE,
        order["text"],
        seed,
        language="English",
        voice_prompt=voice,
        max_frames=order["num_frames"],
    )
    return await _count(backend, request)


async def _count(backend: LocalBackend, request: SpeechRequest) -> dict[str, float]:
    start_s, first_s, num_samples = time.perf_counter(), 0.0, 0
    async for item in backend.speak(request):
        if not isinstance(item, SpeechEnd):
            first_s = first_s or time.perf_counter() - start_s
            num_samples += len(item)
            assert np.isfinite(item).all()
    return {"units": num_samples / 1920, "first_s": first_s}


async def transcribe(backend: LocalBackend, order: dict[str, Any], seed: int) -> dict[str, float]:
    request = TranscriptionRequest(
        draw_sound(order["audio_s"], 16_000), max_new_tokens=order["num_tokens"]
    )
    async for item in backend.transcribe(request):
        if isinstance(item, Transcript):
            return {"units": item.num_output_tokens}
    raise AssertionError("a transcription ends with its transcript")


if __name__ == "__main__":
    main()
