"""A device that is gone: the answer, what /health says, and a process that ends to be replaced."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import httpx2
import pytest
import torch
from breaking_server import SENTENCE
from live_process import run_server

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine.gpu.errors import FINAL, PASSING, diagnose
from qwen3_audio.engine.local import LocalBackend, build_backend
from qwen3_audio.errors import EngineFailed
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind, Pcm, SpeechEnd, SpeechRequest

pytestmark = pytest.mark.slow


def test_a_server_without_its_device_says_so_and_ends() -> None:
    with run_server(["tests/breaking_server.py"], PYTHONPATH=".:tests") as server:
        assert httpx2.get(f"{server.address}/health").json() == {"status": "ok"}
        order = {"input": "break", "response_format": "pcm"}
        reply = httpx2.post(f"{server.address}/v1/audio/speech", json=order)
        assert reply.status_code == 500
        assert reply.json()["error"]["message"] == SENTENCE
        health = httpx2.get(f"{server.address}/health")
        assert (health.status_code, health.json()) == (
            503,
            {"status": "broken", "reason": SENTENCE},
        )
        ready = httpx2.get(f"{server.address}/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, [SENTENCE])
        _, rest = server.process.communicate(timeout=60)
        assert server.process.returncode == 1
        assert f"Ended, to be started again: {SENTENCE}" in rest


REQUEST = SpeechRequest(
    ModelKind.CUSTOM_VOICE, "One two three.", seed=1, speaker="ryan", max_frames=8
)


@pytest.fixture
def backend(tiny_tts: Path, tmp_path: Path) -> LocalBackend:
    settings = Settings(qwen_tts_device="cpu", qwen_tts_dtype="float32", xdg_cache_home=tmp_path)
    checkpoint = open_checkpoint(tiny_tts / "tiny-CustomVoice")
    return build_backend([checkpoint], settings, lambda *_: None)


async def speak(backend: LocalBackend, request: SpeechRequest = REQUEST) -> int:
    async with aclosing(backend.speak(request)) as items:
        return await count_frames(items)


async def count_frames(items: AsyncGenerator[Pcm | SpeechEnd]) -> int:
    async for item in items:
        if isinstance(item, SpeechEnd):
            return item.num_frames
    raise AssertionError("no end")


def break_step(backend: LocalBackend, error: Exception, probe: RuntimeError | None) -> None:
    """The next step of the talker ends in an error of the device, if there is no other one."""
    runner = backend._speech[ModelKind.CUSTOM_VOICE].runner
    real = runner.step

    def ask() -> None:
        if probe is not None:
            raise probe

    def step() -> list[object]:
        runner.step = real  # type: ignore[method-assign]
        runner.scheduler.plan()
        raise error

    runner.step = step  # type: ignore[assignment, method-assign]
    backend._engine._diagnose = lambda raised: diagnose(raised, probe=ask)


def test_a_real_runner_goes_on_after_an_error_that_passes(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    async def go() -> None:
        try:
            before = await speak(backend)
            break_step(backend, torch.OutOfMemoryError("CUDA out of memory"), None)
            with pytest.raises(EngineFailed, match="too little memory"):
                await speak(backend)
            break_step(backend, RuntimeError("CUDA error: invalid argument"), None)
            with pytest.raises(EngineFailed) as caught:
                await speak(backend)
            assert str(caught.value) == PASSING.sentence
            assert backend.trouble() is None
            assert await speak(backend) == before
        finally:
            await backend.close()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_real_runner_whose_device_is_gone_is_the_end(backend: LocalBackend) -> None:
    told, is_told = list[str](), threading.Event()

    def tell(sentence: str) -> None:
        told.append(sentence)
        is_told.set()

    async def go() -> None:
        try:
            lost = RuntimeError("CUDA error: unspecified launch failure")
            backend.when_broken(tell)
            break_step(backend, lost, lost)
            with pytest.raises(EngineFailed) as caught:
                await speak(backend)
            assert str(caught.value) == FINAL.sentence
            assert is_told.wait(30)
            assert (backend.trouble(), told) == (FINAL.sentence, [FINAL.sentence])
            with pytest.raises(EngineFailed):
                await speak(backend)
        finally:
            await backend.close()

    asyncio.run(asyncio.wait_for(go(), 60))
