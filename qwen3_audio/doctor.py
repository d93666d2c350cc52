"""What would be loaded, where it would run, and what is missing, in plain words."""

import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qwen3_audio.errors import StartError
from qwen3_audio.hub import find_here
from qwen3_audio.machine import allowed_cores, available_memory_bytes
from qwen3_audio.selection import list_sources, open_source, select_checkpoints
from qwen3_audio.settings import Settings

CODECS = ("libmp3lame", "libopus", "aac", "flac")
NO_GPU_HINT = (
    "if this machine has an NVIDIA GPU: install its driver; in Docker also the NVIDIA Container"
    " Toolkit, and start with --gpus all or a compose file that asks for the GPU"
)
ADVICE = (
    "A cloned voice sounds wrong or reads the wrong thing: the transcript of the reference must"
    " match what is said in it.",
    "A download is refused: set HF_TOKEN for private or gated repositories, and let MODELS_DIR"
    " be writable.",
    f"The GPU is not used: {NO_GPU_HINT}.",
)


class Level(StrEnum):
    """How much a finding matters; a problem keeps the server from starting."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "PROBLEM"


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    text: str


def examine(settings: Settings, model_paths: Sequence[str], *, is_demo: bool) -> list[Finding]:
    """Everything worth saying, in the order in which a start would meet it; loads no weights."""
    folders: list[Path] = []
    findings = [] if is_demo else list(_examine_models(settings, model_paths, folders))
    if is_demo:
        findings = [Finding(Level.OK, f"models: the demo's own, kept in {settings.cache_dir}")]
    device = list(_examine_device(settings))
    has_gpu = any(finding.text.startswith("device: cuda") for finding in device)
    return [
        *findings,
        *device,
        *_examine_processor(),
        *_examine_memory(folders, has_gpu=has_gpu),
        *_examine_folders(settings),
        *_examine_codecs(),
    ]


def _examine_models(
    settings: Settings, model_paths: Sequence[str], folders: list[Path]
) -> Iterator[Finding]:
    sources = list_sources(settings, model_paths)
    if not sources:
        yield Finding(
            Level.PROBLEM,
            "models: none is named; set TTS_CUSTOMVOICE_MODEL_PATH, TTS_BASE_MODEL_PATH,"
            " TTS_VOICEDESIGN_MODEL_PATH or ASR_MODEL_PATH, give --model-path, or try --demo",
        )
    is_all_here = True
    for source in sources:
        try:
            if find_here(source.value, settings) is None:
                is_all_here = False
                yield Finding(Level.NOTE, _download_text(source.label, source.value, settings))
                continue
            checkpoint = open_source(source, settings, lambda _: None)
        except StartError as error:
            is_all_here = False
            yield Finding(Level.PROBLEM, f"models: {error}")
            continue
        folders.append(checkpoint.folder)
        text = f"models: {source.label} is {checkpoint.kind} in {checkpoint.folder}"
        yield Finding(Level.OK, f"{text}, {_size_bytes(checkpoint.folder) / 1e9:.2f} GB")
    if is_all_here:
        try:
            select_checkpoints(settings, model_paths, lambda _: None)
        except StartError as error:
            yield Finding(Level.PROBLEM, f"models: {error}")


def _download_text(label: str, value: str, settings: Settings) -> str:
    token = "with HF_TOKEN" if settings.hf_token else "without HF_TOKEN, which private ones need"
    return (
        f"models: {label}={value} is not on this machine and would be downloaded to"
        f" {settings.models_dir}, {token}"
    )


def _examine_device(settings: Settings) -> Iterator[Finding]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding(Level.PROBLEM, f"torch: can't be imported: {error}")
        return
    yield Finding(Level.OK, f"torch: {torch.__version__}")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = settings.qwen_tts_device or ("cuda:0" if num_gpus else "cpu")
    if device == "cpu":
        yield Finding(Level.OK, f"device: cpu, {settings.qwen_tts_dtype}")
        if not num_gpus and settings.qwen_tts_device is None:
            yield Finding(Level.NOTE, f"device: no GPU is seen; {_gpu_hint()}")
        yield _bfloat16_finding(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return
    index = int(device.removeprefix("cuda:"))
    if index >= num_gpus:
        yield Finding(
            Level.PROBLEM,
            f"device: QWEN_TTS_DEVICE={device}, and torch sees {num_gpus} GPUs; {_gpu_hint()},"
            " or set QWEN_TTS_DEVICE=cpu",
        )
        return
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    yield Finding(
        Level.OK,
        f"device: {device}, {torch.cuda.get_device_name(index)}, {settings.qwen_tts_dtype},"
        f" {free_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB free",
    )


def _gpu_hint() -> str:
    if Path("/proc/driver/nvidia/version").exists():
        return (
            "an NVIDIA driver is there, so it may be too old for this torch, or the container was"
            " started without --gpus all"
        )
    return NO_GPU_HINT


def _bfloat16_finding(is_fast: bool) -> Finding:
    if is_fast:
        return Finding(Level.OK, "bfloat16: this processor calculates in it")
    return Finding(
        Level.NOTE,
        "bfloat16: this processor does not calculate in it: weights are kept in it, arithmetic"
        " is float32",
    )


def _examine_processor() -> Iterator[Finding]:
    allowed, present = allowed_cores(), os.cpu_count() or 1
    text = f"processor: {allowed:g} of {present} cores"
    if allowed < present:
        yield Finding(Level.NOTE, f"{text} are allowed to this process (affinity, cgroup)")
    else:
        yield Finding(Level.OK, text)


def _examine_memory(folders: Sequence[Path], *, has_gpu: bool) -> Iterator[Finding]:
    available_bytes = available_memory_bytes()
    if available_bytes is None:
        return
    needed_bytes = sum(_size_bytes(folder) for folder in folders)
    text = f"memory: {available_bytes / 1e9:.1f} GB available"
    if needed_bytes > available_bytes and not has_gpu:
        yield Finding(Level.PROBLEM, f"{text}, the weights alone are {needed_bytes / 1e9:.1f} GB")
    else:
        yield Finding(Level.OK, f"{text}, weights {needed_bytes / 1e9:.1f} GB")


def _examine_folders(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("MODELS_DIR", settings.models_dir), ("DATA_DIR", settings.data_dir)):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not os.access(there, os.W_OK):
            yield Finding(Level.NOTE, f"{name}: {folder} is not writable for this user")
            continue
        free_gb = shutil.disk_usage(there).free / 1e9
        yield Finding(Level.OK, f"{name}: {folder}, writable, {free_gb:.0f} GB free")


def _examine_codecs() -> Iterator[Finding]:
    try:
        av = importlib.import_module("av")
    except (ImportError, OSError) as error:
        yield Finding(Level.PROBLEM, f"PyAV: can't be imported: {error}")
        return
    missing = [codec for codec in CODECS if codec not in av.codecs_available]
    if missing:
        yield Finding(Level.PROBLEM, f"PyAV {av.__version__}: no {', '.join(missing)}")
    else:
        yield Finding(Level.OK, f"PyAV: {av.__version__} with mp3, opus, aac and flac")


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
