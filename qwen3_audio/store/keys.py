"""API keys: shown once, kept as a prefix to find them by and an HMAC to compare with."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, or_, select, update

from qwen3_audio.errors import BadRequest, NotAllowed, NotAuthenticated, NotFound
from qwen3_audio.store.caps import take_turn
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.db import Database
from qwen3_audio.store.names import checked_name
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import api_keys, users
from qwen3_audio.store.users import Limits, get_user

PREFIX_CHARS = 8
MAX_KEYS = 100  # of one user, without revoked ones
MAX_KEY_CHARS = 200  # longer is no key and not worth a hash
LAST_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewKey:
    """The only moment at which the key itself is known."""

    key_id: int
    api_key: str
    prefix: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as lists show it."""

    key_id: int
    name: str | None
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, by which key (None: in local mode), within which limits."""

    user_id: int
    key_id: int | None
    limits: Limits
    last_used_at: datetime | None


def make_token(num_bytes: int) -> str:
    """Random, safe in URLs, and never taken for an option on a command line."""
    token = secrets.token_urlsafe(num_bytes)
    return token if token[0].isalnum() else make_token(num_bytes)


def secret_hmac(secret: bytes, purpose: str, token: str) -> bytes:
    """HMAC-SHA256; a token of one purpose is never good for another."""
    message = f"{purpose}:{token}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).digest()


def add_key(conn: Connection, user_id: int, *, secret: bytes, name: str | None = None) -> NewKey:
    """A further key of this user. NotFound if there is no such user.

    BadRequest if they have as many as a user may.
    """
    get_user(conn, user_id)
    take_turn(conn, user_id)
    _check_number(conn, user_id)
    key = make_token(32)
    values = {
        "user_id": user_id,
        "name": None if name is None else checked_name(name),
        "prefix": key[:PREFIX_CHARS],
        "key_hmac": secret_hmac(secret, "key", key),
    }
    added = insert(api_keys).values(values).returning(api_keys.c.key_id)
    return NewKey(conn.execute(added).scalar_one(), key, key[:PREFIX_CHARS])


def _check_number(conn: Connection, user_id: int) -> None:
    mine = (api_keys.c.user_id == user_id, api_keys.c.revoked_at.is_(None))
    num_keys = conn.execute(select(func.count()).where(*mine)).scalar_one()
    if num_keys >= MAX_KEYS:
        raise BadRequest(
            f"There are {num_keys} keys already, as many as a user may have; revoke one first",
            code="too_many_keys",
        )


def list_keys(
    conn: Connection, user_id: int, *, before: int | None = None, page_size: int = 100
) -> Page[ApiKey]:
    """Newest first, revoked ones too."""
    query = select(*columns_of(ApiKey, api_keys)).where(api_keys.c.user_id == user_id)
    rows = newest_first(conn, query, api_keys.c.key_id, before=before, page_size=page_size)
    return build_page([ApiKey(**row) for row in rows], page_size)


def revoke_key(conn: Connection, user_id: int, key_id: int) -> None:
    """From now on the key is unknown. NotFound if it is already, or not this user's."""
    mine = (api_keys.c.user_id == user_id, api_keys.c.key_id == key_id)
    revoked = update(api_keys).where(*mine, api_keys.c.revoked_at.is_(None))
    if conn.execute(revoked.values(revoked_at=utc_now())).rowcount == 0:
        raise NotFound(f"There is no key {key_id}")


def authenticate(db: Database, secret: bytes, key: str) -> Caller:
    """Who this key belongs to.

    NotAuthenticated if the key is unknown or revoked, NotAllowed if the user is disabled.
    """
    with db.read() as conn:
        caller = find_caller(conn, secret, key)
    if caller is None:
        raise NotAuthenticated("The API key is unknown or revoked", code="invalid_api_key")
    return caller


def find_caller(conn: Connection, secret: bytes, key: str) -> Caller | None:
    """NotAllowed if the key is right but its user is disabled."""
    if len(key) > MAX_KEY_CHARS:
        return None
    wanted = secret_hmac(secret, "key", key)
    matching = [
        row
        for row in _candidates(conn, key[:PREFIX_CHARS])
        if hmac.compare_digest(row["key_hmac"], wanted)
    ]
    if not matching:
        return None
    row = matching[0]
    if row["disabled_at"] is not None:
        raise NotAllowed("This user is disabled", code="user_disabled")
    limits = Limits(**{name: row[name] for name in Limits.__dataclass_fields__})
    return Caller(row["user_id"], row["key_id"], limits, row["last_used_at"])


def note_use(conn: Connection, user_id: int, key_id: int, *, now: datetime) -> None:
    """Set when the key was last used, unless that was noted less than a minute ago."""
    last = api_keys.c.last_used_at
    stale = or_(last.is_(None), last <= now - LAST_USED_EVERY)
    mine = (api_keys.c.user_id == user_id, api_keys.c.key_id == key_id)
    conn.execute(update(api_keys).where(*mine, stale).values(last_used_at=now))


# Built once, as every request runs it.
CANDIDATES = (
    select(
        api_keys.c.key_id,
        api_keys.c.user_id,
        api_keys.c.key_hmac,
        api_keys.c.last_used_at,
        users.c.disabled_at,
        *columns_of(Limits, users),
    )
    .join(users, users.c.user_id == api_keys.c.user_id)
    .where(api_keys.c.prefix == bindparam("prefix"), api_keys.c.revoked_at.is_(None))
)


def _candidates(conn: Connection, prefix: str) -> list[RowMapping]:
    return list(conn.execute(CANDIDATES, {"prefix": prefix}).mappings())
