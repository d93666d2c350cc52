"""Limits on one user: tokens a day, requests a minute, requests at once."""

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, case

from qwen3_audio.errors import LimitReached
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.tables import request_minutes
from qwen3_audio.store.upserts import insert_or
from qwen3_audio.store.usage import day_of, tokens_on_day
from qwen3_audio.store.users import Limits


def seconds_to_next_day(now: datetime) -> int:
    """Whole seconds until the day in UTC is over, at least 1."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(1, math.ceil((today + timedelta(days=1) - now).total_seconds()))


def seconds_to_next_minute(now: datetime) -> int:
    """Whole seconds until the minute of the clock is over, at least 1."""
    return max(1, math.ceil(60 - now.timestamp() % 60))


def check_tokens(
    conn: Connection,
    user_id: int,
    limits: Limits,
    *,
    num_tokens: int,
    num_in_flight: int = 0,
    now: datetime | None = None,
) -> None:
    """LimitReached if these tokens, with those of requests in flight, exceed today's quota."""
    quota, moment = limits.max_tokens_per_day, now or utc_now()
    if quota is None:
        return
    used = tokens_on_day(conn, user_id, day=day_of(moment)) + num_in_flight
    if used + num_tokens > quota:
        raise LimitReached(
            f"This needs {num_tokens} of your {quota} tokens a day and {max(quota - used, 0)}"
            " are left; a new day begins at 00:00 UTC",
            code="insufficient_quota",
            retry_after_s=seconds_to_next_day(moment),
        )


def count_request(
    conn: Connection, user_id: int, limits: Limits, *, now: datetime | None = None
) -> None:
    """Count one request, refused ones too; LimitReached if this minute of the clock had enough.

    Without such a limit nothing is written: call it in a write transaction only where there is one.
    """
    allowed, moment = limits.max_requests_per_minute, now or utc_now()
    if allowed is None:
        return
    if _counted(conn, user_id, minute=int(moment.timestamp() // 60)) > allowed:
        raise LimitReached(
            f"Your limit is {allowed} requests a minute",
            code="rate_limit_exceeded",
            retry_after_s=seconds_to_next_minute(moment),
        )


def _counted(conn: Connection, user_id: int, *, minute: int) -> int:
    table = request_minutes
    new = insert_or(conn, table).values(user_id=user_id, minute=minute, num_requests=1)
    same_minute = table.c.minute == new.excluded.minute
    counted = new.on_conflict_do_update(
        index_elements=["user_id"],
        set_={
            "minute": new.excluded.minute,
            "num_requests": case((same_minute, table.c.num_requests + 1), else_=1),
        },
    )
    return int(conn.execute(counted.returning(table.c.num_requests)).scalar_one())


class InFlight:
    """The requests of each user that this process works on; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_requests: Counter[int] = Counter()
        self._num_tokens: Counter[int] = Counter()

    def num_requests(self, user_id: int) -> int:
        with self._lock:
            return self._num_requests[user_id]

    @contextmanager
    def one_more(self, user_id: int, limits: Limits, *, num_tokens: int = 0) -> Iterator[int]:
        """While a request runs; LimitReached at once if as many as allowed run already.

        Gives the tokens of the user's requests before this one, which are not booked yet: pass
        them to `check_tokens`, asked inside, and no race exceeds the quota.
        """
        num_ahead = self._enter(user_id, limits.max_requests_at_once, num_tokens)
        try:
            yield num_ahead
        finally:
            self._leave(user_id, num_tokens)

    def _enter(self, user_id: int, allowed: int | None, num_tokens: int) -> int:
        with self._lock:
            if allowed is not None and self._num_requests[user_id] >= allowed:
                raise LimitReached(
                    f"Your limit is {allowed} requests at once",
                    code="rate_limit_exceeded",
                    retry_after_s=1,
                )
            num_ahead = self._num_tokens[user_id]
            self._num_requests[user_id] += 1
            self._num_tokens[user_id] += num_tokens
            return num_ahead

    def _leave(self, user_id: int, num_tokens: int) -> None:
        with self._lock:
            self._num_requests[user_id] -= 1
            self._num_tokens[user_id] -= num_tokens
            if not self._num_requests[user_id]:
                del self._num_requests[user_id], self._num_tokens[user_id]
