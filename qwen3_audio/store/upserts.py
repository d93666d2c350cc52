"""INSERT … ON CONFLICT, which both databases have and SQLAlchemy spells once for each."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or(conn: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that can say what happens if its row is there."""
    if conn.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def add_up(
    conn: Connection, table: Table, *, key: Mapping[str, Any], counters: Mapping[str, int]
) -> None:
    """Add to a row's counters in SQL, so that no update is lost; makes the row if need be."""
    statement = insert_or(conn, table).values({**key, **counters})
    # Not `statement.excluded`: building that costs as much as all the rest of a booking.
    sums = {name: table.c[name] + value for name, value in counters.items()}
    conn.execute(statement.on_conflict_do_update(index_elements=list(key), set_=sums))


def put(
    conn: Connection, table: Table, *, key: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Make the row, or overwrite these values of it."""
    statement = insert_or(conn, table).values({**key, **values})
    conn.execute(statement.on_conflict_do_update(index_elements=list(key), set_=dict(values)))
