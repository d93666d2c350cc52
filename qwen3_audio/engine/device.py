"""Where everything runs, in which precision, on how many threads, and what makes the products."""

import math
from dataclasses import dataclass

import torch

from qwen3_audio.errors import StartError
from qwen3_audio.kernels.compiled import NoKernels
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

    @property
    def activations(self) -> torch.dtype:
        """With kernels or numba, small weights meet exact activations."""
        return torch.float32 if self.kernels or self.numba else self.dtype

    @property
    def precision(self) -> str:
        return "int8" if self.is_int8 else str(self.dtype).removeprefix("torch.")

    @property
    def products(self) -> str:
        """What makes the products of a step, for people."""
        if self.kernels is not None:
            return "compiled kernels"
        return "torch" if self.numba is None else "numba"

    def __str__(self) -> str:
        return f"{self.device} in {self.precision}"

    @classmethod
    def choose(cls, settings: Settings) -> "Device":
        """Raises StartError if a named GPU is not there or can't do the precision."""
        has_gpu = torch.cuda.is_available()
        name = settings.qwen_tts_device or ("cuda:0" if has_gpu else "cpu")
        device, dtype = torch.device(name), settings.qwen_tts_dtype
        if device.type == "cpu":
            return cls._choose_cpu(device, settings)
        if (device.index or 0) >= torch.cuda.device_count():
            raise StartError(
                f"QWEN_TTS_DEVICE is {name}, but torch sees {torch.cuda.device_count()} GPUs; "
                "`qwen3-audio doctor` says why, QWEN_TTS_DEVICE=cpu runs without one"
            )
        if dtype == "int8":
            raise StartError("QWEN_TTS_DTYPE=int8 is for CPUs; on a GPU use bfloat16")
        return cls(device, getattr(torch, dtype))

    @classmethod
    def _choose_cpu(cls, device: torch.device, settings: Settings) -> "Device":
        torch.set_num_threads(count_threads(settings))
        wants_exact = settings.qwen_tts_dtype in ("float32", "float16")
        dtype = torch.bfloat16 if has_bfloat16() and not wants_exact else torch.float32
        try:
            kernels = Kernels(settings.cache_dir / "kernels", torch.get_num_threads())
        except NoKernels as why:
            numba, missing = _open_numba(settings, dtype, str(why))
            return cls(device, dtype, numba=numba, missing=missing)
        return cls(device, dtype, kernels, is_int8=settings.qwen_tts_dtype == "int8")

    def explain_missing(self, wants_int8: bool) -> str:
        """Why it is slower here than it could be, and what an int8 becomes."""
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
