"""Long lists, a page at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, Connection, RowMapping, Select, Table

MAX_PAGE = 1000

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items in order, and whether more follow."""

    items: tuple[Item, ...]
    has_more: bool


def columns_of(shape: Any, table: Table) -> list[Column[Any]]:
    """The columns that a dataclass names; large ones that it does not are never read."""
    return [table.c[field.name] for field in fields(shape)]


def newest_first(
    conn: Connection,
    query: Select[Any],
    id_column: Column[Any],
    *,
    before: int | None,
    page_size: int,
) -> Sequence[RowMapping]:
    """The rows of one page, below number `before`, and one more to know whether more follow."""
    if before is not None:
        query = query.where(id_column < before)
    return conn.execute(query.order_by(id_column.desc()).limit(bounded(page_size))).mappings().all()


def bounded(page_size: int) -> int:
    """How many rows to ask for: one more than shown."""
    return min(max(page_size, 1), MAX_PAGE) + 1


def build_page(items: Sequence[Item], page_size: int) -> Page[Item]:
    """A page from what a query with `bounded` rows gave."""
    shown = bounded(page_size) - 1
    return Page(tuple(items[:shown]), has_more=len(items) > shown)
