"""A full disk, a locked, read-only or newer database, over HTTP: a sentence, and no damage."""

import errno
import os
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_server import ADMIN_TOKEN, as_user, make_tone
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from store_places import Place
from store_rows import at_once, kept_files

from benchmarks.kill.audit import find_faults
from qwen3_audio.cli import build_parser, run
from qwen3_audio.errors import Overloaded
from qwen3_audio.store import files
from qwen3_audio.store.db import open_database
from qwen3_audio.store.opening import Store

MakeKey = Callable[[int], str]
MakeClient = Callable[..., TestClient]
TONE = make_tone(0.5)


@dataclass
class Guest:
    """A client with a key that has a voice and a stored sound."""

    http: TestClient
    headers: dict[str, str]
    voice_id: int = 0
    generation_id: int = 0

    def post(self, path: str, **body: Any) -> Any:
        return self.http.post(path, headers=self.headers, **body)

    def get(self, path: str) -> Any:
        return self.http.get(path, headers=self.headers)

    def clone(self, data: bytes = TONE) -> Any:
        fields = {"name": "Geoff", "transcript": "the quick brown fox"}
        return self.post("/clonevoice", files={"file": ("a.wav", data)}, data=fields)

    def design(self) -> Any:
        return self.post("/designvoice", json={"name": "Ann", "description": "A low voice"})

    def openai_clone(self) -> Any:
        sample = {"audio_sample": ("a.wav", TONE, "audio/wav")}
        return self.post("/v1/audio/voices", files=sample, data={"name": "Geoff"})

    def speak(self, text: str = "Hello", **fields: Any) -> Any:
        return self.post("/tts", json={"voice_id": self.voice_id, "text": text} | fields)

    def stream(self) -> Any:
        return self.speak(stream=True)

    def keep(self) -> Any:
        return self.speak("To be kept", store=True, seed=1)

    def speak_many(self) -> Any:
        body = {"voice_id": self.voice_id, "texts": ["One", "Two"], "store": True}
        return self.post("/batchtts", json=body)

    def speak_preset(self, **fields: Any) -> Any:
        body = {"input": "Hello", "voice": "ryan", "response_format": "wav"} | fields
        return self.post("/v1/audio/speech", json=body)


Ask = Callable[[Guest], Any]


@pytest.fixture
def guest(keyed_client: TestClient, bob: int, make_key: MakeKey) -> Guest:
    guest = Guest(keyed_client, as_user(make_key(bob)))
    reply = guest.clone(make_tone(1.0))
    assert reply.status_code == 200
    guest.voice_id = reply.json()["voice_id"]
    reply = guest.speak("Kept before", store=True)
    assert reply.status_code == 200
    guest.generation_id = int(reply.headers["X-Generation-Id"])
    return guest


def whole(store: Store, tmp_path: Path) -> list[str]:
    """What is damaged, once everything that is done behind an answer has been done."""
    return [
        fault
        for fault in find_faults(store.db, tmp_path / "blobs", [])
        if "writer's mark" not in fault  # this one lives
    ]


def seen(guest: Guest, store: Store) -> tuple[Any, ...]:
    return guest.get("/usage").json(), guest.get("/voices").json(), kept_files(store)


def check_refusal(reply: Any, status: int, says: str) -> None:
    """One sentence, no path, and no trace."""
    assert (reply.status_code, says in reply.text) == (status, True), reply.text
    message = reply.json()["error"]["message"]
    assert "/" not in message
    assert "\n" not in message
    assert (reply.headers.get("Retry-After") is not None) == (status == 503)


def check_served(guest: Guest) -> None:
    assert [ask(guest).status_code for ask in ALL] == [200] * len(ALL)


# A full disk


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file reaches the disk any more."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/path")

    with monkeypatch.context() as patched:
        patched.setattr(files, "_write_synced", refuse)
        yield


KEEPING: tuple[Ask, ...] = (
    Guest.clone,
    Guest.openai_clone,
    Guest.design,
    Guest.keep,
    Guest.speak_many,
)
ALL: tuple[Ask, ...] = (*KEEPING, Guest.speak, Guest.speak_preset)


def test_a_full_disk_is_507_and_nothing_is_damaged_or_charged(
    guest: Guest, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen(guest, store)
    with full_disk(monkeypatch):
        for ask in KEEPING:
            check_refusal(ask(guest), 507, "disk is full")
        assert seen(guest, store) == before
        assert guest.speak().status_code == 200  # what keeps nothing needs no room
    assert whole(store, tmp_path) == []
    check_served(guest)
    assert whole(store, tmp_path) == []


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_consent_without_room_is_507(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def consent() -> Any:
        files = {"recording": ("a.wav", TONE, "audio/wav")}
        fields = {"name": "Bob", "language": "en-US"}
        return guest.post("/v1/audio/voice_consents", files=files, data=fields)

    with full_disk(monkeypatch):
        check_refusal(consent(), 507, "disk is full")
    assert consent().status_code == 200


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_no_room_for_a_large_upload_is_507(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads above a megabyte go to a temporary file while they arrive."""
    large = make_tone(40.0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/secret")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", refuse)
        check_refusal(guest.clone(large), 507, "disk is full")
    assert guest.clone(large).status_code == 200


# A database that is full, locked, read-only


@pytest.fixture
def room(store: Store) -> Callable[[int | None], None]:
    """Lets SQLite's file grow by so many pages from now on; None: as it likes."""
    allowed: list[int | None] = [None]

    def bound(connection: sqlite3.Connection, *_: object) -> None:
        (present,) = connection.execute("PRAGMA page_count").fetchone()
        more = 10**6 if allowed[0] is None else allowed[0]
        connection.execute(f"PRAGMA max_page_count = {present + more}")

    event.listen(store.db.engine, "checkout", bound)

    def set_room(num_pages: int | None) -> None:
        allowed[0] = num_pages

    return set_room


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_full_database_is_507_and_nothing_is_damaged_or_charged(
    guest: Guest, store: Store, tmp_path: Path, room: Callable[[int | None], None]
) -> None:
    room(0)
    for ask in ALL:
        num_asked = 0
        while (reply := ask(guest)).status_code == 200:  # until its last page is full
            num_asked += 1
            assert num_asked < 200
        check_refusal(reply, 507, "disk of the database is full")
    assert guest.get("/voices").status_code == 200
    assert guest.get(f"/getstored/{guest.generation_id}").status_code == 200
    assert whole(store, tmp_path) == []
    room(None)
    check_served(guest)
    assert whole(store, tmp_path) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for a lock hardly at all."""
    monkeypatch.setattr("qwen3_audio.store.db.BUSY_TIMEOUT_MS", 10)
    monkeypatch.setattr("qwen3_audio.store.db.PRAGMAS", ("PRAGMA busy_timeout=10",))


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Another program holds the database against all writers."""
    if store.db.is_sqlite:
        with closing(sqlite3.connect(store.db.file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
        return
    url = store.db.url.render_as_string(hide_password=False)
    with closing(open_database(url)) as other, other.engine.begin() as conn:
        conn.execute(text("LOCK TABLE usage_days, voices IN EXCLUSIVE MODE"))
        yield


def test_a_database_locked_for_too_long_is_503_and_served_again_later(
    impatient: None, guest: Guest, store: Store, tmp_path: Path
) -> None:
    before = guest.get("/usage").json()
    with locked(store):
        for ask in ALL if not store.db.is_sqlite else (*ALL, Guest.stream):
            reply = ask(guest)
            check_refusal(reply, 503, "database is busy")
            assert reply.json()["error"]["code"] == "database_unavailable"
        assert guest.get("/usage").json() == before
        assert guest.get(f"/getstored/{guest.generation_id}").status_code == 200
    assert whole(store, tmp_path) == []
    check_served(guest)


def test_a_stream_that_cannot_be_booked_ends_with_an_error_event(
    impatient: None, guest: Guest, store: Store
) -> None:
    with locked(store):
        reply = guest.speak_preset(response_format="pcm", stream_format="sse")
    assert reply.text.rstrip().rpartition("event: error")[2].count("database is busy") > 0
    assert "speech.audio.done" not in reply.text


def test_a_key_s_first_use_reads_without_waiting_for_a_locked_database(
    impatient: None, guest: Guest, store: Store, bob: int, make_key: MakeKey
) -> None:
    guest.headers = as_user(make_key(bob))
    with locked(store):
        assert guest.get("/voices").json()[0]["voice_id"] == guest.voice_id


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_all_who_wait_for_a_locked_database_give_up_with_the_first(
    impatient: None, guest: Guest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one after the other, each after the whole time."""
    num_tried = [0]

    def count_try(*_: object) -> None:
        num_tried[0] += 1

    with locked(store):
        event.listen(store.db._writer, "begin", count_try)
        replies = at_once([guest.speak_preset] * 6)
    assert {reply.status_code for reply in replies} == {503}
    assert num_tried[0] < 6


@pytest.fixture
def read_only(guest: Guest, store: Store, make_client: MakeClient) -> Iterator[Guest]:
    """The same guest at a server whose database takes no changes."""
    if store.db.is_sqlite:
        url = f"sqlite:///file:{store.db.file}?mode=ro&uri=true"
    else:
        url = store.db.url.render_as_string(hide_password=False)
        url += "&options=-c%20default_transaction_read_only%3Don"
    with closing(open_database(url)) as db:
        refusing = Store(db, store.blobs, store.secret)
        client = make_client(store=refusing, admin_token=ADMIN_TOKEN)
        yield Guest(client, guest.headers, guest.voice_id, guest.generation_id)


def test_a_read_only_database_is_503_and_still_read(
    read_only: Guest, guest: Guest, store: Store, tmp_path: Path
) -> None:
    for ask in ALL:
        check_refusal(ask(read_only), 503, "takes no changes")
    for path in ("/voices", f"/getstored/{guest.generation_id}", "/usage"):
        assert read_only.get(path).content == guest.get(path).content
    reply = read_only.http.delete(f"/voices/{guest.voice_id}", headers=guest.headers)
    check_refusal(reply, 503, "takes no changes")
    assert whole(store, tmp_path) == []
    check_served(guest)


# What a deletion leaves to do


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_file_that_cannot_be_removed_goes_with_the_next_one(
    guest: Guest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row has gone, so the deletion is answered as done."""
    second = guest.speak("Another", store=True).headers["X-Generation-Id"]
    with monkeypatch.context() as patched:
        patched.setattr(files, "lock_blobs", _refuse_removal)
        reply = guest.http.delete(f"/getstored/{guest.generation_id}", headers=guest.headers)
        assert reply.json() == {"status": "deleted"}
        assert guest.get(f"/getstored/{guest.generation_id}").status_code == 404
        assert len(kept_files(store)) == 3
    assert guest.http.delete(f"/getstored/{second}", headers=guest.headers).status_code == 200
    assert len(kept_files(store)) == 1


def _refuse_removal(*_: object) -> list[str]:
    raise Overloaded("The database is busy; please try again")


# A database of a newer version


def test_a_newer_database_is_refused_in_a_sentence(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with closing(place.open()) as db, db.write() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    monkeypatch.setenv("DATABASE_URL", place.url)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for command in ("serve --fake --port 0", "db check", "db upgrade", "admin users list"):
        assert run(build_parser().parse_args(command.split())) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("qwen3-audio: The ")
        assert said.err.endswith("was made by a newer version of this program; install that one\n")
        assert said.err.count("\n") == 1
