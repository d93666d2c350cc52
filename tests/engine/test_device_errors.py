"""A GPU that fails ends the requests in that step; a GPU that is gone ends everybody's work."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
import torch
from test_engine import KIND, Count, CountRunner, collect, count, items, until

from qwen3_audio.engine.engine import SPOILED, Engine, Fault
from qwen3_audio.engine.gpu.errors import (
    FINAL,
    OUT_OF_MEMORY,
    PASSING,
    diagnose,
    diagnosis_for,
    is_device_error,
)
from qwen3_audio.errors import EngineFailed
from qwen3_audio.types import EndReason

LOST = "CUDA error: an illegal memory access was encountered"


def works() -> None:
    return None


def is_gone() -> None:
    raise RuntimeError(LOST)


@pytest.mark.parametrize(
    ("error", "probe", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), works, OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), is_gone, FINAL),
        (RuntimeError("CUDA error: invalid argument"), works, PASSING),
        (RuntimeError(LOST), is_gone, FINAL),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling"), is_gone, FINAL),
        (RuntimeError("Triton Error [CUDA]: misaligned address"), is_gone, FINAL),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), is_gone, None),
        (ValueError(LOST), is_gone, None),
    ],
)
def test_only_the_device_itself_tells_whether_it_is_the_end(
    error: BaseException,
    probe: Callable[[], None],
    fault: Fault | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    assert diagnose(error, probe=probe) == fault
    assert bool(emptied) == isinstance(error, torch.OutOfMemoryError)


def test_an_error_of_torchs_own_type_needs_no_words() -> None:
    kind = getattr(torch, "AcceleratorError", None)
    if kind is not None:
        assert is_device_error(kind("unspecified launch failure"))


def test_a_cpu_is_never_asked() -> None:
    assert diagnosis_for(torch.device("cpu")) is None


class LosingRunner(CountRunner):
    """Breaks steps with errors of a device, and remembers that it was made anew."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_restarts = 0
        self.breaks_restart = False

    def restart(self) -> None:
        self.num_restarts += 1
        if self.breaks_restart:
            raise RuntimeError("CUDA error: nothing can be captured")


def run(
    test: Callable[[Engine, LosingRunner, list[str]], Any],
    fault: Fault,
    num_slots: int = 4,
) -> None:
    async def go() -> None:
        runner, told = LosingRunner(num_slots=num_slots), list[str]()
        engine = Engine([runner], diagnose=lambda error: fault)
        engine.when_broken(told.append)
        try:
            await test(engine, runner, told)
        finally:
            await engine.close()

    asyncio.run(asyncio.wait_for(go(), 30))


async def fail(engine: Engine, seq: Count, sentence: str) -> None:
    with pytest.raises(EngineFailed) as caught:
        await collect(engine, seq)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("fault", [OUT_OF_MEMORY, PASSING])
def test_a_fault_that_passes_ends_the_step_and_makes_the_runner_anew(fault: Fault) -> None:
    async def test(engine: Engine, runner: LosingRunner, told: list[str]) -> None:
        await fail(engine, count(5, breaks_at=2), fault.sentence)
        assert await collect(engine, count(2)) == [0, 1]
        assert (runner.num_restarts, engine.trouble, told) == (1, None, [])
        assert runner.is_clean()

    run(test, fault)


def test_a_gpu_that_is_gone_ends_everybody_and_is_said_once() -> None:
    async def test(engine: Engine, runner: LosingRunner, told: list[str]) -> None:
        breaking = asyncio.create_task(fail(engine, count(5, breaks_at=2), FINAL.sentence))
        waiting = [asyncio.create_task(fail(engine, count(2), FINAL.sentence)) for _ in range(3)]
        await asyncio.gather(breaking, *waiting)
        assert (engine.trouble, told) == (FINAL.sentence, [FINAL.sentence])
        assert engine.stats()[0].ended[EndReason.FAILED] == 4
        assert (runner.released, runner.num_restarts) == ([], 0), "the device is not touched again"
        await fail(engine, count(2), FINAL.sentence)
        late: list[str] = []
        engine.when_broken(late.append)
        assert late == told

    run(test, FINAL, num_slots=1)


def test_freeing_what_a_request_had_may_be_where_the_end_is_seen() -> None:
    async def test(engine: Engine, runner: LosingRunner, told: list[str]) -> None:
        def release(seq: Count) -> None:
            raise RuntimeError(LOST)

        runner.release = release  # type: ignore[method-assign]
        async with aclosing(items(engine, count(1 << 60))) as stream:
            await anext(stream)
        await until(lambda: engine.trouble is not None)
        await fail(engine, count(1), FINAL.sentence)

    run(test, FINAL)


def test_a_runner_that_cannot_be_made_anew_is_the_end() -> None:
    async def test(engine: Engine, runner: LosingRunner, told: list[str]) -> None:
        runner.breaks_restart = True
        await fail(engine, count(5, breaks_at=1), PASSING.sentence)
        await until(lambda: engine.trouble is not None)
        assert told == [SPOILED.sentence]

    run(test, PASSING)


def test_what_is_called_on_the_engines_thread_fails_with_the_same_sentence() -> None:
    async def test(engine: Engine, runner: LosingRunner, told: list[str]) -> None:
        with pytest.raises(EngineFailed) as caught:
            await asyncio.wrap_future(engine.call(is_gone))
        assert str(caught.value) == FINAL.sentence
        assert told == [FINAL.sentence]
        engine.cancel(KIND, [count(1)])

    run(test, FINAL)
