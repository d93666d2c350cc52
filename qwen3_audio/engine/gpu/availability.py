"""Is there a GPU that can be used, and how fast; if not, why: half a sentence each."""

import importlib.util
import shutil
import warnings

import torch

from qwen3_audio.engine.gpu.errors import probe_gpu
from qwen3_audio.settings import named_compiler


def find_gpu_trouble(device: torch.device) -> str | None:
    """Why this GPU can't be used: no driver, an old one, no such GPU, one too old for torch."""
    num_gpus = count_gpus()
    if (device.index or 0) >= num_gpus:
        reason = "" if num_gpus else _explain_absence()
        return f"torch sees {num_gpus} GPUs{reason}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the same trouble, in many lines
            probe_gpu(device)
    except RuntimeError as error:
        return f"it can't compute ({first_sentence(error)})"
    return None


def find_missing_kernels() -> str | None:
    """Why a GPU's steps are made of torch's own kernels alone; None if nothing is missing."""
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


def has_compiler() -> bool:
    """Whether Triton finds a C compiler: it takes CC, gcc or clang, in this order."""
    named = named_compiler()
    return any(map(shutil.which, (named,) if named else ("gcc", "clang")))


def count_gpus() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver is warned of; here it becomes a sentence
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def first_sentence(error: BaseException) -> str:
    """torch explains itself in whole pages, with addresses."""
    text = " ".join(str(error).split("\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


def _explain_absence() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f" ({first_sentence(error)})"
    return ""
