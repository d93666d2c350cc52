"""The engine: one thread that owns the device; its runners take turns, one step each.

Commands come through one inbox, results leave through each sequence's `emit`. Every sequence ends
exactly once: with its runner's last item, with an exception, or silently when it was cancelled.
A step that fails ends the requests that were in it, and the engine goes on; if the device itself is
gone, everybody's end is the same sentence, and whoever asked `when_broken` ends the process.
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


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the device, for people; final: nothing works in this process any more."""

    sentence: str
    is_final: bool = False


Diagnose = Callable[[BaseException], Fault | None]
FAILED = Fault("The engine failed on this request; the server goes on")
SPOILED = Fault("The engine could not go on after an error; it has to start again", is_final=True)


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

    def restart(self) -> None:
        """Make anew what a failed step may have spoiled; nobody runs, others may be in line."""
        return None


@dataclass(slots=True)
class _Lane:
    """A runner and what is counted of it."""

    runner: Runner
    num_steps: int = 0
    ended: dict[EndReason, int] = field(default_factory=lambda: dict.fromkeys(EndReason, 0))


class Engine:
    """Thread-safe from outside: submit, cancel, call, stats, trouble, when_broken, close."""

    def __init__(
        self,
        runners: list[Runner],
        *,
        diagnose: Diagnose | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """`diagnose` tells errors of the device from others; without it all are others.

        `begin` is the first that the engine's thread does.
        """
        self._begin = begin
        self._diagnose = diagnose or (lambda error: None)
        self._broken: Fault | None = None
        self._told: list[Callable[[str], None]] = []
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
                fault = self._heed(error)
                future.set_exception(error if fault is None else _failure(fault, error))

        self._order(command)
        return future

    @property
    def trouble(self) -> str | None:
        """Why nothing can be computed any more; None while all is well."""
        return None if self._broken is None else self._broken.sentence

    def when_broken(self, tell: Callable[[str], None]) -> None:
        """`tell` hears the sentence, from any thread, once nothing can be computed any more."""
        with self._door:
            broken = self._broken
            if broken is None:
                self._told.append(tell)
        if broken is not None:
            tell(broken.sentence)

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
        self._begin()
        while self._read_inbox():
            for lane in self._lanes.values():
                if self._broken is None and lane.runner.has_work:
                    self._step(lane)
        for lane in self._lanes.values():
            for seq in lane.runner.scheduler.everyone():
                self._end(lane, seq, EndReason.CANCELLED, _closed())

    def _read_inbox(self) -> bool:
        """Carry out all commands; sleep only while no runner has work. False: close."""
        while True:
            lanes = self._lanes.values() if self._broken is None else ()
            has_work = any(lane.runner.has_work for lane in lanes)
            try:
                command = self._inbox.get(block=not has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _add(self, lane: _Lane, seqs: list[Any], is_admitted: bool) -> None:
        if self._broken is not None:
            seqs[0].emit(EngineFailed(self._broken.sentence))
            return
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
        if was_running and self._broken is None:
            self._release(lane.runner, seq)
        lane.ended[reason] += 1
        if item is not None:
            seq.emit(item)

    def _release(self, runner: Runner, seq: Any) -> None:
        try:
            runner.release(seq)
        except RuntimeError as error:  # of the device: an earlier step's error may show here
            log.exception("the %s runner could not free what a request had", runner.kind)
            self._heed(error)

    def _fail_batch(self, lane: _Lane, cause: Exception) -> None:
        """Those in line were not touched and go on; with nobody running the line itself broke."""
        fault = self._heed(cause) or FAILED
        if fault.is_final:
            return
        scheduler = lane.runner.scheduler
        for seq in list(scheduler.running.values()) or scheduler.everyone():
            self._end(lane, seq, EndReason.FAILED, _failure(fault, cause))
        if self._broken is not None:
            return
        try:
            lane.runner.restart()
        except RuntimeError as error:
            log.exception("the %s runner could not be made anew", lane.runner.kind)
            self._break(SPOILED, error)

    def _heed(self, error: BaseException) -> Fault | None:
        """What an error says about the device; if it is gone, so is everybody's work."""
        fault = self._broken or self._diagnose(error)
        if fault is not None and fault.is_final and self._broken is None:
            self._break(fault, error)
        return fault

    def _break(self, fault: Fault, cause: BaseException) -> None:
        """End everyone without touching the device, and say so."""
        log.critical("%s (%s)", fault.sentence, cause)
        with self._door:
            self._broken, told = fault, self._told
        for lane in self._lanes.values():
            for seq in lane.runner.scheduler.everyone():
                self._end(lane, seq, EndReason.FAILED, _failure(fault, cause))
        for tell in told:
            tell(fault.sentence)


def _failure(fault: Fault, cause: BaseException) -> EngineFailed:
    error = EngineFailed(fault.sentence)
    error.__cause__ = cause
    return error


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
