"""Generations, batches, transcriptions and what they add up to."""

from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import product

import pytest
from sqlalchemy import func, select
from store_places import SECRET, explain
from store_rows import DONE, at_once, count, kept_files, make_stored, make_voice, new_generation

from qwen3_audio.errors import NotFound
from qwen3_audio.store.batches import (
    BatchEnd,
    NewBatch,
    end_batch,
    get_batch,
    list_batches,
    start_batch,
)
from qwen3_audio.store.generations import (
    GenerationEnd,
    add_generation,
    add_generations,
    delete_stored,
    end_generation,
    get_generation,
    get_stored,
    list_generations,
    start_generation,
)
from qwen3_audio.store.keys import add_key
from qwen3_audio.store.opening import Store
from qwen3_audio.store.runtime_stats import (
    BATCH_DISCOUNT,
    SINGLE_MS_PER_CHAR,
    lock_stats,
    read_stats,
    save_stats,
)
from qwen3_audio.store.tables import (
    LOCAL_USER_ID,
    NO_KEY,
    Route,
    Status,
    blobs,
    generations,
    usage_days,
)
from qwen3_audio.store.transcriptions import (
    NewTranscription,
    add_transcription,
    list_transcriptions,
)
from qwen3_audio.store.usage import (
    Usage,
    add_usage,
    tokens_on_day,
    total_usage,
    usage_by_day,
    usage_by_key,
)
from qwen3_audio.store.users import add_user
from qwen3_audio.store.voices import get_voice

NUMBERS_OF_NOBODY = [0, -1, 10**6, 2**63 - 1, 2**63, 10**30]
FAILED = GenerationEnd(Status.FAILED, tokens=0, error="The engine broke this request")
CANCELLED = GenerationEnd(Status.CANCELLED, tokens=10, audio_ms=80)
CANCELLED_UNHEARD = GenerationEnd(Status.CANCELLED, tokens=0)


def test_a_generation_comes_back_as_it_was_booked(store: Store, alice: int) -> None:
    new = new_generation(seed=2**63 - 1, speaker="vivian", model="qwen3-tts")
    with store.db.write() as conn:
        number = add_generation(conn, alice, new, DONE)
        found = get_generation(conn, alice, number)
    assert (found.status, found.tokens, found.audio_ms) == ("done", 10, 800)
    assert (found.seed, found.speaker, found.created_at) == (2**63 - 1, "vivian", new.created_at)
    assert found.is_stored is False


def test_books_go_with_the_row_in_one_transaction(store: Store, alice: int) -> None:
    voice_id = make_voice(store, alice)
    with pytest.raises(ZeroDivisionError), store.db.write() as conn:
        add_generation(conn, alice, new_generation(voice_id=voice_id), DONE)
        raise ZeroDivisionError
    with store.db.read() as conn:
        assert total_usage(conn, alice) == Usage(voices_created=1)
        assert get_voice(conn, alice, voice_id).use_count == 0
    assert count(store, generations) == 0


def test_failed_is_free_and_no_call_cancelled_costs_what_was_heard(
    store: Store, alice: int
) -> None:
    voice_id = make_voice(store, alice)
    new = new_generation(voice_id=voice_id)
    with store.db.write() as conn:
        for end in (DONE, FAILED, CANCELLED, CANCELLED_UNHEARD):
            add_generation(conn, alice, new, end)
        usage = total_usage(conn, alice)
        assert get_voice(conn, alice, voice_id).use_count == 2
    assert (usage.tts_calls, usage.tokens_tts, usage.tokens_total) == (3, 20, 20)


@pytest.mark.parametrize("status", [Status.WAITING, Status.RUNNING])
def test_an_end_is_an_end(status: Status) -> None:
    with pytest.raises(ValueError, match="ends done, failed"):
        GenerationEnd(status, tokens=0)
    with pytest.raises(ValueError, match="and free"):
        replace(FAILED, tokens=1)


def test_a_started_generation_ends_exactly_once_whoever_ends_it(
    store: Store, alice: int, bob: int
) -> None:
    new = new_generation(route=Route.SPEECH)
    with store.db.write() as conn:
        number = start_generation(conn, alice, new)
        assert get_generation(conn, alice, number).status == "running"
        assert end_generation(conn, bob, number, new, DONE) is False

    def end(how: GenerationEnd) -> bool:
        with store.db.write() as conn:
            return end_generation(conn, alice, number, new, how)

    results = at_once([lambda: end(DONE), lambda: end(CANCELLED)] * 4)
    assert sorted(results) == [False] * 7 + [True]
    with store.db.read() as conn:
        assert get_generation(conn, alice, number).ended_at is not None
        assert total_usage(conn, alice).speech_calls == 1
        assert total_usage(conn, alice).tokens_speech == 10


def test_a_shared_voice_counts_its_uses_and_the_speaker_pays(store: Store, alice: int) -> None:
    voice_id = make_voice(store, LOCAL_USER_ID)
    new = new_generation(voice_id=voice_id, voice_owner_id=LOCAL_USER_ID)
    with store.db.write() as conn:
        add_generation(conn, alice, new, DONE)
        assert get_voice(conn, LOCAL_USER_ID, voice_id).use_count == 1
        assert total_usage(conn, LOCAL_USER_ID).tokens_total == 0
        assert total_usage(conn, alice).tokens_tts == 10


def test_bob_finds_nothing_of_alice_and_changes_nothing(store: Store, alice: int, bob: int) -> None:
    number = make_stored(store, alice)
    for ask, wanted in product(
        (get_generation, get_stored, delete_stored), (number, *NUMBERS_OF_NOBODY)
    ):
        with pytest.raises(NotFound), store.db.write() as conn:
            ask(conn, bob, wanted)
    with store.db.read() as conn:
        assert list_generations(conn, bob).items == ()
        assert get_stored(conn, alice, number).text == "Hello from the server."


def test_a_stored_generation_gives_back_the_identical_bytes(store: Store, alice: int) -> None:
    sound = bytes(range(256)) * 50
    number = make_stored(store, alice, sound=sound, response_format="mp3")
    with store.db.read() as conn:
        stored = get_stored(conn, alice, number)
    assert store.blobs.read(stored.audio_sha256) == sound
    assert stored.response_format == "mp3"


def test_deleting_a_stored_one_leaves_the_books_as_they_were(store: Store, alice: int) -> None:
    number = make_stored(store, alice)
    with store.db.write() as conn:
        before = total_usage(conn, alice)
        released = delete_stored(conn, alice, number)
    assert store.blobs.remove(store.db, released) == 1
    with store.db.write() as conn:
        for ask in (get_stored, delete_stored):
            with pytest.raises(NotFound):
                ask(conn, alice, number)
        assert total_usage(conn, alice) == before
        assert conn.execute(select(generations.c.text)).scalar_one() is None
    assert (kept_files(store), count(store, blobs)) == (set(), 0)


def test_without_store_neither_text_nor_sound_is_kept(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        number = add_generation(conn, alice, new_generation(), DONE)
        assert conn.execute(select(generations.c.text)).scalar_one() is None
        with pytest.raises(NotFound):
            get_stored(conn, alice, number)


def test_generations_are_listed_newest_first_and_by_kind(store: Store, alice: int) -> None:
    kept = make_stored(store, alice)
    with store.db.write() as conn:
        others = [add_generation(conn, alice, new_generation(), DONE) for _ in range(3)]
        first = list_generations(conn, alice, page_size=2)
        second = list_generations(conn, alice, before=others[1], page_size=2)
        stored = list_generations(conn, alice, is_stored=True)
        unstored = list_generations(conn, alice, is_stored=False)
    assert [row.generation_id for row in first.items] == [others[2], others[1]]
    assert [row.generation_id for row in second.items] == [others[0], kept]
    assert (first.has_more, second.has_more) == (True, False)
    assert [row.generation_id for row in stored.items] == [kept]
    assert [row.generation_id for row in unstored.items] == others[::-1]


def test_a_batch_is_one_call_and_its_texts_are_counted_one_by_one(
    store: Store, alice: int, bob: int
) -> None:
    voice_id = make_voice(store, alice)
    with store.db.write() as conn:
        batch = NewBatch("wav", "English", num_texts=3, is_stored=False, voice_id=voice_id)
        batch_id = start_batch(conn, alice, batch)
        new = new_generation(route=Route.BATCH, batch_id=batch_id, voice_id=voice_id)
        ends = [replace(DONE, tokens=4), FAILED, replace(DONE, tokens=5)]
        numbers = add_generations(
            conn, alice, [(replace(new, position=i), end) for i, end in enumerate(ends)]
        )
        end = BatchEnd(Status.DONE, tokens=9, discount=0.87, latency_ms=100)
        assert end_batch(conn, bob, batch_id, end) is False
        assert end_batch(conn, alice, batch_id, end) is True
        assert end_batch(conn, alice, batch_id, end) is False
        usage = total_usage(conn, alice)
        items = list_generations(conn, alice, batch_id=batch_id).items
        assert get_voice(conn, alice, voice_id).use_count == 2
        assert get_batch(conn, alice, batch_id).discount == 0.87
        assert [row.batch_id for row in list_batches(conn, alice).items] == [batch_id]
        for user, number in ((bob, batch_id), *((alice, n) for n in NUMBERS_OF_NOBODY)):
            with pytest.raises(NotFound):
                get_batch(conn, user, number)
    assert (usage.batch_calls, usage.tokens_batch, usage.tts_calls) == (1, 9, 0)
    assert [row.generation_id for row in items] == numbers[::-1]
    assert [row.position for row in items] == [2, 1, 0]


def test_transcriptions_are_booked_by_their_length(store: Store, alice: int, bob: int) -> None:
    done = NewTranscription(Status.DONE, audio_ms=3_500, language="English")
    with store.db.write() as conn:
        add_transcription(conn, alice, done)
        add_transcription(conn, alice, replace(done, status=Status.FAILED))
        usage = total_usage(conn, alice)
        assert len(list_transcriptions(conn, alice).items) == 2
        assert list_transcriptions(conn, bob).items == ()
    assert (usage.transcription_calls, usage.transcribed_ms) == (1, 3_500)
    with pytest.raises(ValueError, match="has ended"):
        replace(done, status=Status.RUNNING)


def test_usage_is_told_by_day_and_by_key(store: Store, alice: int) -> None:
    days = [datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)]
    with store.db.write() as conn:
        key_id = add_key(conn, alice, secret=SECRET).key_id
        for day, key in product(days, (key_id, None)):
            add_usage(conn, alice, key_id=key, counters={"tokens_tts": 5}, now=day)
        assert list(usage_by_day(conn, alice).items()) == [
            (date(2026, 11, 21), Usage(tokens_tts=10)),
            (date(2026, 11, 20), Usage(tokens_tts=10)),
        ]
        assert list(usage_by_day(conn, alice, max_days=1)) == [date(2026, 11, 21)]
        assert usage_by_key(conn, alice) == {
            NO_KEY: Usage(tokens_tts=10),
            key_id: Usage(tokens_tts=10),
        }
        assert tokens_on_day(conn, alice, day=date(2026, 11, 20)) == 10
        assert total_usage(conn, alice).tokens_total == 20


def test_someone_who_used_nothing_has_zeros(store: Store, alice: int) -> None:
    with store.db.read() as conn:
        assert total_usage(conn, alice) == Usage()
        assert (usage_by_day(conn, alice), usage_by_key(conn, alice)) == ({}, {})


def test_32_users_at_once_lose_no_update(store: Store) -> None:
    """Each speaks with their own voice and with one that all share, stored sound being equal."""
    shared = make_voice(store, LOCAL_USER_ID)
    with store.db.write() as conn:
        users = [add_user(conn) for _ in range(32)]

    def work(user_id: int) -> None:
        own = make_voice(store, user_id, sound=b"one recording for all")
        for _ in range(3):
            make_stored(store, user_id, sound=b"one sound for all", voice_id=own)
            new = new_generation(voice_id=shared, voice_owner_id=LOCAL_USER_ID)
            with store.db.write() as conn:
                add_generation(conn, user_id, new, DONE)

    assert at_once([lambda user_id=user_id: work(user_id) for user_id in users]) == []
    with store.db.read() as conn:
        assert get_voice(conn, LOCAL_USER_ID, shared).use_count == 32 * 3
        for user_id in users:
            usage = total_usage(conn, user_id)
            assert (usage.tts_calls, usage.tokens_tts, usage.voices_created) == (6, 60, 1)
        booked = conn.execute(select(func.sum(usage_days.c.tokens_tts))).scalar_one()
        spoken = conn.execute(select(func.sum(generations.c.tokens))).scalar_one()
    assert booked == spoken == 32 * 60
    assert len(kept_files(store)) == count(store, blobs) == 3


def test_one_user_s_requests_at_once_lose_no_update(store: Store, alice: int) -> None:
    voice_id = make_voice(store, alice)

    def speak() -> None:
        with store.db.write() as conn:
            add_generation(conn, alice, new_generation(voice_id=voice_id), DONE)

    assert at_once([speak] * 32) == []
    with store.db.read() as conn:
        assert total_usage(conn, alice).tokens_tts == 320
        assert get_voice(conn, alice, voice_id).use_count == 32


def test_what_the_discount_learnt_is_kept(store: Store) -> None:
    with store.db.write() as conn:
        assert lock_stats(conn) == {BATCH_DISCOUNT: None, SINGLE_MS_PER_CHAR: None}
        save_stats(conn, {BATCH_DISCOUNT: 0.87, SINGLE_MS_PER_CHAR: 12.5})
    with store.db.read() as conn:
        assert read_stats(conn) == {BATCH_DISCOUNT: 0.87, SINGLE_MS_PER_CHAR: 12.5}


def test_learning_at_once_loses_nothing(store: Store) -> None:
    with store.db.write() as conn:
        save_stats(conn, {BATCH_DISCOUNT: 0.0})

    def learn() -> None:
        with store.db.write() as conn:
            state = lock_stats(conn)
            save_stats(conn, {BATCH_DISCOUNT: (state[BATCH_DISCOUNT] or 0) + 1})

    assert at_once([learn] * 16) == []
    with store.db.read() as conn:
        assert read_stats(conn)[BATCH_DISCOUNT] == 16


def test_what_every_request_asks_uses_an_index(store: Store) -> None:
    listed = "SELECT tokens FROM generations WHERE user_id = 2 ORDER BY generation_id DESC LIMIT 5"
    in_batch = "SELECT tokens FROM generations WHERE batch_id = 2"
    of_blob = "SELECT 1 FROM generations WHERE audio_sha256 = 'ab'"
    unended = "SELECT status FROM generations WHERE ended_at IS NULL AND status = 'running'"
    assert "ix_generations_user_id_generation_id" in explain(store.db, listed)
    assert "ix_generations_batch_id" in explain(store.db, in_batch)
    assert "ix_generations_audio_sha256" in explain(store.db, of_blob)
    assert "ix_generations_unended" in explain(store.db, unended)
    day = "SELECT tokens_tts FROM usage_days WHERE user_id = 2 AND day = '2026-11-20'"
    assert "usage_days" in explain(store.db, day)
    assert "SCAN usage_days" not in explain(store.db, day)
