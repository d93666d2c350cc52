"""The audit behind the kills: it finds every kind of damage, and none where there is none."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update
from store_rows import DONE, make_stored, make_voice, new_generation

from benchmarks.kill.audit import find_faults
from benchmarks.kill.clients import Journal, Sound, State, sha256
from benchmarks.kill.drill import SHARES, draw_points
from benchmarks.kill.server import BEFORE_ROW
from qwen3_audio.store.batches import BatchEnd, NewBatch, end_batch, start_batch
from qwen3_audio.store.generations import add_generation
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import (
    Route,
    Status,
    batches,
    blobs,
    generations,
    usage_days,
    voices,
)

VOICE, SPOKEN = b"RIFF of a voice", b"spoken"


@pytest.fixture
def journal(store: Store, alice: int) -> Journal:
    """A store with one of everything, as its client saw it."""
    voice_id = make_voice(store, alice, sound=VOICE)
    spoken = make_stored(store, alice, sound=SPOKEN, voice_id=voice_id)
    with store.db.write() as conn:
        new = NewBatch("wav", "auto", num_texts=1, is_stored=False)
        batch_id = start_batch(conn, alice, new)
        fields = {"route": Route.BATCH, "batch_id": batch_id, "position": 0}
        part = add_generation(conn, alice, new_generation(**fields), DONE)
        end_batch(conn, alice, batch_id, BatchEnd(Status.DONE, tokens=10, discount=0.9))
    store.blobs.close()  # as if the writer had ended: no mark of it
    return Journal(
        voices={voice_id: State.KEPT},
        sounds={spoken: Sound(sha256(SPOKEN))},
        tokens={spoken: 10, part: 10},
        batches={batch_id: 10},
    )


def faults(store: Store, journal: Journal, folder: Path) -> list[str]:
    return find_faults(store.db, folder / "blobs", [journal])


def change(store: Store, statement: object) -> None:
    with store.db.write() as conn:
        conn.execute(statement)  # type: ignore[call-overload]


def test_nothing_is_found_where_nothing_is_wrong(
    store: Store, journal: Journal, tmp_path: Path
) -> None:
    assert faults(store, journal, tmp_path) == []


DAMAGE: dict[str, tuple[Callable[[Store], object], str]] = {
    "begun": (
        lambda store: change(store, update(generations).values(status="running")),
        "2 generations have not ended",
    ),
    "half a batch": (
        lambda store: change(store, update(batches).values(num_texts=2)),
        "1 batches lack generations",
    ),
    "another sum": (
        lambda store: change(store, update(batches).values(tokens=9)),
        "1 batches cost another sum",
    ),
    "no text": (
        lambda store: change(store, update(generations).values(text=None)),
        "1 sounds have no text",
    ),
    "no prompt": (
        lambda store: change(store, update(voices).values(prompt=None)),
        "1 voices lack a reference or prompt",
    ),
    "unused row": (
        lambda store: change(store, insert(blobs).values(sha256="ab" * 32, size_bytes=1)),
        "1 files' rows belong to nothing",
    ),
    "no file": (
        lambda store: store.blobs.path(sha256(SPOKEN)).unlink(),
        "a row has no file",
    ),
    "half a file": (
        lambda store: store.blobs.path(sha256(SPOKEN)).write_bytes(b"spo"),
        "a file has not the bytes of its name",
    ),
    "no row": (
        lambda store: (store.blobs.path(sha256(SPOKEN)).parent / "more").touch(),
        "a file has no row",
    ),
    "unfinished": (
        lambda store: (store.blobs.path(sha256(SPOKEN)).parent / ".ab-1").touch(),
        "a file has no row",
    ),
    "charged twice": (
        lambda store: change(store, update(usage_days).values(tokens_tts=20)),
        "has tokens_tts 20, the rows have 10",
    ),
    "not charged": (lambda store: change(store, delete(usage_days)), "has voices_created 0"),
    "used twice": (
        lambda store: change(store, update(voices).values(use_count=2)),
        "was counted 2 times and used 1 times",
    ),
    "lost request": (
        lambda store: change(store, delete(generations)),
        "was answered with 10 tokens: None",
    ),
    "another sound": (
        lambda store: change(store, update(generations).values(audio_sha256=sha256(VOICE))),
        "the sound of generation 1 is kept and has become",
    ),
    "lost voice": (
        lambda store: change(store, update(voices).values(deleted_at=voices.c.created_at)),
        "is kept, and the table says",
    ),
}


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_kind_of_damage_is_found(
    store: Store, journal: Journal, tmp_path: Path, damage: str
) -> None:
    cause, says = DAMAGE[damage]
    cause(store)
    assert any(says in fault for fault in faults(store, journal, tmp_path))


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_what_was_deleted_must_not_come_back(
    store: Store, journal: Journal, tmp_path: Path
) -> None:
    (sound,) = journal.sounds.values()
    sound.state = State.DELETED
    journal.voices = dict.fromkeys(journal.voices, State.DELETED)
    found = faults(store, journal, tmp_path)
    assert ["is deleted" in fault for fault in found] == [True, True]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_of_a_deletion_without_an_answer_either_end_is_right_and_then_settled(
    store: Store, journal: Journal, tmp_path: Path
) -> None:
    (sound,) = journal.sounds.values()
    sound.state = State.DELETING
    journal.voices = dict.fromkeys(journal.voices, State.DELETING) | {99: State.DELETING}
    assert faults(store, journal, tmp_path) == []
    assert sound.state is State.KEPT
    assert list(journal.voices.values()) == [State.KEPT, State.DELETED]


@pytest.mark.parametrize("num_kills", [1, 4, 20, 50])
def test_each_share_of_the_kills_is_inside_a_write(num_kills: int) -> None:
    points = draw_points(random.Random(1), num_kills)
    assert len(points) == num_kills
    assert points.count(BEFORE_ROW) >= num_kills * SHARES[BEFORE_ROW] > num_kills / 10
