"""POST /v1/audio/transcriptions: sound in; JSON, text, subtitles or a stream of events out."""

import math
import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from qwen3_audio.entries import transcription_entry
from qwen3_audio.errors import BadRequest, SpeechError
from qwen3_audio.languages import language_code
from qwen3_audio.orders import TranscriptionForm, TranscriptionOrder, Upload
from qwen3_audio.service import SpeechService
from qwen3_audio.store.keys import Caller
from qwen3_audio.types import Segment, TextDelta, Transcript
from qwen3_audio.web import schemas
from qwen3_audio.web.auth import PayingCaller, UserId
from qwen3_audio.web.connection import LiveResponse, while_connected
from qwen3_audio.web.errors import error_body
from qwen3_audio.web.forms import Fields, bad_value, missing, read_fields, warn_of_unknown
from qwen3_audio.web.routers import OpenAIRouter
from qwen3_audio.web.speech import EVENT_STREAM, encode_event, header_text
from qwen3_audio.web.subtitles import format_srt, format_vtt

router = OpenAIRouter(tags=["audio"])

RESPONSE_FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
STREAMED_FORMATS = ("json", "text")
# Fields of OpenAI's that clients send and that ask for nothing which is not done anyway.
OF_NO_USE = ("model", "user", "chunking_strategy", "delay", "format", "input_audio", "file")
NO_WORDS = '199 - "word time stamps are not available; segments are"'


@router.post("/v1/audio/transcriptions", **schemas.TRANSCRIPTION)
async def create_transcription(request: Request, caller: PayingCaller) -> Response:
    """Write down what is said in a recording."""
    service: SpeechService = request.app.state.service
    fields = await read_fields(request)
    try:
        response_format = fields.choice("response_format", RESPONSE_FORMATS, "json")
        is_streamed = fields.flag("stream")
        if is_streamed and response_format not in STREAMED_FORMATS:
            raise bad_value("response_format", "json or text when stream is true")
        form = read_transcription_form(fields)
        work = answer_transcription(service, caller, form, response_format, is_streamed)
        response = await while_connected(request, work)
        if "word" in fields.texts("timestamp_granularities"):
            response.headers["Warning"] = NO_WORDS
        warn_of_unknown(response, fields, *OF_NO_USE)
        return response
    finally:
        fields.close()


@router.post("/v1/audio/translations", **schemas.TRANSLATION)
async def create_translation(user_id: UserId) -> Response:
    """Not offered: the model writes down what is said and does not translate."""
    raise BadRequest(
        "Qwen3-ASR does not translate; /v1/audio/transcriptions writes down what is said.",
        code="unsupported_operation",
    )


def read_transcription_form(fields: Fields) -> TranscriptionForm:
    if fields.texts("known_speaker_names") or fields.texts("known_speaker_references"):
        raise BadRequest(
            "Speakers are not told apart, so none can be named; leave known_speaker_names out.",
            param="known_speaker_names",
            code="unsupported_operation",
        )
    languages = fields.texts("languages")
    return TranscriptionForm(
        audio=_read_audio(fields),
        audio_param="file" if fields.find("input_audio") is None else "input_audio",
        # Several candidates are as good as none: the model detects among all it knows.
        language=fields.text("language") or (languages[0] if len(languages) == 1 else None),
        prompt=fields.text("prompt") or "",
        keywords=fields.texts("keywords", "hotwords"),
        sampling=fields.sampling(),
    )


def _read_audio(fields: Fields) -> Upload:
    if fields.count("file") > 1:
        raise bad_value("file", "a single file; send one request for each")
    inline = fields.find("input_audio")
    if isinstance(inline, dict):
        fields = Fields([("input_audio", inline.get("data"))])
        inline = fields.upload("input_audio")
    if inline is not None:
        if not isinstance(inline, str):
            raise bad_value("input_audio", '{"data": base64, "format": name}')
        return inline
    upload = fields.upload("file")
    if upload is None:
        raise missing("file", "upload the recording as a form's file")
    if isinstance(upload, str):
        raise bad_value("file", "an uploaded file, in a multipart form")
    return upload


async def answer_transcription(
    service: SpeechService,
    caller: Caller,
    form: TranscriptionForm,
    response_format: str,
    is_streamed: bool,
) -> Response:
    order = await service.prepare_transcription(caller.user_id, form)
    headers = {"X-Model": header_text(order.model.name)}
    items = service.transcribe(order, entry=transcription_entry(service.books, caller, order))
    if is_streamed:
        first = await anext(items)
        return LiveResponse(
            _events(first, items), close=items.aclose, media_type=EVENT_STREAM, headers=headers
        )
    *_, transcript = [item async for item in items]
    assert isinstance(transcript, Transcript)
    headers["X-Finish-Reason"] = transcript.reason.value
    return _whole_response(transcript, order, response_format, headers)


def _whole_response(
    transcript: Transcript,
    order: TranscriptionOrder,
    response_format: str,
    headers: dict[str, str],
) -> Response:
    match response_format:
        case "text":
            return PlainTextResponse(transcript.text, headers=headers)
        case "srt":
            return PlainTextResponse(format_srt(transcript.segments), headers=headers)
        case "vtt":
            return PlainTextResponse(format_vtt(transcript.segments), headers=headers)
        case "verbose_json":
            return JSONResponse(_verbose(transcript, order), headers=headers)
        case _:
            return JSONResponse(_plain(transcript), headers=headers)


def _plain(transcript: Transcript) -> dict[str, Any]:
    usage = {"type": "duration", "seconds": round(transcript.duration_s, 3)}
    return {"text": transcript.text, "languages": _languages(transcript), "usage": usage}


def _languages(transcript: Transcript) -> list[dict[str, str]]:
    code = language_code(transcript.language)
    return [] if code is None else [{"code": code}]


def _verbose(transcript: Transcript, order: TranscriptionOrder) -> dict[str, Any]:
    temperature = order.request.sampling.temperature or 0.0
    return {
        "task": "transcribe",
        "language": (transcript.language or order.request.language or "").lower(),
        "duration": round(transcript.duration_s, 3),
        **_plain(transcript),
        "segments": [
            _segment(index, segment, temperature)
            for index, segment in enumerate(transcript.segments)
        ],
    }


def _segment(index: int, segment: Segment, temperature: float) -> dict[str, Any]:
    """All ten fields, all numbers: some clients refuse the whole answer otherwise."""
    text = segment.text.encode()
    return {
        "id": index,
        "seek": round(segment.start_s * 100),
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": list(segment.token_ids),
        "temperature": temperature,
        "avg_logprob": segment.avg_logprob if math.isfinite(segment.avg_logprob) else 0.0,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 0.0,
    }


async def _events(
    first: TextDelta | Transcript, items: AsyncGenerator[TextDelta | Transcript]
) -> AsyncGenerator[bytes]:
    item = first
    try:
        async with aclosing(items):
            while isinstance(item, TextDelta):
                yield encode_event({"type": "transcript.text.delta", "delta": item.text})
                item = await anext(items)
        yield encode_event(_done_event(item))
    except SpeechError as error:
        yield b"event: error\n" + encode_event(error_body(error))


def _done_event(transcript: Transcript) -> dict[str, Any]:
    num_in, num_out = transcript.num_prompt_tokens, transcript.num_output_tokens
    return {
        "type": "transcript.text.done",
        "text": transcript.text,
        "languages": _languages(transcript),
        "finish_reason": transcript.reason.value,
        "usage": {
            "type": "tokens",
            "input_tokens": num_in,
            "output_tokens": num_out,
            "total_tokens": num_in + num_out,
        },
    }
