"""The voice library in OpenAI's shape: presets and the caller's own voices under one roof."""

from typing import Any

from fastapi import Request, Response
from starlette.datastructures import UploadFile

from qwen3_audio.errors import NotFound, TooLarge
from qwen3_audio.service import SpeechService
from qwen3_audio.store.consents import get_consent
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.opening import Store
from qwen3_audio.store.shared_voice_names import list_shared_names
from qwen3_audio.store.voice_names import list_names
from qwen3_audio.store.voices import (
    Voice,
    VoiceKind,
    delete_voice,
    find_voice_by_name,
    get_voice,
    list_voices,
    rename_voice,
)
from qwen3_audio.stored_voices import parse_voice_id
from qwen3_audio.voice_library import (
    AUTO,
    CloneForm,
    DesignForm,
    MadeVoice,
    clone_voice,
    design_voice,
)
from qwen3_audio.web import library_schemas
from qwen3_audio.web.addresses import parse_tagged_id
from qwen3_audio.web.auth import DiscoveringUserId, PayingCaller, UserId
from qwen3_audio.web.connection import while_connected
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.forms import Fields, bad_value, missing
from qwen3_audio.web.models import preset, preset_voices
from qwen3_audio.web.routers import OpenAIRouter
from qwen3_audio.web.state import get_service, get_store
from qwen3_audio.web.voices import open_fields, sample_response

MAX_SAMPLE_BYTES = 10 * 1024**2
TYPES = {VoiceKind.CLONE: "audio_sample", VoiceKind.DESIGN: "prompt"}

router = OpenAIRouter(tags=["voices"], responses=ERRORS)


@router.get("/v1/audio/voices")
def show_voices(request: Request, user_id: DiscoveringUserId) -> dict[str, Any]:
    """The voices that a request may name; `?names_only=true` gives bare names under `voices`."""
    own, has_more = _own(get_service(request), user_id)
    voices = [*_presets(request, user_id), *own]
    words = {request.query_params.get(name, "").lower() for name in ("names_only", "legacy")}
    is_bare = bool(words & {"true", "1", "yes"})
    return {
        "object": "list",
        "data": voices,
        "voices": [voice["name"] for voice in voices] if is_bare else voices,
        "uploaded_voices": own,
        "has_more": has_more,
    }


@router.post("/v1/audio/voices", **library_schemas.NEW_VOICE)
async def make(request: Request, caller: PayingCaller) -> dict[str, Any]:
    """Keep a voice made from a recording, or from a prompt that describes it."""
    service, store = get_service(request), get_store(request)
    async with open_fields(request) as fields:
        kind = fields.choice("type", tuple(TYPES.values()), _likely_type(fields))
        work = _design if kind == TYPES[VoiceKind.DESIGN] else _clone
        made = await while_connected(request, work(service, store, caller, fields))
    voice = await service.books.run(lambda: _get(store, caller.user_id, made.voice_id))
    answer = _shown(voice)
    return answer if made.warning is None else answer | {"warning": made.warning}


@router.get("/v1/audio/voices/{voice}")
def show_voice(request: Request, voice: str, user_id: UserId) -> dict[str, Any]:
    """One of the caller's voices, by its id or its name."""
    store = get_store(request)
    return _shown(_get(store, user_id, _find(store, user_id, voice)))


@router.post("/v1/audio/voices/{voice}", **library_schemas.RENAMED)
async def rename(request: Request, voice: str, user_id: UserId) -> dict[str, Any]:
    """Give it another name."""
    store = get_store(request)
    async with open_fields(request) as fields:
        name = _required(fields, "name", "send the new name")

    def change() -> Voice:
        voice_id = _find(store, user_id, voice)
        with store.db.write() as conn:
            rename_voice(conn, user_id, voice_id, name=name)
            return get_voice(conn, user_id, voice_id)

    return _shown(await get_service(request).books.run(change))


@router.delete("/v1/audio/voices/{voice}")
def delete(request: Request, voice: str, user_id: UserId) -> dict[str, Any]:
    """Delete it; the second time it is not found."""
    store = get_store(request)
    voice_id = _find(store, user_id, voice)
    with store.db.write() as conn:
        files = delete_voice(conn, user_id, voice_id)
    store.blobs.remove(store.db, files)
    return {"id": f"voice_{voice_id}", "object": "audio.voice.deleted", "deleted": True}


@router.get("/v1/audio/voices/{voice}/sample", **library_schemas.SAMPLE)
def get_sample(request: Request, voice: str, user_id: UserId) -> Response:
    """The reference that it speaks like."""
    store = get_store(request)
    return sample_response(request, store, _get(store, user_id, _find(store, user_id, voice)))


def _likely_type(fields: Fields) -> str:
    is_design = fields.find("audio_sample") is None and fields.find("prompt") is not None
    return TYPES[VoiceKind.DESIGN if is_design else VoiceKind.CLONE]


async def _clone(service: SpeechService, store: Store, caller: Caller, fields: Fields) -> MadeVoice:
    given = fields.find("audio_sample")
    audio = fields.upload("audio_sample")
    if audio is None:
        raise missing("audio_sample", "upload the recording as a form's file")
    size_bytes = given.size if isinstance(given, UploadFile) else len(str(given)) * 3 // 4
    if (size_bytes or 0) > MAX_SAMPLE_BYTES:
        raise TooLarge("audio_sample is larger than 10 MiB, the limit here.", param="audio_sample")
    consent_id = None
    consent = fields.text("consent")
    if consent:
        consent_id = _consent_number(consent)
        await service.books.run(lambda: _check_consent(store, caller.user_id, consent_id))
    form = CloneForm(
        name=_required(fields, "name", "call the voice something"),
        audio=audio,
        transcript=fields.text("ref_text") or AUTO,
        language=fields.text("language"),
        consent_id=consent_id,
        audio_param="audio_sample",
        transcript_param="ref_text",
    )
    return await clone_voice(service, store, caller, form)


async def _design(
    service: SpeechService, store: Store, caller: Caller, fields: Fields
) -> MadeVoice:
    form = DesignForm(
        name=_required(fields, "name", "call the voice something"),
        description=_required(fields, "prompt", "say how the voice sounds"),
        language=fields.text("language"),
        seed=fields.whole("seed"),
        description_param="prompt",
    )
    return await design_voice(service, store, caller, form)


def _consent_number(text: str) -> int:
    """In an address, what is no number is not there; in a body it does not fit."""
    try:
        return parse_tagged_id(text, "cons", what="consent")
    except NotFound:
        raise bad_value("consent", "the id of a consent, such as cons_7") from None


def _check_consent(store: Store, user_id: int, consent_id: int) -> None:
    with store.db.read() as conn:
        get_consent(conn, user_id, consent_id)


def _find(store: Store, user_id: int, voice: str) -> int:
    """The number of a voice that is called by its id or its name."""
    voice_id = parse_voice_id(voice)
    if voice_id is None:
        with store.db.read() as conn:
            voice_id = find_voice_by_name(conn, user_id, voice)
    if voice_id is None:
        raise NotFound(f"There is no voice {voice[:60]!r} of yours.", code="voice_not_found")
    return voice_id


def _get(store: Store, user_id: int, voice_id: int) -> Voice:
    with store.db.read() as conn:
        return get_voice(conn, user_id, voice_id)


def _presets(request: Request, user_id: int | None) -> list[dict[str, Any]]:
    """The checkpoint's speakers, OpenAI's names, and names that somebody gave a meaning."""
    service = get_service(request)
    described = dict(preset_voices(service.backend))
    if service.store is not None:
        with service.store.db.read() as conn:
            shared = list_shared_names(conn)
            own = [] if user_id is None else list_names(conn, user_id)
        described |= {row.name: "A name that means a voice to everybody here" for row in shared}
        described |= {row.name: "A name that you gave a meaning" for row in own}
    created_at = request.app.state.started_at
    return [preset(name, text, created_at) for name, text in described.items()]


def _own(service: SpeechService, user_id: int | None) -> tuple[list[dict[str, Any]], bool]:
    """The caller's voices, and whether there are more than a page of them."""
    if service.store is None or user_id is None:
        return [], False
    with service.store.db.read() as conn:
        page = list_voices(conn, user_id)
    return [_shown(voice) for voice in page.items], page.has_more


def _shown(voice: Voice) -> dict[str, Any]:
    voice_id = f"voice_{voice.voice_id}"
    shown = {
        "id": voice_id,
        "object": "audio.voice",
        "created_at": int(voice.created_at.timestamp()),
        "name": voice.name,
        "type": TYPES[VoiceKind(voice.kind)],
        "description": voice.description or "One of your voices",
        "language": voice.language,
        "languages": [] if voice.language == AUTO else [voice.language],
        "ref_text": voice.ref_text,
        "preview_url": f"/v1/audio/voices/{voice_id}/sample",
    }
    return shown if voice.description is None else shown | {"prompt": voice.description}


def _required(fields: Fields, name: str, wish: str) -> str:
    value = fields.text(name)
    if value is None:
        raise missing(name, wish)
    if not value.strip():
        raise bad_value(name, "more than white space")
    return value
