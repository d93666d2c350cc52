"""Which device, precision, threads and products a start chooses, and what it falls back to."""

import asyncio
import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from kernel_caches import cache_with_numba_alone

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine import device as device_module
from qwen3_audio.engine.device import Device, count_threads
from qwen3_audio.engine.local import build_backend
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind, SpeechEnd, SpeechRequest


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "qwen3_audio.kernels.numba_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)


@pytest.fixture
def slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "has_bfloat16", lambda: False)


@pytest.fixture
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "has_bfloat16", lambda: True)


def settings_for(cache: Path, dtype: str = "bfloat16") -> Settings:
    return Settings(qwen_tts_device="cpu", qwen_tts_dtype=dtype, xdg_cache_home=cache)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_with_numba_alone(tmp_path_factory.getbasetemp())


@pytest.mark.numba
def test_without_a_compiler_numba_is_next(
    no_compiler: None, fast_bfloat16: None, cache: Path
) -> None:
    device = Device.choose(settings_for(cache))
    assert device.products == "numba"
    assert device.activations is torch.float32
    assert "no C compiler" in device.explain_missing(wants_int8=False)
    assert list((cache / "qwen3-audio" / "numba").glob("*/*/*.nbi"))


def test_without_numba_too_torch_does_it_all(
    no_compiler: None, no_numba: None, fast_bfloat16: None, tmp_path: Path
) -> None:
    device = Device.choose(settings_for(tmp_path, "int8"))
    assert (device.products, device.precision) == ("torch", "bfloat16")
    assert device.activations is torch.bfloat16
    text = device.explain_missing(wants_int8=True)
    assert "no C compiler" in text and "numba can't be imported" in text
    assert "int8 needs them: weights stay in bfloat16" in text


def test_a_processor_without_bfloat16_calculates_in_float32(
    no_compiler: None, slow_bfloat16: None, tmp_path: Path
) -> None:
    device = Device.choose(settings_for(tmp_path))
    assert (device.products, device.dtype) == ("torch", torch.float32)


@pytest.mark.parametrize(
    ("wanted", "cores", "threads"),
    [(8, 1.5, 2), (8, 0.25, 1), (1, 64.0, 1), (3, 64.0, 3), (None, 0.5, 1)],
)
def test_threads_are_never_more_than_the_allowance(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, cores: float, threads: int
) -> None:
    monkeypatch.setattr(device_module, "allowed_cores", lambda: cores)
    assert count_threads(Settings(omp_num_threads=wanted)) == threads


@pytest.mark.numba
def test_int8_without_a_compiler_is_said_and_speaks(
    tiny_tts: Path,
    cache: Path,
    no_compiler: None,
    fast_bfloat16: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = open_checkpoint(tiny_tts / "tiny-CustomVoice")

    async def speak() -> SpeechEnd:
        backend = build_backend([checkpoint], settings_for(cache, "int8"), lambda *_: None)
        request = SpeechRequest(
            ModelKind.CUSTOM_VOICE, "Hello.", 1, "English", "ryan", max_frames=3
        )
        items = [item async for item in backend.speak(request)]
        await backend.close()
        assert isinstance(items[-1], SpeechEnd)
        return items[-1]

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(speak()).num_frames == 3
    (warning,) = caplog.messages
    assert warning.startswith("No compiled kernels: there is no C compiler (cc)")
    assert "int8 needs them: weights stay in bfloat16. Numba does their work" in warning
