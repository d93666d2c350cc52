"""Sizes of batches, graphs by their key, and what the stand-in for a capture refuses."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_in import NotCapturable, StandInLane
from torch import Tensor

from qwen3_audio.engine.gpu.graphs import BATCHES, Graphs, Late, round_up, sizes_up_to
from qwen3_audio.engine.gpu.slots import BatchSlots


@given(most=st.integers(1, 1000), data=st.data())
def test_a_batch_takes_the_smallest_size_that_holds_it(most: int, data: st.DataObject) -> None:
    sizes = sizes_up_to(most)
    number = data.draw(st.integers(1, most))
    size = round_up(number, sizes)
    assert number <= size <= most
    assert all(other < number or other >= size for other in sizes)
    assert size == number if number <= 8 else size <= 2 * number


def test_the_largest_batch_wastes_no_row() -> None:
    assert sizes_up_to(10) == (1, 2, 3, 4, 5, 6, 7, 8, 10)
    assert sizes_up_to(64) == BATCHES[: BATCHES.index(64) + 1]
    assert sizes_up_to(3) == (1, 2, 3)


def test_up_to_eight_rows_have_a_graph_of_their_own_and_more_share_a_few() -> None:
    assert sizes_up_to(64) == (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 48, 64)
    assert BATCHES[BATCHES.index(64) :][:3] == (64, 96, 128)


def test_a_step_is_captured_once_for_each_size() -> None:
    lane, built = StandInLane(), []
    total = torch.zeros(4)

    def build(size: int) -> Callable[[], None]:
        built.append(size)
        return lambda: torch._foreach_add_([total[:size]], 1)

    graphs = Graphs(lane, build)
    with lane.active():
        graphs.prepare([4, 2])
        total.zero_()
        for size in (2, 4, 2, 4, 4):
            graphs.run(size)
    assert (built, lane.num_captures, lane.num_replays) == ([4, 2], 2, 5)
    assert total.tolist() == [5.0, 5.0, 3.0, 3.0]


class Step:
    """A step with everything that goes wrong in a graph, one thing at a time."""

    def __init__(self, fault: Callable[["Step"], object]) -> None:
        self.state, self.number, self.fault = torch.ones(3), 1, fault

    def __call__(self) -> None:
        self.state.mul_(1.5)
        self.fault(self)
        self.number += 1


FAULTS: dict[str, Callable[[Step], object]] = {
    "looks at a value": lambda step: step.state.sum().item(),
    "branches by a value": lambda step: bool(step.state[0] > 0),
    "has a shape by values": lambda step: step.state[step.state > 0],
    "makes a tensor of numbers": lambda step: step.state.add_(torch.tensor([1.0, 2.0, 3.0])),
    "has another number": lambda step: step.state.add_(step.number),
    "has another shape": lambda step: step.state[: 1 + step.number % 2].add_(1),
    "does something else": lambda step: step.state.sin_() if step.number % 2 else step.state.cos_(),
    "does something more": lambda step: [step.state.sin_() for _ in range(step.number)],
    "writes elsewhere": lambda step: setattr(step, "state", torch.ones(3)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_a_graph_could_not_replay_is_refused(fault: Callable[[Step], object]) -> None:
    lane, step = StandInLane(), Step(fault)
    with lane.active(), pytest.raises(NotCapturable):
        replay = lane.capture(step)
        for _ in range(3):
            replay()


def test_what_a_graph_replays_is_let_through() -> None:
    lane, step = StandInLane(), Step(lambda step: step.state.topk(2).values.sum())
    with lane.active():
        replay = lane.capture(step)
        replay()
    assert step.state.tolist() == pytest.approx([1.5**3] * 3)


def test_results_are_not_there_before_somebody_waits() -> None:
    lane, source = StandInLane(), torch.arange(3)
    with lane.active():
        late = lane.fetch(source)
        source.add_(10)
    assert isinstance(late, Late)
    assert late.tensor.tolist() != [0, 1, 2]
    assert not late.mark.is_passed()
    assert late.read().tolist() == [0, 1, 2]


class CountingLane(StandInLane):
    """Counts what is sent."""

    num_sent = 0

    def send(self, values: "np.ndarray[tuple[int], np.dtype[np.int64]]", target: Tensor) -> None:
        self.num_sent += 1
        super().send(values, target)


def test_a_batch_that_stays_the_same_is_sent_once_and_filled_up() -> None:
    lane = CountingLane()
    batches = BatchSlots(lane, padding=9)
    four = batches.empty(4)
    with lane.active():
        assert four.tolist() == [9, 9, 9, 9]
        send = partial(batches.send, size=4)
        for slots in ([3, 1], [3, 1], [1, 3], [1, 3, 0, 2], [1, 3, 0, 2]):
            send(slots)
            assert four.tolist() == slots + [9] * (4 - len(slots))
        assert lane.num_sent == 3
        assert batches.empty(4).tolist() == [9, 9, 9, 9]
        send([1, 3, 0, 2])
    assert four.tolist() == [1, 3, 0, 2]
