"""Document 2's speech: one text, many texts as a ZIP, and what was kept of them."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from qwen3_audio.audio.formats import FORMATS, AudioFormat
from qwen3_audio.batch_synthesis import BatchItem, SpokenBatch, speak_batch
from qwen3_audio.errors import BadRequest
from qwen3_audio.store.columns import HIGHEST_ID
from qwen3_audio.store.generations import (
    Generation,
    delete_stored,
    get_generation,
    get_stored,
    list_generations,
)
from qwen3_audio.stored_voices import StoredVoices
from qwen3_audio.synthesis import StartedText, VoiceForm, speak_text, stream_text
from qwen3_audio.web import library_schemas
from qwen3_audio.web.addresses import path_id, read_page
from qwen3_audio.web.auth import PayingCaller, UserId
from qwen3_audio.web.connection import LiveResponse, while_connected
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.forms import Fields, bad_value, missing
from qwen3_audio.web.kept_sounds import sound_response
from qwen3_audio.web.state import get_service, get_store
from qwen3_audio.web.voices import open_fields

router = APIRouter(tags=["speech"], responses=ERRORS)

PAGE = 100
PACKED = zipfile.ZIP_DEFLATED
R = TypeVar("R", bound=Response)


@router.post("/tts", **library_schemas.TTS)
async def speak(request: Request, caller: PayingCaller) -> Response:
    """Speak one text with a stored voice; answers when the work is done, or begins to.

    The latter with `stream`.
    """
    voices = get_voices(request)
    async with open_fields(request) as fields:
        text = fields.text("text")
        if text is None:
            raise missing("text", "send the text to speak")
        form = read_voice_form(fields)
        is_streamed = fields.flag("stream")
    if is_streamed:
        pieces = stream_text(get_service(request), voices, caller, text, form)
        return await while_connected(request, begin_stream(pieces, form))
    work = speak_text(get_service(request), voices, caller, text, form)
    spoken = await while_connected(request, work)
    headers = {
        "X-Generation-Id": str(spoken.generation_id),
        "X-Tokens-Used": str(spoken.tokens),
        "X-Latency-Ms": str(spoken.latency_ms),
        "X-Seed": str(spoken.seed),
        "X-Finish-Reason": spoken.finish_reason,
    }
    response = Response(spoken.data, media_type=form.format.content_type)
    return as_file(response, f"tts.{form.format.extension}", headers)


async def begin_stream(
    pieces: AsyncGenerator[StartedText | bytes], form: VoiceForm
) -> LiveResponse:
    """Errors up to the first sound are raised; the rest is made while it is sent."""
    started = await anext(pieces)
    assert isinstance(started, StartedText)
    response = LiveResponse(
        _only_bytes(pieces), close=pieces.aclose, media_type=form.format.content_type, headers={}
    )
    headers = {
        "X-Generation-Id": str(started.generation_id),
        "X-Tokens-Used": str(started.tokens),
        "X-Latency-Ms": str(started.latency_ms),
        "X-Seed": str(started.seed),
    }
    return as_file(response, f"tts.{form.format.extension}", headers)


async def _only_bytes(pieces: AsyncGenerator[StartedText | bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, bytes):
                yield piece


@router.post("/batchtts", **library_schemas.BATCH)
async def speak_many(request: Request, caller: PayingCaller) -> Response:
    """Speak several texts at once; a ZIP with a sound for each and a manifest."""
    voices = get_voices(request)
    async with open_fields(request) as fields:
        if fields.flag("stream"):
            raise BadRequest(
                "stream is not for batches: their answer is a ZIP of whole files; use /tts.",
                param="stream",
                code="unsupported_operation",
            )
        texts = read_texts(fields)
        form = read_voice_form(fields)
    work = speak_batch(get_service(request), voices, caller, texts, form)
    batch = await while_connected(request, work)
    headers = {
        "X-Batch-Id": str(batch.batch_id),
        "X-Tokens-Used": str(batch.tokens),
        "X-Batch-Discount-Used": f"{batch.discount:g}",
        "X-Latency-Ms": str(batch.latency_ms),
        "X-Latency-Ms-Total": str(batch.latency_ms),
        "X-Seed": str(batch.items[0].seed),
    }
    data = await asyncio.to_thread(pack, batch, form)
    return as_file(Response(data, media_type="application/zip"), "batch.zip", headers)


@router.get("/getstored/{generation_id}", **library_schemas.STORED)
def get_sound(request: Request, generation_id: str, user_id: UserId) -> Response:
    """The very bytes that were answered with `store=true`."""
    store = get_store(request)
    number = path_id(generation_id, "stored generation")
    with store.db.read() as conn:
        stored = get_stored(conn, user_id, number)
    row = FORMATS[stored.response_format]
    return sound_response(
        request,
        store.blobs.read(stored.audio_sha256),
        sha256=stored.audio_sha256,
        media_type=row.content_type,
        filename=f"{stored.generation_id}.{row.extension}",
    )


@router.get("/generations")
def show_generations(
    request: Request,
    user_id: UserId,
    stored: str | None = None,
    batch_id: str | None = None,
    before: str | None = None,
    limit: str | None = None,
) -> dict[str, Any]:
    """The caller's generations, newest first."""
    fields = Fields([("stored", stored), ("batch_id", batch_id)])
    last, num_shown = read_page(before, limit, default=PAGE)
    with get_store(request).db.read() as conn:
        page = list_generations(
            conn,
            user_id,
            is_stored=None if stored is None else fields.flag("stored"),
            batch_id=None if batch_id is None else path_id(batch_id, "batch"),
            before=last,
            page_size=num_shown,
        )
    return {"data": [_shown(row) for row in page.items], "has_more": page.has_more}


@router.get("/generations/{generation_id}")
def show_generation(request: Request, generation_id: str, user_id: UserId) -> dict[str, Any]:
    """One of them; with its text if that was kept."""
    number = path_id(generation_id, "generation")
    with get_store(request).db.read() as conn:
        row = get_generation(conn, user_id, number)
        text = get_stored(conn, user_id, number).text if row.is_stored else None
    return _shown(row) | {"text": text}


@router.delete("/getstored/{generation_id}")
def delete_sound(request: Request, generation_id: str, user_id: UserId) -> dict[str, str]:
    """Delete sound and text of a generation; it stays in the books."""
    store = get_store(request)
    number = path_id(generation_id, "stored generation")
    with store.db.write() as conn:
        files = delete_stored(conn, user_id, number)
    store.blobs.remove(store.db, files)
    return {"status": "deleted"}


def get_voices(request: Request) -> StoredVoices:
    get_store(request)
    voices = get_service(request).voices
    assert voices is not None  # as there is a store
    return voices


def read_voice_form(fields: Fields) -> VoiceForm:
    if fields.find("voice_id") is None:
        raise missing("voice_id", "send the number of one of your voices")
    voice_id = fields.whole("voice_id")
    if voice_id is None or not 1 <= voice_id <= HIGHEST_ID:
        raise bad_value("voice_id", "the number of a voice")
    return VoiceForm(
        voice_id=voice_id,
        format=FORMATS[fields.choice("format", tuple(FORMATS), "wav")],
        is_stored=fields.flag("store"),
        language=fields.text("language"),
        sampling=fields.sampling(),
    )


def read_texts(fields: Fields) -> list[str]:
    """`texts`, or `text` as a list; each of them is checked later, one by one."""
    value = fields.find("texts", "text")
    if value is None:
        raise missing("texts", "send the texts to speak as a list")
    if not isinstance(value, list):
        raise bad_value("texts", "a list of texts")
    return [_text(value, index) for index, value in enumerate(value)]


def _text(value: Any, index: int) -> str:
    text = Fields([(f"texts[{index}]", value)]).text(f"texts[{index}]")
    if text is None:
        raise bad_value(f"texts[{index}]", "a string")
    return text


def pack(batch: SpokenBatch, form: VoiceForm) -> bytes:
    """The ZIP: sounds as they are, since they would not get smaller, and the manifest."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index, item in enumerate(batch.items):
            if item.made is not None:
                archive.writestr(_name(index, form.format), item.made.data)
        manifest = json.dumps(_manifest(batch, form), ensure_ascii=False, indent=2)
        archive.writestr("manifest.json", manifest, PACKED)
    return file.getvalue()


def _manifest(batch: SpokenBatch, form: VoiceForm) -> dict[str, Any]:
    return {
        "batch_id": batch.batch_id,
        "generation_ids": [item.generation_id for item in batch.items],
        "format": form.format.name,
        "language": batch.language,
        "tokens_used": batch.tokens,
        "batch_discount_used": batch.discount,
        "latency_ms_total": batch.latency_ms,
        "store": form.is_stored,
        "items": [_item(index, item, form.format) for index, item in enumerate(batch.items)],
    }


def _item(index: int, item: BatchItem, row: AudioFormat) -> dict[str, Any]:
    made = item.made
    return {
        "index": index,
        "generation_id": item.generation_id,
        "filename": None if made is None else _name(index, row),
        "tokens": item.tokens,
        "duration_s": None if made is None else made.audio_ms / 1000,
        "seed": item.seed,
        "status": "failed" if made is None else "done",
        "finish_reason": None if made is None else made.spoken.reason.value,
        "error": item.error,
    }


def _name(index: int, row: AudioFormat) -> str:
    return f"{index}.{row.extension}"


class AsSpelt(bytes):
    """A header's name that stays as it is, where uvicorn would write it in lower case."""

    def lower(self) -> "AsSpelt":
        return self


def as_file(response: R, filename: str, headers: Mapping[str, str]) -> R:
    """The answer as a download, with the documents' headers spelt as they spell them."""
    response.headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    response.headers.update(headers)
    response.raw_headers = [
        (AsSpelt(name.title()) if name.lower().startswith(b"x-") else name, value)
        for name, value in response.raw_headers
    ]
    return response


def _shown(row: Generation) -> dict[str, Any]:
    return {
        "generation_id": row.generation_id,
        "route": row.route,
        "status": row.status,
        "voice_id": row.voice_id,
        "speaker": row.speaker,
        "batch_id": row.batch_id,
        "tokens_used": row.tokens,
        "num_chars": row.num_chars,
        "latency_ms": row.latency_ms,
        "duration_s": None if row.audio_ms is None else row.audio_ms / 1000,
        "format": row.response_format,
        "language": row.language,
        "seed": row.seed,
        "finish_reason": row.finish_reason,
        "error": row.error,
        "created_at": row.created_at.isoformat(),
        "stored": row.is_stored,
    }
