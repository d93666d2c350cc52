"""Voices: Alice owns, Bob must see nothing."""

from itertools import pairwise, product

import pytest
from sqlalchemy import select, text
from store_places import explain
from store_rows import at_once, count, kept_files, make_voice

from qwen3_audio.errors import BadRequest, LimitReached, NotFound
from qwen3_audio.store.caps import Caps
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import blobs, voices
from qwen3_audio.store.usage import total_usage
from qwen3_audio.store.voice_names import (
    set_name,
)
from qwen3_audio.store.voices import (
    add_uses,
    delete_voice,
    find_voice_by_name,
    get_voice,
    get_voice_to_speak,
    kept_voices,
    list_voices,
    rename_voice,
    set_prompt,
)

ODD_NAMES = ["Zoë 🎙️", 'O\'Brien "the" voice', "../../etc/passwd", "x'); DROP TABLE voices;--"]
NUMBERS_OF_NOBODY = [0, -1, 10**6, 2**63 - 1, 2**63, 10**30, -(10**30)]
NOTHING_LEFT = ["ref_text", "description", "prompt", "model_fingerprint", "reference_sha256"]


def test_a_voice_comes_back_as_it_was_made(store: Store, alice: int) -> None:
    text_with_null = "What was said\0, \ud800 and 👩‍👩‍👧"
    voice_id = make_voice(store, alice, ref_text=text_with_null, description="Warm", tokens=7)
    with store.db.read() as conn:
        voice = get_voice(conn, alice, voice_id)
        spoken = get_voice_to_speak(conn, alice, voice_id)
        usage = total_usage(conn, alice)
    assert voice.ref_text == spoken.ref_text == "What was said\ufffd, \ufffd and 👩‍👩‍👧"
    assert (voice.name, voice.kind, voice.use_count) == ("Geoff", "clone", 0)
    assert (spoken.prompt, spoken.model_fingerprint) == (b"safetensors", "base-1.7B")
    assert store.blobs.read(voice.reference_sha256) == b"RIFF of a voice"
    assert (usage.voices_created, usage.tokens_voices, usage.tokens_total) == (1, 7, 7)


def test_odd_names_come_back_and_are_found_in_any_case(store: Store, alice: int) -> None:
    for name in ODD_NAMES:
        voice_id = make_voice(store, alice, name=f" {name} ")
        with store.db.read() as conn:
            assert get_voice(conn, alice, voice_id).name == name
            assert find_voice_by_name(conn, alice, name.upper()) == voice_id


def test_a_refused_name_leaves_no_file(store: Store, alice: int) -> None:
    for name in ("", "two\nlines", "x" * 200):
        with pytest.raises(BadRequest):
            make_voice(store, alice, name=name)
    assert kept_files(store) == set()
    assert count(store, blobs) == 0


def test_of_equal_names_the_newest_counts_in_its_own_spelling(store: Store, alice: int) -> None:
    old, new = (make_voice(store, alice, name="Ada") for _ in range(2))
    other = make_voice(store, alice, name="ADA")
    with store.db.read() as conn:
        assert find_voice_by_name(conn, alice, "Ada") == new
        assert find_voice_by_name(conn, alice, "ada") == other
        assert find_voice_by_name(conn, alice, "Eve") is None
    assert old < new < other


def test_bob_finds_nothing_of_alice_and_changes_nothing(store: Store, alice: int, bob: int) -> None:
    voice_id = make_voice(store, alice)
    asks = (
        get_voice,
        get_voice_to_speak,
        delete_voice,
        lambda conn, user, voice: rename_voice(conn, user, voice, name="Mine"),
        lambda conn, user, voice: set_prompt(
            conn, user, voice, prompt=b"evil", model_fingerprint="x"
        ),
        lambda conn, user, voice: set_name(conn, user, "nova", voice_id=voice),
    )
    with store.db.write() as conn:
        before = conn.execute(select(voices)).all()
        for ask, (user, voice) in product(
            asks, [(bob, voice_id), *((alice, number) for number in NUMBERS_OF_NOBODY)]
        ):
            with pytest.raises(NotFound):
                ask(conn, user, voice)
        add_uses(conn, bob, voice_id, num_texts=1)
        assert find_voice_by_name(conn, bob, "Geoff") is None
        assert list_voices(conn, bob).items == ()
        assert conn.execute(select(voices)).all() == before


def test_voices_are_listed_newest_first_a_page_at_a_time(store: Store, alice: int) -> None:
    made = [make_voice(store, alice) for _ in range(5)]
    with store.db.read() as conn:
        first = list_voices(conn, alice, page_size=3)
        second = list_voices(conn, alice, before=first.items[-1].voice_id, page_size=3)
        assert list_voices(conn, alice, page_size=10**30).has_more is False
        assert list_voices(conn, alice, before=10**30).items == ()
    listed = [voice.voice_id for voice in (*first.items, *second.items)]
    assert listed == made[::-1]
    assert (first.has_more, second.has_more) == (True, False)


def test_a_deleted_voice_leaves_its_number_and_no_more(store: Store, alice: int) -> None:
    voice_id = make_voice(store, alice, description="Warm")
    with store.db.write() as conn:
        released = delete_voice(conn, alice, voice_id)
    assert store.blobs.remove(store.db, released) == 1
    with store.db.write() as conn:
        row = conn.execute(select(voices)).mappings().one()
        assert all(row[name] is None for name in NOTHING_LEFT)
        for ask in (get_voice, get_voice_to_speak, delete_voice):
            with pytest.raises(NotFound):
                ask(conn, alice, voice_id)
        assert total_usage(conn, alice).voices_created == 1
    assert make_voice(store, alice) > voice_id
    assert len(kept_files(store)) == 1


def test_numbers_are_never_used_again_even_if_the_rows_go(store: Store, alice: int) -> None:
    numbers = []
    for _ in range(3):
        numbers.append(make_voice(store, alice))
        with store.db.write() as conn:
            conn.execute(text("DELETE FROM voices"))
    assert all(low < high for low, high in pairwise(numbers))


def test_of_two_deletions_at_once_one_succeeds(store: Store, alice: int) -> None:
    voice_id = make_voice(store, alice)

    def remove() -> int:
        with store.db.write() as conn:
            released = delete_voice(conn, alice, voice_id)
        return store.blobs.remove(store.db, released)

    results = at_once([remove] * 8)
    assert [result for result in results if not isinstance(result, NotFound)] == [1]
    assert count(store, blobs) == 0


def test_shared_sound_survives_the_other_owner_s_deletion(
    store: Store, alice: int, bob: int
) -> None:
    hers, his = make_voice(store, alice), make_voice(store, bob)
    assert len(kept_files(store)) == count(store, blobs) == 1
    with store.db.write() as conn:
        released = delete_voice(conn, alice, hers)
    assert (released, store.blobs.remove(store.db, released)) == ([], 0)
    with store.db.write() as conn:
        reference = get_voice(conn, bob, his).reference_sha256
        assert store.blobs.read(reference) == b"RIFF of a voice"
        released = delete_voice(conn, bob, his)
    assert store.blobs.remove(store.db, released) == 1
    assert kept_files(store) == set()


def test_both_owners_of_one_sound_may_delete_at_once(store: Store, alice: int, bob: int) -> None:
    owners = [alice, bob] * 6
    made = [make_voice(store, owner) for owner in owners]

    def remove(owner: int, voice_id: int) -> int:
        with store.db.write() as conn:
            released = delete_voice(conn, owner, voice_id)
        return store.blobs.remove(store.db, released)

    work = [
        lambda o=owner, v=voice: remove(o, v) for owner, voice in zip(owners, made, strict=True)
    ]
    assert sorted(at_once(work)) == [0] * 11 + [1]
    assert (kept_files(store), count(store, blobs)) == (set(), 0)


def test_a_prompt_of_another_checkpoint_replaces_the_old_one(store: Store, alice: int) -> None:
    voice_id = make_voice(store, alice)
    with store.db.write() as conn:
        set_prompt(conn, alice, voice_id, prompt=b"\x00new", model_fingerprint="base-0.6B")
        voice = get_voice_to_speak(conn, alice, voice_id)
    assert (voice.prompt, voice.model_fingerprint) == (b"\x00new", "base-0.6B")


def test_uses_are_added_up_and_none_is_lost(store: Store, alice: int) -> None:
    voice_id = make_voice(store, alice)

    def use() -> None:
        for _ in range(5):
            with store.db.write() as conn:
                add_uses(conn, alice, voice_id, num_texts=3)

    assert at_once([use] * 8) == []
    with store.db.read() as conn:
        assert get_voice(conn, alice, voice_id).use_count == 8 * 5 * 3


def test_a_user_has_as_many_voices_as_allowed_even_in_a_race(store: Store, alice: int) -> None:
    caps = Caps(max_number=3)
    make_voice(store, alice, caps=caps)
    # Of different sounds: equal ones would wait for each other anyway.
    results = at_once(
        [
            lambda sound=bytes([n]): make_voice(store, alice, caps=caps, sound=sound)
            for n in range(8)
        ]
    )
    assert sum(isinstance(result, LimitReached) for result in results) == 6
    assert count(store, voices) == 3
    with store.db.read() as conn:
        assert total_usage(conn, alice).voices_created == 3


def test_a_user_keeps_as_many_bytes_as_allowed(store: Store, alice: int, bob: int) -> None:
    caps = Caps(max_bytes=100)
    make_voice(store, bob, sound=b"x" * 1000)
    make_voice(store, alice, sound=b"x" * 60, prompt=b"y" * 10, caps=caps)
    with pytest.raises(LimitReached, match="100 are allowed"):
        make_voice(store, alice, sound=b"z" * 21, prompt=b"y" * 10, caps=caps)
    with store.db.read() as conn:
        assert kept_voices(conn, alice) == (1, 70)
    make_voice(store, alice, sound=b"z" * 20, prompt=b"y" * 10, caps=caps)


def test_a_voice_of_nobody_is_refused_and_leaves_no_file(store: Store) -> None:
    with pytest.raises(NotFound, match="deleted meanwhile"):
        make_voice(store, 4711)
    assert kept_files(store) == set()


def test_lists_of_voices_use_an_index(store: Store) -> None:
    listed = "SELECT name FROM voices WHERE user_id = 2 AND deleted_at IS NULL ORDER BY voice_id"
    assert "ix_voices_user_id_voice_id" in explain(store.db, f"{listed} DESC LIMIT 5")
    named = "SELECT voice_id FROM voices WHERE user_id = 2 AND name_key = 'ada'"
    assert "ix_voices_user_id_name_key" in explain(store.db, named)
