"""Too little memory is said before anything is loaded, with what is needed and what is there."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.engine import memory
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.loading import load_listening, load_speech
from qwen3_audio.engine.local import build_backend
from qwen3_audio.engine.memory import check_memory, weight_bytes
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.fused.fp8 import Fp8Linear
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind

CPU = torch.device("cpu")


def quiet(what: str, done: int, total: int) -> None: ...


EXACT, SMALL = Device(CPU, torch.float32), Device(CPU, torch.bfloat16)
INT8 = Device(CPU, torch.bfloat16, is_int8=True)


def test_weights_are_counted_in_their_precision(tiny_asr: Path) -> None:
    checkpoints = [open_checkpoint(tiny_asr / "tiny-asr")]
    with safe_open(tiny_asr / "tiny-asr" / "model.safetensors", framework="pt") as file:
        sizes = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118
    sizes.pop("thinker.lm_head.weight", None)  # a copy of the embedding
    exact = weight_bytes(checkpoints, EXACT)
    assert exact == 4 * sum(sizes.values())
    assert weight_bytes(checkpoints, SMALL) == exact // 2


def test_int8_takes_less(tiny_tts: Path) -> None:
    checkpoints = [open_checkpoint(tiny_tts / "tiny-CustomVoice")]
    small = weight_bytes(checkpoints, SMALL)
    assert small // 2 < weight_bytes(checkpoints, INT8) < small


@pytest.mark.parametrize("name", ["tiny-CustomVoice", "tiny-asr"])
def test_8_bit_floats_are_counted_where_they_are_loaded(
    tiny_tts: Path, tiny_asr: Path, name: str
) -> None:
    folder = (tiny_asr if name == "tiny-asr" else tiny_tts) / name
    checkpoint, device = open_checkpoint(folder), replace(SMALL, is_fp8=True)
    if checkpoint.kind is ModelKind.ASR:
        stack = load_listening(checkpoint, Settings(), device, quiet).runner.decoder.stack
    else:
        stack = load_speech(checkpoint, Settings(), device, quiet).runner.talker.stack
    small = [one for one in stack.modules() if isinstance(one, Fp8Linear)]
    assert len(small) == 2 * stack.config.num_layers
    saved = sum(one.weight.numel() - 4 * len(one.scale) for one in small)
    assert weight_bytes([checkpoint], SMALL) - weight_bytes([checkpoint], device) == saved


def test_codecs_are_shared_and_only_base_encodes(tiny_tts: Path) -> None:
    base, custom = (open_checkpoint(tiny_tts / f"tiny-{n}") for n in ("Base", "CustomVoice"))
    one = weight_bytes([custom], SMALL)
    assert weight_bytes([custom, custom], SMALL) < 2 * one
    assert weight_bytes([base], SMALL) > one


def test_a_start_stops_before_it_loads(
    tiny_tts: Path, tiny_asr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = (tiny_tts / "tiny-CustomVoice", tiny_asr / "tiny-asr")
    checkpoints, read = [open_checkpoint(folder) for folder in folders], []
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 10_000)
    monkeypatch.setattr(shutil, "which", lambda name: None)  # nothing need be compiled for this
    settings = Settings(qwen_tts_device="cpu", qwen_tts_dtype="float32", xdg_cache_home=tmp_path)
    with pytest.raises(StartError) as caught:
        build_backend(checkpoints, settings, lambda *what: read.append(what))
    needed_gb = weight_bytes(checkpoints, EXACT) / 1e9
    assert str(caught.value) == (
        f"The weights take {needed_gb:.2f} GB of memory in float32, and 0.00 GB are free on cpu:"
        " free some, load fewer or smaller checkpoints, or set QWEN_TTS_DTYPE=int8"
    )
    assert read == []


def test_int8_is_not_advised_where_it_is_used(
    tiny_asr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: 10_000)
    with pytest.raises(StartError, match=r"in int8.*smaller checkpoints$"):
        check_memory([open_checkpoint(tiny_asr / "tiny-asr")], INT8)


@pytest.mark.parametrize("available_bytes", [None, 1 << 40])
def test_enough_or_unknown_memory_is_no_reason_to_stop(
    tiny_asr: Path, monkeypatch: pytest.MonkeyPatch, available_bytes: int | None
) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: available_bytes)
    check_memory([open_checkpoint(tiny_asr / "tiny-asr")], EXACT)


@pytest.mark.parametrize(
    "damage", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{]", b"\x02" + bytes(7) + b"[]"]
)
def test_damaged_files_are_left_to_the_loader(
    tiny_asr: Path, tmp_path: Path, damage: bytes
) -> None:
    folder = shutil.copytree(tiny_asr / "tiny-asr", tmp_path / "damaged")
    checkpoint = open_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(damage)
    assert weight_bytes([checkpoint], EXACT) == 0
