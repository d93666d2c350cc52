"""Numbers that the server learns and that survive a restart: the state of the batch discount."""

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, select, update

from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.tables import runtime_stats

SINGLE_MS_PER_CHAR = "single_latency_per_char_ms"
BATCH_DISCOUNT = "batch_discount_current"

# Built once, as every request runs them.
READ = select(runtime_stats.c.name, runtime_stats.c.value)
LOCKED = READ.order_by(runtime_stats.c.name).with_for_update()
SAVED = (
    update(runtime_stats)
    .where(runtime_stats.c.name == bindparam("number"))
    .values(value=bindparam("new_value"), updated_at=bindparam("moment"))
)


def read_stats(conn: Connection) -> dict[str, float | None]:
    """Every number by name; None: nothing learnt yet."""
    return {row.name: row.value for row in conn.execute(READ)}


def lock_stats(conn: Connection) -> dict[str, float | None]:
    """The same, and nobody else changes them until this write transaction ends."""
    return {row.name: row.value for row in conn.execute(LOCKED)}


def save_stats(conn: Connection, values: Mapping[str, float | None]) -> None:
    """Only after `lock_stats` in the same transaction, or an update between them is lost."""
    moment = utc_now()
    rows = [
        {"number": name, "new_value": value, "moment": moment}
        for name, value in sorted(values.items())
    ]
    conn.execute(SAVED, rows)
