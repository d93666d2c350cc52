"""The one table from our errors to HTTP, in OpenAI's shape; the framework's errors likewise."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from qwen3_audio import errors
from qwen3_audio.web.connection import ClientLeftError

log = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 60  # more is ignored or never retried by OpenAI's clients
CLIENT_LEFT = 499  # never seen by anyone: for logs and metrics
SPENT = "insufficient_quota"  # of a day: type and code of OpenAI's error
NO_RETRY = {"x-should-retry": "false"}


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """A row of the table; `code` is for errors that do not bring their own."""

    status: int
    type: str
    code: str


STATUS: dict[type[errors.SpeechError], ErrorKind] = {
    errors.BadRequest: ErrorKind(400, "invalid_request_error", "invalid_value"),
    errors.NotLoaded: ErrorKind(400, "invalid_request_error", "model_not_loaded"),
    errors.NotAuthenticated: ErrorKind(401, "invalid_request_error", "invalid_api_key"),
    errors.NotAllowed: ErrorKind(403, "permission_error", "insufficient_permissions"),
    errors.NotFound: ErrorKind(404, "invalid_request_error", "not_found"),
    errors.TooLarge: ErrorKind(413, "invalid_request_error", "file_too_large"),
    errors.LimitReached: ErrorKind(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.Overloaded: ErrorKind(503, "server_error", "queue_full"),
    errors.StorageFull: ErrorKind(507, "server_error", "storage_full"),
    errors.EngineFailed: ErrorKind(500, "server_error", "generation_failed"),
}
FRAMEWORK = {
    404: ErrorKind(404, "invalid_request_error", "not_found"),
    405: ErrorKind(405, "invalid_request_error", "method_not_allowed"),
}
INTERNAL = ErrorKind(500, "server_error", "internal_error")


def error_body(error: errors.SpeechError) -> dict[str, object]:
    """What a client reads of an error, on every route and inside event streams."""
    kind = STATUS[type(error)]
    if error.code == SPENT:
        kind = replace(kind, type=SPENT)
    return build_body(str(error), kind, param=error.param, code=error.code)


def build_body(
    message: str, kind: ErrorKind, *, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    inner = {"message": message, "type": kind.type, "param": param, "code": code or kind.code}
    return {"error": inner, "detail": message}


def error_response(error: errors.SpeechError, *, retry_after_s: int = 1) -> JSONResponse:
    kind = STATUS[type(error)]
    return JSONResponse(error_body(error), kind.status, _headers(error, kind, retry_after_s))


def _headers(error: errors.SpeechError, kind: ErrorKind, retry_after_s: int) -> dict[str, str]:
    wait_s: int | None = retry_after_s
    if isinstance(error, errors.LimitReached):
        wait_s = error.retry_after_s
    if kind.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if kind.status == 507 or wait_s is None:
        return NO_RETRY
    if kind.status in (429, 503):
        waiting = {"Retry-After": str(min(max(wait_s, 1), MAX_RETRY_AFTER_S))}
        return waiting | NO_RETRY if error.code == SPENT else waiting
    return {}


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(errors.SpeechError, _handle_speech_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(ClientLeftError, _handle_client_left)
    app.add_exception_handler(ClientDisconnect, _handle_client_left)
    app.add_exception_handler(Exception, _handle_bug)


async def _handle_speech_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.SpeechError)
    return error_response(error, retry_after_s=_estimate_wait_s(request))


def _estimate_wait_s(request: Request) -> int:
    """A second for every round of the fullest waiting line."""
    stats = request.app.state.service.backend.stats()
    return 1 + max((row.num_waiting // max(1, row.num_slots) for row in stats), default=0)


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = FRAMEWORK.get(error.status_code)
    if kind is None:
        kind = ErrorKind(error.status_code, "invalid_request_error", "invalid_value")
    message = _MESSAGES.get(error.status_code, error.detail)
    headers: Mapping[str, str] | None = error.headers
    return JSONResponse(build_body(message, kind), error.status_code, headers)


_MESSAGES = {
    404: "There is nothing at this address; /docs lists what there is.",
    405: "This address does not take that method; the Allow header lists those it takes.",
}


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    body = build_body(f"{name}: {first['msg']}.", STATUS[errors.BadRequest], param=name)
    return JSONResponse(body, 400)


async def _handle_client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _handle_bug(request: Request, error: Exception) -> Response:
    """For what nobody foresaw; the server logs the trace, right behind this line with the id."""
    log.error("%s failed: %r", request.state.request_id, error)
    headers = NO_RETRY | {"x-request-id": request.state.request_id}
    message = f"The server made a mistake; its log tells more about {request.state.request_id}."
    return JSONResponse(build_body(message, INTERNAL), INTERNAL.status, headers)
