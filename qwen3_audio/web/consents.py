"""Recordings in which somebody agrees to the use of their voice, in OpenAI's shape."""

from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.errors import TooLarge
from qwen3_audio.store.caps import Caps
from qwen3_audio.store.consents import (
    Consent,
    NewConsent,
    add_consent,
    delete_consent,
    get_consent,
    list_consents,
    rename_consent,
)
from qwen3_audio.types import LISTEN_RATE_HZ
from qwen3_audio.web import library_schemas
from qwen3_audio.web.addresses import parse_tagged_id
from qwen3_audio.web.auth import CallerNow, UserId
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.forms import Fields, bad_value, missing
from qwen3_audio.web.routers import OpenAIRouter
from qwen3_audio.web.state import get_service, get_settings, get_store
from qwen3_audio.web.voices import open_fields

MAX_RECORDING_BYTES = 10 * 1024**2
MAX_RECORDING_S = 600
DEFAULT_PAGE, MAX_PAGE = 20, 100
MAX_LANGUAGE_CHARS = 35

router = OpenAIRouter(tags=["voices"], responses=ERRORS)


@router.post("/v1/audio/voice_consents", **library_schemas.NEW_CONSENT)
async def make(request: Request, caller: CallerNow) -> dict[str, Any]:
    """Keep a recording of consent."""
    store = get_store(request)
    async with open_fields(request) as fields:
        name = _required(fields, "name")
        language = _required(fields, "language")
        if len(language) > MAX_LANGUAGE_CHARS:
            raise bad_value("language", "a language tag such as en-US")
        recording = fields.find("recording")
        if not isinstance(recording, UploadFile):
            raise missing("recording", "upload the recording as a form's file")
        data = await recording.read(MAX_RECORDING_BYTES + 1)
        if len(data) > MAX_RECORDING_BYTES:
            raise TooLarge("recording is larger than 10 MiB, the limit here.", param="recording")
        if not data:
            raise bad_value("recording", "a file that is not empty")
        await get_service(request).on_decoder(lambda: _check_sound(data))

    settings = get_settings(request)
    caps = Caps(settings.max_consents, settings.max_consent_mb * 1024**2)

    def keep() -> Consent:
        with store.blobs.staged(store.db, data) as (staged,), store.db.write() as conn:
            store.blobs.keep(conn, caller.user_id, [staged])
            new = NewConsent(name, language, staged.sha256, recording.content_type)
            return add_consent(conn, caller.user_id, new, caps=caps)

    return _shown(await get_service(request).books.run(keep))


@router.get("/v1/audio/voice_consents")
def show_all(
    request: Request, user_id: UserId, after: str | None = None, limit: str | None = None
) -> dict[str, Any]:
    """Newest first; `after` is the id of the last one seen."""
    num_shown = Fields([("limit", limit)]).whole("limit")
    if num_shown is not None and not 1 <= num_shown <= MAX_PAGE:
        raise bad_value("limit", f"a number from 1 to {MAX_PAGE}")
    before = None if after is None else parse_tagged_id(after, "cons", what="consent")
    with get_store(request).db.read() as conn:
        page = list_consents(conn, user_id, before=before, page_size=num_shown or DEFAULT_PAGE)
    data = [_shown(consent) for consent in page.items]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


@router.get("/v1/audio/voice_consents/{consent_id}")
def show(request: Request, consent_id: str, user_id: UserId) -> dict[str, Any]:
    """One of them."""
    number = parse_tagged_id(consent_id, "cons", what="consent")
    with get_store(request).db.read() as conn:
        return _shown(get_consent(conn, user_id, number))


@router.post("/v1/audio/voice_consents/{consent_id}", **library_schemas.RENAMED)
async def rename(request: Request, consent_id: str, user_id: UserId) -> dict[str, Any]:
    """Give it another name."""
    store = get_store(request)
    number = parse_tagged_id(consent_id, "cons", what="consent")
    async with open_fields(request) as fields:
        name = _required(fields, "name")

    def change() -> Consent:
        with store.db.write() as conn:
            return rename_consent(conn, user_id, number, name=name)

    return _shown(await get_service(request).books.run(change))


@router.delete("/v1/audio/voice_consents/{consent_id}")
def delete(request: Request, consent_id: str, user_id: UserId) -> dict[str, Any]:
    """Delete it; voices that were made with it stay."""
    store = get_store(request)
    number = parse_tagged_id(consent_id, "cons", what="consent")
    with store.db.write() as conn:
        files = delete_consent(conn, user_id, number)
    store.blobs.remove(store.db, files)
    return {"id": f"cons_{number}", "object": "audio.voice_consent", "deleted": True}


def _check_sound(data: bytes) -> None:
    """BadRequest for what nobody could listen to later."""
    samples = decode_audio(
        data, sample_rate_hz=LISTEN_RATE_HZ, max_seconds=MAX_RECORDING_S, param="recording"
    )
    if not len(samples):
        raise bad_value("recording", "a file with sound in it")


def _required(fields: Fields, name: str) -> str:
    value = (fields.text(name) or "").strip()
    if not value:
        raise missing(name, "send it as a field of the form")
    return value


def _shown(consent: Consent) -> dict[str, Any]:
    return {
        "id": f"cons_{consent.consent_id}",
        "object": "audio.voice_consent",
        "created_at": int(consent.created_at.timestamp()),
        "language": consent.language,
        "name": consent.name,
    }
