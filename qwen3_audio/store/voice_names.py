"""A user's own meaning of a voice's name: one of their voices, or a speaker."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from qwen3_audio.errors import BadRequest, NotFound
from qwen3_audio.store.caps import UNLIMITED, Caps, check_caps, take_turn
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.names import checked_name, name_key
from qwen3_audio.store.tables import LOCAL_USER_ID, shared_names, voice_names
from qwen3_audio.store.upserts import put
from qwen3_audio.store.voices import get_voice


@dataclass(frozen=True, slots=True)
class NameTarget:
    """What a name stands for: exactly one of the two; a shared name's voice is user 1's."""

    voice_id: int | None = None
    speaker: str | None = None
    owner_id: int | None = None  # of the voice: whom to ask `get_voice_to_speak` for

    def __post_init__(self) -> None:
        if (self.voice_id is None) == (self.speaker is None):
            raise BadRequest("A name stands for either a voice or a speaker", param="voice")


@dataclass(frozen=True, slots=True)
class VoiceName:
    name: str
    voice_id: int | None
    speaker: str | None


def set_name(
    conn: Connection,
    user_id: int,
    name: str,
    *,
    voice_id: int | None = None,
    speaker: str | None = None,
    caps: Caps = UNLIMITED,
) -> None:
    """From now on the name means this, in any case; NotFound for somebody else's voice.

    LimitReached for one more name than allowed.
    """
    target = NameTarget(voice_id, speaker)
    if target.voice_id is not None:
        get_voice(conn, user_id, target.voice_id)
    take_turn(conn, user_id)
    num_before = _num_names(conn, user_id)
    shown = checked_name(name)
    values = {"name": shown, "voice_id": voice_id, "speaker": speaker, "created_at": utc_now()}
    put(conn, voice_names, key={"user_id": user_id, "name_key": name_key(shown)}, values=values)
    num_names = _num_names(conn, user_id)
    if num_names > num_before:  # a name that had a meaning may have another one at any time
        check_caps(caps, what="voice names", number=num_names)


def _num_names(conn: Connection, user_id: int) -> int:
    mine = select(func.count()).where(voice_names.c.user_id == user_id)
    return int(conn.execute(mine).scalar_one())


def find_target(conn: Connection, user_id: int, name: str) -> NameTarget | None:
    """The user's own meaning of the name, else the one for everybody, else None."""
    own = select(voice_names.c.voice_id, voice_names.c.speaker).where(
        voice_names.c.user_id == user_id, voice_names.c.name_key == name_key(name)
    )
    shared = select(shared_names.c.voice_id, shared_names.c.speaker).where(
        shared_names.c.name_key == name_key(name)
    )
    for query, owner_id in ((own, user_id), (shared, LOCAL_USER_ID)):
        row = conn.execute(query).one_or_none()
        if row is not None:
            voice_id, speaker = row
            return NameTarget(voice_id, speaker, None if voice_id is None else owner_id)
    return None


def list_names(conn: Connection, user_id: int) -> list[VoiceName]:
    """The user's own names, in order."""
    shown = select(voice_names.c.name, voice_names.c.voice_id, voice_names.c.speaker)
    query = shown.where(voice_names.c.user_id == user_id).order_by(voice_names.c.name_key)
    return [VoiceName(*row) for row in conn.execute(query)]


def delete_name(conn: Connection, user_id: int, name: str) -> None:
    """From now on the name means what it meant before."""
    mine = (voice_names.c.user_id == user_id, voice_names.c.name_key == name_key(name))
    if conn.execute(delete(voice_names).where(*mine)).rowcount == 0:
        raise NotFound("There is no such name of yours")
