"""Steps captured once and replayed: CUDA graphs by batch size, each on the stream of its lane.

A lane is a queue of work on the device. What is captured reads and writes tensors that stay where
they are; how large it is - rows of a batch, pages of a sequence - is its key, rounded up to a few
sizes, and what the size leaves over is padding. The host never waits for the device, but for the
results of the step before the last one that it asked for.
"""

import logging
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen3_audio.engine.gpu.availability import first_sentence

K = TypeVar("K", bound=Hashable)
Run = Callable[[], None]
log = logging.getLogger(__name__)

BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
_NUM_WARM_UPS = 2  # what is compiled or chosen at a first run must be there before the capture


def sizes_up_to(most: int, sizes: tuple[int, ...] = BATCHES) -> tuple[int, ...]:
    """The sizes to prepare where there can be `most`, which is always one of them."""
    return (*(size for size in sizes if size < most), most)


def round_up(number: int, sizes: tuple[int, ...]) -> int:
    """The smallest size that holds so many; sizes ascend."""
    return next(size for size in sizes if size >= number)


class Mark(Protocol):
    """A point in a lane's work."""

    def is_passed(self) -> bool: ...

    def wait(self) -> None:
        """Until the device has passed it; raises what the device reports meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Late:
    """Results on their way to the host."""

    tensor: Tensor  # on the host, not to be looked at before the mark is passed
    mark: Mark

    def read(self) -> Tensor:
        """Waits for them; raises what the device reports meanwhile."""
        self.mark.wait()
        return self.tensor


class Lane(Protocol):
    """One queue of work on a device."""

    device: torch.device
    when_plain: Callable[[str], None]  # hears each reason why steps could not be captured once

    def active(self) -> AbstractContextManager[None]:
        """What the block does on the device is done in this lane."""
        ...

    def capture(self, run: Run) -> Run:
        """`run` as one piece of work; it is run a few times first, so that must do no harm.

        What can't be captured is run as it is.
        """
        ...

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        """A copy on the device, without waiting for it."""
        ...

    def send(self, values: NDArray[np.generic], target: Tensor) -> None:
        """Into a tensor that stays where it is, without waiting."""
        ...

    def fetch(self, source: Tensor) -> Late:
        """What `source` holds at this point of the lane."""
        ...

    def mark(self) -> Mark: ...

    def follow(self, mark: Mark) -> None:
        """Nothing further in this lane begins before a mark of another lane is passed."""
        ...


class Graphs(Generic[K]):
    """Captured steps by their key, each captured when it is prepared or first needed."""

    def __init__(self, lane: Lane, build: Callable[[K], Run]) -> None:
        """`build` makes the step of a key; a step works on tensors that stay where they are."""
        self._lane, self._build = lane, build
        self._captured: dict[K, Run] = {}

    def prepare(self, keys: Iterable[K]) -> None:
        for key in keys:
            if key not in self._captured:
                self._captured[key] = self._lane.capture(self._build(key))

    def run(self, key: K) -> None:
        self.prepare([key])
        self._captured[key]()


def tell_cause(error: BaseException) -> str:
    """What came first and where: the end of a capture that failed fails, too."""
    while error.__context__ is not None:
        error = error.__context__
    places = traceback.extract_tb(error.__traceback__)
    where = f", {Path(places[-1].filename).name}:{places[-1].lineno}" if places else ""
    return f"{first_sentence(error)}{where}"


def warn_of_plain_steps(why: str) -> None:
    log.warning(
        "A step can't be captured as a CUDA graph (%s): such steps are launched kernel by kernel,"
        " slower and with the same results",
        why,
    )


class CudaLane:
    """A stream, and graphs that share memory, as one stream never runs two of them at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.when_plain: Callable[[str], None] = warn_of_plain_steps
        self._told: set[str] = set()
        self._failed: list[torch.cuda.CUDAGraph] = []
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @property
    def num_plain(self) -> int:
        """Steps that could not be captured."""
        return len(self._failed)

    @contextmanager
    def active(self) -> Iterator[None]:
        with torch.cuda.stream(self.stream):
            yield

    def capture(self, run: Run) -> Run:
        # Weights and states were made in the default stream and may still be on their way.
        self.stream.wait_stream(torch.cuda.default_stream(self.device))
        with torch.cuda.stream(self.stream):
            for _ in range(_NUM_WARM_UPS):
                run()
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # A capture whose end fails leaves its stream the current one: `active` takes it back.
            with (
                self.active(),
                torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self.stream,
                    capture_error_mode="thread_local",  # other threads may wait for their results
                ),
            ):
                run()
        except RuntimeError as error:
            self._give_up(graph, tell_cause(error))
            return run
        replay: Run = graph.replay
        return replay

    def _give_up(self, graph: torch.cuda.CUDAGraph, why: str) -> None:
        """Further captures must not fail with it."""
        # Torch up to 2.11 counts the pool as in use by a capture for ever, and asks the graph
        # whose memory is whose.
        self._pool = torch.cuda.graph_pool_handle()
        self._failed.append(graph)
        if why not in self._told:
            self._told.add(why)
            self.when_plain(why)

    def upload(self, values: NDArray[np.generic]) -> Tensor:
        return _pinned(values).to(self.device, non_blocking=True)

    def send(self, values: NDArray[np.generic], target: Tensor) -> None:
        target.copy_(_pinned(values), non_blocking=True)

    def fetch(self, source: Tensor) -> Late:
        host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        host.copy_(source, non_blocking=True)
        return Late(host, self.mark())

    def mark(self) -> "CudaMark":
        event = torch.cuda.Event(blocking=True)  # who waits for it leaves the processor to others
        event.record(self.stream)
        return CudaMark(event)

    def follow(self, mark: Mark) -> None:
        assert isinstance(mark, CudaMark)
        self.stream.wait_event(mark.event)


@dataclass(frozen=True, slots=True)
class CudaMark:
    event: torch.cuda.Event

    def is_passed(self) -> bool:
        return bool(self.event.query())

    def wait(self) -> None:
        self.event.synchronize()


def _pinned(values: NDArray[np.generic]) -> Tensor:
    """Torch keeps such memory for the next call, but not before the device has read it."""
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).pin_memory()
