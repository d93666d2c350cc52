"""One request in flight: what the scheduler and the engine need to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """`emit` takes whatever the request's consumer understands, and an exception if it failed."""

    seq_id: int
    owner: int
    num_prompt_tokens: int
    num_reserved_positions: int  # the most it can ever occupy
    emit: Callable[[Any], None]
    request_id: int | None = None  # shared by the sequences of one request; None: it is alone
    slot: int = -1
    num_positions: int = 0  # rows that the decoder stack has seen

    @property
    def line_id(self) -> int:
        return self.seq_id if self.request_id is None else self.request_id
