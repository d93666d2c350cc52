"""Who may call which route, with which key, and that keys stay secret."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import ADMIN_TOKEN, AS_ADMIN, as_user
from fastapi.testclient import TestClient
from route_table import routes
from sqlalchemy import select

from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import metadata
from qwen3_audio.store.users import disable_user

OPEN = {
    *("GET /health", "GET /healthz", "GET /livez", "GET /ready", "GET /readyz"),
    *("POST /auth/exchange-invite", "GET /v1", "GET /v1/"),
}
DISCOVERY = {
    *("GET /v1/models", "GET /v1/models/{model_id:path}"),
    *("GET /v1/audio/models", "GET /v1/audio/voices"),
}
OPERATOR = {"GET /metrics"}
ADMIN = {route for route in routes() if " /admin/" in route}
USER = set(routes()) - OPEN - DISCOVERY - OPERATOR - ADMIN
SPEECH = {"input": "Hello", "response_format": "wav"}


def ask(client: TestClient, route: str, headers: dict[str, str] | None = None) -> Any:
    method, path = route.split(" ")
    url = path.replace("{model_id:path}", "qwen3-tts")
    for name in ("user_id", "key_id", "invite_id", "voice_id", "generation_id"):
        url = url.replace(f"{{{name}}}", "999")
    return client.request(method, url, headers=headers)


@pytest.mark.parametrize("route", sorted(USER))
def test_users_routes_need_a_key_that_is_known(store_admin: TestClient, route: str) -> None:
    wrong = {"Authorization": "Bearer no-such-key"}
    for headers in (None, {"Authorization": "Bearer "}, {"Authorization": "Basic a"}, wrong):
        reply = ask(store_admin, route, headers)
        assert reply.status_code == 401, (headers, reply.text)
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert ask(store_admin, route, AS_ADMIN).status_code == 401


@pytest.mark.parametrize("route", sorted(ADMIN | OPERATOR))
def test_admin_routes_tell_no_token_from_a_wrong_one(store_admin: TestClient, route: str) -> None:
    assert ask(store_admin, route).status_code == 401
    for token in ("no-such-token", ADMIN_TOKEN + "x", ADMIN_TOKEN[:-1], "é"):
        headers = {"Authorization": b"Bearer " + token.encode()}
        assert ask(store_admin, route, headers).status_code == 403  # type: ignore[arg-type]


@pytest.mark.parametrize("route", sorted(OPEN | DISCOVERY))
def test_open_routes_ask_nobody(store_admin: TestClient, route: str) -> None:
    for headers in (None, {"Authorization": "Bearer no-such-key"}):
        assert ask(store_admin, route, headers).status_code not in (401, 403)
    for path in ("/docs", "/openapi.json", "/static/docs.js"):
        assert store_admin.get(path).status_code not in (401, 403)


def test_lists_need_a_key_without_public_discovery(
    store: Store, make_client: Callable[..., TestClient], bob: int, make_key: Callable[[int], str]
) -> None:
    client = make_client(store=store, admin_token=ADMIN_TOKEN, public_discovery=False)
    for route in DISCOVERY:
        assert ask(client, route).status_code == 401
        assert ask(client, route, as_user(make_key(bob))).is_success


@pytest.mark.parametrize("route", sorted(USER))
def test_a_disabled_users_key_is_403_everywhere(
    route: str, keyed_client: TestClient, store: Store, bob: int, make_key: Callable[[int], str]
) -> None:
    key = make_key(bob)
    with store.db.write() as conn:
        disable_user(conn, bob)
    reply = ask(keyed_client, route, as_user(key))
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "user_disabled")


@pytest.mark.parametrize("route", sorted(USER | DISCOVERY | OPEN | OPERATOR))
def test_local_mode_ignores_keys(store_client: TestClient, route: str) -> None:
    for headers in (None, {"Authorization": "Bearer any"}, {"Authorization": "Bearer "}):
        assert ask(store_client, route, headers).status_code != 401


@pytest.mark.parametrize("route", sorted(ADMIN))
def test_local_mode_has_no_admin(store_client: TestClient, route: str) -> None:
    reply = ask(store_client, route, AS_ADMIN)
    assert reply.status_code == 403
    assert "ADMIN_TOKEN" in reply.json()["detail"]


def test_the_header_of_other_clients_is_a_key_too(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str]
) -> None:
    key = make_key(bob)
    assert keyed_client.get("/usage", headers={"api-key": key}).is_success
    assert keyed_client.get("/usage", headers={"api-key": "wrong"}).status_code == 401
    assert keyed_client.get("/usage", headers={"Authorization": f"bearer   {key} "}).is_success


def test_an_admin_token_may_have_any_letters(
    store: Store, make_client: Callable[..., TestClient]
) -> None:
    client = make_client(store=store, admin_token="schlüssel-🔑")
    headers = {"Authorization": "Bearer schlüssel-🔑".encode()}
    assert client.get("/admin/users", headers=headers).is_success  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["x" * 10_000, "ünï", "a" * 43, "' OR 1=1 --", "\udc80"])
def test_odd_keys_are_unknown_keys(store_admin: TestClient, key: str) -> None:
    raw = b"Bearer " + key.encode("utf-8", "surrogateescape")
    reply = store_admin.get("/usage", headers={"Authorization": raw})  # type: ignore[dict-item]
    assert reply.status_code == 401


def test_keys_and_codes_are_in_no_log_no_error_and_no_table(
    keyed_client: TestClient, store: Store, bob: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = f"/admin/users/{bob}/invites"
    code = keyed_client.post(path, headers=AS_ADMIN).json()["invite_code"]
    body = {"invite_code": code}
    key = keyed_client.post("/auth/exchange-invite", json=body).json()["api_key"]
    assert keyed_client.post("/v1/audio/speech", json=SPEECH, headers=as_user(key)).is_success
    replies = [
        keyed_client.post("/auth/exchange-invite", json=body),
        keyed_client.get("/admin/users", headers=as_user(key)),
        keyed_client.get("/usage", headers=as_user(f"{key}x")),
        keyed_client.get("/keys", headers=as_user(key)),
        keyed_client.get(path, headers=AS_ADMIN),
    ]
    with store.db.read() as conn:
        rows = [str(conn.execute(select(table)).all()) for table in metadata.sorted_tables]
    told = [caplog.text, *rows, *(reply.text for reply in replies)]
    if store.db.is_sqlite:
        files = store.db.file.parent.glob(f"{store.db.file.name}*")
        told += [file.read_bytes().decode("latin-1") for file in files]
    for secret in (key, code, ADMIN_TOKEN):
        assert not any(secret in text for text in told)
