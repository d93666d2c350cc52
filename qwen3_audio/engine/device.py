"""Where everything runs, in which precision, on how many threads, and what makes the products."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from qwen3_audio.engine.gpu.availability import find_gpu_trouble, find_missing_kernels
from qwen3_audio.engine.gpu.graphs import CudaLane, Lane
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.compiled import NoKernels
from qwen3_audio.kernels.fused.fp8 import why_no_fp8
from qwen3_audio.kernels.numba_products import NoNumba, NumbaProducts
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.machine import allowed_cores
from qwen3_audio.settings import Settings


@dataclass(frozen=True, slots=True)
class Device:
    """`dtype` is that of the weights; `kernels` are there on a CPU with a C compiler."""

    device: torch.device
    dtype: torch.dtype
    kernels: Kernels | None = None
    is_int8: bool = False  # decoder stacks and heads; all else is in `dtype`
    numba: NumbaProducts | None = None  # without kernels, for bfloat16 weights
    missing: tuple[str, ...] = ()  # why nothing faster is used, best first
    without_gpu: str | None = None  # why a CPU was chosen by itself
    lanes: Callable[[], Lane] | None = None  # makes queues for graphs; None: no step is captured
    is_fp8: bool = False  # feed-forwards of talker and recogniser; all else is in `dtype`
    is_required: bool = False  # REQUIRE_GPU: whatever would be slower stops the start

    @property
    def activations(self) -> torch.dtype:
        """With kernels or numba, small weights meet exact activations."""
        return torch.float32 if self.kernels or self.numba else self.dtype

    @property
    def precision(self) -> str:
        if self.is_fp8:
            return "fp8"
        return "int8" if self.is_int8 else str(self.dtype).removeprefix("torch.")

    @property
    def products(self) -> str:
        """What makes the products of a step, for people."""
        if self.kernels is not None:
            return "compiled kernels"
        if self.device.type == "cuda":
            return "torch" if self.missing else "Triton kernels"
        return "torch" if self.numba is None else "numba"

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}"

    def enter(self) -> None:
        """Whatever the calling thread launches, pins or waits for belongs to this GPU from now on.

        torch looks where a tensor lies; Triton asks for the thread's GPU, which is the first one.
        """
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            # Its attention is planned anew for every shape, which takes tenths of a second.
            torch.backends.cuda.enable_cudnn_sdp(False)
            # Convolutions in float32 would be rounded to 10 bits: those of a reference's encoders.
            torch.backends.cudnn.allow_tf32 = False

    @classmethod
    def choose(cls, settings: Settings) -> "Device":
        """Raises StartError if a GPU that is named or required is not there or can't do it."""
        name, is_required = settings.qwen_tts_device, settings.require_gpu
        wants_fp8 = settings.qwen_tts_dtype == "fp8"
        if name == "cpu":
            if is_required:
                raise StartError("REQUIRE_GPU is set, and QWEN_TTS_DEVICE is cpu: drop one of them")
            if wants_fp8:
                raise StartError("QWEN_TTS_DTYPE=fp8 is for GPUs; on a CPU use int8 or bfloat16")
            return cls._choose_cpu(torch.device("cpu"), settings)
        device = torch.device(name or "cuda:0")
        trouble = find_gpu_trouble(device)
        if trouble is None:
            return cls._choose_gpu(device, settings)
        if name is None and not is_required:
            if wants_fp8:
                raise StartError(
                    f"QWEN_TTS_DTYPE=fp8 is for GPUs, but {trouble}; on a CPU use int8 or bfloat16"
                )
            chosen = cls._choose_cpu(torch.device("cpu"), settings)
            return replace(chosen, without_gpu=trouble)
        said, way_out = f"QWEN_TTS_DEVICE is {name}", "QWEN_TTS_DEVICE=cpu runs without one"
        if name is None:
            said, way_out = "REQUIRE_GPU is set", "without REQUIRE_GPU it would run on the CPU"
        raise StartError(f"{said}, but {trouble}; `qwen3-audio doctor` says why, {way_out}")

    @classmethod
    def _choose_gpu(cls, device: torch.device, settings: Settings) -> "Device":
        if settings.qwen_tts_dtype == "int8":
            raise StartError("QWEN_TTS_DTYPE=int8 is for CPUs; on a GPU use bfloat16 or fp8")
        is_fp8 = settings.qwen_tts_dtype == "fp8"
        if is_fp8 and (why := why_no_fp8(device)):
            raise StartError(f"QWEN_TTS_DTYPE=fp8 can't be used: {why}; use bfloat16")
        missing = find_missing_kernels()
        if missing and settings.require_gpu:
            raise StartError(
                f"REQUIRE_GPU is set, but {missing}, so the GPU would be slow:"
                " pip install triton, or drop REQUIRE_GPU"
            )
        return cls(
            device,
            torch.bfloat16 if is_fp8 else getattr(torch, settings.qwen_tts_dtype),
            missing=(missing,) if missing else (),
            lanes=partial(CudaLane, device) if settings.qwen_cuda_graphs else None,
            is_fp8=is_fp8,
            is_required=settings.require_gpu,
        )

    @classmethod
    def _choose_cpu(cls, device: torch.device, settings: Settings) -> "Device":
        torch.set_num_threads(count_threads(settings))
        wants_exact = settings.qwen_tts_dtype in ("float32", "float16")
        dtype = torch.bfloat16 if has_bfloat16() and not wants_exact else torch.float32
        try:
            kernels = Kernels(settings.kernels_dir, torch.get_num_threads())
        except NoKernels as why:
            numba, missing = _open_numba(settings, dtype, str(why))
            return cls(device, dtype, numba=numba, missing=missing)
        return cls(device, dtype, kernels, is_int8=settings.qwen_tts_dtype == "int8")

    def explain_missing(self, wants_int8: bool) -> str:
        """Why it is slower here than it could be, and what an int8 becomes."""
        if self.device.type == "cuda":
            return f"No Triton kernels: {'; '.join(self.missing)}. torch does their work, slower"
        text = f"No compiled kernels: {'; '.join(self.missing)}. "
        if wants_int8:
            text += f"int8 needs them: weights stay in {self.precision}. "
        return f"{text}{self.products.capitalize()} does their work, slower"


def has_bfloat16() -> bool:
    """Whether torch's products of bfloat16 numbers are fast on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def count_threads(settings: Settings) -> int:
    """OMP_NUM_THREADS or as many as there are cores, and never more than may be used."""
    wanted = settings.omp_num_threads or torch.get_num_threads()
    return min(wanted, math.ceil(allowed_cores()))


def _open_numba(
    settings: Settings, dtype: torch.dtype, why: str
) -> tuple[NumbaProducts | None, tuple[str, ...]]:
    if dtype is not torch.bfloat16:
        return None, (why,)  # torch is as fast in float32
    try:
        return NumbaProducts(settings.cache_dir / "numba", torch.get_num_threads()), (why,)
    except NoNumba as error:
        return None, (why, str(error))
