"""`uvicorn server:app`: the same server as `qwen3-audio serve`, under somebody else's uvicorn."""

from qwen3_audio.asgi import app

__all__ = ["app"]
