"""Column types that behave alike on SQLite and PostgreSQL, whatever a caller puts in."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, String, Text, TypeDecorator
from sqlalchemy.types import TypeEngine

HIGHEST_ID = 2**63 - 1


def utc_now() -> datetime:
    return datetime.now(UTC)


class Id(TypeDecorator[int]):
    """A row's number. One that no row can have becomes NULL, which equals nothing."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # SQLite counts up by itself only in a column declared INTEGER.
        return Integer() if dialect.name == "sqlite" else BigInteger()

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return value if value is not None and 0 <= value <= HIGHEST_ID else None


class UtcTime(TypeDecorator[datetime]):
    """A moment with an offset; on SQLite ISO 8601 text of one width, so that it sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return String(32) if dialect.name == "sqlite" else DateTime(timezone=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time needs its offset")
        moment = value.astimezone(UTC)
        return moment.isoformat(timespec="microseconds") if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC)


class AnyText(TypeDecorator[str]):
    """Text as it came, except for what a database can't hold.

    The null character and lone surrogates become U+FFFD: booking a finished request must not fail
    because of its text.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else _storable(value)


def _storable(text: str) -> str:
    if text.isascii():
        return text.replace("\0", "\ufffd")
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return clean.replace("\0", "\ufffd")
