"""What the device did: kernels and their time, by what they are for; memory, by what has it."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_check.part import Figures, Part
from qwen3_audio.engine.gpu.graphs import CudaLane
from qwen3_audio.engine.paged_decoder import PagedDecoder

NUM_SHOWN = 12  # kernels by name
NUM_RUNS = 20  # in one graph, whose time is shared out
# Our Triton kernels, whose names are those of their functions.
OWN_KERNELS = {
    "_product": "products",
    "_attend": "attention",
    "_combine": "attention",
    "_begin": "attention",
    "_go_on": "attention",
    "_place": "norms",
    "_add_norm": "norms",
    "_silu_mul": "norms",
    "_draw_keys": "sampler",
    "_choose": "sampler",
    "_choose_large": "sampler",
}
# Those of torch and its libraries by parts of their names, the first that fits; what fits none is
# called other.
GROUPS = {
    "copies": ("memcpy", "memset", "copy"),
    "attention": ("attention", "attn", "flash", "fmha", "softmax"),
    "convolutions": ("conv", "implicit", "fprop", "wgrad", "dgrad", "cudnn", "nhwc"),
    "products": ("gemm", "gemv", "cutlass", "cublas", "nvjet", "splitk", "xmma", "mm_"),
    "sampler": ("sampl", "topk", "sort", "scan", "argmax", "radix"),
    "norms": ("norm",),
    "fourier": ("fft",),
    "elementwise": ("elementwise", "vectorized", "reduce", "index", "gather", "scatter", "cat"),
}


def wait_for(part: Part) -> None:
    if part.is_gpu:
        torch.cuda.synchronize(part.device)


def best_ms(part: Part, work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some runs, after one that warms up, waited for."""
    times = []
    for _ in range(repeats + 1):
        wait_for(part)
        begin_s = time.perf_counter()
        work()
        wait_for(part)
        times.append(time.perf_counter() - begin_s)
    return round(1000 * min(times[1:]), 3)


class Clock:
    """Times what a captured step would do, in a lane of its own."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._lane = CudaLane(torch.device(part.device)) if part.is_gpu else None

    def ms(self, work: Callable[[], object]) -> float:
        """Of one run among some that follow each other, so that no launch is waited for."""
        lane = self._lane
        if lane is None:
            return best_ms(self._part, work, 1)

        def run() -> None:
            for _ in range(NUM_RUNS):
                work()

        with lane.active():
            return best_ms(self._part, lane.capture(run)) / NUM_RUNS


def profile(part: Part, work: Callable[[], object]) -> list[tuple[str, int, float]]:
    """(name, how often, microseconds of the device) of every kernel, or of torch's on a CPU."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CUDA] if part.is_gpu else [activity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        wait_for(part)
    found = []
    kind = torch.autograd.DeviceType.CUDA if part.is_gpu else torch.autograd.DeviceType.CPU
    for event in profiler.key_averages():
        if event.device_type != kind:
            continue  # a call that asked for a kernel
        time_us = event.self_device_time_total if part.is_gpu else event.self_cpu_time_total
        found.append((event.key, int(event.count), float(time_us)))
    return found


def per_step(found: list[tuple[str, int, float]], num_steps: int) -> Figures:
    """Everything divided by frames or tokens; what belongs to a prompt is in it, too."""
    counts, times_us = Counter[str](), Counter[str]()
    for name, count, time_us in found:
        group = group_of(name)
        counts[group] += count
        times_us[group] += time_us
    most = sorted(found, key=lambda row: -row[2])[:NUM_SHOWN]
    return {
        "per_step": round(sum(counts.values()) / num_steps, 1),
        "device_ms": round(sum(times_us.values()) / num_steps / 1000, 4),
        "ms_by_part": _shares(times_us, num_steps * 1000, 4),
        "count_by_part": _shares(counts, num_steps, 1),
        "longest": {
            name[:120]: {"per_step": round(count / num_steps, 2), "us": round(us / num_steps, 2)}
            for name, count, us in most
        },
    }


def _shares(values: "Counter[str]", divisor: float, digits: int) -> dict[str, float]:
    return {name: round(value / divisor, digits) for name, value in values.most_common()}


def group_of(name: str) -> str:
    if name in OWN_KERNELS:
        return OWN_KERNELS[name]
    lower = name.lower()
    for group, signs in GROUPS.items():
        if any(sign in lower for sign in signs):
            return group
    return "other"


def memory(part: Part) -> dict[str, int]:
    """Bytes: what torch's tensors have, what torch keeps, what is free on the card."""
    if not part.is_gpu:
        return {"tensors": 0, "kept": 0, "free": 0}
    return {
        "tensors": torch.cuda.memory_allocated(part.device),
        "kept": torch.cuda.memory_reserved(part.device),
        "free": torch.cuda.mem_get_info(part.device)[0],
    }


def describe_memory(part: Part, before: dict[str, int], decoder: PagedDecoder) -> Figures:
    """In GB; `beside_tensors` is what graphs, workspaces and libraries take."""
    now, pool = memory(part), decoder.pool
    taken = before["free"] - now["free"]
    figures: dict[str, Any] = {
        "taken_gb": taken,
        "tensors_gb": now["tensors"] - before["tensors"],
        "beside_tensors_gb": taken - (now["tensors"] - before["tensors"]),
        "keys_and_values_gb": pool.k.nbytes + pool.v.nbytes,
    }
    figures = {name: round(value / 1e9, 3) for name, value in figures.items()}
    if part.is_gpu:
        peak = torch.cuda.max_memory_allocated(part.device)
        figures["peak_tensors_gb"] = round(peak / 1e9, 3)
    return figures | {"slots": decoder.num_slots, "positions": pool.num_positions}
