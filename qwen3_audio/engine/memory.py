"""What fits? Asked before anything is loaded, of the files' headers and of what is free."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.weights import naming, read_json, weight_files
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.fused.fp8 import becomes_fp8
from qwen3_audio.kernels.int8_weights import EXACT
from qwen3_audio.machine import available_memory_bytes
from qwen3_audio.models.asr import AsrConfig
from qwen3_audio.models.configs import StackConfig, TalkerConfig
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelInfo, ModelKind

log = logging.getLogger(__name__)

SLOTS = {"cpu": 16, "cuda": 64}
LISTENING_SLOTS = {"cpu": 16, "cuda": 128}  # a step of recognition costs less than a frame
MAX_POSITIONS = 32_768  # of one request, whatever the checkpoint would allow
CODEC_VALUES = 1_300_000  # that the published codec remembers of one sound
TYPICAL_POSITIONS = 1_024  # of one request: prompt and 60 s of speech
# Of one model on a GPU; an estimate until `scripts/gpu-check` has measured it.
RESERVE_BYTES = 3 << 29
SMALL_RESERVE_BYTES = 1 << 28  # of a model with hardly any weights
UNKNOWN_MEMORY_BYTES = 4 << 30
SHARE_OF_MEMORY = 0.25  # of what is free, for the keys and values of one checkpoint
MIN_ROOM_BYTES = 1 << 28  # two requests of usual length

CODEC_FOLDER = "speech_tokenizer"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

STORED = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor as a file's header names it."""

    name: str
    dtype: str
    shape: list[int]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def choose_device(checkpoints: Sequence[Checkpoint], settings: Settings) -> Device:
    """Where the checkpoints fit; a GPU that nobody named gives way to the CPU, and the log says so.

    StartError if they fit nowhere, or not where they have to be.
    """
    device = Device.choose(settings)
    try:
        check_memory(checkpoints, device)
    except StartError as error:
        must_be_here = settings.qwen_tts_device or settings.require_gpu or device.is_fp8
        if device.device.type == "cpu" or must_be_here:
            raise
        log.warning("%s. All runs on the CPU instead", error)
        device = Device.choose(replace(settings, qwen_tts_device="cpu"))
        check_memory(checkpoints, device)
    return device


def check_memory(checkpoints: Sequence[Checkpoint], device: Device) -> None:
    """StartError with both figures if it can't work; what else is needed adapts itself."""
    if device.device.type == "cuda":
        plan_gpu(checkpoints, device).check()
        return
    available_bytes, needed_bytes = available_memory_bytes(), weight_bytes(checkpoints, device)
    if available_bytes is None or needed_bytes <= available_bytes:
        return
    can_shrink = device.device.type == "cpu" and not device.is_int8
    raise StartError(
        f"The weights take {needed_bytes / 1e9:.2f} GB of memory in {device.precision}, and"
        f" {available_bytes / 1e9:.2f} GB are free on {device.device}: free some, load fewer or"
        f" smaller checkpoints{', or set QWEN_TTS_DTYPE=int8' if can_shrink else ''}"
    )


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What goes where on a card; made before anything is loaded, so that all models get a share."""

    free_bytes: int  # before anything was loaded
    weight_bytes: int
    num_models: int

    @property
    def reserve_bytes(self) -> int:
        """For graphs, workspaces and what a step computes: all that is not planned one by one."""
        small = self.num_models * SMALL_RESERVE_BYTES + self.weight_bytes
        return min(self.num_models * RESERVE_BYTES, small)

    @property
    def room_bytes(self) -> int:
        """For the requests of one model: the state of its slots, keys and values."""
        left = self.free_bytes - self.weight_bytes - self.reserve_bytes
        return max(left, 0) // max(self.num_models, 1)

    def check(self) -> None:
        """StartError if the requests of a model would have no room."""
        if self.num_models and self.room_bytes < MIN_ROOM_BYTES:
            needed = self.weight_bytes + self.reserve_bytes + self.num_models * MIN_ROOM_BYTES
            raise StartError(
                f"The GPU has {self.free_bytes / 1e9:.2f} GB free, and {needed / 1e9:.2f} GB are"
                f" needed: weights {self.weight_bytes / 1e9:.2f}, graphs and workspaces"
                f" {self.reserve_bytes / 1e9:.2f}, requests"
                f" {self.num_models * MIN_ROOM_BYTES / 1e9:.2f}; free some, or load fewer or"
                " smaller checkpoints"
            )


def plan_gpu(checkpoints: Sequence[Checkpoint], device: Device) -> GpuPlan:
    """By what is free on the card now and by the headers of the checkpoints' files."""
    free_bytes = torch.cuda.mem_get_info(device.device)[0]
    num_models = sum(one.kind is not ModelKind.ALIGNER for one in checkpoints)
    return GpuPlan(free_bytes, weight_bytes(checkpoints, device), num_models)


def describe_use(plan: GpuPlan, device: Device, models: Sequence[ModelInfo]) -> str:
    """After everything was loaded: what was planned, what is left, how many requests fit."""
    left_bytes = torch.cuda.mem_get_info(device.device)[0]
    streams = ", ".join(f"{model.max_streams} of {model.kind}" for model in models)
    return (
        f"GPU memory: {plan.free_bytes / 1e9:.1f} GB were free, weights"
        f" {plan.weight_bytes / 1e9:.1f}, planned for requests"
        f" {plan.num_models * plan.room_bytes / 1e9:.1f}, left {left_bytes / 1e9:.1f};"
        f" at once fit {streams}"
    )


@dataclass(frozen=True, slots=True)
class Room:
    """How many requests of one model run at once, and how many positions they share."""

    num_slots: int
    num_positions: int

    @property
    def num_streams(self) -> int:
        """Requests of usual length that fit at once; longer ones reserve more and wait."""
        return min(self.num_slots, self.num_positions // TYPICAL_POSITIONS)


def plan_room(
    room_bytes: int,
    *,
    position_bytes: int,
    slot_bytes: int,
    most_slots: int,
    max_positions: int,
) -> Room:
    """Never more than `room_bytes`; slots get half of it at most, positions the rest.

    One request may take every position, up to `max_positions`.
    """
    num_slots = most_slots
    if slot_bytes:
        num_slots = min(most_slots, max(room_bytes // 2 // slot_bytes, 1))
    affordable = (room_bytes - num_slots * slot_bytes) // position_bytes
    wanted = max(num_slots * TYPICAL_POSITIONS, max_positions)
    return Room(num_slots, max(min(wanted, affordable), 0))


def estimate_streams(
    checkpoint: Checkpoint, plan: GpuPlan, device: Device, settings: Settings
) -> int:
    """How many requests of usual length a start would find room for; loads nothing."""
    config = read_json(checkpoint.folder / "config.json")
    with naming(checkpoint.folder / "config.json"):
        if checkpoint.kind is ModelKind.ASR:
            stack, slot_bytes, slots = AsrConfig.from_json(config).stack, 0, LISTENING_SLOTS
        else:
            stack, slots = TalkerConfig.from_json(config).stack, SLOTS
            slot_bytes = CODEC_VALUES * device.dtype.itemsize
    return plan_room(
        plan.room_bytes,
        position_bytes=position_bytes(stack, device.dtype),
        slot_bytes=slot_bytes,
        most_slots=settings.max_running or slots[device.device.type],
        max_positions=min(stack.max_positions, MAX_POSITIONS),
    ).num_streams


def position_bytes(config: StackConfig, dtype: torch.dtype) -> int:
    """Keys and values of one position in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def share_of_free_memory(device: Device) -> int:
    """For the requests of one model where nothing was planned: a CPU's memory is not ours alone."""
    if device.device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(device.device)[0]
    else:
        free_bytes = available_memory_bytes() or UNKNOWN_MEMORY_BYTES
    return int(free_bytes * SHARE_OF_MEMORY)


def weight_bytes(checkpoints: Sequence[Checkpoint], device: Device) -> int:
    """What the weights take once they are loaded, at least; a codec is shared."""
    served = [one for one in checkpoints if one.kind is not ModelKind.ALIGNER]
    models = sum(_model_bytes(one.folder, device) for one in served)
    codecs = [_codec_bytes(one, device) for one in served if one.kind is not ModelKind.ASR]
    return models + max(codecs, default=0)


def _model_bytes(folder: Path, device: Device) -> int:
    total = 0
    for tensor in _tensors(folder):
        is_matrix = len(tensor.shape) == 2
        if device.is_int8 and is_matrix and _is_quantised(tensor.name):
            total += tensor.size
        elif device.is_fp8 and is_matrix and becomes_fp8(tensor.name, tensor.shape):
            total += tensor.size + tensor.shape[0] * torch.float32.itemsize  # with the scales
        elif not _is_left_on_disk(tensor, device):
            total += tensor.size * device.dtype.itemsize
    return total


def _is_quantised(name: str) -> bool:
    is_product = name.endswith(("_proj.weight", "head.weight")) or ".lm_head." in name
    return is_product and not any(part in name for part in EXACT)


def _is_left_on_disk(tensor: _Stored, device: Device) -> bool:
    """A head that may be a second copy of the embedding, and mapped tables read row by row."""
    if tensor.name.endswith("lm_head.weight"):
        return True
    tables = ("text_embedding.weight", *(("embed_tokens.weight",) if device.is_int8 else ()))
    is_mapped = device.device.type == "cpu" and STORED.get(tensor.dtype) is device.dtype
    return is_mapped and tensor.name.endswith(tables)


def _codec_bytes(checkpoint: Checkpoint, device: Device) -> int:
    """Only a Base checkpoint encodes, and in float32."""
    decoder = device.dtype.itemsize
    encoder = torch.float32.itemsize if checkpoint.kind is ModelKind.BASE else 0
    return sum(
        tensor.size * (decoder if tensor.name.startswith("decoder.") else encoder)
        for tensor in _tensors(checkpoint.folder / CODEC_FOLDER)
    )


def _tensors(folder: Path) -> Iterator[_Stored]:
    """What the headers name; a damaged file has none here, and loading it says what is wrong."""
    for path in weight_files(folder):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= MAX_HEADER_BYTES else b""
        try:
            header = json.loads(text)
            yield from (
                _Stored(name, entry["dtype"], entry["shape"])
                for name, entry in header.items()
                if name != "__metadata__"
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
