"""The engine: one thread that owns the device; its runners take turns, one step each.

Commands come through one inbox, results leave through each sequence's `emit`. Every sequence ends
exactly once: with its runner's last item, with an exception, or silently when it was cancelled.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.errors import EngineFailed, Overloaded, SpeechError
from qwen3_audio.types import EndReason, ModelKind, RunnerStats

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """A sequence that ended in this step, and the last item it emits."""

    seq: Sequence
    reason: EndReason
    item: Any


class Runner(Protocol):
    """The torch side of one checkpoint: turns waiting sequences into items, step by step."""

    kind: ModelKind
    scheduler: Scheduler[Any]

    def connect(self, wake: Callable[[], None]) -> None:
        """`wake`, from any thread, says that there is work again. For runners with such work."""
        return None

    @property
    def has_work(self) -> bool:
        """False: a step now would only wait, for requests or for what runs beside this thread."""
        return not self.scheduler.is_idle

    def step(self) -> list[Ending]: ...

    def release(self, seq: Any) -> None:
        """Free what a sequence holds besides its slot; called once, only if it was running."""
        ...


@dataclass(slots=True)
class _Lane:
    """A runner and what is counted of it."""

    runner: Runner
    num_steps: int = 0
    ended: dict[EndReason, int] = field(default_factory=lambda: dict.fromkeys(EndReason, 0))


class Engine:
    """Thread-safe from outside: submit, cancel, call, stats, close."""

    def __init__(self, runners: list[Runner]) -> None:
        self._lanes = {runner.kind: _Lane(runner) for runner in runners}
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._door = threading.Lock()  # nothing may enter the inbox behind the order to stop
        self._is_closed = False
        for runner in runners:
            runner.connect(self._wake)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- any thread ----------------------------------------------------------------------------

    def submit(self, kind: ModelKind, seqs: list[Any], *, is_admitted: bool = False) -> None:
        """Put sequences in line together; if there is no room the first one emits Overloaded.

        `is_admitted`: the rest of a request that was let in before, which is never refused.
        Raises Overloaded once the engine is closed, as `call` does.
        """
        lane = self._lanes[kind]
        self._order(lambda: self._add(lane, seqs, is_admitted))

    def cancel(self, kind: ModelKind, seqs: list[Any]) -> None:
        """Harmless for sequences that have ended."""
        lane = self._lanes[kind]

        def command() -> None:
            for seq in seqs:
                self._end(lane, seq, EndReason.CANCELLED)

        with contextlib.suppress(Overloaded):  # closing ends them too
            self._order(command)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something on the engine thread between two steps."""
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # handed to the caller, whatever it is
                future.set_exception(error)

        self._order(command)
        return future

    def stats(self) -> list[RunnerStats]:
        return [_stats(lane) for lane in list(self._lanes.values())]

    async def close(self) -> None:
        """End everyone as cancelled and stop the thread."""
        with self._door:
            self._is_closed = True
            self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _wake(self) -> None:
        self._inbox.put(lambda: None)

    def _order(self, command: Callable[[], None]) -> None:
        with self._door:
            if self._is_closed:
                raise _closed()
            self._inbox.put(command)

    # -- the engine thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while self._read_inbox():
            for lane in self._lanes.values():
                if lane.runner.has_work:
                    self._step(lane)
        for lane in self._lanes.values():
            for seq in lane.runner.scheduler.everyone():
                self._end(lane, seq, EndReason.CANCELLED, _closed())

    def _read_inbox(self) -> bool:
        """Carry out all commands; sleep only while no runner has work. False: close."""
        while True:
            has_work = any(lane.runner.has_work for lane in self._lanes.values())
            try:
                command = self._inbox.get(block=not has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _add(self, lane: _Lane, seqs: list[Any], is_admitted: bool) -> None:
        try:
            lane.runner.scheduler.add(seqs, is_admitted=is_admitted)
        except SpeechError as error:
            seqs[0].emit(error)

    def _step(self, lane: _Lane) -> None:
        try:
            endings = lane.runner.step()
        except Exception as error:  # the device or a model broke: fail this batch, keep serving
            log.exception("a step of the %s runner failed", lane.runner.kind)
            self._fail_batch(lane, error)
            return
        lane.num_steps += 1
        for ending in endings:
            self._end(lane, ending.seq, ending.reason, ending.item)

    def _end(self, lane: _Lane, seq: Any, reason: EndReason, item: Any = None) -> None:
        was_running = seq.seq_id in lane.runner.scheduler.running
        if not lane.runner.scheduler.remove(seq):
            return
        if was_running:
            lane.runner.release(seq)
        lane.ended[reason] += 1
        if item is not None:
            seq.emit(item)

    def _fail_batch(self, lane: _Lane, cause: Exception) -> None:
        """Those in line were not touched and go on; with nobody running the line itself broke."""
        scheduler = lane.runner.scheduler
        for seq in list(scheduler.running.values()) or scheduler.everyone():
            error = EngineFailed("The engine failed on this request; the server goes on")
            error.__cause__ = cause
            self._end(lane, seq, EndReason.FAILED, error)


def _closed() -> Overloaded:
    return Overloaded("The server is shutting down", code="shutting_down")


def _stats(lane: _Lane) -> RunnerStats:
    scheduler = lane.runner.scheduler
    return RunnerStats(
        kind=lane.runner.kind,
        num_running=len(scheduler.running),
        num_waiting=scheduler.num_waiting,
        num_slots=scheduler.num_slots,
        num_steps=lane.num_steps,
        ended=dict(lane.ended),
    )
