"""The admin's meaning of a voice's name, for everybody: a speaker, or a voice of user 1."""

from sqlalchemy import Connection, delete, select

from qwen3_audio.errors import NotFound
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.names import checked_name, name_key
from qwen3_audio.store.tables import LOCAL_USER_ID, shared_names
from qwen3_audio.store.upserts import put
from qwen3_audio.store.voice_names import NameTarget, VoiceName
from qwen3_audio.store.voices import get_voice


def set_shared_name(
    conn: Connection, name: str, *, voice_id: int | None = None, speaker: str | None = None
) -> None:
    """From now on the name means this to everybody who gave it no meaning of their own."""
    target = NameTarget(voice_id, speaker)
    if target.voice_id is not None:
        get_voice(conn, LOCAL_USER_ID, target.voice_id)
    shown = checked_name(name)
    values = {"name": shown, "voice_id": voice_id, "speaker": speaker, "created_at": utc_now()}
    put(conn, shared_names, key={"name_key": name_key(shown)}, values=values)


def list_shared_names(conn: Connection) -> list[VoiceName]:
    """All of them, in order."""
    shown = select(shared_names.c.name, shared_names.c.voice_id, shared_names.c.speaker)
    query = shown.order_by(shared_names.c.name_key)
    return [VoiceName(*row) for row in conn.execute(query)]


def delete_shared_name(conn: Connection, name: str) -> None:
    removed = delete(shared_names).where(shared_names.c.name_key == name_key(name))
    if conn.execute(removed).rowcount == 0:
        raise NotFound("There is no such shared name")
