"""Invites: a code exchanged for a key, once, so that the admin never sees the key."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, exists, insert, select, update

from qwen3_audio.errors import BadRequest, NotAllowed, NotFound
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.keys import MAX_KEY_CHARS, NewKey, add_key, make_token, secret_hmac
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import invites, users
from qwen3_audio.store.users import get_user

CODE_BYTES = 18  # 24 characters
DEFAULT_EXPIRES_HOURS = 24
MAX_EXPIRES_HOURS = 24 * 366


@dataclass(frozen=True, slots=True)
class NewInvite:
    """The only moment at which the code itself is known."""

    invite_id: int
    invite_code: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite as lists show it."""

    invite_id: int
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


def add_invite(
    conn: Connection,
    user_id: int,
    *,
    secret: bytes,
    expires_hours: int = DEFAULT_EXPIRES_HOURS,
    now: datetime | None = None,
) -> NewInvite:
    """An invite for this user. NotFound if there is none, BadRequest for odd `expires_hours`."""
    if not 1 <= expires_hours <= MAX_EXPIRES_HOURS:
        raise BadRequest(
            f"expires_hours must be from 1 to {MAX_EXPIRES_HOURS}", param="expires_hours"
        )
    get_user(conn, user_id)
    code, moment = make_token(CODE_BYTES), now or utc_now()
    expires_at = moment + timedelta(hours=expires_hours)
    values = {
        "user_id": user_id,
        "code_hmac": secret_hmac(secret, "invite", code),
        "created_at": moment,
        "expires_at": expires_at,
    }
    added = insert(invites).values(values).returning(invites.c.invite_id)
    return NewInvite(conn.execute(added).scalar_one(), code, expires_at)


def exchange_invite(
    conn: Connection, code: str, *, secret: bytes, now: datetime | None = None
) -> NewKey:
    """A key for the invite's user. Of several at once, one gets it: NotAllowed for the others."""
    moment = now or utc_now()
    code_hmac = secret_hmac(secret, "invite", code[:MAX_KEY_CHARS])
    enabled = exists().where(users.c.user_id == invites.c.user_id, users.c.disabled_at.is_(None))
    used = (
        update(invites)
        .where(
            invites.c.code_hmac == code_hmac,
            invites.c.used_at.is_(None),
            invites.c.revoked_at.is_(None),
            invites.c.expires_at > moment,
            enabled,
        )
        .values(used_at=moment)
        .returning(invites.c.user_id)
    )
    user_id = conn.execute(used).scalar_one_or_none()
    if user_id is None:
        raise NotAllowed(_why_not(conn, code_hmac, moment), code="invalid_invite")
    return add_key(conn, user_id, secret=secret)


def list_invites(
    conn: Connection, user_id: int, *, before: int | None = None, page_size: int = 100
) -> Page[Invite]:
    """Newest first, used and revoked ones too."""
    query = select(*columns_of(Invite, invites)).where(invites.c.user_id == user_id)
    rows = newest_first(conn, query, invites.c.invite_id, before=before, page_size=page_size)
    return build_page([Invite(**row) for row in rows], page_size)


def revoke_invite(conn: Connection, user_id: int, invite_id: int) -> None:
    """From now on the code is refused. NotFound if it was used or revoked already."""
    revoked = update(invites).where(
        invites.c.user_id == user_id,
        invites.c.invite_id == invite_id,
        invites.c.used_at.is_(None),
        invites.c.revoked_at.is_(None),
    )
    if conn.execute(revoked.values(revoked_at=utc_now())).rowcount == 0:
        raise NotFound(f"There is no invite {invite_id} that could be revoked")


def _why_not(conn: Connection, code_hmac: bytes, now: datetime) -> str:
    query = select(invites).where(invites.c.code_hmac == code_hmac)
    row = conn.execute(query).mappings().one_or_none()
    if row is None or row["revoked_at"] is not None:
        return "The invite code is unknown or revoked"
    if row["used_at"] is not None:
        return "The invite code was used already"
    if row["expires_at"] <= now:
        return "The invite code has expired"
    return "The invite's user is disabled"
