"""What /docs and /openapi.json say about the routes of document 2 whose bodies are read by hand."""

from typing import Any

from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.web.docs import ERRORS

_LANGUAGE = {"type": "string", "default": "auto", "description": "A name or a code."}
_FILE = {"type": "string", "format": "binary"}
_NAME = {"type": "string", "minLength": 1, "maxLength": 128}
_VOICE_FIELDS: dict[str, Any] = {
    "voice_id": {"type": "integer"},
    "store": {"type": "boolean", "default": False, "description": "Keep sound and text."},
    "language": _LANGUAGE,
    "format": {"type": "string", "enum": list(FORMATS), "default": "wav"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "description": "0 is greedy."},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0},
    "seed": {"type": "integer", "minimum": 0, "description": "Drawn if left out; see X-Seed."},
    "max_new_tokens": {"type": "integer", "minimum": 1},
}


def _body(content_type: str, required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {content_type: {"schema": schema}}}}


def _sound(description: str, *content_types: str) -> dict[int | str, dict[str, Any]]:
    content = {name: {"schema": _FILE} for name in content_types}
    return {200: {"description": description, "content": content}, **ERRORS}


CLONE: dict[str, Any] = {
    "openapi_extra": _body(
        "multipart/form-data",
        ["name", "transcript", "file"],
        {
            "name": _NAME,
            "transcript": {"type": "string", "description": "What is said, or `auto`."},
            "language": _LANGUAGE,
            "file": _FILE,
        },
    )
}
DESIGN: dict[str, Any] = {
    "openapi_extra": _body(
        "application/json",
        ["name", "description"],
        {
            "name": _NAME,
            "description": {"type": "string", "minLength": 1, "maxLength": 10_000},
            "language": _LANGUAGE,
            "seed": _VOICE_FIELDS["seed"],
        },
    )
}
TTS: dict[str, Any] = {
    "openapi_extra": _body(
        "application/json",
        ["text", "voice_id"],
        {
            "text": {"type": "string", "description": "The text to speak."},
            **_VOICE_FIELDS,
            "stream": {
                "type": "boolean",
                "default": False,
                "description": "Send it as it is made.",
            },
        },
    ),
    "responses": _sound("The sound.", *(row.content_type for row in FORMATS.values())),
}
BATCH: dict[str, Any] = {
    "openapi_extra": _body(
        "application/json",
        ["texts", "voice_id"],
        {"texts": {"type": "array", "items": {"type": "string"}}, **_VOICE_FIELDS},
    ),
    "responses": _sound("manifest.json and a sound for each text.", "application/zip"),
}
SAMPLE: dict[str, Any] = {"responses": _sound("The recording.", "audio/wav")}
STORED: dict[str, Any] = {
    "responses": _sound("The kept bytes.", *(row.content_type for row in FORMATS.values()))
}
NEW_VOICE: dict[str, Any] = {
    "openapi_extra": _body(
        "multipart/form-data",
        ["name"],
        {
            "name": _NAME,
            "type": {"type": "string", "enum": ["audio_sample", "prompt"]},
            "audio_sample": _FILE,
            "ref_text": {"type": "string", "description": "What is said; heard if left out."},
            "consent": {"type": "string", "description": "Of a recorded consent: cons_7."},
            "prompt": {"type": "string", "description": "How the voice sounds."},
            "language": _LANGUAGE,
        },
    )
}
NEW_CONSENT: dict[str, Any] = {
    "openapi_extra": _body(
        "multipart/form-data",
        ["name", "language", "recording"],
        {"name": _NAME, "language": {"type": "string"}, "recording": _FILE},
    )
}
RENAMED: dict[str, Any] = {"openapi_extra": _body("application/json", ["name"], {"name": _NAME})}
MEANING: dict[str, Any] = {
    "openapi_extra": _body("application/json", ["voice"], {"voice": {"type": "string"}})
}
