"""What a voice's name means: to the caller alone, or by the admin's word to everybody."""

from typing import Any

from fastapi import APIRouter, Depends, Request

from qwen3_audio.errors import BadRequest
from qwen3_audio.store.caps import Caps
from qwen3_audio.store.shared_voice_names import (
    delete_shared_name,
    list_shared_names,
    set_shared_name,
)
from qwen3_audio.store.voice_names import VoiceName, delete_name, list_names, set_name
from qwen3_audio.stored_voices import StoredVoices, parse_voice_id
from qwen3_audio.web import library_schemas
from qwen3_audio.web.auth import UserId, require_admin
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.forms import missing
from qwen3_audio.web.routers import OpenAIRouter
from qwen3_audio.web.state import get_service, get_settings, get_store
from qwen3_audio.web.voices import open_fields

router = OpenAIRouter(tags=["voices"], responses=ERRORS)
admin = APIRouter(
    prefix="/admin", tags=["admin"], responses=ERRORS, dependencies=[Depends(require_admin)]
)


@router.get("/v1/audio/voice_names")
def show_names(request: Request, user_id: UserId) -> dict[str, Any]:
    """The names that the caller gave a meaning."""
    with get_store(request).db.read() as conn:
        return _shown(list_names(conn, user_id))


@router.put("/v1/audio/voice_names/{name:path}", **library_schemas.MEANING)
async def put_name(request: Request, name: str, user_id: UserId) -> dict[str, Any]:
    """From now on the name means this voice or speaker, on every route that takes a name."""
    store = get_store(request)
    voice_id, speaker = await _read_target(request)
    caps = Caps(get_settings(request).max_voice_names)

    def change() -> list[VoiceName]:
        with store.db.write() as conn:
            set_name(conn, user_id, name, voice_id=voice_id, speaker=speaker, caps=caps)
            return list_names(conn, user_id)

    return _shown(await get_service(request).books.run(change))


@router.delete("/v1/audio/voice_names/{name:path}")
def remove_name(request: Request, name: str, user_id: UserId) -> dict[str, str]:
    """From now on the name means what it meant before."""
    with get_store(request).db.write() as conn:
        delete_name(conn, user_id, name)
    return {"status": "deleted"}


@admin.get("/voice_names")
def show_shared_names(request: Request) -> dict[str, Any]:
    """The names that mean something to everybody."""
    with get_store(request).db.read() as conn:
        return _shown(list_shared_names(conn))


@admin.put("/voice_names/{name:path}", **library_schemas.MEANING)
async def put_shared_name(request: Request, name: str) -> dict[str, Any]:
    """From now on the name means this speaker, or voice of user 1, to everybody."""
    store = get_store(request)
    voice_id, speaker = await _read_target(request)

    def change() -> list[VoiceName]:
        with store.db.write() as conn:
            set_shared_name(conn, name, voice_id=voice_id, speaker=speaker)
            return list_shared_names(conn)

    return _shown(await get_service(request).books.run(change))


@admin.delete("/voice_names/{name:path}")
def remove_shared_name(request: Request, name: str) -> dict[str, str]:
    """From now on the name means what it meant before."""
    with get_store(request).db.write() as conn:
        delete_shared_name(conn, name)
    return {"status": "deleted"}


async def _read_target(request: Request) -> tuple[int | None, str | None]:
    """The number of a stored voice, or the name of a speaker."""
    async with open_fields(request) as fields:
        voice = (fields.text("voice") or "").strip()
    if not voice:
        raise missing("voice", "send the id of a voice, such as voice_7, or the name of a speaker")
    voice_id = parse_voice_id(voice)
    if voice_id is not None:
        return voice_id, None
    voices = get_service(request).voices
    if isinstance(voices, StoredVoices) and not voices.is_speaker(voice):
        raise BadRequest(
            "voice is neither the id of a voice, such as voice_7, nor the name of a speaker.",
            param="voice",
        )
    return None, voice


def _shown(names: list[VoiceName]) -> dict[str, Any]:
    data = [
        {
            "name": row.name,
            "voice": row.speaker if row.voice_id is None else f"voice_{row.voice_id}",
        }
        for row in names
    ]
    return {"object": "list", "data": data}
