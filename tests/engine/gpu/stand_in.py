"""A lane without a GPU: captured steps run again, and must be what a graph could have replayed.

A step is recorded operation by operation. At its first replays and every few later ones it has to
be the same operations, with the same numbers, on the same memory, and it must not look at what a
tensor holds. Results arrive on the host only when somebody waits for them.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwen3_audio.engine.gpu.graphs import Late, Mark, Run

CPU = torch.device("cpu")
POISON = -(2**40)
NUM_FIRST, EVERY = 2, 8  # replays that are compared with the capture
# What needs the host: a tensor's value, a shape that depends on values, a tensor made of numbers.
HOST_ONLY = ("_local_scalar_dense", "nonzero", "is_nonzero", "lift_fresh", "masked_select")


def needs_host(name: str, args: Any) -> bool:
    """Whether an operation has to wait for the device."""
    if "aten.index" in name and isinstance(args[1], list | tuple):
        return any(isinstance(index, Tensor) and index.dtype is torch.bool for index in args[1])
    return any(f"aten.{word}." in name for word in HOST_ONLY)


class NotCapturable(AssertionError):
    """What a CUDA graph would have done wrongly or refused."""


class Recorder(TorchDispatchMode):
    """Every operation with where its tensors come from: made in the step, or there before."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []
        self.kept: list[Tensor] = []  # so that no memory is used twice while it is told by place
        self._made: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """It is never compiled, and the decorator that True brings imports a compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if needs_host(name, args):
            raise NotCapturable(f"{name} needs the host")
        sources = [*map(self._source, args)]
        if kwargs:
            sources += [(key, self._source(value)) for key, value in kwargs.items()]
        self.operations.append((name, *sources))
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor):
                self.kept.append(made)
                self._made.setdefault(id(made), len(self._made))
        return result

    def _source(self, argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return tuple(map(self._source, argument))
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) in self._made:
            return "made", self._made[id(argument)]
        self.kept.append(argument)
        place = argument.data_ptr(), argument.dtype
        return "given", *place, tuple(argument.shape), argument.stride()


@dataclass(eq=False)
class StandInMark:
    """Passed when somebody waits for it, or when the lane catches up."""

    arrive: Callable[[], None] = lambda: None
    has_passed: bool = False

    def is_passed(self) -> bool:
        return self.has_passed

    @torch.inference_mode()
    def wait(self) -> None:
        if not self.has_passed:
            self.arrive()
        self.has_passed = True


@dataclass(eq=False)
class StandInLane:
    device: torch.device = CPU
    num_captures: int = 0
    num_replays: int = 0
    followed: list[Mark] = field(default_factory=list)
    is_active: bool = False

    @contextmanager
    def active(self) -> Iterator[None]:
        assert not self.is_active
        self.is_active = True
        try:
            yield
        finally:
            self.is_active = False

    def capture(self, run: Run) -> Run:
        self._need_active()
        self.num_captures += 1
        run()
        first = _record(run)
        turns = itertools.count()

        def replay() -> None:
            self._need_active()
            self.num_replays += 1
            turn = next(turns)
            if turn < NUM_FIRST or turn % EVERY == 0:
                _compare(first.operations, _record(run).operations)
            else:
                run()

        return replay

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        self._need_active()
        return torch.from_numpy(values.copy())

    def send(self, values: NDArray[np.generic], target: Tensor) -> None:
        self._need_active()
        target.copy_(torch.from_numpy(values.copy()))

    def fetch(self, source: Tensor) -> Late:
        self._need_active()
        value = source.clone()
        poison = POISON if not source.is_floating_point() else torch.nan
        host = torch.full_like(value, poison)
        return Late(host, StandInMark(lambda: host.copy_(value)))

    def mark(self) -> Mark:
        return StandInMark()

    def follow(self, mark: Mark) -> None:
        self._need_active()
        self.followed.append(mark)

    def _need_active(self) -> None:
        assert self.is_active, "work outside of the lane would go to another stream"


def _record(run: Run) -> Recorder:
    with Recorder() as recorder:
        run()
    return recorder


def _compare(first: list[tuple[Any, ...]], again: list[tuple[Any, ...]]) -> None:
    for number, (one, other) in enumerate(zip(first, again, strict=False)):
        if one != other:
            raise NotCapturable(f"operation {number} was {one} and is {other}")
    if len(first) != len(again):
        raise NotCapturable("another number of operations")
