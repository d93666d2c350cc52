"""The real engine thread with a runner that needs no torch."""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_audio.engine.engine import Ending, Engine, Runner
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, PageBook
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.engine.sink import Sink
from qwen3_audio.errors import EngineFailed, Overloaded
from qwen3_audio.types import EndReason, ModelKind

END = "end"
ENDLESS = 1 << 60
NUM_PAGES = 64
KIND = ModelKind.CUSTOM_VOICE
_ids = itertools.count()


@dataclass(slots=True, eq=False, kw_only=True)
class Count(Sequence):
    """Emits 0, 1, 2 … and then END; breaks the step in which it would emit `breaks_at`."""

    length: int
    breaks_at: int = -1
    num_emitted: int = 0
    owner: int = 1
    num_prompt_tokens: int = 1
    num_reserved_positions: int = PAGE_POSITIONS
    seq_id: int = field(default_factory=lambda: next(_ids))


class CountRunner(Runner):
    """Remembers which sequences shared each step, and what was released."""

    def __init__(self, kind: ModelKind = KIND, *, num_slots: int = 4, max_waiting: int = 100):
        self.kind = kind
        self.book = PageBook(NUM_PAGES)
        self.scheduler: Scheduler[Count] = Scheduler(
            num_slots=num_slots, max_prefill_tokens=100, max_waiting=max_waiting, memory=self.book
        )
        self.steps: list[list[int]] = []
        self.released: list[int] = []
        self.threads: set[str] = set()
        self.on_step: Callable[[], None] = lambda: None

    def step(self) -> list[Ending]:
        self.on_step()
        plan = self.scheduler.plan()
        seqs = plan.decode + plan.prefill
        self.steps.append([seq.seq_id for seq in seqs])
        self.threads.add(threading.current_thread().name)
        if any(seq.num_emitted == seq.breaks_at for seq in seqs):
            raise RuntimeError("device lost")
        endings = []
        for seq in seqs:
            if seq.num_emitted == seq.length:
                endings.append(Ending(seq, EndReason.STOP, END))
            else:
                seq.emit(seq.num_emitted)
                seq.num_emitted += 1
        return endings

    def release(self, seq: Count) -> None:
        self.released.append(seq.seq_id)
        self.book.release(seq.num_reserved_positions, [])

    def is_clean(self) -> bool:
        scheduler = self.scheduler
        return (
            scheduler.is_idle
            and sorted(scheduler.free_slots) == list(range(scheduler.num_slots))
            and self.book.can_reserve(NUM_PAGES * PAGE_POSITIONS)
            and len(set(self.released)) == len(self.released)
        )


async def items(engine: Engine, seq: Count, kind: ModelKind = KIND) -> AsyncGenerator[Any]:
    """What a consumer hears of a sequence, up to its end."""
    sink = Sink()
    seq.emit = sink.emit
    engine.submit(kind, [seq])
    try:
        while (item := await sink.get()) != END:
            yield item
    finally:
        engine.cancel(kind, [seq])


async def collect(engine: Engine, seq: Count, kind: ModelKind = KIND) -> list[int]:
    return [item async for item in items(engine, seq, kind)]


def count(length: int, **settings: Any) -> Count:
    return Count(length=length, emit=lambda item: None, **settings)


def run(test: Callable[[Engine, CountRunner], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a test with an engine of one runner, close it, and check that nothing leaked."""

    async def go() -> None:
        runner = CountRunner(**settings)
        engine = Engine([runner])
        try:
            await test(engine, runner)
        finally:
            await engine.close()
        assert runner.is_clean()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_requests_share_steps_and_never_mix() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        lengths = (50, 80, 30, 60, 20, 70)
        got = await asyncio.gather(*(collect(engine, count(n)) for n in lengths))
        assert got == [list(range(n)) for n in lengths]
        assert max(map(len, runner.steps)) == 4
        assert runner.threads == {"engine"}
        assert engine.stats()[0].ended[EndReason.STOP] == len(lengths)

    run(test)


def test_a_request_joins_while_another_runs_and_leaves_before_it() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        long, short = count(ENDLESS), count(3)
        async with aclosing(items(engine, long)) as stream:
            await anext(stream)
            assert await collect(engine, short) == [0, 1, 2]
            await anext(stream)
        shared = [step for step in runner.steps if short.seq_id in step]
        assert shared == [[long.seq_id, short.seq_id]] * 4
        assert long.num_emitted > short.num_emitted

    run(test)


def test_leaving_early_frees_the_slot() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        async with aclosing(items(engine, count(ENDLESS))) as stream:
            await anext(stream)
        assert await collect(engine, count(3)) == [0, 1, 2]
        ended = engine.stats()[0].ended
        assert (ended[EndReason.CANCELLED], ended[EndReason.STOP]) == (1, 1)

    run(test, num_slots=1)


def test_leaving_takes_effect_within_two_steps() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        leaving = count(ENDLESS)
        async with aclosing(items(engine, leaving)) as stream:
            await anext(stream)
        num_steps = await asyncio.wrap_future(engine.call(lambda: len(runner.steps)))
        assert await collect(engine, count(3)) == [0, 1, 2]
        assert all(leaving.seq_id not in step for step in runner.steps[num_steps:])

    run(test)


def test_leaving_the_line_is_no_work_at_all() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        async with aclosing(items(engine, count(ENDLESS))) as stream:
            await anext(stream)
            waiting = count(3)
            engine.submit(KIND, [waiting])
            engine.cancel(KIND, [waiting])
            await asyncio.wrap_future(engine.call(lambda: None))
            assert engine.stats()[0].num_waiting == 0
            assert all(waiting.seq_id not in step for step in runner.steps)
            assert waiting.seq_id not in runner.released

    run(test, num_slots=1)


def test_cancelling_what_has_ended_or_was_never_there_is_harmless() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        ended = count(2)
        await collect(engine, ended)
        engine.cancel(KIND, [ended, count(5)])
        assert await collect(engine, count(1)) == [0]
        assert engine.stats()[0].ended[EndReason.CANCELLED] == 0

    run(test)


def test_a_broken_step_fails_its_batch_and_the_engine_lives() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        async with aclosing(items(engine, count(ENDLESS))) as companion:
            await anext(companion)
            with pytest.raises(EngineFailed, match="the server goes on"):
                await collect(engine, count(5, breaks_at=2))
            with pytest.raises(EngineFailed):
                await collect_rest(companion)
        assert await collect(engine, count(2)) == [0, 1]
        assert engine.stats()[0].ended[EndReason.FAILED] == 2

    run(test)


async def collect_rest(stream: AsyncGenerator[Any]) -> list[Any]:
    return [item async for item in stream]


def test_a_broken_step_leaves_those_in_line_alone() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        breaking = asyncio.create_task(collect(engine, count(5, breaks_at=3)))
        waiting = asyncio.create_task(collect(engine, count(2)))
        assert await waiting == [0, 1]
        with pytest.raises(EngineFailed):
            await breaking

    run(test, num_slots=1)


def test_a_step_that_breaks_before_it_starts_anyone_ends_the_line() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        def fail() -> None:
            runner.on_step = lambda: None
            raise RuntimeError("no plan")

        runner.on_step = fail
        with pytest.raises(EngineFailed):
            await collect(engine, count(5))
        assert await collect(engine, count(2)) == [0, 1]

    run(test)


def test_each_failed_request_gets_an_error_of_its_own_with_the_cause() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        heard: list[Any] = []
        seqs = [count(5, breaks_at=1) for _ in range(3)]
        for seq in seqs:
            seq.emit = heard.append
        engine.submit(KIND, seqs)
        await until(lambda: engine.stats()[0].ended[EndReason.FAILED] == 3)
        errors = [item for item in heard if isinstance(item, EngineFailed)]
        assert len({id(error) for error in errors}) == 3
        assert all(isinstance(error.__cause__, RuntimeError) for error in errors)

    run(test)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


def test_a_full_line_reaches_the_caller_and_spares_the_others() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        async with aclosing(items(engine, count(ENDLESS))) as running:
            await anext(running)
            waiting = asyncio.create_task(collect(engine, count(2)))
            await until(lambda: engine.stats()[0].num_waiting == 1)
            with pytest.raises(Overloaded):
                await collect(engine, count(2))
        assert await waiting == [0, 1]

    run(test, num_slots=1, max_waiting=1)


def test_several_sequences_of_a_request_are_refused_with_one_error() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        async with aclosing(items(engine, count(ENDLESS))) as running:
            await anext(running)
            engine.submit(KIND, [count(1)])
            heard: list[Any] = []
            refused = [count(1), count(1)]
            for seq in refused:
                seq.emit = heard.append
            engine.submit(KIND, refused)
            await asyncio.wrap_future(engine.call(lambda: None))
            assert [type(item) for item in heard] == [Overloaded]

    run(test, num_slots=1, max_waiting=2)


def test_close_ends_everyone_running_or_waiting() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        tasks = [asyncio.create_task(collect(engine, count(ENDLESS))) for _ in range(3)]
        await until(lambda: engine.stats()[0].num_waiting == 2)
        await engine.close()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, Overloaded)
        assert engine.stats()[0].ended[EndReason.CANCELLED] == 3

    run(test, num_slots=1)


def test_after_close_everything_is_refused_and_nothing_waits() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        await engine.close()
        with pytest.raises(Overloaded, match="shutting down"):
            await collect(engine, count(1))
        with pytest.raises(Overloaded, match="shutting down"):
            engine.call(lambda: None)
        engine.cancel(KIND, [count(1)])
        await engine.close()

    run(test)


def test_call_runs_on_the_engine_thread_between_two_steps() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        is_stepping = False

        def note() -> None:
            nonlocal is_stepping
            is_stepping = True
            is_stepping = False

        runner.on_step = note
        async with aclosing(items(engine, count(ENDLESS))) as stream:
            await anext(stream)
            call = engine.call(lambda: (threading.current_thread().name, is_stepping))
            assert await asyncio.wrap_future(call) == ("engine", False)

    run(test)


def test_an_error_in_a_call_reaches_its_caller_only() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        def fail() -> None:
            raise ValueError("not this one")

        with pytest.raises(ValueError, match="not this one"):
            await asyncio.wrap_future(engine.call(fail))
        assert await collect(engine, count(2)) == [0, 1]

    run(test)


def test_a_call_that_was_given_up_is_not_carried_out() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        is_free, done = threading.Event(), []
        engine.call(is_free.wait)
        given_up = engine.call(lambda: done.append(1))
        assert given_up.cancel()
        is_free.set()
        await asyncio.wrap_future(engine.call(lambda: None))
        assert not done

    run(test)


def test_two_runners_take_turns_and_a_broken_one_leaves_the_other_alone() -> None:
    async def go() -> None:
        speech, listening = CountRunner(), CountRunner(ModelKind.ASR)
        turns: list[ModelKind] = []
        for runner in (speech, listening):
            runner.on_step = lambda kind=runner.kind: turns.append(kind)
        engine = Engine([speech, listening])
        is_free = threading.Event()
        engine.call(is_free.wait)
        speaking = asyncio.create_task(collect(engine, count(20)))
        hearing = asyncio.create_task(collect(engine, count(9, breaks_at=7), ModelKind.ASR))
        await asyncio.sleep(0)
        is_free.set()
        with pytest.raises(EngineFailed):
            await hearing
        assert await speaking == list(range(20))
        assert turns[:16] == [ModelKind.CUSTOM_VOICE, ModelKind.ASR] * 8
        assert set(turns[16:]) == {ModelKind.CUSTOM_VOICE}
        stats = {s.kind: s for s in engine.stats()}
        assert stats[ModelKind.ASR].ended[EndReason.FAILED] == 1
        assert stats[ModelKind.CUSTOM_VOICE].ended[EndReason.STOP] == 1
        await engine.close()
        assert speech.is_clean()
        assert listening.is_clean()

    asyncio.run(asyncio.wait_for(go(), 30))


def test_stats_can_be_asked_from_any_thread_while_lines_change() -> None:
    async def test(engine: Engine, runner: CountRunner) -> None:
        errors: list[Exception] = []
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.is_set():
                try:
                    engine.stats()
                except RuntimeError as error:
                    errors.append(error)

        watcher = threading.Thread(target=watch)
        watcher.start()
        await asyncio.gather(*(collect(engine, count(2, owner=n)) for n in range(200)))
        is_over.set()
        await asyncio.to_thread(watcher.join)
        assert not errors

    run(test, max_waiting=1000)


lives = st.lists(
    st.tuples(
        st.integers(0, 6),  # how many items
        st.one_of(st.none(), st.integers(0, 6)),  # leaves after so many
        st.sampled_from((-1, -1, -1, 0, 2)),  # breaks its step
        st.integers(1, 2),  # owner
    ),
    max_size=16,
)


@settings(max_examples=60, deadline=None)
@given(lives, st.integers(1, 4), st.integers(1, 8))
def test_whatever_happens_each_request_ends_exactly_once(
    plan: list[tuple[int, int | None, int, int]], num_slots: int, max_waiting: int
) -> None:
    endings: dict[int, list[str]] = {}

    async def live(engine: Engine, key: int, life: tuple[int, int | None, int, int]) -> None:
        length, leaves_after, breaks_at, owner = life
        seq, sink = count(length, breaks_at=breaks_at, owner=owner), Sink()
        heard = endings.setdefault(key, [])

        def emit(item: Any) -> None:
            if item == END or isinstance(item, Exception):
                heard.append(type(item).__name__)
            sink.emit(item)

        seq.emit = emit
        engine.submit(KIND, [seq])
        num_heard = 0
        try:
            while num_heard != leaves_after and await sink.get() != END:
                num_heard += 1
        except (EngineFailed, Overloaded):
            return
        finally:
            engine.cancel(KIND, [seq])

    async def test(engine: Engine, runner: CountRunner) -> None:
        await asyncio.gather(*(live(engine, key, life) for key, life in enumerate(plan)))
        await asyncio.wrap_future(engine.call(lambda: None))
        assert all(len(heard) <= 1 for heard in endings.values())
        ended = engine.stats()[0].ended
        heard_of = [name for heard in endings.values() for name in heard]
        num_refused = heard_of.count(Overloaded.__name__)
        assert sum(ended.values()) == len(plan) - num_refused
        assert ended[EndReason.STOP] == heard_of.count("str")
        assert ended[EndReason.FAILED] == heard_of.count(EngineFailed.__name__)
        assert ended[EndReason.CANCELLED] == sum(not heard for heard in endings.values())
        assert runner.is_clean()

    run(test, num_slots=num_slots, max_waiting=max_waiting)
