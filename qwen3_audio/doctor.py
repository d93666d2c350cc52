"""What would be loaded, where it would run, and what is missing, in plain words."""

import importlib
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.errors import StartError
from qwen3_audio.hub import find_here
from qwen3_audio.machine import allowed_cores, available_memory_bytes, processor_features
from qwen3_audio.selection import list_sources, open_source, select_checkpoints
from qwen3_audio.settings import Settings

if TYPE_CHECKING:
    from qwen3_audio.engine.device import Device

ARM = ("arm64", "aarch64")
CODECS = ("libmp3lame", "libopus", "aac", "flac")
NO_GPU_HINT = (
    "if this machine has an NVIDIA GPU: install its driver; in Docker also the NVIDIA Container"
    " Toolkit, and start with --gpus all or a compose file that asks for the GPU"
)
COMPILER_HINT = "a C compiler (cc: gcc or clang) makes it faster"
TRITON_HINT = (
    "there is no C compiler (gcc, clang or CC), and what Triton has not yet compiled here needs"
    " one: torch would do its kernels' work, slower"
)
FP8_TEXT = " (feed-forwards, all else in bfloat16)"
NUMBA_HINT = "numba too (pip install 'qwen3-audio[cpu]'), though less"
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
    found: list[Checkpoint] = []
    findings = [] if is_demo else list(_examine_models(settings, model_paths, found))
    if is_demo:
        findings = [Finding(Level.OK, "models: the pocket models of this program")]
    return [
        *findings,
        *_examine_device(settings, found),
        *_examine_processor(),
        *_examine_folders(settings),
        *_examine_codecs(),
    ]


def _examine_models(
    settings: Settings, model_paths: Sequence[str], found: list[Checkpoint]
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
        found.append(checkpoint)
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


def _examine_device(settings: Settings, found: Sequence[Checkpoint]) -> Iterator[Finding]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        yield Finding(Level.PROBLEM, f"torch: can't be imported: {error}")
        return
    yield Finding(Level.OK, f"torch: {torch.__version__}")
    from qwen3_audio.engine.gpu.availability import find_gpu_trouble

    device, level = settings.qwen_tts_device, Level.NOTE
    trouble = None if device == "cpu" else find_gpu_trouble(torch.device(device or "cuda:0"))
    if device == "cpu" or (device is None and trouble is not None):
        yield Finding(Level.OK, f"device: cpu, {settings.qwen_tts_dtype}")
        if settings.require_gpu:
            level = Level.PROBLEM
            yield Finding(level, f"device: REQUIRE_GPU is set; {trouble or 'QWEN_TTS_DEVICE=cpu'}")
        if trouble is not None:
            yield Finding(level, f"device: no GPU is used: {trouble}; {_gpu_hint()}")
        if level is Level.NOTE:
            yield from _examine_cpu(settings, found)
    elif trouble is not None:
        yield Finding(
            Level.PROBLEM,
            f"device: QWEN_TTS_DEVICE={device}, and {trouble}; {_gpu_hint()},"
            " or set QWEN_TTS_DEVICE=cpu",
        )
    else:
        yield from _examine_gpu(torch, settings, found)


def _examine_gpu(torch: Any, settings: Settings, found: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Says what a start would say, also of memory that is too little."""
    from qwen3_audio.engine.device import Device
    from qwen3_audio.engine.gpu.availability import has_compiler
    from qwen3_audio.engine.memory import estimate_streams, plan_gpu

    try:
        device = Device.choose(settings)
    except StartError as error:
        yield Finding(Level.PROBLEM, f"device: {error}")
        return
    precision = f"{device.precision}{FP8_TEXT if device.is_fp8 else ''}"
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info(device.device)
        yield Finding(
            Level.OK,
            f"device: {device.device}, {torch.cuda.get_device_name(device.device)},"
            f" {precision}, {free_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB free",
        )
        if device.missing:
            yield Finding(Level.NOTE, f"products: {device.explain_missing(False)}")
        elif not has_compiler():
            level = Level.PROBLEM if settings.require_gpu else Level.NOTE
            yield Finding(level, f"products: {TRITON_HINT}")
        else:
            yield Finding(Level.OK, f"products: {device.products}")
        plan = plan_gpu(found, device)
        plan.check()
    except StartError as error:
        is_named = settings.qwen_tts_device is not None
        is_last = is_named or settings.require_gpu or device.is_fp8  # else the CPU takes over
        yield Finding(Level.PROBLEM if is_last else Level.NOTE, f"device: {error}")
        return
    for one in found:
        num_streams = estimate_streams(one, plan, device, settings)
        yield Finding(Level.OK, f"memory: {num_streams} requests of {one.kind} fit at once")


def _examine_cpu(settings: Settings, found: Sequence[Checkpoint]) -> Iterator[Finding]:
    """Chooses as a start does: what can be compiled is compiled."""
    from qwen3_audio.engine.device import Device, has_bfloat16

    try:
        device = Device.choose(settings)
    except StartError as error:
        yield Finding(Level.PROBLEM, f"device: {error}")
        return
    yield _bfloat16_finding(has_bfloat16())
    yield from _products_findings(device, settings)
    yield from _examine_memory(found, device)
    if device.kernels is not None:
        device.kernels.close()


def _products_findings(device: "Device", settings: Settings) -> Iterator[Finding]:
    text = f"products: {device.products} in {device.precision}"
    if device.kernels is None:
        can_numba = device.numba is None and device.precision == "bfloat16"
        hint = f"{COMPILER_HINT}, {NUMBA_HINT}" if can_numba else COMPILER_HINT
        yield Finding(Level.NOTE, f"{text}, because {'; '.join(device.missing)}; {hint}")
        if settings.qwen_tts_dtype == "int8":
            yield Finding(
                Level.NOTE,
                f"int8: needs the compiled kernels, so the weights stay in {device.precision}:"
                " all works, in more memory and about half as fast",
            )
        return
    yield Finding(Level.OK, f"{text}, threads: {device.kernels.num_threads}")
    missing = _missing_features(device, processor_features())
    if missing:
        yield Finding(
            Level.NOTE,
            f"products: {missing}: the kernels are compiled without it, with the same results,"
            " slower",
        )


def _missing_features(device: "Device", features: frozenset[str]) -> str:
    """What the fastest loops want and this processor lacks."""
    if "asimd" in features or (not features and platform.machine() in ARM):
        return "this processor is an ARM and has no AVX-512"
    if not features:
        return ""  # the processor does not say
    if "avx512f" not in features:
        return "this processor has no AVX-512"
    has_vnni = "avx512_vnni" in features
    return "this processor has no AVX-512 VNNI" if device.is_int8 and not has_vnni else ""


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
        "bfloat16: this processor does not calculate in it: weights are widened to float32 as"
        " they are loaded, in twice the memory; int8 takes less",
    )


def _examine_processor() -> Iterator[Finding]:
    allowed, present = allowed_cores(), os.cpu_count() or 1
    text = f"processor: {allowed:g} of {present} cores"
    if allowed < present:
        yield Finding(Level.NOTE, f"{text} are allowed to this process (affinity, cgroup)")
    else:
        yield Finding(Level.OK, text)


def _examine_memory(found: Sequence[Checkpoint], device: "Device") -> Iterator[Finding]:
    from qwen3_audio.engine.memory import weight_bytes

    available_bytes = available_memory_bytes()
    if available_bytes is None:
        return
    try:
        needed_gb = weight_bytes(found, device) / 1e9
    except StartError as error:
        yield Finding(Level.PROBLEM, f"models: {error}")
        return
    available_gb = available_bytes / 1e9
    text = f"memory: {available_gb:.2f} GB available"
    if needed_gb > available_gb:
        yield Finding(
            Level.PROBLEM,
            f"{text}, the weights alone are {needed_gb:.2f} GB in {device.precision}",
        )
    else:
        yield Finding(Level.OK, f"{text}, weights {needed_gb:.2f} GB in {device.precision}")


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
