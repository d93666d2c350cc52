"""Accounts: users, their keys, the invites that give one."""

import logging
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import Connection, select
from store_places import SECRET, explain
from store_rows import at_once, count

from qwen3_audio.errors import (
    BadRequest,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Overloaded,
    StartError,
)
from qwen3_audio.store.db import Database
from qwen3_audio.store.invites import (
    MAX_EXPIRES_HOURS,
    add_invite,
    exchange_invite,
    list_invites,
    revoke_invite,
)
from qwen3_audio.store.key_uses import KeyUses
from qwen3_audio.store.keys import (
    LAST_USED_EVERY,
    MAX_KEYS,
    add_key,
    authenticate,
    find_caller,
    list_keys,
    make_token,
    note_use,
    revoke_key,
)
from qwen3_audio.store.names import checked_name
from qwen3_audio.store.opening import Store
from qwen3_audio.store.secret_file import FILE_NAME, load_secret
from qwen3_audio.store.tables import api_keys, metadata
from qwen3_audio.store.users import (
    Limits,
    add_user,
    disable_user,
    enable_user,
    get_user,
    list_users,
    rename_user,
    set_limits,
)

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ODD_NAMES = [
    "Zoë 🎙️ 👩‍👩‍👧",
    'O\'Brien "the" voice',
    "../../etc/passwd",
    "Robert'); DROP TABLE users;--",
]
NUMBERS_OF_NOBODY = [0, -1, 10**6, 2**63 - 1, 2**63, 10**30, -(10**30)]


def test_a_user_has_as_many_keys_as_allowed_even_in_a_race(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        keys = [add_key(conn, alice, secret=SECRET) for _ in range(MAX_KEYS - 2)]
        codes = [add_invite(conn, alice, secret=SECRET).invite_code for _ in range(4)]

    def add() -> None:
        with store.db.write() as conn:
            add_key(conn, alice, secret=SECRET)

    def exchange(code: str) -> None:
        with store.db.write() as conn:
            exchange_invite(conn, code, secret=SECRET)

    exchanges = [lambda code=code: exchange(code) for code in codes]
    results = at_once([*[add] * 4, *exchanges])
    assert [type(result) for result in results] == [BadRequest] * 6
    assert {getattr(result, "code", None) for result in results} == {"too_many_keys"}
    assert count(store, api_keys) == MAX_KEYS
    with store.db.write() as conn:
        revoke_key(conn, alice, keys[0].key_id)
        add_key(conn, alice, secret=SECRET)


def test_odd_names_come_back_as_they_were(store: Store) -> None:
    with store.db.write() as conn:
        numbers = [add_user(conn, name=f" {name}\n") for name in ODD_NAMES]
    with store.db.read() as conn:
        assert [get_user(conn, user_id).name for user_id in numbers] == ODD_NAMES


@pytest.mark.parametrize("name", ["", " \t\n", "two\nlines", "x" * 129, "nul\0", "half \ud83d"])
def test_names_that_are_no_line_of_text_are_refused(name: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        checked_name(name)
    assert refusal.value.param == "name"


def test_a_number_of_nobody_is_not_found(store: Store) -> None:
    asks = (
        get_user,
        disable_user,
        enable_user,
        lambda conn, user_id: set_limits(conn, user_id, Limits()),
        lambda conn, user_id: add_key(conn, user_id, secret=SECRET),
        lambda conn, user_id: add_invite(conn, user_id, secret=SECRET),
    )
    with store.db.write() as conn:
        for ask, user_id in product(asks, NUMBERS_OF_NOBODY):
            with pytest.raises(NotFound):
                ask(conn, user_id)


def test_users_are_listed_a_page_at_a_time(store: Store) -> None:
    with store.db.write() as conn:
        made = [1] + [add_user(conn) for _ in range(4)]
        first = list_users(conn, page_size=3)
        second = list_users(conn, after=first.items[-1].user_id, page_size=3)
    assert [user.user_id for user in (*first.items, *second.items)] == made
    assert (first.has_more, second.has_more) == (True, False)


def test_limits_are_kept_and_odd_ones_refused(store: Store, alice: int) -> None:
    limits = Limits(max_tokens_per_day=10**12, max_requests_per_minute=0)
    with store.db.write() as conn:
        set_limits(conn, alice, limits)
        rename_user(conn, alice, name="Alice II")
        assert get_user(conn, alice).limits == limits
        assert get_user(conn, alice).name == "Alice II"
    for value in (-1, 10**30):
        with pytest.raises(BadRequest):
            Limits(max_requests_at_once=value)


def test_a_key_opens_the_door_of_its_user_alone(store: Store, alice: int, bob: int) -> None:
    with store.db.write() as conn:
        hers = add_key(conn, alice, secret=SECRET, name="laptop")
        his = add_key(conn, bob, secret=SECRET)
    caller = authenticate(store.db, SECRET, hers.api_key)
    assert (caller.user_id, caller.key_id) == (alice, hers.key_id)
    assert authenticate(store.db, SECRET, his.api_key).user_id == bob


def test_a_key_has_43_characters_and_shows_its_first_8(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET)
        shown = list_keys(conn, alice).items[0]
    assert len(key.api_key) == 43
    assert shown.prefix == key.prefix == key.api_key[:8]


def test_no_token_looks_like_an_option() -> None:
    assert all(make_token(32)[0].isalnum() for _ in range(500))


def test_what_is_no_key_or_almost_one_is_unknown(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET).api_key
    almost = [key.swapcase(), key[:-1], key + "x", f" {key}", key[:8], key[:8] + "\0"]
    for other in (*almost, "", "x", "\0" * 8, "\ud800" * 9, "é" * 43, "k" * 10**6, "%' OR 1"):
        with pytest.raises(NotAuthenticated):
            authenticate(store.db, SECRET, other)


def test_two_keys_with_the_same_prefix_are_told_apart(store: Store, alice: int, bob: int) -> None:
    with store.db.write() as conn:
        hers, his = add_key(conn, alice, secret=SECRET), add_key(conn, bob, secret=SECRET)
        conn.execute(api_keys.update().values(prefix=his.prefix))
        assert find_caller(conn, SECRET, his.prefix + hers.api_key[8:]) is None
        assert find_caller(conn, SECRET, his.api_key).user_id == bob


def test_a_key_of_another_secret_is_unknown(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=b"the secret of another server").api_key
    with pytest.raises(NotAuthenticated):
        authenticate(store.db, SECRET, key)


def test_a_revoked_key_is_unknown_and_only_its_owner_revokes_it(
    store: Store, alice: int, bob: int
) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET)
        with pytest.raises(NotFound):
            revoke_key(conn, bob, key.key_id)
        assert find_caller(conn, SECRET, key.api_key) is not None
        revoke_key(conn, alice, key.key_id)
        with pytest.raises(NotFound):
            revoke_key(conn, alice, key.key_id)
    with pytest.raises(NotAuthenticated):
        authenticate(store.db, SECRET, key.api_key)


def test_a_disabled_user_is_refused_until_enabled(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET).api_key
        invite = add_invite(conn, alice, secret=SECRET).invite_code
        disable_user(conn, alice)
        disable_user(conn, alice)
        with pytest.raises(NotAllowed, match="disabled"):
            exchange_invite(conn, invite, secret=SECRET)
    with pytest.raises(NotAllowed, match="disabled"):
        authenticate(store.db, SECRET, key)
    with store.db.write() as conn:
        enable_user(conn, alice)
    assert authenticate(store.db, SECRET, key).user_id == alice


def test_the_use_of_a_key_is_noted_at_most_once_a_minute(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET)
    uses, second = KeyUses(), timedelta(seconds=1)
    for moment, noted in (
        (NOON, NOON),
        (NOON + LAST_USED_EVERY - second, NOON),
        (NOON + LAST_USED_EVERY, NOON + LAST_USED_EVERY),
    ):
        if uses.add(authenticate(store.db, SECRET, key.api_key), now=moment):
            uses.write(store.db)
        with store.db.read() as conn:
            assert list_keys(conn, alice).items[0].last_used_at == noted


def test_uses_that_come_while_others_are_written_are_written_too(
    store: Store, alice: int, bob: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses, write = KeyUses(), Database.write
    with store.db.write() as conn:
        first, second = (add_key(conn, owner, secret=SECRET) for owner in (alice, bob))
    callers = [authenticate(store.db, SECRET, key.api_key) for key in (first, second)]
    answers = [uses.add(callers[0], now=NOON)]

    def write_meanwhile(db: Database) -> AbstractContextManager[Connection]:
        answers.append(uses.add(callers[1], now=NOON))
        monkeypatch.undo()
        return write(db)

    monkeypatch.setattr(Database, "write", write_meanwhile)
    uses.write(store.db)
    assert answers == [True, False]
    assert uses.add(callers[0], now=NOON)
    with store.db.read() as conn:
        for owner in (alice, bob):
            assert list_keys(conn, owner).items[0].last_used_at == NOON


def test_a_use_that_cannot_be_noted_is_noted_the_next_time(
    store: Store, alice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = KeyUses()
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET)
    caller = authenticate(store.db, SECRET, key.api_key)
    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", lambda db: refuse())
        assert uses.add(caller, now=NOON)
        uses.write(store.db)
    assert uses.add(caller, now=NOON)
    uses.write(store.db)
    with store.db.read() as conn:
        assert list_keys(conn, alice).items[0].last_used_at == NOON


def refuse() -> NoReturn:
    raise Overloaded("The database is busy; please try again")


def test_a_request_within_the_minute_writes_nothing(
    store: Store, alice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET)
        note_use(conn, alice, key.key_id, now=NOON)
    monkeypatch.setattr(type(store.db), "write", None)
    caller = authenticate(store.db, SECRET, key.api_key)
    assert caller.last_used_at == NOON
    assert not KeyUses().add(caller, now=NOON + timedelta(seconds=59))


def test_neither_keys_nor_invites_are_in_the_database(
    store: Store, alice: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with store.db.write() as conn:
        invite = add_invite(conn, alice, secret=SECRET).invite_code
        key = exchange_invite(conn, invite, secret=SECRET).api_key
    authenticate(store.db, SECRET, key)
    with store.db.read() as conn:
        rows = [
            repr(row) for table in metadata.tables.values() for row in conn.execute(select(table))
        ]
    assert len(rows) > 3
    for token in (invite, key):
        assert not any(token in row or repr(token.encode())[2:-1] in row for row in rows)
        assert token not in caplog.text


def test_an_invite_gives_one_key(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        invite = add_invite(conn, alice, secret=SECRET)
        assert len(invite.invite_code) == 24
        key = exchange_invite(conn, invite.invite_code, secret=SECRET)
        assert find_caller(conn, SECRET, key.api_key).user_id == alice
        with pytest.raises(NotAllowed, match="used already"):
            exchange_invite(conn, invite.invite_code, secret=SECRET)
        assert list_invites(conn, alice).items[0].used_at is not None


def test_a_race_for_an_invite_yields_one_key(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        code = add_invite(conn, alice, secret=SECRET).invite_code

    def exchange() -> str:
        with store.db.write() as conn:
            return exchange_invite(conn, code, secret=SECRET).api_key

    results = at_once([exchange] * 16)
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, NotAllowed) for result in results) == 15
    assert count(store, api_keys) == 1


def test_an_invite_expires_to_the_second(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        code = add_invite(conn, alice, secret=SECRET, expires_hours=2, now=NOON).invite_code
        late = NOON + timedelta(hours=2)
        with pytest.raises(NotAllowed, match="expired"):
            exchange_invite(conn, code, secret=SECRET, now=late)
        exchange_invite(conn, code, secret=SECRET, now=late - timedelta(microseconds=1))


def test_an_odd_lifetime_of_an_invite_is_refused(store: Store, alice: int) -> None:
    for expires_hours in (0, -1, MAX_EXPIRES_HOURS + 1, 10**30):
        with pytest.raises(BadRequest) as refusal, store.db.write() as conn:
            add_invite(conn, alice, secret=SECRET, expires_hours=expires_hours)
        assert refusal.value.param == "expires_hours"


def test_a_guessed_invite_is_refused(store: Store) -> None:
    for code in ("", "guessed", "\0", "\ud800", "x" * 10**6):
        with pytest.raises(NotAllowed, match="unknown"), store.db.write() as conn:
            exchange_invite(conn, code, secret=SECRET)


def test_a_key_is_no_invite_and_an_invite_no_key(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET).api_key
        code = add_invite(conn, alice, secret=SECRET).invite_code
        assert find_caller(conn, SECRET, code) is None
        with pytest.raises(NotAllowed):
            exchange_invite(conn, key, secret=SECRET)


def test_a_revoked_invite_is_refused_and_only_its_owner_s_list_has_it(
    store: Store, alice: int, bob: int
) -> None:
    with store.db.write() as conn:
        invite = add_invite(conn, alice, secret=SECRET)
        assert list_invites(conn, bob).items == ()
        with pytest.raises(NotFound):
            revoke_invite(conn, bob, invite.invite_id)
        revoke_invite(conn, alice, invite.invite_id)
        with pytest.raises(NotFound):
            revoke_invite(conn, alice, invite.invite_id)
        with pytest.raises(NotAllowed):
            exchange_invite(conn, invite.invite_code, secret=SECRET)


def test_times_have_their_offset(store: Store, alice: int) -> None:
    with store.db.read() as conn:
        made = get_user(conn, alice).created_at
    assert made.utcoffset() == timedelta(0)
    assert made.isoformat().endswith("+00:00")


def test_times_without_an_offset_are_a_fault(store: Store, alice: int) -> None:
    with pytest.raises(Exception, match="offset"), store.db.write() as conn:
        add_invite(conn, alice, secret=SECRET, now=datetime(2026, 11, 20))


def test_looking_a_key_up_uses_the_index(store: Store) -> None:
    query = "SELECT key_id FROM api_keys WHERE prefix = 'abcdefgh' AND revoked_at IS NULL"
    assert "ix_api_keys_prefix" in explain(store.db, query)


def test_the_secret_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    made = set(at_once([lambda: load_secret(tmp_path / "data")] * 8))
    assert len(made) == 1
    assert load_secret(tmp_path / "data") in made
    assert (tmp_path / "data" / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FILE_NAME]


def test_a_given_secret_wins_and_weak_ones_are_refused(tmp_path: Path) -> None:
    assert load_secret(tmp_path, "given by the operator") == b"given by the operator"
    for weak in ("", "short", "change-me-change-me"):
        with pytest.raises(StartError, match="HMAC_SECRET"):
            load_secret(tmp_path, weak)
    (tmp_path / FILE_NAME).write_bytes(b"")
    with pytest.raises(StartError, match="at least 16"):
        load_secret(tmp_path)


def test_a_secret_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StartError, match="can't be read"):
        load_secret(tmp_path)
