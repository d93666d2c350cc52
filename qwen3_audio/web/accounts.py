"""Who may use this server: users, invites, keys and limits, and what everybody used."""

import threading
import time
from collections import Counter
from typing import Any

from fastapi import APIRouter, Depends, Request

from qwen3_audio import accounts
from qwen3_audio.accounts import Answer
from qwen3_audio.errors import LimitReached, NotAllowed
from qwen3_audio.store.invites import DEFAULT_EXPIRES_HOURS
from qwen3_audio.store.users import Limits
from qwen3_audio.web import schemas
from qwen3_audio.web.addresses import path_id, read_page
from qwen3_audio.web.auth import IS_LOCAL, UserId, require_admin
from qwen3_audio.web.docs import ERRORS
from qwen3_audio.web.forms import Fields, bad_value, missing, read_object
from qwen3_audio.web.state import get_service, get_settings, get_store

router = APIRouter(tags=["accounts"], responses=ERRORS)
admin = APIRouter(
    prefix="/admin", tags=["admin"], responses=ERRORS, dependencies=[Depends(require_admin)]
)

MIN_CODE_CHARS = 8
MAX_FAILURES = 60  # of one address in a minute
DEFAULT_PAGE = 100


class FailedExchanges:
    """How often each address came with a bad invite in this minute of the clock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._num_failures: Counter[str] = Counter()

    def note(self, address: str, *, now_s: float) -> None:
        """LimitReached if that was one too many. A good code is never asked here."""
        with self._lock:
            minute = int(now_s // 60)
            if minute != self._minute:
                self._minute = minute
                self._num_failures.clear()
            self._num_failures[address] += 1
            if self._num_failures[address] > MAX_FAILURES:
                raise LimitReached(
                    f"More than {MAX_FAILURES} failed exchanges in a minute; a valid code is"
                    " accepted at any time.",
                    retry_after_s=60 - int(now_s % 60),
                )


@router.post("/auth/exchange-invite", **schemas.EXCHANGE)
async def exchange_invite(request: Request) -> Answer:
    """An invite code for an API key, which is shown this once."""
    code = (_text(await read_object(request), "invite_code") or "").strip()
    if len(code) < MIN_CODE_CHARS:
        raise missing("invite_code", f"send the code, at least {MIN_CODE_CHARS} characters")
    store = get_store(request)
    try:
        return await get_service(request).books.run(lambda: accounts.exchange_invite(store, code))
    except NotAllowed:
        address = request.client.host if request.client else ""
        failures: FailedExchanges = request.app.state.failed_exchanges
        failures.note(address, now_s=time.time())
        raise


# One's own keys and usage


@router.get("/usage")
def show_usage(request: Request, user_id: UserId) -> Answer:
    """What the caller used: in all, by day, by key."""
    return accounts.show_usage(get_store(request), user_id)


@router.get("/keys")
def list_own_keys(
    request: Request, user_id: UserId, before: str | None = None, limit: str | None = None
) -> Answer:
    """The caller's keys, newest first; revoked ones too."""
    last, num_shown = read_page(before, limit, default=DEFAULT_PAGE)
    return accounts.list_keys(get_store(request), user_id, before=last, page_size=num_shown)


@router.post("/keys", **schemas.NEW_KEY)
async def add_own_key(request: Request, user_id: UserId) -> Answer:
    """A further key of the caller, which is shown this once."""
    if get_settings(request).is_local:
        raise NotAllowed(IS_LOCAL)
    name = _text(await read_object(request), "name")
    store = get_store(request)
    return await get_service(request).books.run(lambda: accounts.add_key(store, user_id, name=name))


@router.delete("/keys/{key_id}")
def revoke_own_key(request: Request, key_id: str, user_id: UserId) -> Answer:
    """From now on the key is unknown; that holds for the one that asks, too."""
    return accounts.revoke_key(get_store(request), user_id, path_id(key_id, "key"))


# Users


@admin.post("/users", **schemas.NEW_USER)
async def add_user(request: Request) -> Answer:
    """A new user; a body with a name and limits may come along."""
    body = await read_object(request)
    name, limits = _text(body, "name"), Limits(**accounts.read_limits(body))
    store = get_store(request)
    return await get_service(request).books.run(
        lambda: accounts.add_user(store, name=name, limits=limits)
    )


@admin.get("/users")
def list_users(request: Request, after: str | None = None, limit: str | None = None) -> Answer:
    """All users, oldest first; the next page is `after` the last one's number."""
    last, num_shown = read_page(after, limit, default=DEFAULT_PAGE)
    return accounts.list_users(get_store(request), after=last or 0, page_size=num_shown)


@admin.get("/users/{user_id}")
def show_user(request: Request, user_id: str) -> Answer:
    return accounts.show_user(get_store(request), path_id(user_id, "user"))


@admin.patch("/users/{user_id}", **schemas.CHANGED_USER)
async def change_user(request: Request, user_id: str) -> Answer:
    """Name and limits; what is not named stays, null takes the name or the limit away."""
    store, number = get_store(request), path_id(user_id, "user")
    body = await read_object(request)
    changes: dict[str, Any] = dict(accounts.read_limits(body))
    if "name" in body:
        changes["name"] = _text(body, "name")
    return await get_service(request).books.run(
        lambda: accounts.change_user(store, number, changes)
    )


@admin.post("/users/{user_id}/disable")
def disable_user(request: Request, user_id: str) -> Answer:
    """From now on the user's keys and invites are refused."""
    return accounts.disable_user(get_store(request), path_id(user_id, "user"))


@admin.post("/users/{user_id}/enable")
def enable_user(request: Request, user_id: str) -> Answer:
    return accounts.enable_user(get_store(request), path_id(user_id, "user"))


@admin.delete("/users/{user_id}")
def delete_user(request: Request, user_id: str) -> Answer:
    """With everything that is theirs; there is no way back."""
    return accounts.delete_user(get_store(request), path_id(user_id, "user"))


@admin.get("/users/{user_id}/usage")
def show_usage_of(request: Request, user_id: str) -> Answer:
    """What a user used, in the shape of `GET /usage`."""
    return accounts.show_usage(get_store(request), path_id(user_id, "user"))


# Invites and keys of a user


@admin.post("/users/{user_id}/invites")
def add_invite(request: Request, user_id: str, expires_hours: str | None = None) -> Answer:
    """A code that the user exchanges for a key, so that nobody else sees the key."""
    hours = Fields([("expires_hours", expires_hours)]).whole("expires_hours")
    if expires_hours is not None and hours is None:
        raise bad_value("expires_hours", "a whole number")
    return accounts.add_invite(
        get_store(request),
        path_id(user_id, "user"),
        expires_hours=DEFAULT_EXPIRES_HOURS if hours is None else hours,
    )


@admin.get("/users/{user_id}/invites")
def list_invites(
    request: Request, user_id: str, before: str | None = None, limit: str | None = None
) -> Answer:
    """Newest first, used and revoked ones too; the codes themselves are not kept."""
    last, num_shown = read_page(before, limit, default=DEFAULT_PAGE)
    store, number = get_store(request), path_id(user_id, "user")
    return accounts.list_invites(store, number, before=last, page_size=num_shown)


@admin.delete("/users/{user_id}/invites/{invite_id}")
def revoke_invite(request: Request, user_id: str, invite_id: str) -> Answer:
    store, number = get_store(request), path_id(user_id, "user")
    return accounts.revoke_invite(store, number, path_id(invite_id, "invite"))


@admin.get("/users/{user_id}/keys")
def list_keys(
    request: Request, user_id: str, before: str | None = None, limit: str | None = None
) -> Answer:
    """Newest first, revoked ones too; the keys themselves are not kept."""
    last, num_shown = read_page(before, limit, default=DEFAULT_PAGE)
    store, number = get_store(request), path_id(user_id, "user")
    return accounts.list_keys(store, number, before=last, page_size=num_shown)


@admin.delete("/users/{user_id}/keys/{key_id}")
def revoke_key(request: Request, user_id: str, key_id: str) -> Answer:
    store, number = get_store(request), path_id(user_id, "user")
    return accounts.revoke_key(store, number, path_id(key_id, "key"))


def _text(body: Answer, name: str) -> str | None:
    return Fields([(name, body.get(name))]).text(name)
