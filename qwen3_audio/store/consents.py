"""Consents: recordings in which somebody agrees to the use of their voice."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from qwen3_audio.errors import NotFound
from qwen3_audio.store.blob_rows import release
from qwen3_audio.store.caps import UNLIMITED, Caps, check_caps, take_turn
from qwen3_audio.store.names import checked_name
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import blobs, consents


@dataclass(frozen=True, slots=True)
class NewConsent:
    """Its recording is kept in the same transaction."""

    name: str
    language: str  # BCP-47, as it came
    recording_sha256: str
    recording_type: str | None = None  # content type


@dataclass(frozen=True, slots=True)
class Consent:
    consent_id: int
    name: str
    language: str
    recording_sha256: str
    recording_type: str | None
    created_at: datetime


def add_consent(
    conn: Connection, user_id: int, new: NewConsent, *, caps: Caps = UNLIMITED
) -> Consent:
    """LimitReached if the user would have more consents or bytes than allowed."""
    take_turn(conn, user_id)
    values = {**asdict(new), "user_id": user_id, "name": checked_name(new.name)}
    added = insert(consents).values(values).returning(*columns_of(Consent, consents))
    consent = Consent(**conn.execute(added).mappings().one())
    number, num_bytes = kept_consents(conn, user_id)
    check_caps(caps, what="consents", number=number, num_bytes=num_bytes)
    return consent


def kept_consents(conn: Connection, user_id: int) -> tuple[int, int]:
    """How many consents the user has, and how many bytes their recordings take."""
    sizes = func.coalesce(func.sum(blobs.c.size_bytes), 0)
    found = consents.join(blobs, blobs.c.sha256 == consents.c.recording_sha256)
    query = select(func.count(), sizes).select_from(found).where(consents.c.user_id == user_id)
    number, num_bytes = conn.execute(query).one()
    return int(number), int(num_bytes)


def get_consent(conn: Connection, user_id: int, consent_id: int) -> Consent:
    query = select(*columns_of(Consent, consents)).where(*_mine(user_id, consent_id))
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_consent(consent_id)
    return Consent(**row)


def list_consents(
    conn: Connection, user_id: int, *, before: int | None = None, page_size: int = 20
) -> Page[Consent]:
    """Newest first, those below consent `before`."""
    query = select(*columns_of(Consent, consents)).where(consents.c.user_id == user_id)
    rows = newest_first(conn, query, consents.c.consent_id, before=before, page_size=page_size)
    return build_page([Consent(**row) for row in rows], page_size)


def rename_consent(conn: Connection, user_id: int, consent_id: int, *, name: str) -> Consent:
    renamed = update(consents).where(*_mine(user_id, consent_id)).values(name=checked_name(name))
    if conn.execute(renamed).rowcount == 0:
        raise _no_consent(consent_id)
    return get_consent(conn, user_id, consent_id)


def delete_consent(conn: Connection, user_id: int, consent_id: int) -> list[str]:
    """Voices made with it stay. Gives back the files for `Blobs.remove` after the commit."""
    removed = delete(consents).where(*_mine(user_id, consent_id))
    row = conn.execute(removed.returning(consents.c.recording_sha256)).one_or_none()
    if row is None:
        raise _no_consent(consent_id)
    return release(conn, [row[0]])


def _mine(user_id: int, consent_id: int) -> tuple[ColumnElement[bool], ...]:
    return consents.c.user_id == user_id, consents.c.consent_id == consent_id


def _no_consent(consent_id: int) -> NotFound:
    return NotFound(f"There is no consent {consent_id}")
