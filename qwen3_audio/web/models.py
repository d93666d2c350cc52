"""The lists: what is loaded, and which voices it has."""

from collections import Counter
from typing import Any

from fastapi import Request

from qwen3_audio.errors import NotFound
from qwen3_audio.languages import OPENAI_VOICES
from qwen3_audio.orders import find_model, spell_speakers
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    SPEECH_KINDS,
    SPEECH_RATE_HZ,
    Backend,
    ModelInfo,
    ModelKind,
)
from qwen3_audio.web.auth import DiscoveringUserId
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.routers import OpenAIRouter

router = OpenAIRouter(tags=["models"], responses=ERRORS)


@router.get("/v1/models")
async def list_models(request: Request, user_id: DiscoveringUserId) -> dict[str, Any]:
    """The models by their general names, and by the names of their folders."""
    return {"object": "list", "data": _models(request)}


@router.get("/v1/models/{model_id:path}")
async def get_model(request: Request, model_id: str, user_id: DiscoveringUserId) -> dict[str, Any]:
    name = model_id.rpartition("/")[2]  # of a hub id: its folder is called by the last part
    for model in _models(request):
        if model["id"] in (model_id, name):
            return model
    raise NotFound(
        "There is no such model here; GET /v1/models lists those there are.",
        param="model",
        code="model_not_found",
    )


@router.get("/v1/audio/models")
async def list_audio_models(request: Request, user_id: DiscoveringUserId) -> dict[str, Any]:
    """The same list in the shape that voice pickers read."""
    models = [{"id": model["id"], "name": model["id"]} for model in _models(request)]
    return {"object": "list", "models": models}


def _backend(request: Request) -> Backend:
    backend: Backend = request.app.state.service.backend
    return backend


def _models(request: Request) -> list[dict[str, Any]]:
    loaded = _backend(request).models()
    speech = [model for model in loaded if model.kind in SPEECH_KINDS]
    heard = [model for model in loaded if model.kind is ModelKind.ASR]
    voices = [name for name, _ in preset_voices(_backend(request))]
    named = [("qwen3-tts", speech[0])] if speech else []
    named += [("qwen3-asr", heard[0])] if heard else []
    num_called = Counter(model.name for model in loaded)
    named += [
        (model.name if num_called[model.name] == 1 else f"{model.name}-{model.kind}", model)
        for model in loaded
    ]
    return [_model(name, model, request.app.state.started_at, voices) for name, model in named]


def _model(name: str, model: ModelInfo, created: int, voices: list[str]) -> dict[str, Any]:
    is_asr = model.kind in (ModelKind.ASR, ModelKind.ALIGNER)
    has_voices = name == "qwen3-tts" or model.kind is ModelKind.CUSTOM_VOICE
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "qwen",
        "shutdown_date": None,
        "task": "automatic-speech-recognition" if is_asr else "text-to-speech",
        "kind": model.kind.value,
        "loaded": True,
        "max_streams": model.max_streams or None,
        "sample_rate": LISTEN_RATE_HZ if is_asr else SPEECH_RATE_HZ,
        "languages": list(model.languages),
        "voices": [{"name": voice, "language": "auto"} for voice in voices] if has_voices else [],
    }


def preset_voices(backend: Backend) -> list[tuple[str, str]]:
    """Name and description of every preset voice; none without a CustomVoice checkpoint."""
    model = find_model(backend.models(), ModelKind.CUSTOM_VOICE)
    if model is None or not model.speakers:
        return []
    speakers = spell_speakers(model.speakers)
    own = [(name, f"The model's speaker {name}") for name in speakers]
    meant = {
        name: speaker if speaker in speakers else speakers[0]
        for name, speaker in OPENAI_VOICES.items()
        if name not in model.speakers
    }
    return own + [(name, f"OpenAI's name, spoken by {meant[name]}") for name in meant]


def preset(name: str, description: str, created_at: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "audio.voice",
        "created_at": created_at,
        "name": name,
        "type": "preset",
        "description": description,
        "language": "auto",
        "languages": [],
        "preview_url": None,
    }
