"""Files and their rows: one of each, whatever crashes, fills up or happens at once."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from store_places import SECRET, Place
from store_rows import at_once, count, kept_files, make_stored, make_voice, new_generation

from qwen3_audio.errors import NotFound, StorageFull
from qwen3_audio.store.batches import BatchEnd, NewBatch, end_batch, get_batch, start_batch
from qwen3_audio.store.consents import NewConsent, add_consent
from qwen3_audio.store.files import Blobs
from qwen3_audio.store.generations import (
    delete_stored,
    get_generation,
    get_stored,
    list_generations,
    start_generation,
)
from qwen3_audio.store.opening import Store, open_store_to_serve
from qwen3_audio.store.recovery import INTERRUPTED, Recovered, recover
from qwen3_audio.store.tables import Status, blobs, voices
from qwen3_audio.store.usage import total_usage
from qwen3_audio.store.users import add_user

SOUND = b"RIFF and so on"


def test_a_file_is_named_after_its_content(store: Store, alice: int) -> None:
    make_voice(store, alice, sound=SOUND)
    (name,) = kept_files(store)
    folder, rest = name.split("/")
    assert (len(folder), len(rest)) == (2, 62)
    assert store.blobs.read(folder + rest) == SOUND
    assert store.blobs.path(folder + rest).stat().st_mode & 0o777 == 0o600


def test_what_is_not_kept_at_the_end_is_gone(store: Store) -> None:
    with store.blobs.staged(store.db, SOUND, b"another"):
        assert len(kept_files(store)) == 2
    assert kept_files(store) == set()


def test_a_rolled_back_transaction_leaves_no_file(store: Store, alice: int) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        store.blobs.staged(store.db, SOUND) as staged,
        store.db.write() as conn,
    ):
        store.blobs.keep(conn, alice, staged)
        assert len(kept_files(store)) == 1
        raise ZeroDivisionError
    assert (kept_files(store), count(store, blobs)) == (set(), 0)


def test_a_rolled_back_second_owner_leaves_the_first_one_s_file(store: Store, alice: int) -> None:
    make_voice(store, alice, sound=SOUND)
    before = kept_files(store)
    with (
        pytest.raises(ZeroDivisionError),
        store.blobs.staged(store.db, SOUND) as staged,
        store.db.write() as conn,
    ):
        store.blobs.keep(conn, alice, staged)
        raise ZeroDivisionError
    assert kept_files(store) == before


def test_a_sound_that_somebody_took_away_is_found_missing(store: Store, alice: int) -> None:
    make_voice(store, alice, sound=SOUND)
    with store.db.read() as conn:
        assert store.blobs.missing(conn) == []
    (name,) = kept_files(store)
    sha256 = name.replace("/", "")
    store.blobs.path(sha256).unlink()
    with store.db.read() as conn:
        assert store.blobs.missing(conn) == [sha256]
    with pytest.raises(NotFound, match="no longer kept"):
        store.blobs.read(sha256)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("fsync", errno.ENOSPC),
        ("open", errno.EDQUOT),
        ("rename", errno.ENOSPC),
        ("mkdir", errno.ENOSPC),
        ("open", errno.EROFS),
    ],
)
def test_a_full_disk_is_told_and_damages_nothing(
    store: Store, alice: int, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    make_voice(store, alice, sound=b"there before")
    before = kept_files(store)

    def refuse(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), "/secret/path")

    with monkeypatch.context() as patched:
        place = {"fsync": os, "open": os, "rename": Path, "mkdir": Path}[step]
        patched.setattr(place, step, refuse)
        with pytest.raises(StorageFull) as refusal:
            make_voice(store, alice, sound=SOUND)
    assert "/secret" not in str(refusal.value)
    assert ("disk is full" in str(refusal.value)) == (number != errno.EROFS)
    assert kept_files(store) == before
    assert (count(store, voices), count(store, blobs)) == (1, 1)
    make_voice(store, alice, sound=SOUND)


@pytest.mark.parametrize("empty_place", ["sqlite"], indirect=True)
def test_a_full_database_is_told_and_damages_nothing(empty_place: Place, tmp_path: Path) -> None:
    store, _ = open_store_to_serve(empty_place.url, tmp_path)
    make_voice(store, 1, sound=SOUND)
    with store.db.read() as conn:
        pages = conn.execute(text("PRAGMA page_count")).scalar_one()
        conn.execute(text(f"PRAGMA max_page_count = {pages + 1}"))
    with pytest.raises(StorageFull, match="nothing was changed"):
        make_voice(store, 1, sound=b"another", prompt=b"x" * 100_000)
    assert (len(kept_files(store)), count(store, voices)) == (1, 1)
    store.close()


def test_one_sound_written_by_many_at_once_is_one_file(store: Store, alice: int) -> None:
    numbers = at_once([lambda: make_voice(store, alice, sound=SOUND)] * 12)
    assert len(set(numbers)) == 12
    assert len(kept_files(store)) == count(store, blobs) == 1


def test_writing_and_deleting_one_sound_at_once_never_loses_a_file(
    store: Store, alice: int
) -> None:
    """The last deletion and the next writer meet over the same file, with the sweep between."""

    def write_and_delete() -> None:
        for _ in range(4):
            number = make_stored(store, alice, sound=SOUND)
            with store.db.read() as conn:
                assert store.blobs.read(get_stored(conn, alice, number).audio_sha256) == SOUND
            with store.db.write() as conn:
                released = delete_stored(conn, alice, number)
            store.blobs.remove(store.db, released)

    def sweep() -> None:
        for _ in range(4):
            store.blobs.sweep(store.db)

    assert at_once([write_and_delete] * 6 + [sweep] * 2) == []
    assert (kept_files(store), count(store, blobs)) == (set(), 0)


def test_the_sweep_leaves_what_is_about_to_get_its_row(
    store: Store, place: Place, tmp_path: Path, alice: int
) -> None:
    """Of another process: before the transaction, and between the file's name and its row."""
    with closing(place.open()) as other_db:
        other = Blobs(tmp_path / "blobs")
        sweep = threading.Thread(target=other.sweep, args=(other_db,))
        with store.blobs.staged(store.db, SOUND) as staged:
            assert other.sweep(other_db) == 0
            with store.db.write() as conn:
                store.blobs.keep(conn, alice, staged)
                sweep.start()
                sweep.join(timeout=0.2)  # it waits for this transaction, however long that takes
                assert sweep.is_alive()
                add_consent(conn, alice, NewConsent("Alice", "en", staged[0].sha256))
        sweep.join()
    assert len(kept_files(store)) == 1


def test_the_sweep_takes_nothing_but_blobs(store: Store, alice: int) -> None:
    make_voice(store, alice, sound=SOUND)
    before = kept_files(store)
    folder = store.blobs.path("ab" * 32).parent
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("the operator's")
    assert store.blobs.sweep(store.db) == 0
    assert kept_files(store) == before | {"ab/notes.txt"}


def test_a_sweep_of_many_orphans_takes_them_all(store: Store, alice: int) -> None:
    make_voice(store, alice, sound=SOUND)
    before = kept_files(store)
    for number in range(600):
        path = store.blobs.path(f"ab{number:062x}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert store.blobs.sweep(store.db) == 600
    assert kept_files(store) == before


def test_a_sweep_before_anything_was_kept_finds_nothing(store: Store) -> None:
    assert store.blobs.sweep(store.db) == 0


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from qwen3_audio.store.db import open_database
    from qwen3_audio.store.files import Blobs
    from qwen3_audio.store.opening import Store
    from store_rows import make_stored, make_voice, new_generation
    from qwen3_audio.store.generations import start_generation
    from qwen3_audio.store.voices import delete_voice

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    url, folder, moment, user_id = sys.argv[1:]
    store = Store(open_database(url), Blobs(Path(folder)), b"")
    voice_id = make_voice(store, int(user_id), sound=b"there before")
    with store.db.write() as conn:
        start_generation(conn, int(user_id), new_generation())
    if moment == "after staging":
        with store.blobs.staged(store.db, b"lost"):
            die()
    elif moment == "between file and row":
        store = Store(store.db, Blobs(Path(folder), before_row=die), b"")
        make_stored(store, int(user_id), sound=b"lost")
    elif moment == "before the commit":
        with store.blobs.staged(store.db, b"lost") as staged, store.db.write() as conn:
            store.blobs.keep(conn, int(user_id), staged)
            die()
    elif moment == "between row and file":
        with store.db.write() as conn:
            delete_voice(conn, int(user_id), voice_id)
        die()
"""
MOMENTS = ("after staging", "between file and row", "before the commit", "between row and file")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_no_row_without_file_and_the_next_start_no_file_without_row(
    place: Place, tmp_path: Path, moment: str
) -> None:
    store = Store(place.open(), Blobs(tmp_path / "blobs"), SECRET)
    with store.db.write() as conn:
        alice = add_user(conn)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), place.url, str(tmp_path / "blobs")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    killed = subprocess.run([*command, moment, str(alice)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    with store.db.read() as conn:
        assert store.blobs.missing(conn) == []
    assert len(kept_files(store)) > count(store, blobs)
    assert recover(store.db, store.blobs) == Recovered(num_failed=1, num_files=1)
    assert len(kept_files(store)) == count(store, blobs)
    marks = list((tmp_path / "blobs").glob(".writer-*"))
    assert marks == []
    with store.db.read() as conn:
        (row,) = list_generations(conn, alice).items
        assert (row.status, row.error, row.tokens) == ("failed", INTERRUPTED, 0)
        assert total_usage(conn, alice).tokens_total == 0
    store.close()


def test_a_second_server_leaves_the_first_one_s_requests_running(
    place: Place, tmp_path: Path
) -> None:
    first, _ = open_store_to_serve(place.url, tmp_path)
    with first.db.write() as conn:
        number = start_generation(conn, 1, new_generation(), status=Status.WAITING)
        batch_id = start_batch(conn, 1, NewBatch("wav", "auto", num_texts=2, is_stored=False))
    second, found = open_store_to_serve(place.url, tmp_path)
    assert found == Recovered(0, 0)
    second.close()
    with first.db.read() as conn:
        assert get_generation(conn, 1, number).status == "waiting"
    first.close()
    third, found = open_store_to_serve(place.url, tmp_path)
    assert found == Recovered(2, 0)
    with third.db.write() as conn:
        assert get_batch(conn, 1, batch_id).error == INTERRUPTED
        assert not end_batch(conn, 1, batch_id, BatchEnd(Status.DONE, tokens=5, discount=0.9))
    third.close()


def test_a_clean_stop_leaves_nothing_to_repair(place: Place, tmp_path: Path) -> None:
    store, _ = open_store_to_serve(place.url, tmp_path)
    make_stored(store, 1)
    store.close()
    again, found = open_store_to_serve(place.url, tmp_path)
    assert found == Recovered(0, 0)
    assert again.secret == store.secret
    assert list((tmp_path / "blobs").glob(".*")) == []
    again.close()
