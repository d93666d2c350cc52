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
    """Bounded waiting lines, one an owner; the owner with the fewest running goes first."""

    def __init__(
        self, *, num_slots: int, max_prefill_tokens: int, max_waiting: int, memory: Reservations
    ) -> None:
        self.num_slots = num_slots
        self.max_prefill_tokens = max_prefill_tokens
        self.max_waiting = max_waiting
        self.memory = memory
        self.free_slots = list(reversed(range(num_slots)))
        self.running: dict[int, S] = {}
        self.num_waiting = 0  # counted, because other threads read it while the lines change
        self._lines: dict[int, deque[S]] = {}
        self._num_running_of: Counter[int] = Counter()

    @property
    def is_idle(self) -> bool:
        return not self.running and not self._lines

    def add(self, seqs: list[S], *, is_admitted: bool = False) -> None:
        """Put a request's sequences in line, all or none; what was let in goes on unasked."""
        is_full = self.num_waiting + len(seqs) > max(self.max_waiting, len(seqs))
        if is_full and not is_admitted:
            raise Overloaded(
                f"The server is busy: {self.num_waiting} requests are already waiting. "
                "Try again in a moment"
            )
        for seq in seqs:
            self._lines.setdefault(seq.owner, deque()).append(seq)
        self.num_waiting += len(seqs)

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
            self._num_running_of[seq.owner] -= 1
            return True
        line = self._lines.get(seq.owner)
        if line is None or seq not in line:
            return False
        line.remove(seq)
        self._leave_line(seq.owner)
        return True

    def everyone(self) -> list[S]:
        return [*self.running.values(), *(seq for line in self._lines.values() for seq in line)]

    def _next_in_line(self) -> S:
        heads = (line[0] for line in self._lines.values())
        return min(heads, key=lambda seq: (self._num_running_of[seq.owner], seq.seq_id))

    def _start(self, seq: S) -> None:
        self._lines[seq.owner].popleft()
        self._leave_line(seq.owner)
        self.memory.reserve(seq.num_reserved_positions)
        seq.slot = self.free_slots.pop()
        self.running[seq.seq_id] = seq
        self._num_running_of[seq.owner] += 1

    def _leave_line(self, owner: int) -> None:
        self.num_waiting -= 1
        if not self._lines[owner]:
            del self._lines[owner]
