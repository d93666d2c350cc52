"""Users, invites, keys and limits through the routes: document 2's way in, and who may do what."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import ADMIN_TOKEN, AS_ADMIN, LiveServer, as_user, make_tone
from fastapi.testclient import TestClient
from store_rows import at_once

from qwen3_audio.errors import LimitReached
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import LOCAL_USER_ID
from qwen3_audio.web.accounts import MAX_FAILURES, FailedExchanges

# As document 2 has them.
AUTH_FLOW = r"""
USER_ID=$(curl -sS -X POST "$BASE/admin/users" \
  -H "Authorization: Bearer $ADMIN_TOKEN" \
  | python -c "import sys,json; print(json.load(sys.stdin)['user_id'])")

echo "USER_ID=$USER_ID"

INVITE_CODE=$(curl -sS -X POST "$BASE/admin/users/$USER_ID/invites?expires_hours=24" \
  -H "Authorization: Bearer $ADMIN_TOKEN" \
  | python -c "import sys,json; print(json.load(sys.stdin)['invite_code'])")

echo "INVITE_CODE=$INVITE_CODE"

API_KEY=$(curl -sS -X POST "$BASE/auth/exchange-invite" \
  -H "Content-Type: application/json" \
  -d "{\"invite_code\":\"$INVITE_CODE\"}" \
  | python -c "import sys,json; print(json.load(sys.stdin)['api_key'])")

echo "API_KEY=$API_KEY"
curl -sS "$BASE/usage" -H "Authorization: Bearer $API_KEY" | python -m json.tool
"""
HELLO = {"input": "Hello there", "response_format": "wav"}


def invite(client: TestClient, user_id: int, **query: Any) -> str:
    reply = client.post(f"/admin/users/{user_id}/invites", params=query, headers=AS_ADMIN)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["invite_code"])


def exchange(client: TestClient, code: object) -> Any:
    body = json.dumps({"invite_code": code})  # escapes what UTF-8 can't hold
    return client.post("/auth/exchange-invite", content=body)


def new_user(client: TestClient, **body: Any) -> int:
    reply = client.post("/admin/users", headers=AS_ADMIN, json=body)
    assert reply.status_code == 200, reply.text
    return int(reply.json()["user_id"])


# Document 2's way in


@pytest.mark.curl
def test_the_documents_lines_lead_from_a_user_to_a_key(live_store_server: LiveServer) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "BASE": live_store_server.url, "ADMIN_TOKEN": ADMIN_TOKEN}
    program = ["bash", "-euo", "pipefail", "-c", AUTH_FLOW]
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert int(lines["USER_ID"]) > LOCAL_USER_ID
    assert len(lines["INVITE_CODE"]) == 24
    assert len(lines["API_KEY"]) == 43
    assert '"tokens_used_total": 0' in done.stdout


def test_answers_have_exactly_the_documented_keys(keyed_client: TestClient) -> None:
    made = keyed_client.post("/admin/users", headers=AS_ADMIN).json()
    assert set(made) == {"user_id"}
    path = f"/admin/users/{made['user_id']}/invites"
    invited = keyed_client.post(path, headers=AS_ADMIN).json()
    assert set(invited) == {"invite_code", "expires_hours"}
    assert invited["expires_hours"] == 24
    given = exchange(keyed_client, invited["invite_code"]).json()
    assert set(given) == {"api_key", "key_prefix"}
    assert given["api_key"].startswith(given["key_prefix"])


# Invites


def test_a_code_is_good_for_one_key(keyed_client: TestClient) -> None:
    code = invite(keyed_client, new_user(keyed_client))
    key = exchange(keyed_client, code).json()["api_key"]
    assert keyed_client.get("/usage", headers=as_user(key)).status_code == 200
    again = exchange(keyed_client, code)
    assert again.status_code == 403
    assert again.json()["error"]["code"] == "invalid_invite"
    assert "used already" in again.json()["detail"]


def test_of_many_who_exchange_at_once_one_gets_the_key(
    keyed_client: TestClient, store: Store
) -> None:
    user_id = new_user(keyed_client)
    code = invite(keyed_client, user_id)
    replies = at_once([lambda: exchange(keyed_client, code)] * 12)
    assert sorted(reply.status_code for reply in replies) == [200] + [403] * 11
    keys = keyed_client.get(f"/admin/users/{user_id}/keys", headers=AS_ADMIN).json()
    assert len(keys["data"]) == 1


@pytest.mark.parametrize(
    "code", [None, 5, "", "   ", "short", ["12345678"], {"a": 1}, "\ud800" * 9]
)
def test_what_is_no_code_is_400(store_admin: TestClient, code: object) -> None:
    reply = exchange(store_admin, code)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "invite_code"


@pytest.mark.parametrize(
    "code", ["a guessed code", "x" * 100_000, "'; DROP TABLE invites; --", "💥" * 8]
)
def test_what_is_no_invite_is_403(store_admin: TestClient, code: str) -> None:
    reply = exchange(store_admin, code)
    assert reply.status_code == 403
    assert "unknown or revoked" in reply.json()["detail"]


@pytest.mark.parametrize(
    "hours", ["0", "-1", "99999999999999999999", "8785", "soon", "1.5", "", "nan"]
)
def test_odd_hours_are_400(store_admin: TestClient, hours: str) -> None:
    path = f"/admin/users/{LOCAL_USER_ID}/invites"
    reply = store_admin.post(path, params={"expires_hours": hours}, headers=AS_ADMIN)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == "expires_hours"


def test_a_revoked_code_is_refused(keyed_client: TestClient) -> None:
    user_id = new_user(keyed_client)
    code = invite(keyed_client, user_id)
    path = f"/admin/users/{user_id}/invites"
    (row,) = keyed_client.get(path, headers=AS_ADMIN).json()["data"]
    assert code not in str(row)
    revoked = keyed_client.delete(f"{path}/{row['invite_id']}", headers=AS_ADMIN)
    assert revoked.json() == {"status": "revoked"}
    assert exchange(keyed_client, code).status_code == 403
    again = keyed_client.delete(f"{path}/{row['invite_id']}", headers=AS_ADMIN)
    assert again.status_code == 404


def test_only_failures_are_counted_and_a_valid_code_is_never_refused(
    keyed_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen3_audio.web.accounts.time.time", lambda: 1_000_020.0)
    good = invite(keyed_client, new_user(keyed_client))
    for _ in range(MAX_FAILURES):
        assert exchange(keyed_client, "a guessed code").status_code == 403
    refused = exchange(keyed_client, "a guessed code")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert exchange(keyed_client, good).status_code == 200


def test_failures_of_one_address_are_forgotten_with_the_minute() -> None:
    failures = FailedExchanges()
    for _ in range(MAX_FAILURES):
        failures.note("a", now_s=60.0)
    with pytest.raises(LimitReached) as refused:
        failures.note("a", now_s=90.0)
    assert refused.value.retry_after_s == 30
    failures.note("b", now_s=90.0)
    failures.note("a", now_s=120.0)


# Users


def test_users_are_listed_a_page_at_a_time(keyed_client: TestClient) -> None:
    numbers = [new_user(keyed_client, name=f"User {index}") for index in range(3)]
    first = keyed_client.get("/admin/users", params={"limit": 2}, headers=AS_ADMIN).json()
    assert [user["user_id"] for user in first["data"]] == [LOCAL_USER_ID, numbers[0]]
    assert first["has_more"]
    rest = keyed_client.get("/admin/users", params={"after": numbers[0]}, headers=AS_ADMIN).json()
    assert [user["name"] for user in rest["data"]] == ["User 1", "User 2"]
    assert not rest["has_more"]


def test_a_change_leaves_what_it_does_not_name(keyed_client: TestClient) -> None:
    user_id = new_user(keyed_client, name="Alice", max_requests_at_once=3)
    path = f"/admin/users/{user_id}"
    changed = keyed_client.patch(path, json={"max_tokens_per_day": 100}, headers=AS_ADMIN).json()
    assert (changed["name"], changed["max_requests_at_once"]) == ("Alice", 3)
    assert changed["max_tokens_per_day"] == 100
    freed = {"name": None, "max_requests_at_once": None}
    changed = keyed_client.patch(path, json=freed, headers=AS_ADMIN).json()
    assert (changed["name"], changed["max_requests_at_once"]) == (None, None)
    assert keyed_client.get(path, headers=AS_ADMIN).json() == changed


@pytest.mark.parametrize(
    "body",
    [{"max_tokens_per_day": value} for value in (-1, 10**16, "5", 1.5, True, [1])]
    + [{"name": value} for value in ("", "  ", "a\nb", "x" * 129, 5, "\ud800")],
    ids=str,
)
def test_odd_names_and_limits_are_400(store_admin: TestClient, body: dict[str, Any]) -> None:
    (field,) = body
    content = json.dumps(body)
    for reply in (
        store_admin.post("/admin/users", content=content, headers=AS_ADMIN),
        store_admin.patch("/admin/users/1", content=content, headers=AS_ADMIN),
    ):
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["param"] == field


def test_a_disabled_user_is_kept_out_until_enabled(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str]
) -> None:
    key, code = make_key(bob), invite(keyed_client, bob)
    keyed_client.post(f"/admin/users/{bob}/disable", headers=AS_ADMIN)
    refused = keyed_client.get("/usage", headers=as_user(key))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "user_disabled")
    assert exchange(keyed_client, code).status_code == 403
    keyed_client.post(f"/admin/users/{bob}/enable", headers=AS_ADMIN)
    assert keyed_client.get("/usage", headers=as_user(key)).status_code == 200
    assert exchange(keyed_client, code).status_code == 200


def test_a_deleted_user_is_gone_with_the_keys(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str]
) -> None:
    key = make_key(bob)
    spoken = {"input": "Hello", "response_format": "wav"}
    assert keyed_client.post("/v1/audio/speech", json=spoken, headers=as_user(key)).is_success
    gone = keyed_client.delete(f"/admin/users/{bob}", headers=AS_ADMIN)
    assert gone.json() == {"status": "deleted"}
    assert keyed_client.get("/usage", headers=as_user(key)).status_code == 401
    assert keyed_client.delete(f"/admin/users/{bob}", headers=AS_ADMIN).status_code == 404
    local = keyed_client.delete(f"/admin/users/{LOCAL_USER_ID}", headers=AS_ADMIN)
    assert local.status_code == 400


@pytest.mark.parametrize(
    "number", ["999", "0", "x", "-1", "1.0", "9" * 19, "9" * 40, "%F0%9F%92%A5"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/disable"),
        ("POST", "/enable"),
        ("GET", "/usage"),
        ("GET", "/keys"),
        ("POST", "/invites"),
        ("GET", "/invites"),
        ("DELETE", "/keys/1"),
        ("DELETE", "/invites/1"),
    ],
)
def test_users_that_there_are_not_are_404(
    store_admin: TestClient, method: str, path: str, number: str
) -> None:
    reply = store_admin.request(method, f"/admin/users/{number}{path}", headers=AS_ADMIN)
    assert reply.status_code == 404, reply.text
    assert reply.json()["error"]["code"] == "not_found"


# One's own keys


def test_a_user_makes_names_and_revokes_further_keys(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str]
) -> None:
    first = make_key(bob)
    made = keyed_client.post("/keys", json={"name": "laptop"}, headers=as_user(first)).json()
    assert set(made) == {"key_id", "api_key", "key_prefix"}
    listed = keyed_client.get("/keys", headers=as_user(made["api_key"])).json()["data"]
    assert (listed[0]["name"], listed[0]["key_prefix"]) == ("laptop", made["key_prefix"])
    assert made["api_key"] not in str(listed)
    path = f"/keys/{made['key_id']}"
    assert keyed_client.delete(path, headers=as_user(first)).json() == {"status": "revoked"}
    assert keyed_client.get("/usage", headers=as_user(made["api_key"])).status_code == 401
    assert keyed_client.delete(path, headers=as_user(first)).status_code == 404


def test_the_admin_revokes_a_key(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str]
) -> None:
    key = make_key(bob)
    path = f"/admin/users/{bob}/keys"
    (row,) = keyed_client.get(path, headers=AS_ADMIN).json()["data"]
    assert keyed_client.delete(f"{path}/{row['key_id']}", headers=AS_ADMIN).is_success
    assert keyed_client.get("/usage", headers=as_user(key)).status_code == 401


def test_in_local_mode_nobody_can_make_a_key_for_later(store_client: TestClient) -> None:
    reply = store_client.post("/keys")
    assert reply.status_code == 403
    assert "ADMIN_TOKEN" in reply.json()["detail"]


# ADMIN_TOKEN set later


def test_an_invite_for_user_1_hands_over_what_local_mode_made(
    store: Store, make_client: Callable[..., TestClient]
) -> None:
    local = make_client(store=store)
    spoken = {"input": "Hello", "response_format": "wav"}
    assert local.post("/v1/audio/speech", json=spoken).is_success
    keyed = make_client(store=store, admin_token=ADMIN_TOKEN)
    key = exchange(keyed, invite(keyed, LOCAL_USER_ID)).json()["api_key"]
    used = keyed.get("/usage", headers=as_user(key)).json()
    assert used["tokens_used_speech"] == 5
    assert used["per_key"][0]["key_id"] is None


# Limits


def test_tokens_a_day_are_a_quota_that_waiting_does_not_help(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str]
) -> None:
    key = make_key(bob)
    keyed_client.patch(f"/admin/users/{bob}", json={"max_tokens_per_day": 8}, headers=AS_ADMIN)
    spoken = {"input": "Hello", "response_format": "wav"}
    assert keyed_client.post("/v1/audio/speech", json=spoken, headers=as_user(key)).is_success
    reply = keyed_client.post("/v1/audio/speech", json=spoken, headers=as_user(key))
    assert reply.status_code == 429
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "3 are left" in error["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    used = keyed_client.get("/usage", headers=as_user(key)).json()
    assert (used["tokens_used_total"], used["speech_calls"]) == (5, 1)


@pytest.mark.parametrize("route", ["speech", "transcriptions"])
def test_requests_a_minute_count_on_every_paid_route(
    keyed_client: TestClient, bob: int, make_key: Callable[[int], str], route: str
) -> None:
    key = make_key(bob)
    limit = {"max_requests_per_minute": 0}
    keyed_client.patch(f"/admin/users/{bob}", json=limit, headers=AS_ADMIN)
    body: dict[str, Any] = {"json": {"input": "Hello"}}
    if route == "transcriptions":
        body = {"files": {"file": ("a.wav", make_tone(1.0))}}
    reply = keyed_client.post(f"/v1/audio/{route}", headers=as_user(key), **body)
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert "x-should-retry" not in reply.headers
    assert keyed_client.get("/usage", headers=as_user(key)).status_code == 200
