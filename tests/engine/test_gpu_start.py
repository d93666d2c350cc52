"""A start with a GPU that is absent, broken, too small or without Triton: one sentence each."""

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qwen3_audio.checkpoints import Checkpoint, open_checkpoint
from qwen3_audio.engine import device as device_module
from qwen3_audio.engine import memory
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.gpu import availability
from qwen3_audio.engine.gpu.availability import find_gpu_trouble
from qwen3_audio.engine.local import build_backend
from qwen3_audio.engine.memory import (
    MIN_ROOM_BYTES,
    RESERVE_BYTES,
    TYPICAL_POSITIONS,
    GpuPlan,
    choose_device,
    estimate_streams,
    plan_gpu,
    plan_room,
)
from qwen3_audio.errors import StartError
from qwen3_audio.settings import Settings

GPU = torch.device("cuda:0")
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
    " driver by downloading and installing a new version from the URL: http://example.com"
)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """One card that computes, with 24 GB of which 20 are free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * 10**9, 24 * 10**9))
    monkeypatch.setattr(availability, "probe_gpu", lambda device: None)


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError(OLD_DRIVER)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(xdg_cache_home=tmp_path)


@pytest.fixture
def checkpoints(tiny_tts: Path, tiny_asr: Path) -> list[Checkpoint]:
    folders = (tiny_tts / "tiny-CustomVoice", tiny_asr / "tiny-asr")
    return [open_checkpoint(folder) for folder in folders]


def change(settings: Settings, **fields: object) -> Settings:
    return replace(settings, **fields)  # type: ignore[arg-type]


def refusal(settings: Settings) -> str:
    with pytest.raises(StartError) as caught:
        Device.choose(settings)
    return str(caught.value)


@pytest.mark.slow
def test_an_old_driver_is_one_sentence_and_the_cpu(no_card: None, settings: Settings) -> None:
    device = Device.choose(settings)
    assert device.device.type == "cpu"
    assert device.without_gpu == (
        "torch sees 0 GPUs (The NVIDIA driver on your system is too old (found version 11040))"
    )


def test_a_required_gpu_that_is_absent_stops_the_start(no_card: None, settings: Settings) -> None:
    assert refusal(change(settings, require_gpu=True)) == (
        "REQUIRE_GPU is set, but torch sees 0 GPUs (The NVIDIA driver on your system is too old"
        " (found version 11040)); `qwen3-audio doctor` says why, without REQUIRE_GPU it would run"
        " on the CPU"
    )
    named = refusal(change(settings, qwen_tts_device="cuda:0"))
    assert named.startswith("QWEN_TTS_DEVICE is cuda:0, but torch sees 0 GPUs")
    assert named.endswith("QWEN_TTS_DEVICE=cpu runs without one")


def test_a_gpu_cannot_be_required_and_refused(settings: Settings) -> None:
    both = change(settings, require_gpu=True, qwen_tts_device="cpu")
    assert refusal(both) == "REQUIRE_GPU is set, and QWEN_TTS_DEVICE is cpu: drop one of them"


def test_a_card_too_old_for_torch_is_said(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCUDA kernel errors might be")

    monkeypatch.setattr(availability, "probe_gpu", probe)
    trouble = find_gpu_trouble(GPU)
    assert trouble == "it can't compute (CUDA error: no kernel image is available)"


def test_a_second_card_that_is_not_there_is_counted(card: None) -> None:
    assert find_gpu_trouble(torch.device("cuda:1")) == "torch sees 1 GPUs"
    assert find_gpu_trouble(GPU) is None


def test_without_triton_torch_does_the_work_unless_the_gpu_is_required(
    card: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Device.choose(settings).products == "Triton kernels"
    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: None)
    device = Device.choose(settings)
    assert device.products == "torch"
    text = device.explain_missing(wants_int8=False)
    assert text == ("No Triton kernels: Triton is not installed. torch does their work, slower")
    assert "pip install triton" in refusal(change(settings, require_gpu=True))


def fill(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, 24 * 10**9))


@pytest.mark.slow
def test_who_loads_and_who_computes_enter_the_device(
    settings: Settings, checkpoints: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[str] = []
    monkeypatch.setattr(Device, "enter", lambda _: entered.append(threading.current_thread().name))
    cpu = change(settings, qwen_tts_device="cpu", qwen_tts_dtype="float32")
    backend = build_backend(checkpoints, cpu, lambda *_: None)
    asyncio.run(backend.close())
    assert entered == [threading.current_thread().name] * 2 + ["engine"]


@pytest.fixture
def fp8(settings: Settings) -> Settings:
    return change(settings, qwen_tts_dtype="fp8")


def test_8_bit_floats_on_a_card_that_has_them(
    card: None, fp8: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "why_no_fp8", lambda device: None)
    device = Device.choose(fp8)
    assert (device.dtype, device.activations) == (torch.bfloat16, torch.bfloat16)
    assert str(device) == "cuda:0 in fp8"


def test_8_bit_floats_where_they_cannot_be_used_stop_the_start(
    card: None, fp8: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert refusal(fp8) == (
        "QWEN_TTS_DTYPE=fp8 can't be used: 8-bit floats need compute capability 8.9, and this card"
        " has 8.6; use bfloat16"
    )
    assert refusal(change(fp8, qwen_tts_device="cpu")) == (
        "QWEN_TTS_DTYPE=fp8 is for GPUs; on a CPU use int8 or bfloat16"
    )
    assert refusal(change(fp8, qwen_tts_dtype="int8")) == (
        "QWEN_TTS_DTYPE=int8 is for CPUs; on a GPU use bfloat16 or fp8"
    )


def test_8_bit_floats_without_a_gpu_stop_the_start(no_card: None, fp8: Settings) -> None:
    assert refusal(fp8) == (
        "QWEN_TTS_DTYPE=fp8 is for GPUs, but torch sees 0 GPUs (The NVIDIA driver on your system is"
        " too old (found version 11040)); on a CPU use int8 or bfloat16"
    )


def test_a_full_card_does_not_give_way_where_8_bit_floats_are_wanted(
    card: None, fp8: Settings, checkpoints: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "why_no_fp8", lambda device: None)
    fill(monkeypatch, 10**9)
    with pytest.raises(StartError, match=r"^The GPU has 1.00 GB free"):
        choose_device(checkpoints, fp8)


@pytest.mark.slow
def test_a_full_card_gives_way_to_the_cpu_and_says_so(
    card: None,
    settings: Settings,
    checkpoints: list[Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill(monkeypatch, 10**9)
    with caplog.at_level(logging.WARNING):
        assert choose_device(checkpoints, settings).device.type == "cpu"
    (line,) = [record.getMessage() for record in caplog.records if "GPU" in record.getMessage()]
    assert line.startswith("The GPU has 1.00 GB free, and 1.09 GB are needed: weights 0.01,")
    assert line.endswith("All runs on the CPU instead")


@pytest.mark.parametrize("wish", [{"require_gpu": True}, {"qwen_tts_device": "cuda:0"}])
def test_a_full_card_that_has_to_be_used_stops_the_start(
    card: None,
    settings: Settings,
    checkpoints: list[Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    wish: dict[str, object],
) -> None:
    fill(monkeypatch, 10**9)
    with pytest.raises(StartError, match=r"^The GPU has 1.00 GB free"):
        choose_device(checkpoints, change(settings, **wish))
    fill(monkeypatch, 20 * 10**9)
    assert choose_device(checkpoints, change(settings, **wish)).device == GPU


def test_a_plan_never_gives_more_than_there_is(card: None, checkpoints: list[Checkpoint]) -> None:
    device = Device(GPU, torch.bfloat16)
    plan = plan_gpu(checkpoints, device)
    assert plan.num_models == 2
    given = plan.weight_bytes + plan.reserve_bytes + plan.num_models * plan.room_bytes
    assert plan.free_bytes - plan.num_models < given <= plan.free_bytes


def test_streams_are_counted_of_what_is_left_for_requests(
    card: None, checkpoints: list[Checkpoint], settings: Settings
) -> None:
    device = Device(GPU, torch.bfloat16)
    plan = plan_gpu(checkpoints, device)
    assert [estimate_streams(one, plan, device, settings) for one in checkpoints] == [64, 128]
    few = change(settings, max_running=3)
    assert estimate_streams(checkpoints[0], plan, device, few) == 3


def test_the_published_large_voice_fits_small_cards_with_fewer_streams() -> None:
    position_bytes, slot_bytes = 114_688, 2_600_000  # 28 layers of 8 heads of 128 in bfloat16
    streams = {}
    for card_gb in (8, 12, 24, 141):
        plan = GpuPlan(card_gb * 10**9, 4_300_000_000, 1)
        room = plan_room(
            plan.room_bytes,
            position_bytes=position_bytes,
            slot_bytes=slot_bytes,
            most_slots=64,
            max_positions=32_768,
        )
        taken = room.num_slots * slot_bytes + room.num_positions * position_bytes
        assert taken <= plan.room_bytes
        streams[card_gb] = room.num_streams
    assert streams == {8: 16, 12: 50, 24: 64, 141: 64}


def test_too_little_for_one_request_of_usual_length_is_too_little() -> None:
    weights = 4_300_000_000
    GpuPlan(weights + RESERVE_BYTES + MIN_ROOM_BYTES, weights, 1).check()
    with pytest.raises(StartError, match=r"requests 0\.27"):
        GpuPlan(weights + RESERVE_BYTES + MIN_ROOM_BYTES - 1, weights, 1).check()
    assert MIN_ROOM_BYTES >= TYPICAL_POSITIONS * 114_688


def test_use_is_described_for_the_log(card: None, checkpoints: list[Checkpoint]) -> None:
    device = Device(GPU, torch.bfloat16)
    plan = GpuPlan(24 * 10**9, 4 * 10**9, 0)
    assert memory.describe_use(plan, device, []) == (
        "GPU memory: 24.0 GB were free, weights 4.0, planned for requests 0.0, left 20.0;"
        " at once fit "
    )
