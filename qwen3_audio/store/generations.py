"""Speech requests: what was spoken, how it ended, what it cost. Text and sound only if stored."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, insert, select, update

from qwen3_audio.errors import NotFound
from qwen3_audio.store.blob_rows import release
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import UNENDED, Route, Status, generations
from qwen3_audio.store.usage import CALLS_OF, TOKENS_OF, add_usage
from qwen3_audio.store.voices import add_uses


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """What is known when the work begins."""

    route: Route
    response_format: str
    language: str
    num_chars: int
    voice_id: int | None = None
    voice_owner_id: int | None = None  # None: the user's own; user 1 for a shared name's voice
    speaker: str | None = None
    model: str | None = None
    seed: int | None = None
    key_id: int | None = None
    batch_id: int | None = None
    position: int | None = None  # in the batch, from 0
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """How it ended; the last two only with store=true, the sound kept in the same transaction."""

    status: Status
    tokens: int
    latency_ms: int | None = None
    audio_ms: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    audio_sha256: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if self.status in UNENDED or (self.status is Status.FAILED and self.tokens):
            raise ValueError("a generation ends done, failed (and free) or cancelled")

    @property
    def was_heard(self) -> bool:
        """Cancelled ones have a price exactly if some sound had left."""
        return self.status is Status.DONE or self.tokens > 0

    def as_columns(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation as lists show it."""

    generation_id: int
    route: str
    status: str
    voice_id: int | None
    speaker: str | None
    model: str | None
    batch_id: int | None
    position: int | None
    num_chars: int
    tokens: int
    latency_ms: int | None
    audio_ms: int | None
    response_format: str
    language: str
    seed: int | None
    finish_reason: str | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None
    audio_sha256: str | None

    @property
    def is_stored(self) -> bool:
        return self.audio_sha256 is not None


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """What store=true kept."""

    generation_id: int
    response_format: str
    audio_sha256: str
    text: str | None


# Built once: building a statement takes longer than running it.
ADDED = insert(generations).returning(generations.c.generation_id)
NEW_COLUMNS = [field.name for field in fields(NewGeneration) if field.name != "voice_owner_id"]


def add_generation(conn: Connection, user_id: int, new: NewGeneration, end: GenerationEnd) -> int:
    """Book a generation that has ended: its row, the usage and the voice's use_count."""
    return add_generations(conn, user_id, [(new, end)])[0]


def add_generations(
    conn: Connection, user_id: int, ended: Sequence[tuple[NewGeneration, GenerationEnd]]
) -> list[int]:
    """Book what one request made, for example a batch's; the numbers in order."""
    numbers = [_insert(conn, user_id, new, end) for new, end in ended]
    _book(conn, user_id, ended)
    return numbers


def start_generation(
    conn: Connection, user_id: int, new: NewGeneration, *, status: Status = Status.RUNNING
) -> int:
    """A number before the work is done, for answers that begin earlier; `end_generation` books."""
    values = {**_columns(new), "user_id": user_id, "status": status}
    return int(conn.execute(ADDED, values).scalar_one())


def end_generation(
    conn: Connection, user_id: int, generation_id: int, new: NewGeneration, end: GenerationEnd
) -> bool:
    """Book the end of a started one. False, and nothing changed, if it had ended already."""
    unended = generations.c.status.in_(UNENDED)
    changed = update(generations).where(*_mine(user_id, generation_id), unended)
    if conn.execute(changed.values({**end.as_columns(), "ended_at": utc_now()})).rowcount == 0:
        return False
    _book(conn, user_id, [(new, end)])
    return True


def get_generation(conn: Connection, user_id: int, generation_id: int) -> Generation:
    query = select(*columns_of(Generation, generations)).where(*_mine(user_id, generation_id))
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_generation(generation_id)
    return Generation(**row)


def get_stored(conn: Connection, user_id: int, generation_id: int) -> StoredGeneration:
    """NotFound also for one that was not stored, or deleted from the store."""
    query = select(*columns_of(StoredGeneration, generations)).where(
        *_mine(user_id, generation_id), generations.c.audio_sha256.is_not(None)
    )
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no stored generation {generation_id}")
    return StoredGeneration(**row)


def list_generations(
    conn: Connection,
    user_id: int,
    *,
    is_stored: bool | None = None,
    batch_id: int | None = None,
    before: int | None = None,
    page_size: int = 100,
) -> Page[Generation]:
    """Newest first, those below generation `before`; the stored ones or a batch's if asked."""
    query = select(*columns_of(Generation, generations)).where(generations.c.user_id == user_id)
    if is_stored is not None:
        missing = generations.c.audio_sha256.is_(None)
        query = query.where(~missing if is_stored else missing)
    if batch_id is not None:
        query = query.where(generations.c.batch_id == batch_id)
    rows = newest_first(
        conn, query, generations.c.generation_id, before=before, page_size=page_size
    )
    return build_page([Generation(**row) for row in rows], page_size)


def delete_stored(conn: Connection, user_id: int, generation_id: int) -> list[str]:
    """Remove sound and text; the row stays in the books. NotFound the second time.

    Gives back the files for `Blobs.remove` after the commit.
    """
    mine = (*_mine(user_id, generation_id), generations.c.audio_sha256.is_not(None))
    found = select(generations.c.audio_sha256).where(*mine).with_for_update()
    row = conn.execute(found).one_or_none()
    if row is None:
        raise NotFound(f"There is no stored generation {generation_id}")
    conn.execute(update(generations).where(*mine).values(audio_sha256=None, text=None))
    return release(conn, [row[0]])


def _insert(conn: Connection, user_id: int, new: NewGeneration, end: GenerationEnd) -> int:
    values = {**_columns(new), **end.as_columns(), "user_id": user_id, "ended_at": utc_now()}
    return int(conn.execute(ADDED, values).scalar_one())


def _columns(new: NewGeneration) -> dict[str, object]:
    return {name: getattr(new, name) for name in NEW_COLUMNS}


def _book(
    conn: Connection, user_id: int, ended: Iterable[tuple[NewGeneration, GenerationEnd]]
) -> None:
    """Failed ones cost nothing and count nowhere; one update a counter, whatever the number."""
    counters: Counter[str] = Counter()
    uses: Counter[tuple[int, int]] = Counter()
    key_id = None
    for new, end in ended:
        if end.status is Status.FAILED:
            continue
        key_id = new.key_id
        counters[TOKENS_OF[new.route]] += end.tokens
        if new.route in CALLS_OF:
            counters[CALLS_OF[new.route]] += 1
        if new.voice_id is not None and end.was_heard:
            uses[new.voice_owner_id or user_id, new.voice_id] += 1
    for (owner_id, voice_id), num_texts in sorted(uses.items()):
        add_uses(conn, owner_id, voice_id, num_texts=num_texts)
    add_usage(conn, user_id, key_id=key_id, counters=counters)


def _mine(user_id: int, generation_id: int) -> tuple[ColumnElement[bool], ...]:
    return generations.c.user_id == user_id, generations.c.generation_id == generation_id


def _no_generation(generation_id: int) -> NotFound:
    return NotFound(f"There is no generation {generation_id}")
