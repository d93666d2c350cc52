"""Steps that can't be captured, and which GPU a thread works on; CUDA's own calls are faked."""

import asyncio
import itertools
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from qwen3_audio.engine.device import Device
from qwen3_audio.engine.engine import Engine
from qwen3_audio.engine.gpu import loading
from qwen3_audio.engine.gpu.graphs import CudaLane, Graphs
from qwen3_audio.engine.gpu.loading import choose_ops, prepare
from qwen3_audio.engine.speech_sound import CodecThreads
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.fused.ops import FusedOps

GPU = Device(torch.device("cuda:1"), torch.bfloat16)
REQUIRED = replace(GPU, is_required=True)
NOT_PERMITTED = (
    "CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might be"
)


class FakeStream:
    """Of a card that is not there; work on it is done at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other: object) -> None: ...

    def synchronize(self) -> None: ...


class FakeGraph:
    def __init__(self) -> None:
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1


@contextmanager
def nothing(*arguments: object, **options: object) -> Iterator[None]:
    yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of torch.cuda as a lane needs to capture."""
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: FakeStream(device))
    monkeypatch.setattr(torch.cuda, "stream", nothing)
    monkeypatch.setattr(torch.cuda, "graph", nothing)


@pytest.fixture
def no_graphs(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures fail, as the driver of the card says at their end."""

    @contextmanager
    def fail(*arguments: object, **options: object) -> Iterator[None]:
        yield
        raise RuntimeError(NOT_PERMITTED)

    monkeypatch.setattr(torch.cuda, "graph", fail)


class Steps:
    """A runner with steps of some sizes."""

    def __init__(self, lane: CudaLane, sizes: tuple[int, ...] = (4, 2, 1)) -> None:
        self.runs: list[int] = []
        self.sizes = sizes
        self.graphs: Graphs[int] = Graphs(lane, self._build)

    def _build(self, size: int) -> Callable[[], None]:
        return lambda: self.runs.append(size)

    def prepare(self) -> None:
        self.graphs.prepare(self.sizes)


def test_what_is_captured_is_replayed(cuda: None) -> None:
    lane = CudaLane(GPU.device)
    steps = Steps(lane)
    prepare(REQUIRED, steps, [lane])
    num_runs = len(steps.runs)
    steps.graphs.run(2)
    assert len(steps.runs) == num_runs


def test_what_cannot_be_captured_is_said_once_and_run_as_it_is(
    no_graphs: None, caplog: pytest.LogCaptureFixture
) -> None:
    lane = CudaLane(GPU.device)
    steps = Steps(lane)
    with caplog.at_level(logging.WARNING):
        prepare(GPU, steps, [lane])
        steps.runs.clear()
        for size in (2, 4, 2, 8):
            steps.graphs.run(size)
    assert steps.runs[:3] == [2, 4, 2]
    assert steps.runs[-1] == 8
    (message,) = caplog.messages
    assert re.sub(r":\d+\)", ":7)", message) == (
        "A step can't be captured as a CUDA graph (CUDA error: operation not permitted when stream"
        " is capturing, test_capture.py:7): such steps are launched kernel by kernel, slower and"
        " with the same results"
    )
    assert lane.num_plain == 4


class Refusing:
    """torch.cuda.graph of one size: what is refused makes the capture's end fail with it."""

    pools: ClassVar[list[object]] = []

    def __init__(self, graph: object, **options: object) -> None:
        self.pools.append(options["pool"])

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            raise RuntimeError("CUDA error: failed due to a previous error during capture")


def test_one_step_that_is_refused_leaves_the_others_their_graphs_and_is_named(
    cuda: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pools = itertools.count()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "graph", Refusing)
    monkeypatch.setattr(Refusing, "pools", [])
    lane = CudaLane(GPU.device)
    runs = Counter[int]()

    def build(size: int) -> Callable[[], None]:
        def run() -> None:
            runs[size] += 1
            if size in (2, 4, 8) and runs[size] == 3:  # in the capture, behind the warm-ups
                raise RuntimeError("no plan for eight" if size == 8 else "no plan for few")

        return run

    with caplog.at_level(logging.WARNING):
        graphs: Graphs[int] = Graphs(lane, build)
        graphs.prepare((16, 8, 4, 2, 1))
    assert Refusing.pools == [0, 0, 1, 2, 3]
    assert lane.num_plain == 3
    told = [re.sub(r":\d+\).*", "", message) for message in caplog.messages]
    assert told == [
        f"A step can't be captured as a CUDA graph (no plan for {number}, test_capture.py"
        for number in ("eight", "few")
    ]
    for size in (16, 1):
        graphs.run(size)
        assert runs[size] == 3


def test_a_required_gpu_without_graphs_stops_the_start_with_that_sentence(
    no_graphs: None, caplog: pytest.LogCaptureFixture
) -> None:
    lane = CudaLane(GPU.device)
    with caplog.at_level(logging.WARNING), pytest.raises(StartError) as caught:
        prepare(REQUIRED, Steps(lane), [lane])
    assert re.sub(r":\d+\)", ":7)", str(caught.value)) == (
        "REQUIRE_GPU is set, but a step can't be captured as a CUDA graph (CUDA error: operation"
        " not permitted when stream is capturing, test_capture.py:7), so the GPU would be slow:"
        " drop REQUIRE_GPU, or"
        " do without graphs by QWEN_CUDA_GRAPHS=false"
    )
    assert caplog.messages == []


def test_a_step_that_comes_up_under_load_runs_plainly_even_there(
    cuda: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lane = CudaLane(GPU.device)
    steps = Steps(lane)
    prepare(REQUIRED, steps, [lane])

    def fail(*arguments: object, **options: object) -> Any:
        raise RuntimeError(NOT_PERMITTED)

    monkeypatch.setattr(torch.cuda, "graph", fail)
    with caplog.at_level(logging.WARNING):
        steps.graphs.run(16)
    assert steps.runs[-1] == 16
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("CUDA error: x")]
)
def test_a_gpu_that_fails_at_the_first_steps_stops_the_start(
    cuda: None, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = CudaLane(GPU.device)
    steps = Steps(lane)

    def fail() -> None:
        raise error

    monkeypatch.setattr(steps, "prepare", fail)
    with pytest.raises(StartError, match=r"^The GPU failed while the steps were prepared \(CUDA"):
        prepare(GPU, steps, [lane])


def test_kernels_that_do_not_work_stop_the_start_where_the_gpu_is_required(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = FusedOps("Triton's SiLU came out wrong here")
    monkeypatch.setattr(loading.FusedOps, "choose", lambda device, has_fp8: slow)
    with caplog.at_level(logging.WARNING):
        assert choose_ops(GPU) is slow
    assert caplog.messages == [
        "A step's small operations are made by plain torch: Triton's SiLU came out wrong here"
    ]
    with pytest.raises(StartError, match=r"^REQUIRE_GPU is set, but Triton's SiLU came out wrong"):
        choose_ops(REQUIRED)


def test_a_card_is_entered_without_attention_that_is_planned_and_with_exact_convolutions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_plans = list[bool]()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", has_plans.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Device(torch.device("cpu"), torch.float32).enter()
    assert (has_plans, torch.backends.cudnn.allow_tf32) == ([], True)
    GPU.enter()
    assert (has_plans, torch.backends.cudnn.allow_tf32) == ([False], False)


def test_every_thread_that_works_enters_the_second_card(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda,
        "set_device",
        lambda device: entered.append((threading.current_thread().name, device)),
    )
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda is_enabled: None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # put back afterwards
    GPU.enter()
    Device(torch.device("cpu"), torch.float32).enter()
    engine = Engine([], begin=GPU.enter)
    assert engine.call(lambda: len(entered)).result(10) == 2
    asyncio.run(engine.close())
    threads = CodecThreads.beside(replace(GPU, lanes=lambda: None))  # type: ignore[arg-type,return-value]
    assert threads is not None
    threads.submit(lambda: None).result(10)
    threads.shutdown()
    assert [device for _, device in entered] == [torch.device("cuda:1")] * 3
    assert [name for name, _ in entered] == ["MainThread", "engine", "codec_0"]
