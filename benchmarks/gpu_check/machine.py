"""Which card, driver and torch, and what the card can do at most: a copy and a product."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu_check.attempts import attempt
from benchmarks.gpu_check.kernels import best_ms
from benchmarks.gpu_check.part import Part
from qwen3_audio.bench.results import describe_machine

COPY_BYTES = 4 << 30
PRODUCT_SIZE = 8192


def run(part: Part) -> None:
    part.put("machine", describe(part))
    num_bytes, size = (COPY_BYTES, PRODUCT_SIZE) if part.is_gpu else (1 << 24, 256)
    with attempt(part, "copy"):
        part.put("copy", {"tb_per_s": round(_copy_tb_per_s(part, num_bytes), 3)})
    with attempt(part, "bfloat16 product"):
        part.put("bfloat16 product", {"tflop_per_s": round(_tflop_per_s(part, size), 1)})


def describe(part: Part) -> dict[str, Any]:
    found = describe_machine()
    found["triton"] = _version_of("triton")
    found["card"] = card_name(part)
    found["system"] = f"{platform.system()} {platform.release()}"
    if part.is_gpu:
        properties = torch.cuda.get_device_properties(part.device)
        found |= {
            "capability": ".".join(map(str, torch.cuda.get_device_capability(part.device))),
            "processors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "free_gb": round(torch.cuda.mem_get_info(part.device)[0] / 1e9, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def card_name(part: Part) -> str:
    return torch.cuda.get_device_name(part.device) if part.is_gpu else "cpu"


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _copy_tb_per_s(part: Part, num_bytes: int) -> float:
    """Read and written, from one half of a piece of memory to the other."""
    both = torch.empty(num_bytes, dtype=torch.uint8, device=part.device)
    source, target = both.chunk(2)
    return num_bytes / best_ms(part, lambda: target.copy_(source)) / 1e9


def _tflop_per_s(part: Part, size: int) -> float:
    a, b = (torch.randn(size, size, device=part.device).bfloat16() for _ in range(2))
    return 2 * size**3 / best_ms(part, lambda: a @ b) / 1e9
