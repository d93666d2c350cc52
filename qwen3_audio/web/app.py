"""Puts the web side together. A function, not a global: tests build as many as they like."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from qwen3_audio import __version__
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.web import (
    accounts,
    consents,
    models,
    openai_voices,
    ops,
    speech,
    transcriptions,
    tts,
    voice_names,
    voices,
)
from qwen3_audio.web.docs import add_docs
from qwen3_audio.web.errors import add_error_handlers
from qwen3_audio.web.metrics import Metrics
from qwen3_audio.web.middleware import BodyLimit, HeadAsGet, RequestWatch

EXPOSED_HEADERS = (
    *("x-request-id", "openai-processing-ms", "Retry-After", "Warning"),
    *("X-Seed", "X-Model", "X-Finish-Reason", "X-Transcript", "X-Generation-Id", "X-Batch-Id"),
    *("X-Tokens-Used", "X-Latency-Ms", "X-Latency-Ms-Total", "X-Batch-Discount-Used"),
)


ROUTERS = (
    accounts.router,
    accounts.admin,
    voices.router,
    tts.router,
    openai_voices.router,
    consents.router,
    voice_names.router,
    voice_names.admin,
    speech.router,
    transcriptions.router,
    models.router,
    ops.router,
)


def create_app(service: SpeechService, settings: Settings) -> FastAPI:
    app = FastAPI(
        title="qwen3-audio",
        version=__version__,
        description="Speech and transcription behind OpenAI's audio interface.",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
    )
    metrics = Metrics(service.backend)
    service.listeners.append(metrics.end_order)
    app.state.service = service
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.started_at = int(time.time())
    app.state.failed_exchanges = accounts.FailedExchanges()
    for router in ROUTERS:
        app.include_router(router)
    add_docs(app)
    add_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_bytes=settings.max_upload_mb * 1024**2)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestWatch, metrics=metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.service.close()
