"""Voices. Every function takes the owner: there is no way to ask for somebody else's."""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from qwen3_audio.errors import NotFound
from qwen3_audio.store.blob_rows import release
from qwen3_audio.store.caps import UNLIMITED, Caps, check_caps, take_turn
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.consents import get_consent
from qwen3_audio.store.names import checked_name, name_key
from qwen3_audio.store.pages import Page, build_page, columns_of, newest_first
from qwen3_audio.store.tables import blobs, shared_names, voice_names, voices
from qwen3_audio.store.usage import add_usage


class VoiceKind(StrEnum):
    """Made from a recording, or from a description."""

    CLONE = "clone"
    DESIGN = "design"


@dataclass(frozen=True, slots=True)
class NewVoice:
    """A voice that is complete: its reference is kept in the same transaction."""

    name: str
    kind: VoiceKind
    language: str
    ref_text: str
    reference_sha256: str  # of the WAV file that the sample route gives
    reference_ms: int
    prompt: bytes | None = None  # safetensors
    model_fingerprint: str | None = None  # of the checkpoint that made the prompt
    description: str | None = None
    upload_sha256: str | None = None  # of the bytes as they came
    consent_id: int | None = None
    tokens: int = 0  # charged
    key_id: int | None = None


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as lists and details show it."""

    voice_id: int
    name: str
    kind: str
    language: str
    ref_text: str
    description: str | None
    reference_sha256: str
    reference_ms: int
    consent_id: int | None
    created_at: datetime
    use_count: int


@dataclass(frozen=True, slots=True)
class VoiceToSpeak:
    """What speaking with a voice needs; the prompt is made anew if another checkpoint runs."""

    voice_id: int
    name: str
    language: str
    ref_text: str
    reference_sha256: str
    prompt: bytes | None
    model_fingerprint: str | None


def add_voice(conn: Connection, user_id: int, new: NewVoice, *, caps: Caps = UNLIMITED) -> int:
    """Add a voice and book what it cost. NotFound for somebody else's consent.

    LimitReached if the user would have more voices or bytes than allowed.
    """
    name = checked_name(new.name)
    if new.consent_id is not None:
        get_consent(conn, user_id, new.consent_id)
    take_turn(conn, user_id)
    values = {
        field.name: getattr(new, field.name) for field in fields(NewVoice) if field.name != "key_id"
    }
    values |= {"user_id": user_id, "name": name, "name_key": name_key(name)}
    added = insert(voices).values(values).returning(voices.c.voice_id)
    voice_id = int(conn.execute(added).scalar_one())
    num_voices, num_bytes = kept_voices(conn, user_id)
    check_caps(caps, what="voices", number=num_voices, num_bytes=num_bytes)
    counters = {"voices_created": 1, "tokens_voices": new.tokens}
    add_usage(conn, user_id, key_id=new.key_id, counters=counters)
    return voice_id


def get_voice(conn: Connection, user_id: int, voice_id: int) -> Voice:
    query = select(*columns_of(Voice, voices)).where(*_mine(user_id, voice_id))
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_voice(voice_id)
    return Voice(**row)


def get_voice_to_speak(conn: Connection, user_id: int, voice_id: int) -> VoiceToSpeak:
    query = select(*columns_of(VoiceToSpeak, voices)).where(*_mine(user_id, voice_id))
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_voice(voice_id)
    return VoiceToSpeak(**row)


def find_voice_by_name(conn: Connection, user_id: int, name: str) -> int | None:
    """The newest of the user's voices with this name; in its own spelling before any other."""
    query = (
        select(voices.c.voice_id)
        .where(*_living(user_id), voices.c.name_key == name_key(name))
        .order_by((voices.c.name == name.strip()).desc(), voices.c.voice_id.desc())
        .limit(1)
    )
    return conn.execute(query).scalar_one_or_none()


def list_voices(
    conn: Connection, user_id: int, *, before: int | None = None, page_size: int = 1000
) -> Page[Voice]:
    """Newest first, those below voice `before`."""
    query = select(*columns_of(Voice, voices)).where(*_living(user_id))
    rows = newest_first(conn, query, voices.c.voice_id, before=before, page_size=page_size)
    return build_page([Voice(**row) for row in rows], page_size)


def rename_voice(conn: Connection, user_id: int, voice_id: int, *, name: str) -> None:
    new = checked_name(name)
    renamed = update(voices).where(*_mine(user_id, voice_id))
    if conn.execute(renamed.values(name=new, name_key=name_key(new))).rowcount == 0:
        raise _no_voice(voice_id)


def set_prompt(
    conn: Connection, user_id: int, voice_id: int, *, prompt: bytes, model_fingerprint: str
) -> None:
    """Replace the prompt by one that the loaded checkpoint made of the same reference."""
    changed = update(voices).where(*_mine(user_id, voice_id))
    values = {"prompt": prompt, "model_fingerprint": model_fingerprint}
    if conn.execute(changed.values(values)).rowcount == 0:
        raise _no_voice(voice_id)


def add_uses(conn: Connection, user_id: int, voice_id: int, *, num_texts: int) -> None:
    """Count texts spoken with the voice; none if it was deleted meanwhile."""
    counted = update(voices).where(*_mine(user_id, voice_id))
    conn.execute(counted.values(use_count=voices.c.use_count + num_texts))


def delete_voice(conn: Connection, user_id: int, voice_id: int) -> list[str]:
    """Keep only the number and the name of it; of two at once, the second gets NotFound.

    Gives back the files for `Blobs.remove` after the commit.
    """
    mine = _mine(user_id, voice_id)
    found = select(voices.c.reference_sha256).where(*mine).with_for_update()
    row = conn.execute(found).one_or_none()
    if row is None:
        raise _no_voice(voice_id)
    emptied = ("ref_text", "description", "reference_sha256", "upload_sha256", "prompt")
    values = {
        **dict.fromkeys((*emptied, "model_fingerprint", "consent_id")),
        "deleted_at": utc_now(),
    }
    conn.execute(update(voices).where(*mine).values(values))
    for names in (voice_names, shared_names):
        conn.execute(delete(names).where(names.c.voice_id == voice_id))
    return release(conn, [row[0]])


def kept_voices(conn: Connection, user_id: int) -> tuple[int, int]:
    """How many voices the user has, and how many bytes their references and prompts take."""
    sizes = func.coalesce(blobs.c.size_bytes, 0) + func.coalesce(func.length(voices.c.prompt), 0)
    query = (
        select(func.count(), func.coalesce(func.sum(sizes), 0))
        .select_from(voices.outerjoin(blobs, blobs.c.sha256 == voices.c.reference_sha256))
        .where(*_living(user_id))
    )
    num_voices, num_bytes = conn.execute(query).one()
    return int(num_voices), int(num_bytes)


def _living(user_id: int) -> tuple[ColumnElement[bool], ...]:
    return voices.c.user_id == user_id, voices.c.deleted_at.is_(None)


def _mine(user_id: int, voice_id: int) -> tuple[ColumnElement[bool], ...]:
    return *_living(user_id), voices.c.voice_id == voice_id


def _no_voice(voice_id: int) -> NotFound:
    return NotFound(f"There is no voice {voice_id}", code="voice_not_found")
