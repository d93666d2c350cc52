"""A list of tensors to draw, and the safetensors files they are drawn into one at a time.

The order of a plan is the order of the random numbers, so one seed always gives one checkpoint.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Generator, Tensor

Draw = Callable[[Generator], Tensor]

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    name: str
    shape: tuple[int, ...]
    draw: Draw

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


class TensorPlan:
    """Names, shapes and distributions; nothing is drawn before the files are written."""

    def __init__(self) -> None:
        self.tensors: list[PlannedTensor] = []

    def add(self, name: str, shape: tuple[int, ...], draw: Draw) -> None:
        self.tensors.append(PlannedTensor(name, shape, draw))

    def normal(self, name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        self.add(name, shape, lambda g: torch.randn(*shape, generator=g).mul_(scale).add_(mean))

    def constant(self, name: str, *shape: int) -> None:
        self.add(name, shape, lambda g: torch.ones(shape))

    def linear(
        self, name: str, num_out: int, num_in: int, *, bias: bool = False, scale: float = 1.0
    ) -> None:
        self.normal(f"{name}.weight", num_out, num_in, scale=scale / math.sqrt(num_in))
        if bias:
            self.normal(f"{name}.bias", num_out, scale=0.1)

    def conv(
        self,
        name: str,
        num_out: int,
        num_in: int,
        kernel: int,
        *,
        bias: bool = True,
        scale: float = 1.0,
    ) -> None:
        scale /= math.sqrt(num_in * kernel)
        self.normal(f"{name}.weight", num_out, num_in, kernel, scale=scale)
        if bias:
            self.normal(f"{name}.bias", num_out, scale=0.05)

    def transposed_conv(
        self, name: str, num_in: int, num_out: int, *, kernel: int, stride: int
    ) -> None:
        scale = 1 / math.sqrt(num_in * kernel / stride)
        self.normal(f"{name}.weight", num_in, num_out, kernel, scale=scale)
        self.normal(f"{name}.bias", num_out, scale=0.05)

    def norm(self, name: str, size: int, *, bias: bool = False) -> None:
        self.normal(f"{name}.weight", size, scale=0.1, mean=1.0)
        if bias:
            self.normal(f"{name}.bias", size, scale=0.05)

    def embedding(self, name: str, num_rows: int, size: int) -> None:
        self.normal(f"{name}.weight", num_rows, size)

    def codebook(
        self, usage_name: str, sum_name: str, size: tuple[int, int], *, scale: float
    ) -> None:
        """A table as training leaves it: how often each row was used, and the sum of its users."""
        num_codes = size[0]
        usage = cache(lambda g: 0.5 + torch.rand(num_codes, generator=g))
        self.add(usage_name, (num_codes,), usage)
        self.add(
            sum_name,
            size,
            lambda g: torch.randn(*size, generator=g) * scale * usage(g)[:, None],
        )

    def rename(self, new_name: Callable[[str], str]) -> None:
        self.tensors = [replace(t, name=new_name(t.name)) for t in self.tensors]


def write_tensors(
    folder: Path,
    plan: TensorPlan,
    *,
    seed: int,
    dtype: torch.dtype,
    num_shards: int = 1,
    device: str = "cpu",
) -> None:
    """Write `model.safetensors`, or numbered shards with their index.

    One tensor is in memory at a time: the library's own writer wants all of them at once.
    A GPU draws large checkpoints in seconds; its numbers are others than the CPU's.
    """
    generator = torch.Generator(device).manual_seed(seed)
    weight_map: dict[str, str] = {}
    for index, tensors in enumerate(_shards(plan.tensors, num_shards)):
        name = "model.safetensors"
        if num_shards > 1:
            name = f"model-{index + 1:05d}-of-{num_shards:05d}.safetensors"
        with (folder / name).open("wb") as file, torch.device(device):
            _write_safetensors(file, tensors, generator=generator, dtype=dtype)
        weight_map |= {tensor.name: name for tensor in tensors}
    if num_shards > 1:
        size_bytes = sum(t.num_values for t in plan.tensors) * dtype.itemsize
        index_json = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index_json)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _shards(tensors: list[PlannedTensor], num_shards: int) -> Iterator[list[PlannedTensor]]:
    """Consecutive runs of about equal size, so that the random numbers stay in order."""
    total = sum(t.num_values for t in tensors)
    shards: list[list[PlannedTensor]] = [[] for _ in range(num_shards)]
    before = 0
    for tensor in tensors:
        shards[before * num_shards // total].append(tensor)
        before += tensor.num_values
    yield from shards


def _write_safetensors(
    file: BinaryIO, tensors: list[PlannedTensor], *, generator: Generator, dtype: torch.dtype
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_values * dtype.itemsize
        header[tensor.name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    header_bytes = json.dumps(header).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)  # tensors start at a multiple of eight
    file.write(len(header_bytes).to_bytes(8, "little") + header_bytes)
    for tensor in tensors:
        values = tensor.draw(generator).to(dtype).flatten().cpu()
        file.write(values.view(torch.uint8).numpy().data)
