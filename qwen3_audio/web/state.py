"""What an app carries along: its service, its settings, its store."""

from fastapi import Request

from qwen3_audio.errors import NotLoaded
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.store.opening import Store


def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def get_service(request: Request) -> SpeechService:
    service: SpeechService = request.app.state.service
    return service


def get_store(request: Request) -> Store:
    """Where this server keeps things; NotLoaded where it was started without."""
    store = get_service(request).store
    if store is None:
        raise NotLoaded("This server was started without a store: it keeps nothing.")
    return store
