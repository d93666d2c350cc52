"""A lane to a device that only knows shapes: whatever lies on the host by mistake shows itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stand_in import StandInMark, needs_host
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from qwen3_audio.engine.gpu.graphs import Late, Mark, Run

META = torch.device("meta")


class OnDevice(TorchDispatchMode):
    """Refuses operations with a tensor on the host, even one that is only a number."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not needs_host(name, args), name
        result = func(*args, **(kwargs or {}))
        for value in (*args, *(kwargs or {}).values(), result):
            for leaf in value if isinstance(value, list | tuple) else (value,):
                assert not isinstance(leaf, Tensor) or leaf.device == META, f"{name} on the host"
        return result


@dataclass(eq=False)
class MetaLane:
    device: torch.device = META
    fetched: list[tuple[int, ...]] = field(default_factory=list)

    @contextmanager
    def active(self) -> Iterator[None]:
        with OnDevice():
            yield

    def capture(self, run: Run) -> Run:
        run()
        return run

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        return torch.empty(values.shape, dtype=getattr(torch, values.dtype.name), device=META)

    def send(self, values: NDArray[np.generic], target: Tensor) -> None:
        assert values.shape == tuple(target.shape)
        assert getattr(torch, values.dtype.name) == target.dtype

    def fetch(self, source: Tensor) -> Late:
        self.fetched.append(tuple(source.shape))
        with _disable_current_modes():
            return Late(torch.zeros(source.shape, dtype=source.dtype), StandInMark())

    def mark(self) -> Mark:
        return StandInMark()

    def follow(self, mark: Mark) -> None:
        return None
