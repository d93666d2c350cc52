"""`qwen3-audio admin`: what the routes under /admin do, on the machine itself, without a key."""

import argparse
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

from qwen3_audio import accounts
from qwen3_audio.accounts import LIMIT_NAMES, Answer
from qwen3_audio.commands.arguments import read_settings
from qwen3_audio.errors import BadRequest
from qwen3_audio.store.opening import Store, open_store
from qwen3_audio.store.users import Limits

Work = Callable[[Store, argparse.Namespace], Answer]
UNLIMITED = "unlimited"


def run(arguments: argparse.Namespace) -> int:
    """Do it, and write the answer of the route as JSON."""
    settings = read_settings(arguments)
    opened = open_store(settings.database, settings.data_dir, hmac_secret=settings.hmac_secret)
    with closing(opened) as store:
        answer = WORK[arguments.topic, arguments.action](store, arguments)
    print(json.dumps(answer, ensure_ascii=False, indent=2))
    return 0


def _add_user(store: Store, arguments: argparse.Namespace) -> Answer:
    limits = Limits(**accounts.read_limits(_limits(arguments)))
    return accounts.add_user(store, name=arguments.name, limits=limits)


def _change_user(store: Store, arguments: argparse.Namespace) -> Answer:
    changes: dict[str, Any] = dict(accounts.read_limits(_limits(arguments)))
    if arguments.name is not None:
        changes["name"] = arguments.name or None
    return accounts.change_user(store, arguments.user, changes)


def _limits(arguments: argparse.Namespace) -> dict[str, int | None]:
    given = {name: getattr(arguments, name) for name in LIMIT_NAMES}
    return {name: _limit(name, text) for name, text in given.items() if text is not None}


def _limit(name: str, text: str) -> int | None:
    if text == UNLIMITED:
        return None
    if not (text.isascii() and text.isdecimal()):
        option = f"--{name.replace('_', '-')}"
        raise BadRequest(f"{option} must be a whole number or {UNLIMITED}")
    return int(text)


def _list_users(store: Store, arguments: argparse.Namespace) -> Answer:
    return accounts.list_users(store, after=arguments.after, page_size=arguments.limit)


def _list_invites(store: Store, arguments: argparse.Namespace) -> Answer:
    return accounts.list_invites(
        store, arguments.user, before=arguments.before, page_size=arguments.limit
    )


def _list_keys(store: Store, arguments: argparse.Namespace) -> Answer:
    return accounts.list_keys(
        store, arguments.user, before=arguments.before, page_size=arguments.limit
    )


WORK: dict[tuple[str, str], Work] = {
    ("users", "add"): _add_user,
    ("users", "list"): _list_users,
    ("users", "show"): lambda store, given: accounts.show_user(store, given.user),
    ("users", "change"): _change_user,
    ("users", "disable"): lambda store, given: accounts.disable_user(store, given.user),
    ("users", "enable"): lambda store, given: accounts.enable_user(store, given.user),
    ("users", "delete"): lambda store, given: accounts.delete_user(store, given.user),
    ("users", "usage"): lambda store, given: accounts.show_usage(store, given.user),
    ("invites", "add"): lambda store, given: accounts.add_invite(
        store, given.user, expires_hours=given.expires_hours
    ),
    ("invites", "list"): _list_invites,
    ("invites", "revoke"): lambda store, given: accounts.revoke_invite(
        store, given.user, given.invite
    ),
    ("keys", "list"): _list_keys,
    ("keys", "revoke"): lambda store, given: accounts.revoke_key(store, given.user, given.key),
}
