"""The voices that users keep: made from a recording or a description, listed, heard, deleted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from qwen3_audio.store.opening import Store
from qwen3_audio.store.pages import MAX_PAGE
from qwen3_audio.store.voices import Voice, delete_voice, get_voice, list_voices
from qwen3_audio.voice_library import (
    CloneForm,
    DesignForm,
    MadeVoice,
    clone_voice,
    design_voice,
)
from qwen3_audio.web import library_schemas
from qwen3_audio.web.addresses import path_id, read_page
from qwen3_audio.web.auth import PayingCaller, UserId
from qwen3_audio.web.connection import while_connected
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.forms import Fields, bad_value, missing, read_fields
from qwen3_audio.web.kept_sounds import percent_encoded, sound_response
from qwen3_audio.web.state import get_service, get_store

router = APIRouter(tags=["voices"], responses=ERRORS)


@router.post("/clonevoice", **library_schemas.CLONE)
async def clone(request: Request, caller: PayingCaller) -> dict[str, Any]:
    """Keep a recording as a voice."""
    store = get_store(request)
    async with open_fields(request) as fields:
        if fields.count("file") > 1:
            raise bad_value("file", "one recording")
        audio = fields.upload("file")
        if audio is None:
            raise missing("file", "upload the recording as a form's file")
        form = CloneForm(
            name=_required(fields, "name", "call the voice something"),
            audio=audio,
            transcript=_required(fields, "transcript", "send what is said, or auto"),
            language=fields.text("language"),
        )
        made = await while_connected(
            request, clone_voice(get_service(request), store, caller, form)
        )
    return _made(made)


@router.post("/designvoice", **library_schemas.DESIGN)
async def design(request: Request, caller: PayingCaller) -> dict[str, Any]:
    """Keep a voice that a description makes."""
    store = get_store(request)
    async with open_fields(request, may_trail=True) as fields:
        form = DesignForm(
            name=_required(fields, "name", "call the voice something"),
            description=_required(fields, "description", "say how the voice sounds"),
            language=fields.text("language"),
            seed=fields.whole("seed"),
        )
        made = await while_connected(
            request, design_voice(get_service(request), store, caller, form)
        )
    return _made(made)


@router.get("/voices")
def show_voices(
    request: Request, user_id: UserId, before: str | None = None, limit: str | None = None
) -> list[dict[str, Any]]:
    """The caller's voices, newest first."""
    last, num_shown = read_page(before, limit, default=MAX_PAGE)
    with get_store(request).db.read() as conn:
        page = list_voices(conn, user_id, before=last, page_size=num_shown)
    return [_summary(voice) for voice in page.items]


@router.get("/voices/{voice_id}")
def show_voice(request: Request, voice_id: str, user_id: UserId) -> dict[str, Any]:
    """One of them, with its transcript and description."""
    voice = find_voice(get_store(request), user_id, voice_id)
    more = {
        "ref_text": voice.ref_text,
        "voice_description": voice.description,
        "kind": voice.kind,
        "duration_s": voice.reference_ms / 1000,
    }
    return _summary(voice) | more


@router.get("/voices/{voice_id}/sample", **library_schemas.SAMPLE)
def get_sample(request: Request, voice_id: str, user_id: UserId) -> Response:
    """The recording as 16-bit WAV; what is said in it is in `X-Transcript`."""
    store = get_store(request)
    return sample_response(request, store, find_voice(store, user_id, voice_id))


@router.post("/voices/{voice_id}/delete")
def delete_by_post(request: Request, voice_id: str, user_id: UserId) -> dict[str, str]:
    """Delete a voice; sounds that others keep too stay theirs."""
    remove_voice(get_store(request), user_id, voice_id)
    return {"status": "deleted"}


@router.delete("/voices/{voice_id}")
def delete(request: Request, voice_id: str, user_id: UserId) -> dict[str, str]:
    """The same."""
    remove_voice(get_store(request), user_id, voice_id)
    return {"status": "deleted"}


@asynccontextmanager
async def open_fields(request: Request, *, may_trail: bool = False) -> AsyncIterator[Fields]:
    """The fields of the body, while they are needed."""
    fields = await read_fields(request, may_trail=may_trail)
    try:
        yield fields
    finally:
        fields.close()


def find_voice(store: Store, user_id: int, voice_id: str) -> Voice:
    with store.db.read() as conn:
        return get_voice(conn, user_id, path_id(voice_id, "voice"))


def remove_voice(store: Store, user_id: int, voice_id: str) -> None:
    with store.db.write() as conn:
        files = delete_voice(conn, user_id, path_id(voice_id, "voice"))
    store.blobs.remove(store.db, files)


def sample_response(request: Request, store: Store, voice: Voice) -> Response:
    transcript = percent_encoded(voice.ref_text)
    return sound_response(
        request,
        store.blobs.read(voice.reference_sha256),
        sha256=voice.reference_sha256,
        media_type="audio/wav",
        filename=f"{voice.name}_sample.wav",
        headers={} if transcript is None else {"X-Transcript": transcript},
    )


def _required(fields: Fields, name: str, wish: str) -> str:
    value = fields.text(name)
    if value is None:
        raise missing(name, wish)
    return value


def _made(made: MadeVoice) -> dict[str, Any]:
    answer: dict[str, Any] = {"voice_id": made.voice_id, "tokens_used": made.tokens}
    if made.transcript_error_rate is not None:
        answer["transcript_error_rate"] = made.transcript_error_rate
    if made.warning is not None:
        answer["warning"] = made.warning
    return answer


def _summary(voice: Voice) -> dict[str, Any]:
    return {
        "voice_id": voice.voice_id,
        "name": voice.name,
        "created_at": voice.created_at.isoformat(),
        "use_count": voice.use_count,
        "language": voice.language,
    }
