"""Who runs in the next step. Integers and lists only: no torch, no clock, no thread."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from qwen3_audio.engine.sequence import Sequence
from qwen3_audio.errors import Overloaded

S = TypeVar("S", bound=Sequence)


class Reservations(Protocol):
    """The memory that requests reserve their worst case in."""

    def can_reserve(self, num_positions: int) -> bool: ...

    def reserve(self, num_positions: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan(Generic[S]):
    """`prefill` join in this step, `decode` were running before."""

    prefill: list[S]
    decode: list[S]


class Scheduler(Generic[S]):
    """Waiting lines, one a request, of which there may be so many.

    The owner with the fewest running goes first, of an owner's requests the one with the fewest
    running: a long recording in many pieces keeps nobody waiting.
    """

    def __init__(
        self, *, num_slots: int, max_prefill_tokens: int, max_waiting: int, memory: Reservations
    ) -> None:
        self.num_slots = num_slots
        self.max_prefill_tokens = max_prefill_tokens
        self.max_waiting = max_waiting
        self.memory = memory
        self.free_slots = list(reversed(range(num_slots)))
        self.running: dict[int, S] = {}
        self._lines: dict[int, deque[S]] = {}
        self._num_running_of_owner: Counter[int] = Counter()
        self._num_running_of_line: Counter[int] = Counter()

    @property
    def num_waiting(self) -> int:
        """Requests with something in line."""
        return len(self._lines)

    @property
    def is_idle(self) -> bool:
        return not self.running and not self._lines

    @property
    def may_start(self) -> bool:
        """Somebody waits and there is room for them."""
        if not self._lines or not self.free_slots:
            return False
        return self.memory.can_reserve(self._next_in_line().num_reserved_positions)

    def add(self, seqs: list[S], *, is_admitted: bool = False) -> None:
        """Put a request's sequences in line, all or none; what was let in goes on unasked."""
        num_new = len({seq.line_id for seq in seqs} - self._lines.keys())
        is_full = self.num_waiting + num_new > max(self.max_waiting, num_new)
        if is_full and not is_admitted:
            raise Overloaded(
                f"The server is busy: {self.num_waiting} requests are already waiting. "
                "Try again in a moment"
            )
        for seq in seqs:
            self._lines.setdefault(seq.line_id, deque()).append(seq)

    def plan(self) -> Plan[S]:
        decode = list(self.running.values())
        prefill: list[S] = []
        num_tokens = 0
        while self._lines and self.free_slots:
            seq = self._next_in_line()
            too_long = num_tokens + seq.num_prompt_tokens > self.max_prefill_tokens
            if prefill and too_long:
                break  # one long prompt may exceed the bound alone, never as a companion
            if not self.memory.can_reserve(seq.num_reserved_positions):
                break
            num_tokens += seq.num_prompt_tokens
            self._start(seq)
            prefill.append(seq)
        return Plan(prefill, decode)

    def remove(self, seq: S) -> bool:
        """Forget a sequence wherever it is; False if it has already left."""
        if self.running.pop(seq.seq_id, None) is not None:
            self.free_slots.append(seq.slot)
            self._count(seq, -1)
            return True
        line = self._lines.get(seq.line_id)
        if line is None or seq not in line:
            return False
        line.remove(seq)
        self._close_if_empty(seq.line_id)
        return True

    def everyone(self) -> list[S]:
        return [*self.running.values(), *(seq for line in self._lines.values() for seq in line)]

    def _next_in_line(self) -> S:
        heads = (line[0] for line in self._lines.values())
        return min(heads, key=self._rank)

    def _rank(self, seq: S) -> tuple[int, int, int]:
        of_owner, of_line = self._num_running_of_owner, self._num_running_of_line
        return of_owner[seq.owner], of_line[seq.line_id], seq.seq_id

    def _start(self, seq: S) -> None:
        self._lines[seq.line_id].popleft()
        self._close_if_empty(seq.line_id)
        self.memory.reserve(seq.num_reserved_positions)
        seq.slot = self.free_slots.pop()
        self.running[seq.seq_id] = seq
        self._count(seq, 1)

    def _count(self, seq: S, change: int) -> None:
        """Counters without a zero entry for everyone who was ever here."""
        counts = (self._num_running_of_owner, seq.owner), (self._num_running_of_line, seq.line_id)
        for counter, key in counts:
            counter[key] += change
            if not counter[key]:
                del counter[key]

    def _close_if_empty(self, line_id: int) -> None:
        if not self._lines[line_id]:
            del self._lines[line_id]
