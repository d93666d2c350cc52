"""What /docs and /openapi.json say about bodies that the routes read themselves."""

from typing import Any

from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.web.docs import ERRORS

_SAMPLING: dict[str, Any] = {
    "seed": {"type": "integer", "minimum": 0, "description": "Drawn if left out; see X-Seed."},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "description": "0 is greedy."},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0},
    "max_new_tokens": {"type": "integer", "minimum": 1},
}

_SPEECH_FIELDS: dict[str, Any] = {
    "model": {"type": "string", "description": "Any name; the loaded model is used."},
    "input": {"type": "string", "description": "The text to speak."},
    "voice": {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"id": {"type": "string"}}},
        ],
        "default": "alloy",
        "description": "A speaker of the model or one of OpenAI's names, in any case.",
    },
    "response_format": {"type": "string", "enum": list(FORMATS), "default": "mp3"},
    "speed": {"type": "number", "minimum": 0.25, "maximum": 4, "default": 1},
    "language": {"type": "string", "default": "Auto", "description": "A name or a code."},
    "instructions": {"type": "string", "description": "How to speak."},
    "task_type": {
        "type": "string",
        "enum": ["CustomVoice", "VoiceDesign", "Base"],
        "description": "Which checkpoint speaks; left out: chosen by the other fields.",
    },
    "stream": {"type": "boolean", "description": "Send wav and flac as they are made, too."},
    "stream_format": {"type": "string", "enum": ["audio", "sse"]},
    "sample_rate": {"type": "integer", "minimum": 8000, "maximum": 48000, "default": 24000},
    "audio_sample_text": {"type": "string", "description": "What is said in audio_sample."},
    **_SAMPLING,
}

_TRANSCRIPTION_FIELDS: dict[str, Any] = {
    "model": {"type": "string", "description": "Any name; the loaded model is used."},
    "language": {"type": "string", "description": "A name or a code; detected if left out."},
    "prompt": {"type": "string", "maxLength": 10_000, "description": "Context, names, spellings."},
    "keywords": {"type": "array", "items": {"type": "string"}},
    "response_format": {
        "type": "string",
        "enum": ["json", "text", "verbose_json", "srt", "vtt"],
        "default": "json",
    },
    "stream": {"type": "boolean", "default": False},
    **_SAMPLING,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 0},
}

_INLINE_AUDIO = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "format": "byte"},
        "format": {"type": "string"},
    },
}


def _body(json_schema: dict[str, Any], form_schema: dict[str, Any]) -> dict[str, Any]:
    content = {
        "application/json": {"schema": json_schema},
        "multipart/form-data": {"schema": form_schema},
    }
    return {"requestBody": {"required": True, "content": content}}


def _object(required: list[str], properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": {**properties, **more}}


def _content(*content_types: str) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"content": dict.fromkeys(content_types, binary)}


_FILE = {"type": "string", "format": "binary"}

SPEECH: dict[str, Any] = {
    "openapi_extra": _body(
        _object(
            ["input"], _SPEECH_FIELDS, audio_sample={"type": "string", "description": "Base64."}
        ),
        _object(["input"], _SPEECH_FIELDS, audio_sample=_FILE),
    ),
    "responses": {
        200: {
            "description": "The sound, or its events.",
            **_content(*(row.content_type for row in FORMATS.values()), "text/event-stream"),
        },
        **ERRORS,
    },
}
TRANSCRIPTION: dict[str, Any] = {
    "openapi_extra": _body(
        _object(["input_audio"], _TRANSCRIPTION_FIELDS, input_audio=_INLINE_AUDIO),
        _object(["file"], _TRANSCRIPTION_FIELDS, file=_FILE),
    ),
    "responses": {
        200: {
            "description": "The transcript, as `response_format` says.",
            "content": {
                "application/json": {
                    "schema": _object(
                        ["text"], {"text": {"type": "string"}, "usage": {"type": "object"}}
                    )
                },
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **ERRORS,
    },
}
TRANSLATION: dict[str, Any] = {"responses": {400: ERRORS[400]}}

_LIMIT = {"type": ["integer", "null"], "minimum": 0, "description": "null: unlimited."}
_USER_FIELDS: dict[str, Any] = {
    "name": {"type": ["string", "null"], "maxLength": 128},
    "max_tokens_per_day": _LIMIT,
    "max_requests_per_minute": _LIMIT,
    "max_requests_at_once": _LIMIT,
}


def _json_body(schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    body = {"required": required, "content": {"application/json": {"schema": schema}}}
    return {"openapi_extra": {"requestBody": body}}


EXCHANGE = _json_body(
    _object(["invite_code"], {"invite_code": {"type": "string", "minLength": 8}}), required=True
)
NEW_KEY = _json_body(_object([], {"name": _USER_FIELDS["name"]}))
NEW_USER = CHANGED_USER = _json_body(_object([], _USER_FIELDS))
