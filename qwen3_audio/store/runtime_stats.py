"""Numbers that the server learns and that survive a restart: the state of the batch discount."""

from collections.abc import Mapping

from sqlalchemy import Connection, select, update

from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.tables import runtime_stats

SINGLE_MS_PER_CHAR = "single_latency_per_char_ms"
BATCH_DISCOUNT = "batch_discount_current"


def read_stats(conn: Connection) -> dict[str, float | None]:
    """Every number by name; None: nothing learnt yet."""
    query = select(runtime_stats.c.name, runtime_stats.c.value)
    return {row.name: row.value for row in conn.execute(query)}


def lock_stats(conn: Connection) -> dict[str, float | None]:
    """The same, and nobody else changes them until this write transaction ends."""
    query = select(runtime_stats.c.name, runtime_stats.c.value).order_by(runtime_stats.c.name)
    return {row.name: row.value for row in conn.execute(query.with_for_update())}


def save_stats(conn: Connection, values: Mapping[str, float | None]) -> None:
    """Only after `lock_stats` in the same transaction, or an update between them is lost."""
    for name, value in sorted(values.items()):
        changed = update(runtime_stats).where(runtime_stats.c.name == name)
        conn.execute(changed.values(value=value, updated_at=utc_now()))
