"""Is there memory for the weights? Asked before anything is loaded, of the files' headers alone."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.weights import weight_files
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.int8_weights import EXACT
from qwen3_audio.machine import available_memory_bytes
from qwen3_audio.types import ModelKind

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


def check_memory(checkpoints: Sequence[Checkpoint], device: Device) -> None:
    """StartError with both figures if the weights can't fit; what else is needed adapts itself."""
    if device.device.type == "cuda":
        available_bytes: int | None = torch.cuda.mem_get_info(device.device)[0]
    else:
        available_bytes = available_memory_bytes()
    needed_bytes = weight_bytes(checkpoints, device)
    if available_bytes is None or needed_bytes <= available_bytes:
        return
    can_shrink = device.device.type == "cpu" and not device.is_int8
    raise StartError(
        f"The weights take {needed_bytes / 1e9:.2f} GB of memory in {device.precision}, and"
        f" {available_bytes / 1e9:.2f} GB are free on {device.device}: free some, load fewer or"
        f" smaller checkpoints{', or set QWEN_TTS_DTYPE=int8' if can_shrink else ''}"
    )


def weight_bytes(checkpoints: Sequence[Checkpoint], device: Device) -> int:
    """What the weights take once they are loaded, at least; a codec is shared."""
    served = [one for one in checkpoints if one.kind is not ModelKind.ALIGNER]
    models = sum(_model_bytes(one.folder, device) for one in served)
    codecs = [_codec_bytes(one, device) for one in served if one.kind is not ModelKind.ASR]
    return models + max(codecs, default=0)


def _model_bytes(folder: Path, device: Device) -> int:
    total = 0
    for tensor in _tensors(folder):
        if device.is_int8 and len(tensor.shape) == 2 and _is_quantised(tensor.name):
            total += tensor.size
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
