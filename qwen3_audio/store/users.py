"""Users: made, listed, limited, disabled by the admin; user 1 is the one of local mode."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, insert, select, update

from qwen3_audio.errors import BadRequest, NotFound
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.failures import GONE
from qwen3_audio.store.names import checked_name
from qwen3_audio.store.pages import Page, bounded, build_page
from qwen3_audio.store.tables import users

HIGHEST_LIMIT = 10**15


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may use; None: unlimited."""

    max_tokens_per_day: int | None = None
    max_requests_per_minute: int | None = None
    max_requests_at_once: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.as_columns().items():
            if value is not None and not 0 <= value <= HIGHEST_LIMIT:
                raise BadRequest(f"{name} must be from 0 to {HIGHEST_LIMIT}, or null", param=name)

    def as_columns(self) -> dict[str, int | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class User:
    user_id: int
    name: str | None
    created_at: datetime
    disabled_at: datetime | None
    limits: Limits


def add_user(conn: Connection, *, name: str | None = None, limits: Limits | None = None) -> int:
    """The new user's number."""
    values: dict[str, Any] = {
        "name": None if name is None else checked_name(name),
        **(limits or Limits()).as_columns(),
    }
    added = insert(users).values(values).returning(users.c.user_id)
    return int(conn.execute(added).scalar_one())


def get_user(conn: Connection, user_id: int) -> User:
    row = conn.execute(select(users).where(users.c.user_id == user_id)).mappings().one_or_none()
    if row is None:
        raise no_user(user_id)
    return _user(row)


def hold_user(conn: Connection, user_id: int) -> None:
    """Keep the user from being deleted until this transaction ends; NotFound if they were."""
    query = select(users.c.user_id).where(users.c.user_id == user_id)
    held = query.with_for_update(read=True, key_share=True)
    if conn.execute(held).one_or_none() is None:
        raise NotFound(GONE)


def list_users(conn: Connection, *, after: int = 0, page_size: int = 100) -> Page[User]:
    """Oldest first, those after user `after`."""
    query = select(users).where(users.c.user_id > after).order_by(users.c.user_id)
    rows = conn.execute(query.limit(bounded(page_size))).mappings()
    return build_page([_user(row) for row in rows], page_size)


def set_limits(conn: Connection, user_id: int, limits: Limits) -> None:
    _update(conn, user_id, limits.as_columns())


def rename_user(conn: Connection, user_id: int, *, name: str | None) -> None:
    _update(conn, user_id, {"name": None if name is None else checked_name(name)})


def disable_user(conn: Connection, user_id: int) -> None:
    """From now on the user's keys and invites are refused; twice is no error."""
    get_user(conn, user_id)
    enabled = users.c.disabled_at.is_(None)
    _update_where(conn, users.c.user_id == user_id, enabled, values={"disabled_at": utc_now()})


def enable_user(conn: Connection, user_id: int) -> None:
    _update(conn, user_id, {"disabled_at": None})


def _update(conn: Connection, user_id: int, values: Mapping[str, Any]) -> None:
    if not _update_where(conn, users.c.user_id == user_id, values=values):
        raise no_user(user_id)


def _update_where(
    conn: Connection, *conditions: ColumnElement[bool], values: Mapping[str, Any]
) -> bool:
    return conn.execute(update(users).where(*conditions).values(dict(values))).rowcount > 0


def _user(row: RowMapping) -> User:
    limits = Limits(**{field.name: row[field.name] for field in fields(Limits)})
    return User(row["user_id"], row["name"], row["created_at"], row["disabled_at"], limits)


def no_user(user_id: int) -> NotFound:
    return NotFound(f"There is no user {user_id}")
