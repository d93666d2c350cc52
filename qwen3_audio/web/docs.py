"""The interactive documentation at /docs, from files of ours: it works without the internet."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

_ENVELOPE = {
    "type": "object",
    "required": ["error", "detail"],
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
        "detail": {"type": "string"},
    },
}


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _ENVELOPE}},
    }


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("Something in the request does not fit; `error.param` names it."),
    401: _error("A key is needed."),
    413: _error("The body is larger than this server takes."),
    503: _error("The waiting line is full; `Retry-After` says when to come again."),
    "4XX": _error("Something in the request does not fit."),
    "5XX": _error("The server could not do it."),
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def show_docs() -> HTMLResponse:
    return HTMLResponse((STATIC / "docs.html").read_text(encoding="utf-8"))


def add_docs(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
