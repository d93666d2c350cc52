"""Decoder weights as int8: quantised once into a cache file, mapped from there ever after."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qwen3_audio.kernels.products import Int8Linear, Kernels, quantise
from qwen3_audio.models.linear import Linear, join_linear

T = TypeVar("T")
log = logging.getLogger(__name__)

MADE_FOR = "made_for"  # in the file's metadata: its own name, which holds the checkpoint's digest
FORMAT = 1  # of the cache file; another number makes all files anew
EXACT = ("text_projection", "audio_tower", "small_to_mtp_projection")  # a small part of the work
_SAMPLE_BYTES = 4_096  # twice of each tensor


class Int8Weights(Mapping[str, Tensor]):
    """Tensors as `weights` has them, but linear layers of decoder stacks and heads in int8."""

    def __init__(self, weights: Mapping[str, Tensor], kernels: Kernels, path: Path) -> None:
        self._weights, self._kernels, self._path = weights, kernels, path
        self._file = _open(path)
        self._made: dict[str, Tensor] = {}

    @property
    def is_cached(self) -> bool:
        return self._file is not None

    def linear(self, prefixes: Sequence[str]) -> Linear:
        """What load_linear gives for these tensor name prefixes."""
        if any(part in prefixes[0] for part in EXACT):
            return join_linear(self._weights, prefixes)
        key = "+".join(prefixes)
        parts = ("weight", "scale", "sums")
        if self._file is not None:
            tensors = [self._file.get_tensor(f"{key}.{part}") for part in parts]
        else:
            tensors = list(quantise(join_linear(self._weights, prefixes).weight))
            self._made |= {f"{key}.{p}": t for p, t in zip(parts, tensors, strict=True)}
        return Int8Linear(self._kernels, *tensors)

    def write(self) -> None:
        """Keep what was quantised; the file appears whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            save_file(self._made, temporary, metadata={MADE_FOR: self._path.stem})
            temporary.replace(self._path)
            self._remove_earlier()
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_earlier(self) -> None:
        """Those of other weights under the same name: each takes as much as half a checkpoint."""
        name = self._path.stem.rpartition("-")[0]
        for path in self._path.parent.glob("*.safetensors"):
            if path != self._path and path.stem.rpartition("-")[0] == name:
                path.unlink(missing_ok=True)  # who has mapped it keeps it

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _open(path: Path) -> Any:
    """The cache file, or None if there is none, it is torn or it is that of another checkpoint."""
    try:
        file = safe_open(str(path), framework="pt") if path.exists() else None
    except SafetensorError as error:
        log.warning("The cache file %s is damaged (%s) and made again", path.name, error)
        return None
    if file is not None and (file.metadata() or {}).get(MADE_FOR) != path.stem:
        log.warning("The cache file %s was made for other weights and is made again", path.name)
        return None
    return file


def cache_path(cache_dir: Path, name: str, files: Sequence[Path]) -> Path:
    """Where the int8 form of a checkpoint's weight files is kept: told apart by their content."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        for sample in _samples(path):
            digest.update(sample)
    return cache_dir / "int8" / f"{name}-{digest.hexdigest()[:16]}.safetensors"


def _samples(path: Path) -> Iterator[bytes]:
    """The header, and some of every tensor: a model trained further may differ in a few alone."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        yield header
        for entry in json.loads(header).values():
            begin, end = entry.get("data_offsets", (0, 0))
            for at in (begin, (begin + end) // 2):
                file.seek(8 + length + at)
                yield file.read(min(_SAMPLE_BYTES, end - begin))
