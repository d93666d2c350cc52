"""What a CUDA lane asks of torch: pinned memory, copies that nobody waits for, its own stream.

There is no card: torch's own calls are recorded, and the copies are done at once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import CudaLane, CudaMark

Call = tuple[object, ...]


class FakeStream:
    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    def wait_event(self, event: object) -> None:
        self._calls.append(("stream waits", self, event))


class FakeEvent:
    def __init__(self, calls: list[Call], **options: object) -> None:
        self._calls, self.options = calls, options

    def record(self, stream: FakeStream | None = None) -> None:
        self._calls.append(("record", self, stream))

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self._calls.append(("host waits", self))


class Device:
    """Everything asked of torch, in order; memory is pinned where it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._pinned = list[Tensor]()  # kept, so that their places stay theirs
        self._originals = {name: getattr(Tensor, name) for name in ("to", "copy_")}
        self._empty = torch.empty
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream(self.calls))
        monkeypatch.setattr(torch.cuda, "Event", lambda **options: FakeEvent(self.calls, **options))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        monkeypatch.setattr(torch, "empty", self._make)
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: self._pin(tensor.clone()))
        monkeypatch.setattr(Tensor, "to", self._recorded("to"))
        monkeypatch.setattr(Tensor, "copy_", self._recorded("copy_"))

    def _make(self, *shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        made = self._empty(*shape, **options)
        return self._pin(made) if pin_memory else made

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.append(tensor)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor.data_ptr() == one.data_ptr() for one in self._pinned)

    def _recorded(self, name: str) -> Callable[..., Tensor]:
        def call(tensor: Tensor, other: Any, *, non_blocking: bool = False) -> Tensor:
            host = other if isinstance(other, Tensor) and self.is_pinned(other) else tensor
            self.calls.append((name, self.is_pinned(host), non_blocking))
            result: Tensor = self._originals[name](tensor, other)
            return result

        return call


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


@pytest.fixture
def lane(device: Device) -> CudaLane:
    return CudaLane(torch.device("cpu"))


def test_numbers_go_up_from_pinned_memory_without_waiting(device: Device, lane: CudaLane) -> None:
    values = np.arange(12).reshape(3, 4)[:, ::2]  # rows with gaps between them
    assert lane.upload(values).tolist() == values.tolist()
    assert device.calls == [("to", True, True)]


def test_numbers_are_sent_into_a_tensor_that_stays(device: Device, lane: CudaLane) -> None:
    target = torch.zeros(3, dtype=torch.int64)
    lane.send(np.array([4, 5, 6]), target)
    assert target.tolist() == [4, 5, 6]
    assert device.calls == [("copy_", True, True)]


def test_results_come_into_pinned_memory_and_the_mark_is_behind_them_in_this_lane(
    device: Device, lane: CudaLane
) -> None:
    late = lane.fetch(torch.tensor([1, 2, 3]))
    assert isinstance(late.mark, CudaMark)
    assert device.is_pinned(late.tensor)
    assert device.calls == [("copy_", True, True), ("record", late.mark.event, lane.stream)]
    assert not late.mark.is_passed()
    assert late.read().tolist() == [1, 2, 3]
    assert device.calls[2:] == [("host waits", late.mark.event)]


def test_who_waits_for_a_mark_leaves_the_processor_to_others(lane: CudaLane) -> None:
    assert vars(lane.mark().event)["options"] == {"blocking": True}


def test_a_lane_follows_a_mark_of_another_without_the_host(device: Device, lane: CudaLane) -> None:
    other = CudaLane(torch.device("cpu"))
    mark = other.mark()
    lane.follow(mark)
    assert device.calls == [
        ("record", mark.event, other.stream),
        ("stream waits", lane.stream, mark.event),
    ]
