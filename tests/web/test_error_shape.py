"""Every answer that is no success has OpenAI's envelope, a request id and the right headers."""

from typing import Any

import pytest
from fake_server import make_tone
from fastapi import APIRouter
from fastapi.testclient import TestClient

from qwen3_audio import errors
from qwen3_audio.fake import FakeBackend
from qwen3_audio.web.errors import STATUS


def envelope(reply: Any, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["x-request-id"].startswith("req_")
    body = reply.json()
    assert body["detail"] == body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


def test_every_error_has_a_status() -> None:
    assert set(STATUS) == set(errors.SpeechError.__subclasses__())


def test_what_is_not_there_is_404(client: TestClient) -> None:
    for path in ("/nope", "/v1/audio/nope", "/static/nope", "/v1/readyz", "/v1/test", "/%2e%2e/x"):
        error = envelope(client.get(path), 404)
        assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")


def test_a_wrong_method_is_405_and_lists_the_right_ones(client: TestClient) -> None:
    for method, path in (("GET", "/v1/audio/speech"), ("POST", "/health"), ("PUT", "/v1/models")):
        reply = client.request(method, path)
        assert envelope(reply, 405)["code"] == "method_not_allowed"
        assert reply.headers["allow"]


@pytest.mark.parametrize(
    ("raised", "status", "kind", "code"),
    [
        (errors.NotAllowed("no"), 403, "permission_error", "insufficient_permissions"),
        (errors.NotFound("no"), 404, "invalid_request_error", "not_found"),
        (
            errors.LimitReached("no", retry_after_s=500),
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
        ),
        (errors.Overloaded("no"), 503, "server_error", "queue_full"),
        (errors.StorageFull("no"), 507, "server_error", "storage_full"),
        (errors.EngineFailed("no"), 500, "server_error", "generation_failed"),
        (errors.BadRequest("no", param="p", code="c"), 400, "invalid_request_error", "c"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_table_is_what_clients_see(
    client: TestClient, raised: errors.SpeechError, status: int, kind: str, code: str
) -> None:
    router = APIRouter()

    @router.get("/raise")
    async def raise_it() -> None:
        raise raised

    client.app.include_router(router)  # type: ignore[attr-defined]
    reply = client.get("/raise")
    error = envelope(reply, status)
    assert (error["message"], error["type"], error["code"]) == ("no", kind, code)
    assert error["param"] == raised.param
    if status in (429, 503):
        assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert ("x-should-retry" in reply.headers) is (status == 507)


def test_a_spent_quota_is_not_worth_a_retry(client: TestClient) -> None:
    router = APIRouter()

    @router.get("/raise")
    async def raise_it() -> None:
        raise errors.LimitReached("no", code="insufficient_quota", retry_after_s=None)

    client.app.include_router(router)  # type: ignore[attr-defined]
    reply = client.get("/raise")
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers


def test_a_mistake_of_ours_shows_nothing_but_its_id(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.get("/raise")
    async def raise_it() -> None:
        raise RuntimeError("secret /path/of/ours")

    client.app.include_router(router)  # type: ignore[attr-defined]
    reply = client.get("/raise")
    error = envelope(reply, 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] in error["message"]
    assert reply.headers["x-request-id"] in caplog.text
    assert reply.headers["x-should-retry"] == "false"


def test_a_query_that_does_not_fit_is_400_and_never_422(client: TestClient) -> None:
    router = APIRouter()

    @router.get("/number")
    async def read_number(number: int) -> int:
        return number

    client.app.include_router(router)  # type: ignore[attr-defined]
    assert envelope(client.get("/number?number=x"), 400)["param"] == "number"


def test_an_engine_failure_before_the_first_sound_keeps_its_status(client: TestClient) -> None:
    for fields in ({}, {"response_format": "wav"}, {"stream_format": "sse"}):
        reply = client.post("/v1/audio/speech", json={"input": "a BOOM", **fields})
        assert envelope(reply, 500)["code"] == "generation_failed"


def test_an_engine_failure_of_a_file_that_is_not_streamed_keeps_its_status(
    client: TestClient,
) -> None:
    body = {"input": "some BOOM-LATE", "response_format": "wav"}
    assert envelope(client.post("/v1/audio/speech", json=body), 500)["code"] == "generation_failed"
    sound = {"file": ("a.wav", make_tone(2.0))}
    reply = client.post("/v1/audio/transcriptions", files=sound, data={"prompt": "BOOM-LATE"})
    assert envelope(reply, 500)["code"] == "generation_failed"


def test_with_keys_nobody_gets_in_without_one(make_client: Any) -> None:
    client = make_client(admin_token="a long admin token")
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        reply = client.post("/v1/audio/speech", json={"input": "hi"}, headers=header)
        assert envelope(reply, 401)["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ready", "/docs", "/v1/models", "/v1/audio/voices"):
        assert client.get(path).status_code == 200
    closed = make_client(admin_token="a long admin token", public_discovery=False)
    assert closed.get("/v1/models").status_code == 401


def test_figures_are_for_the_admin_where_there_is_one(make_client: Any) -> None:
    client = make_client(admin_token="a long admin token")
    assert client.get("/metrics").status_code == 401
    for token, status in (("wrong", 403), ("é", 403), ("a long admin token", 200)):
        header = {"Authorization": f"Bearer {token}".encode()}
        assert client.get("/metrics", headers=header).status_code == status


def test_a_full_line_is_503_with_a_time_to_come_again(make_client: Any) -> None:
    client = make_client(FakeBackend(num_slots=0, max_waiting=0))
    for fields in ({}, {"response_format": "wav"}, {"stream_format": "sse"}):
        reply = client.post("/v1/audio/speech", json={"input": "hi", **fields})
        assert envelope(reply, 503)["code"] == "queue_full"
        assert 1 <= int(reply.headers["retry-after"]) <= 60
    reply = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", make_tone(1.0))})
    assert envelope(reply, 503)["code"] == "queue_full"
