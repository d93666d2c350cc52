"""For those who run the server: is it alive, is it ready, how is it doing."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from qwen3_audio import __version__
from qwen3_audio.web.auth import require_operator
from qwen3_audio.web.state import get_service

router = APIRouter(tags=["operations"])


@router.get("/health", responses={503: {"description": "Nothing works until a new start."}})
@router.get("/healthz", include_in_schema=False)
@router.get("/livez", include_in_schema=False)
async def get_health(request: Request) -> JSONResponse:
    """The server answers, and its engine can compute."""
    trouble = get_service(request).backend.trouble()
    if trouble is not None:
        return JSONResponse({"status": "broken", "reason": trouble}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/ready", responses={503: {"description": "Not ready; `reasons` says why."}})
@router.get("/readyz", include_in_schema=False)
async def get_ready(request: Request) -> JSONResponse:
    """The server can do its work."""
    service = get_service(request)
    reasons = service.unready_reasons() + await service.books.unready_reasons()
    if reasons:
        return JSONResponse({"status": "not_ready", "reasons": reasons}, 503)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", dependencies=[Depends(require_operator)], response_class=Response)
async def get_metrics(request: Request) -> Response:
    """Figures in Prometheus' format."""
    data = request.app.state.metrics.render()
    return Response(data, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/", include_in_schema=False)
@router.get("/v1", include_in_schema=False)
async def get_root() -> dict[str, Any]:
    """Some clients knock here to warm up their connection."""
    return {"name": "qwen3-audio", "version": __version__}
