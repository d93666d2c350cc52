"""Decoder stacks in the precision of a start, and the memory of their requests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, KvPool
from qwen3_audio.engine.memory import (
    MAX_POSITIONS,
    SLOTS,
    plan_room,
    position_bytes,
    share_of_free_memory,
)
from qwen3_audio.engine.paged_decoder import PagedDecoder
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.weights import Weights, weight_files
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.cpu_stack import CpuStack
from qwen3_audio.kernels.fused.fp8 import Fp8Weights
from qwen3_audio.kernels.int8_weights import Int8Weights, cache_path
from qwen3_audio.kernels.numba_products import NumbaWeights
from qwen3_audio.kernels.products import Int8Linear, KernelLinear
from qwen3_audio.models.linear import Linear
from qwen3_audio.models.qwen3 import Stack
from qwen3_audio.settings import Settings

T = TypeVar("T")

MAX_PREFILL_TOKENS = 2048  # prompt rows in one step, so that running requests go on


def kernel_linear(linear: Linear, device: Device) -> Linear:
    if device.kernels is None or isinstance(linear, Int8Linear):
        return linear
    return KernelLinear(device.kernels, linear)


def build_model(
    make: Callable[[Mapping[str, Tensor]], T],
    weights: Weights,
    checkpoint: Checkpoint,
    settings: Settings,
    device: Device,
) -> T:
    """Make a model of its weights, in int8 through a cache file if that is the precision."""
    if device.is_fp8:
        return make(Fp8Weights(weights))
    if device.numba is not None:
        return make(NumbaWeights(weights, device.numba))
    if not device.is_int8 or device.kernels is None:
        return make(weights)
    files = weight_files(checkpoint.folder)
    path = cache_path(settings.cache_dir, checkpoint.name, files)
    small = Int8Weights(weights, device.kernels, path)
    if small.is_cached:
        return make(small)
    make(small)  # for what it quantises; the model itself is made again of the mapped file
    small.write()
    return make(Int8Weights(weights, device.kernels, path))


def check_shapes(stack: Stack, folder: Path) -> None:
    """StartError if config.json describes other weights than those that are there."""
    c = stack.config
    heads = c.num_heads * c.head_dim
    expected = {
        "qkv": (heads + 2 * c.num_kv_heads * c.head_dim, c.hidden_size),
        "out": (c.hidden_size, heads),
        "gate_up": (2 * c.intermediate_size, c.hidden_size),
        "down": (c.hidden_size, c.intermediate_size),
    }
    for number, layer in enumerate(stack.layers):
        for name, shape in expected.items():
            found = tuple(getattr(layer, name).weight.shape)
            if found != shape:
                raise StartError(
                    f"{folder / 'config.json'} does not fit the weights: {name} of layer {number}"
                    f" would be {list(shape)}, and is {list(found)}"
                )


def make_decoder(
    stack: Stack,
    settings: Settings,
    device: Device,
    room_bytes: int | None,
    slot_bytes: int = 0,
    slots: Mapping[str, int] = SLOTS,
) -> PagedDecoder:
    """`room_bytes`: planned for this model's requests; None: a share of what is free now."""
    config = stack.config
    room = plan_room(
        share_of_free_memory(device) if room_bytes is None else room_bytes,
        position_bytes=position_bytes(config, device.dtype),
        slot_bytes=slot_bytes,
        most_slots=settings.max_running or slots[device.device.type],
        max_positions=min(config.max_positions, MAX_POSITIONS),
    )
    num_slots, num_pages = room.num_slots, max(room.num_positions // PAGE_POSITIONS, 1)
    pool = KvPool(
        config,
        num_pages=num_pages,
        num_slots=num_slots if device.lanes is None else num_slots + 1,  # for rows that fill up
        max_positions=min(config.max_positions, MAX_POSITIONS, num_pages * PAGE_POSITIONS),
        dtype=device.dtype,
        device=device.device,
    )
    cpu_stack = None
    if device.kernels is not None:
        cpu_stack = CpuStack(device.kernels, stack, [], num_slots)
    return PagedDecoder(stack, pool, num_slots, cpu_stack)


def make_scheduler(settings: Settings, decoder: PagedDecoder) -> Scheduler[Any]:
    return Scheduler(
        num_slots=decoder.num_slots,
        max_prefill_tokens=MAX_PREFILL_TOKENS,
        max_waiting=settings.max_waiting,
        memory=decoder.pool.book,
    )
