"""Where everything runs, in which precision and on how many threads."""

import logging
import math
from dataclasses import dataclass

import torch

from qwen3_audio.errors import StartError
from qwen3_audio.kernels.compiled import NoKernels
from qwen3_audio.kernels.products import Kernels
from qwen3_audio.machine import allowed_cores
from qwen3_audio.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """`dtype` is that of the weights; `kernels` are there on a CPU with a C compiler."""

    device: torch.device
    dtype: torch.dtype
    kernels: Kernels | None = None
    is_int8: bool = False  # decoder stacks and heads; all else is in `dtype`

    @property
    def activations(self) -> torch.dtype:
        """With the kernels, small weights meet exact activations."""
        return torch.float32 if self.kernels else self.dtype

    def __str__(self) -> str:
        precision = "int8" if self.is_int8 else str(self.dtype).removeprefix("torch.")
        return f"{self.device} in {precision}"

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
        torch.set_num_threads(min(torch.get_num_threads(), math.ceil(allowed_cores())))
        wants_exact = settings.qwen_tts_dtype in ("float32", "float16")
        has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        dtype = torch.bfloat16 if has_bfloat16 and not wants_exact else torch.float32
        kernels = _open_kernels(settings)
        is_int8 = settings.qwen_tts_dtype == "int8" and kernels is not None
        return cls(device, dtype, kernels, is_int8)


def _open_kernels(settings: Settings) -> Kernels | None:
    try:
        return Kernels(settings.cache_dir / "kernels", torch.get_num_threads())
    except NoKernels as why:
        log.warning("No compiled kernels: %s. Everything works, slower", why)
        return None
