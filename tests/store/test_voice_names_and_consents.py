"""What names stand for, and who consented: Alice owns, Bob must see nothing."""

from functools import partial
from itertools import product

import pytest
from store_rows import at_once, count, kept_files, make_consent, make_voice

from qwen3_audio.errors import BadRequest, LimitReached, NotFound
from qwen3_audio.store.caps import Caps
from qwen3_audio.store.consents import (
    delete_consent,
    get_consent,
    kept_consents,
    list_consents,
    rename_consent,
)
from qwen3_audio.store.opening import Store
from qwen3_audio.store.shared_voice_names import (
    delete_shared_name,
    list_shared_names,
    set_shared_name,
)
from qwen3_audio.store.tables import LOCAL_USER_ID, consents, voices
from qwen3_audio.store.voice_names import (
    NameTarget,
    delete_name,
    find_target,
    list_names,
    set_name,
)
from qwen3_audio.store.voices import (
    delete_voice,
    get_voice,
)

ODD_NAMES = ["Zoë 🎙️", 'O\'Brien "the" voice', "../../etc/passwd", "x'); DROP TABLE voices;--"]
NUMBERS_OF_NOBODY = [0, -1, 10**6, 2**63 - 1, 2**63, 10**30, -(10**30)]


def test_a_name_of_one_s_own_wins_over_the_shared_one(store: Store, alice: int, bob: int) -> None:
    hers, everybody_s = make_voice(store, alice), make_voice(store, LOCAL_USER_ID)
    with store.db.write() as conn:
        set_shared_name(conn, "Nova", voice_id=everybody_s)
        set_name(conn, alice, " nova ", voice_id=hers)
        assert find_target(conn, alice, "NOVA") == NameTarget(hers, None, alice)
        assert find_target(conn, bob, "NOVA") == NameTarget(everybody_s, None, LOCAL_USER_ID)
        delete_name(conn, alice, "nOVA")
        assert find_target(conn, alice, "nova") == NameTarget(everybody_s, None, LOCAL_USER_ID)
        with pytest.raises(NotFound):
            delete_name(conn, alice, "nova")


def test_a_name_may_stand_for_a_speaker_and_be_set_again(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        set_name(conn, alice, "alloy", speaker="vivian")
        set_name(conn, alice, "Alloy", speaker="ryan")
        assert find_target(conn, alice, "alloy") == NameTarget(speaker="ryan")
        assert [(name.name, name.speaker) for name in list_names(conn, alice)] == [
            ("Alloy", "ryan")
        ]


def test_a_name_stands_for_exactly_one_thing(store: Store, alice: int) -> None:
    with store.db.write() as conn:
        for target in ({}, {"voice_id": 1, "speaker": "ryan"}):
            with pytest.raises(BadRequest):
                set_name(conn, alice, "alloy", **target)
        with pytest.raises(BadRequest):
            set_name(conn, alice, " ", speaker="ryan")


def test_a_shared_name_takes_only_voices_of_user_1(store: Store, alice: int) -> None:
    hers = make_voice(store, alice)
    with store.db.write() as conn:
        with pytest.raises(NotFound):
            set_shared_name(conn, "alloy", voice_id=hers)
        set_shared_name(conn, "alloy", speaker="ryan")
        assert [name.speaker for name in list_shared_names(conn)] == ["ryan"]
        delete_shared_name(conn, "ALLOY")
        with pytest.raises(NotFound):
            delete_shared_name(conn, "alloy")


def test_names_go_with_their_voice(store: Store, alice: int) -> None:
    voice_id = make_voice(store, LOCAL_USER_ID)
    with store.db.write() as conn:
        set_name(conn, LOCAL_USER_ID, "alloy", voice_id=voice_id)
        set_shared_name(conn, "nova", voice_id=voice_id)
        delete_voice(conn, LOCAL_USER_ID, voice_id)
        for name in ("alloy", "nova"):
            assert find_target(conn, LOCAL_USER_ID, name) is None


def test_a_consent_is_kept_with_its_recording(store: Store, alice: int) -> None:
    made = make_consent(store, alice)
    with store.db.write() as conn:
        assert get_consent(conn, alice, made.consent_id) == made
        renamed = rename_consent(conn, alice, made.consent_id, name="Ada agrees")
        assert list_consents(conn, alice).items == (renamed,)
    assert store.blobs.read(made.recording_sha256) == b"I agree"
    assert (renamed.name, renamed.language) == ("Ada agrees", "en-GB")


def test_a_user_has_as_many_consents_as_allowed_even_in_a_race(
    store: Store, alice: int, bob: int
) -> None:
    caps = Caps(max_number=3)
    make_consent(store, bob)
    results = at_once(
        # Of different sounds: equal ones would wait for each other anyway.
        [
            lambda sound=bytes([n]): make_consent(store, alice, sound=sound, caps=caps)
            for n in range(8)
        ]
    )
    assert sum(isinstance(result, LimitReached) for result in results) == 5
    assert (count(store, consents), len(kept_files(store))) == (4, 4)
    with store.db.read() as conn:
        assert kept_consents(conn, alice) == (3, 3)


def test_a_user_s_consents_keep_as_many_bytes_as_allowed(
    store: Store, alice: int, bob: int
) -> None:
    caps = Caps(max_bytes=100)
    make_consent(store, bob, sound=b"x" * 1000)
    make_consent(store, alice, sound=b"x" * 80, caps=caps)
    with pytest.raises(LimitReached, match="consents would take 101 bytes and 100 are allowed"):
        make_consent(store, alice, sound=b"z" * 21, caps=caps)
    make_consent(store, alice, sound=b"z" * 20, caps=caps)


def test_a_user_has_as_many_names_as_allowed_even_in_a_race(
    store: Store, alice: int, bob: int
) -> None:
    def name(number: int, user_id: int = alice, caps: Caps = Caps(3)) -> None:  # noqa: B008
        with store.db.write() as conn:
            set_name(conn, user_id, f"name {number}", speaker="ryan", caps=caps)

    name(0, bob)
    results = at_once([partial(name, number) for number in range(8)])
    assert sum(isinstance(result, LimitReached) for result in results) == 5
    with store.db.read() as conn:
        mine = [row.name for row in list_names(conn, alice)]
    assert len(mine) == 3
    name(int(mine[0][-1]), caps=Caps(1))  # a new meaning is no new name
    with pytest.raises(LimitReached, match="3 voice names, as many as are allowed"):
        name(9)


def test_bob_can_do_nothing_with_alice_s_consent(store: Store, alice: int, bob: int) -> None:
    consent = make_consent(store, alice)
    for ask, number in product(
        (
            get_consent,
            delete_consent,
            lambda conn, user, number: rename_consent(conn, user, number, name="x"),
        ),
        (consent.consent_id, *NUMBERS_OF_NOBODY),
    ):
        with pytest.raises(NotFound), store.db.write() as conn:
            ask(conn, bob, number)
    for number in (consent.consent_id, *NUMBERS_OF_NOBODY):
        with pytest.raises(NotFound):
            make_voice(store, bob, consent_id=number)
    with store.db.read() as conn:
        assert list_consents(conn, bob).items == ()
        assert get_consent(conn, alice, consent.consent_id) == consent
    assert count(store, voices) == 0


def test_a_deleted_consent_takes_its_recording_and_leaves_its_voices(
    store: Store, alice: int
) -> None:
    consent = make_consent(store, alice)
    voice_id = make_voice(store, alice, consent_id=consent.consent_id)
    with store.db.write() as conn:
        released = delete_consent(conn, alice, consent.consent_id)
    assert store.blobs.remove(store.db, released) == 1
    with store.db.write() as conn:
        assert get_voice(conn, alice, voice_id).consent_id is None
        with pytest.raises(NotFound):
            delete_consent(conn, alice, consent.consent_id)
    assert count(store, consents) == 0
