"""Batches: several texts in one request, charged together at a discount."""

from dataclasses import asdict, dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, insert, select, update

from qwen3_audio.errors import NotFound
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import UNENDED, Status, batches
from qwen3_audio.store.usage import add_usage


@dataclass(frozen=True, slots=True)
class NewBatch:
    response_format: str
    language: str
    num_texts: int
    is_stored: bool
    voice_id: int | None = None
    key_id: int | None = None
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """Its tokens are those of its generations together, which are booked with them."""

    status: Status
    tokens: int
    discount: float
    latency_ms: int | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.status in UNENDED or (self.status is Status.FAILED and self.tokens):
            raise ValueError("a batch ends done, failed (and free) or cancelled")


@dataclass(frozen=True, slots=True)
class Batch:
    batch_id: int
    voice_id: int | None
    response_format: str
    language: str
    is_stored: bool
    num_texts: int
    status: str
    tokens: int
    discount: float | None
    latency_ms: int | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None


def start_batch(
    conn: Connection, user_id: int, new: NewBatch, *, status: Status = Status.RUNNING
) -> int:
    """A batch's number, before its generations; `end_batch`, in any transaction, books it."""
    values = {**asdict(new), "user_id": user_id, "status": status}
    added = insert(batches).values(values).returning(batches.c.batch_id)
    return int(conn.execute(added).scalar_one())


def end_batch(conn: Connection, user_id: int, batch_id: int, end: BatchEnd) -> bool:
    """Book one call. False, and nothing changed, if the batch had ended already."""
    changed = (
        update(batches)
        .where(*_mine(user_id, batch_id), batches.c.status.in_(UNENDED))
        .values({**asdict(end), "ended_at": utc_now()})
        .returning(batches.c.key_id)
    )
    row = conn.execute(changed).one_or_none()
    if row is None:
        return False
    if end.status is not Status.FAILED:
        add_usage(conn, user_id, key_id=row[0], counters={"batch_calls": 1})
    return True


def get_batch(conn: Connection, user_id: int, batch_id: int) -> Batch:
    query = select(*columns_of(Batch, batches)).where(*_mine(user_id, batch_id))
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no batch {batch_id}")
    return Batch(**row)


def list_batches(
    conn: Connection, user_id: int, *, before: int | None = None, page_size: int = 100
) -> Page[Batch]:
    """Newest first, those below batch `before`."""
    query = select(*columns_of(Batch, batches)).where(batches.c.user_id == user_id)
    rows = newest_first(conn, query, batches.c.batch_id, before=before, page_size=page_size)
    return build_page([Batch(**row) for row in rows], page_size)


def _mine(user_id: int, batch_id: int) -> tuple[ColumnElement[bool], ...]:
    return batches.c.user_id == user_id, batches.c.batch_id == batch_id
