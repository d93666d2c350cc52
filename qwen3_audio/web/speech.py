"""POST /v1/audio/speech: text in; a file, a stream of bytes or a stream of events out."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request, Response

from qwen3_audio.audio.encode import MAX_SPEED, MIN_SPEED, Encoder
from qwen3_audio.audio.formats import FORMATS, AudioFormat, get_codec_rate_hz
from qwen3_audio.encoding import encode_sound
from qwen3_audio.entries import speech_entry
from qwen3_audio.errors import SpeechError
from qwen3_audio.orders import SpeechForm, SpeechOrder
from qwen3_audio.service import SpeechService
from qwen3_audio.speaking import Spoken
from qwen3_audio.store.keys import Caller
from qwen3_audio.types import SPEECH_RATE_HZ, ModelKind, Pcm
from qwen3_audio.web import schemas
from qwen3_audio.web.auth import PayingCaller
from qwen3_audio.web.connection import LiveResponse, while_connected
from qwen3_audio.web.errors import error_body
from qwen3_audio.web.forms import Fields, bad_value, missing, read_fields, warn_of_unknown
from qwen3_audio.web.routers import OpenAIRouter

router = OpenAIRouter(tags=["audio"])

# As other servers of these models call them.
TASK_TYPES = {
    "": None,
    "customvoice": ModelKind.CUSTOM_VOICE,
    "voicedesign": ModelKind.VOICE_DESIGN,
    "base": ModelKind.BASE,
}
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the sound is to leave."""

    format: AudioFormat
    speed: float
    sample_rate_hz: int
    mode: Literal["whole", "bytes", "events"]

    @property
    def content_type(self) -> str:
        return self.format.content_type_at(self.sample_rate_hz)

    def build_encoder(self) -> Encoder:
        return Encoder(
            self.format.name,
            speed=self.speed,
            output_rate_hz=self.sample_rate_hz,
            is_whole=self.mode == "whole",
        )

    @property
    def is_cheap(self) -> bool:
        """True where encoding is a conversion that is not worth a worker thread."""
        is_plain = self.format.codec is None
        return is_plain and self.speed == 1.0 and self.sample_rate_hz == SPEECH_RATE_HZ


@router.post("/v1/audio/speech", **schemas.SPEECH)
async def create_speech(request: Request, caller: PayingCaller) -> Response:
    """Speak a text, in a preset voice or in that of an audio sample."""
    service: SpeechService = request.app.state.service
    fields = await read_fields(request)
    try:
        delivery = read_delivery(fields, has_streaming_client(request))
        form = read_speech_form(fields)
        work = answer_speech(service, caller, form, delivery)
        response = await while_connected(request, work)
        warn_of_unknown(response, fields, "model", "user")
        return response
    finally:
        fields.close()


def read_speech_form(fields: Fields) -> SpeechForm:
    text = fields.text("input")
    if text is None:
        raise missing("input", "send the text to speak")
    return SpeechForm(
        text=text,
        voice=_read_voice(fields),
        language=fields.text("language"),
        instructions=fields.text("instructions"),
        kind=TASK_TYPES[fields.choice("task_type", tuple(TASK_TYPES), "")],
        audio_sample=fields.upload("audio_sample", "ref_audio"),
        audio_sample_text=fields.text("audio_sample_text", "ref_text"),
        sampling=fields.sampling(),
    )


def _read_voice(fields: Fields) -> str | None:
    voice = fields.find("voice", "speaker")
    if isinstance(voice, dict):
        voice = voice.get("id", voice)
    if voice is not None and not isinstance(voice, str):
        raise bad_value("voice", 'a name or {"id": name}')
    return Fields([("voice", voice)]).text("voice")


def read_delivery(fields: Fields, is_streaming_client: bool) -> Delivery:
    audio_format = FORMATS[fields.choice("response_format", tuple(FORMATS), "mp3")]
    stream_format = fields.choice("stream_format", ("", "audio", "sse"), "")
    is_streamed = fields.flag("stream") or stream_format == "audio" or is_streaming_client
    speed = fields.number("speed")
    if speed is not None and not MIN_SPEED <= speed <= MAX_SPEED:
        raise bad_value("speed", f"a number from {MIN_SPEED} to {MAX_SPEED}")
    sample_rate_hz = fields.whole("sample_rate")
    if sample_rate_hz is not None:
        get_codec_rate_hz(audio_format, sample_rate_hz)
    mode: Literal["whole", "bytes", "events"] = "whole"
    if stream_format == "sse":
        mode = "events"
    elif is_streamed or audio_format.always_streams:
        mode = "bytes"
    return Delivery(audio_format, speed or 1.0, sample_rate_hz or SPEECH_RATE_HZ, mode)


def has_streaming_client(request: Request) -> bool:
    """The one hint that OpenAI's Python client gives of `with_streaming_response`."""
    return request.headers.get("x-stainless-raw-response") == "stream"


async def answer_speech(
    service: SpeechService, caller: Caller, form: SpeechForm, delivery: Delivery
) -> Response:
    """Errors up to the first sound raise; the rest of a stream is made while it is sent."""
    order = await service.prepare_speech(caller.user_id, form)
    headers = _headers(order)
    entry = speech_entry(service.books, caller, order, response_format=delivery.format.name)
    sound = service.speak(order, is_buffered=delivery.mode == "whole", entry=entry)
    if delivery.mode == "whole":
        return await _whole_response(sound, delivery, headers)
    pieces = await _encode(sound, delivery)
    is_bytes = delivery.mode == "bytes"
    return LiveResponse(
        _only_bytes(pieces) if is_bytes else _events(pieces),
        close=sound.aclose,
        media_type=delivery.content_type if is_bytes else EVENT_STREAM,
        headers=headers,
    )


def _headers(order: SpeechOrder) -> dict[str, str]:
    headers = {"X-Seed": str(order.parts[0].seed), "X-Model": header_text(order.model.name)}
    if order.warnings:
        headers["Warning"] = ", ".join(f'199 - "{text}"' for text in order.warnings)
    return headers


async def _whole_response(
    sound: AsyncGenerator[Pcm | Spoken], delivery: Delivery, headers: dict[str, str]
) -> Response:
    data = bytearray()
    async with aclosing(await _encode(sound, delivery)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Spoken):
                headers |= {"X-Seed": str(piece.seed), "X-Finish-Reason": piece.reason.value}
            else:
                data += piece
    return Response(bytes(data), media_type=delivery.content_type, headers=headers)


async def _encode(
    sound: AsyncGenerator[Pcm | Spoken], delivery: Delivery
) -> AsyncGenerator[bytes | Spoken]:
    """Awaits the first sound, so that an error before it is raised here."""
    first = await anext(sound)
    return encode_sound(first, sound, delivery.build_encoder, is_cheap=delivery.is_cheap)


async def _only_bytes(pieces: AsyncGenerator[bytes | Spoken]) -> AsyncGenerator[bytes]:
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, bytes):
                yield piece


async def _events(pieces: AsyncGenerator[bytes | Spoken]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Spoken):
                    yield encode_event(_done_event(piece))
                else:
                    audio = base64.b64encode(piece).decode()
                    yield encode_event({"type": "speech.audio.delta", "audio": audio})
    except SpeechError as error:
        yield b"event: error\n" + encode_event(error_body(error))


def _done_event(end: Spoken) -> dict[str, Any]:
    return {
        "type": "speech.audio.done",
        "finish_reason": end.reason.value,
        "usage": {
            "input_tokens": end.num_prompt_tokens,
            "output_tokens": end.num_frames,
            "total_tokens": end.num_prompt_tokens + end.num_frames,
            "input_token_details": {"text_tokens": end.num_prompt_tokens, "audio_tokens": 0},
        },
    }


def header_text(text: str) -> str:
    """The text as a header can carry it; a folder's name may hold any letter."""
    return text.encode("ascii", "replace").decode()


def encode_event(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
