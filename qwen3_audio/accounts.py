"""Accounts as routes and the command line show them: users, their invites, keys, limits, usage.

Every function is one transaction or a few, and gives what can be written as JSON.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import Connection

from qwen3_audio.errors import BadRequest
from qwen3_audio.store import erasure, invites, keys, usage, users
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import NO_KEY
from qwen3_audio.store.usage import Usage
from qwen3_audio.store.users import Limits, User

Answer = dict[str, Any]
LIMIT_NAMES = tuple(field.name for field in fields(Limits))


# Users


def add_user(store: Store, *, name: str | None, limits: Limits) -> Answer:
    with store.db.write() as conn:
        return {"user_id": users.add_user(conn, name=name, limits=limits)}


def list_users(store: Store, *, after: int, page_size: int) -> Answer:
    """Oldest first."""
    with store.db.read() as conn:
        page = users.list_users(conn, after=after, page_size=page_size)
    return {"data": [_user(user) for user in page.items], "has_more": page.has_more}


def show_user(store: Store, user_id: int) -> Answer:
    with store.db.read() as conn:
        return _user(users.get_user(conn, user_id))


def change_user(store: Store, user_id: int, changes: Mapping[str, Any]) -> Answer:
    """Those of name and limits that are named; None: no name, no limit."""
    with store.db.write() as conn:
        user = users.get_user(conn, user_id)
        if "name" in changes:
            users.rename_user(conn, user_id, name=changes["name"])
        limits = {name: changes[name] for name in LIMIT_NAMES if name in changes}
        users.set_limits(conn, user_id, replace(user.limits, **limits))
        return _user(users.get_user(conn, user_id))


def disable_user(store: Store, user_id: int) -> Answer:
    return _write(store, lambda conn: users.disable_user(conn, user_id), "disabled")


def enable_user(store: Store, user_id: int) -> Answer:
    return _write(store, lambda conn: users.enable_user(conn, user_id), "enabled")


def delete_user(store: Store, user_id: int) -> Answer:
    """With everything that is theirs."""
    erasure.delete_user(store.db, store.blobs, user_id)
    return {"status": "deleted"}


# Invites


def add_invite(store: Store, user_id: int, *, expires_hours: int) -> Answer:
    with store.db.write() as conn:
        new = invites.add_invite(conn, user_id, secret=store.secret, expires_hours=expires_hours)
    return {"invite_code": new.invite_code, "expires_hours": expires_hours}


def exchange_invite(store: Store, code: str) -> Answer:
    with store.db.write() as conn:
        new = invites.exchange_invite(conn, code, secret=store.secret)
    return {"api_key": new.api_key, "key_prefix": new.prefix}


def list_invites(store: Store, user_id: int, *, before: int | None, page_size: int) -> Answer:
    """Newest first, used and revoked ones too."""
    with store.db.read() as conn:
        users.get_user(conn, user_id)
        page = invites.list_invites(conn, user_id, before=before, page_size=page_size)
    return {"data": [_row(invite) for invite in page.items], "has_more": page.has_more}


def revoke_invite(store: Store, user_id: int, invite_id: int) -> Answer:
    return _write(store, lambda conn: invites.revoke_invite(conn, user_id, invite_id), "revoked")


# Keys


def add_key(store: Store, user_id: int, *, name: str | None) -> Answer:
    """A further key, shown here and never again. BadRequest if the user has enough of them."""
    with store.db.write() as conn:
        new = keys.add_key(conn, user_id, secret=store.secret, name=name)
    return {"key_id": new.key_id, "api_key": new.api_key, "key_prefix": new.prefix}


def list_keys(store: Store, user_id: int, *, before: int | None, page_size: int) -> Answer:
    """Newest first, revoked ones too."""
    with store.db.read() as conn:
        users.get_user(conn, user_id)
        page = keys.list_keys(conn, user_id, before=before, page_size=page_size)
    data = [_row(key) for key in page.items]
    for row in data:
        row["key_prefix"] = row.pop("prefix")
    return {"data": data, "has_more": page.has_more}


def revoke_key(store: Store, user_id: int, key_id: int) -> Answer:
    return _write(store, lambda conn: keys.revoke_key(conn, user_id, key_id), "revoked")


# Usage


def show_usage(store: Store, user_id: int) -> Answer:
    """Everything the user ever used, by day (newest first) and by key."""
    with store.db.read() as conn:
        users.get_user(conn, user_id)
        total = usage.total_usage(conn, user_id)
        days = usage.usage_by_day(conn, user_id)
        of_keys = usage.usage_by_key(conn, user_id)
    per_key = [
        {"key_id": None if key_id == NO_KEY else key_id, **_used(used)}
        for key_id, used in of_keys.items()
    ]
    return {
        **_used(total),
        "per_day": [{"day": day.isoformat(), **_used(used)} for day, used in days.items()],
        "per_key": per_key,
    }


def _used(used: Usage) -> Answer:
    return {
        "tokens_used_total": used.tokens_total,
        "tokens_used_tts": used.tokens_tts,
        "tokens_used_batch": used.tokens_batch,
        "tokens_used_speech": used.tokens_speech,
        "tokens_used_voices": used.tokens_voices,
        "voices_created": used.voices_created,
        "tts_calls": used.tts_calls,
        "batch_calls": used.batch_calls,
        "speech_calls": used.speech_calls,
        "transcription_calls": used.transcription_calls,
        "transcribed_s": used.transcribed_ms / 1000,
    }


def read_limits(values: Mapping[str, Any]) -> dict[str, int | None]:
    """The limits among some fields; BadRequest for one that is no whole number and not null."""
    found = {name: values[name] for name in LIMIT_NAMES if name in values}
    for name, value in found.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise BadRequest(f"{name} must be a whole number, or null for no limit", param=name)
    return found


def _user(user: User) -> Answer:
    row = _row(user)
    limits: Answer = row.pop("limits")
    return row | limits


def _row(item: Any) -> Answer:
    """A frozen row as JSON: moments in ISO 8601 with their offset."""
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asdict(item).items()
    }


def _write(store: Store, work: Callable[[Connection], object], status: str) -> Answer:
    with store.db.write() as conn:
        work(conn)
    return {"status": status}
