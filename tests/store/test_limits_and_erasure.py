"""What a user may use, and what is left when a user goes."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from store_places import SECRET
from store_rows import (
    DONE,
    at_once,
    count,
    kept_files,
    make_consent,
    make_stored,
    make_voice,
    new_generation,
)

from qwen3_audio.errors import BadRequest, LimitReached, NotAuthenticated, NotFound
from qwen3_audio.store import erasure
from qwen3_audio.store.batches import NewBatch, start_batch
from qwen3_audio.store.erasure import delete_user
from qwen3_audio.store.generations import add_generation, get_stored
from qwen3_audio.store.invites import add_invite
from qwen3_audio.store.keys import add_key, authenticate
from qwen3_audio.store.limits import (
    InFlight,
    check_tokens,
    count_request,
    seconds_to_next_day,
    seconds_to_next_minute,
)
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import LOCAL_USER_ID, Status, blobs, metadata, request_minutes
from qwen3_audio.store.transcriptions import NewTranscription, add_transcription
from qwen3_audio.store.usage import add_usage
from qwen3_audio.store.users import Limits, add_user, get_user
from qwen3_audio.store.voice_names import set_name
from qwen3_audio.store.voices import get_voice

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)


def test_waiting_times_are_whole_seconds_and_never_zero() -> None:
    assert seconds_to_next_day(NOON) == 12 * 3600
    assert seconds_to_next_day(MIDNIGHT - timedelta(microseconds=1)) == 1
    assert seconds_to_next_day(NOON.astimezone(None)) == 12 * 3600
    assert seconds_to_next_minute(NOON) == 60
    assert seconds_to_next_minute(NOON + timedelta(seconds=59.5)) == 1


def test_tokens_of_a_day_are_used_up_to_the_last_and_come_back_at_midnight(
    store: Store, alice: int, bob: int
) -> None:
    limits = Limits(max_tokens_per_day=100)
    with store.db.write() as conn:
        for user_id in (alice, bob):
            add_usage(conn, user_id, key_id=None, counters={"tokens_tts": 40}, now=NOON)
        add_usage(conn, alice, key_id=7, counters={"tokens_voices": 30}, now=NOON)
        check_tokens(conn, alice, limits, num_tokens=30, now=NOON)
        with pytest.raises(LimitReached, match=r"needs 31 of your 100.* and 30") as refusal:
            check_tokens(conn, alice, limits, num_tokens=31, now=NOON)
        with pytest.raises(LimitReached):
            check_tokens(conn, alice, limits, num_tokens=20, num_in_flight=11, now=NOON)
        check_tokens(conn, alice, limits, num_tokens=100, now=MIDNIGHT)
        check_tokens(conn, alice, Limits(), num_tokens=10**12, now=NOON)
    assert refusal.value.retry_after_s == 12 * 3600
    assert refusal.value.code == "insufficient_quota"


def test_requests_of_a_minute_are_counted_even_at_once(store: Store, alice: int) -> None:
    limits = Limits(max_requests_per_minute=10)

    def ask() -> bool:
        with store.db.write() as conn:
            count_request(conn, alice, limits, now=NOON + timedelta(seconds=20))
        return True

    results = at_once([ask] * 16)
    assert sum(result is True for result in results) == 10
    refused = [result for result in results if isinstance(result, LimitReached)]
    assert [error.retry_after_s for error in refused] == [40] * 6
    with store.db.write() as conn:
        count_request(conn, alice, limits, now=NOON + timedelta(seconds=60))


def test_who_has_no_limit_costs_no_write(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        count_request(conn, alice, Limits(), now=NOON)
    assert count(store, request_minutes) == 0


def test_requests_at_once_are_refused_and_freed_one_by_one() -> None:
    in_flight, limits = InFlight(), Limits(max_requests_at_once=2)
    with in_flight.one_more(5, limits), in_flight.one_more(6, limits):
        with in_flight.one_more(5, limits):
            with (
                pytest.raises(LimitReached, match="2 requests at once"),
                in_flight.one_more(5, limits),
            ):
                pass
            assert in_flight.num_requests(5) == 2
        with in_flight.one_more(5, limits):
            pass
    assert (in_flight.num_requests(5), in_flight.num_requests(6)) == (0, 0)


def test_a_request_that_fails_is_freed_too() -> None:
    in_flight, limits = InFlight(), Limits(max_requests_at_once=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), in_flight.one_more(5, limits):
            raise ZeroDivisionError


def test_requests_at_once_do_not_exceed_a_quota_together(store: Store, alice: int) -> None:
    in_flight, limits = InFlight(), Limits(max_tokens_per_day=100)

    def speak() -> bool:
        with in_flight.one_more(alice, limits, num_tokens=10) as num_ahead:
            with store.db.read() as conn:
                check_tokens(conn, alice, limits, num_tokens=10, num_in_flight=num_ahead)
            with store.db.write() as conn:
                add_generation(conn, alice, new_generation(), DONE)
        return True

    results = at_once([speak] * 24)
    assert 1 <= sum(result is True for result in results) <= 10
    assert all(result is True or isinstance(result, LimitReached) for result in results)
    with pytest.raises(LimitReached), store.db.read() as conn:
        check_tokens(conn, alice, limits, num_tokens=101)


def own_everything(store: Store, user_id: int) -> None:
    """A row in every table that has an owner."""
    consent = make_consent(store, user_id, sound=f"consent of {user_id}".encode())
    voice_id = make_voice(store, user_id, sound=b"shared", consent_id=consent.consent_id)
    for number in range(5):
        make_stored(store, user_id, sound=f"{number} of {user_id}".encode(), voice_id=voice_id)
    make_stored(store, user_id, sound=b"shared too")
    with store.db.write() as conn:
        add_key(conn, user_id, secret=SECRET)
        add_invite(conn, user_id, secret=SECRET)
        set_name(conn, user_id, "nova", voice_id=voice_id)
        start_batch(conn, user_id, NewBatch("wav", "auto", num_texts=2, is_stored=False))
        add_transcription(conn, user_id, NewTranscription(Status.DONE, audio_ms=100))
        count_request(conn, user_id, Limits(max_requests_per_minute=5))


def test_a_deleted_user_leaves_nothing_and_others_keep_all(
    store: Store, alice: int, bob: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "ROWS_AT_ONCE", 2)
    own_everything(store, bob)
    bob_s = kept_files(store)
    own_everything(store, alice)
    owned = [table for table in metadata.tables.values() if "user_id" in table.c]
    with store.db.read() as conn:
        for table in owned:
            assert conn.execute(select(table).where(table.c.user_id == alice)).first(), table.name
    delete_user(store.db, store.blobs, alice)
    assert kept_files(store) == bob_s
    assert count(store, blobs) == len(bob_s)
    with store.db.read() as conn:
        for table in owned:
            gone = select(table).where(table.c.user_id == alice)
            assert conn.execute(gone).all() == [], table.name
            kept = select(table).where(table.c.user_id == bob)
            assert conn.execute(kept).first() is not None, table.name
        assert store.blobs.missing(conn) == []


def test_a_deleted_user_s_key_is_unknown_and_the_number_stays_unused(
    store: Store, alice: int
) -> None:
    with store.db.write() as conn:
        key = add_key(conn, alice, secret=SECRET).api_key
    delete_user(store.db, store.blobs, alice)
    with pytest.raises(NotAuthenticated):
        authenticate(store.db, SECRET, key)
    with store.db.write() as conn:
        assert add_user(conn) > alice


def test_deleting_a_user_twice_or_nobody_is_not_found(store: Store, alice: int) -> None:
    results = at_once([lambda: delete_user(store.db, store.blobs, alice) or "deleted"] * 4)
    assert results.count("deleted") == 1
    assert sum(isinstance(result, NotFound) for result in results) == 3
    for nobody in (alice, 0, -1, 10**30):
        with pytest.raises(NotFound):
            delete_user(store.db, store.blobs, nobody)


def test_user_1_is_never_deleted(store: Store) -> None:
    with pytest.raises(BadRequest, match="only be disabled"):
        delete_user(store.db, store.blobs, LOCAL_USER_ID)
    with store.db.read() as conn:
        assert get_user(conn, LOCAL_USER_ID).disabled_at is None


def test_a_request_that_ends_after_its_user_went_is_refused_and_leaves_no_file(
    store: Store, alice: int
) -> None:
    delete_user(store.db, store.blobs, alice)
    with pytest.raises(NotFound, match="deleted meanwhile"):
        make_stored(store, alice)
    assert (kept_files(store), count(store, blobs)) == (set(), 0)


def test_an_interrupted_deletion_goes_on_where_it_stopped(
    store: Store, alice: int, bob: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_everything(store, alice)
    monkeypatch.setattr(erasure, "ROWS_AT_ONCE", 2)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(store.blobs.__class__, "remove", lambda *_: 1 / 0)
        delete_user(store.db, store.blobs, alice)
    with store.db.read() as conn:
        assert get_user(conn, alice).disabled_at is not None
        assert store.blobs.missing(conn) == []
    delete_user(store.db, store.blobs, alice)
    store.blobs.sweep(store.db)
    assert (kept_files(store), count(store, blobs)) == (set(), 0)


def test_deleting_a_user_while_they_work_leaves_no_file(store: Store, alice: int) -> None:
    def work() -> None:
        voice_id = make_voice(store, alice)
        number = make_stored(store, alice, voice_id=voice_id)
        with store.db.read() as conn:
            get_voice(conn, alice, voice_id)
            get_stored(conn, alice, number)

    results = at_once([work] * 6 + [lambda: delete_user(store.db, store.blobs, alice)])
    assert all(isinstance(result, NotFound) for result in results)
    assert (kept_files(store), count(store, blobs)) == (set(), 0)
