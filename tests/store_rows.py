"""Short ways to fill the store, and to look at what is in it."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Table, func, select

from qwen3_audio.store.caps import UNLIMITED, Caps
from qwen3_audio.store.consents import Consent, NewConsent, add_consent
from qwen3_audio.store.generations import GenerationEnd, NewGeneration, add_generation
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import Route, Status
from qwen3_audio.store.voices import NewVoice, VoiceKind, add_voice

Result = TypeVar("Result")

DONE = GenerationEnd(Status.DONE, tokens=10, latency_ms=5, audio_ms=800, finish_reason="stop")


def make_voice(
    store: Store,
    user_id: int,
    *,
    name: str = "Geoff",
    sound: bytes = b"RIFF of a voice",
    caps: Caps = UNLIMITED,
    **fields: Any,
) -> int:
    """A cloned voice with its reference kept."""
    with store.blobs.staged(store.db, sound) as staged, store.db.write() as conn:
        store.blobs.keep(conn, user_id, staged)
        given = {
            "kind": VoiceKind.CLONE,
            "language": "English",
            "ref_text": "The quick, brown fox",
            "reference_ms": 3000,
            "prompt": b"safetensors",
            "model_fingerprint": "base-1.7B",
            "upload_sha256": staged[0].sha256,
        }
        new = NewVoice(name=name, reference_sha256=staged[0].sha256, **(given | fields))
        return add_voice(conn, user_id, new, caps=caps)


def make_consent(
    store: Store, user_id: int, *, sound: bytes = b"I agree", caps: Caps = UNLIMITED
) -> Consent:
    with store.blobs.staged(store.db, sound) as staged, store.db.write() as conn:
        store.blobs.keep(conn, user_id, staged)
        new = NewConsent("Alice agrees", "en-GB", staged[0].sha256, "audio/wav")
        return add_consent(conn, user_id, new, caps=caps)


def new_generation(**fields: Any) -> NewGeneration:
    given = {"route": Route.TTS, "response_format": "wav", "language": "English", "num_chars": 10}
    return NewGeneration(**(given | fields))


def make_stored(store: Store, user_id: int, *, sound: bytes = b"spoken", **fields: Any) -> int:
    """A generation of store=true."""
    with store.blobs.staged(store.db, sound) as staged, store.db.write() as conn:
        store.blobs.keep(conn, user_id, staged)
        end = GenerationEnd(
            Status.DONE, tokens=10, audio_sha256=staged[0].sha256, text="Hello from the server."
        )
        return add_generation(conn, user_id, new_generation(**fields), end)


def count(store: Store, table: Table) -> int:
    with store.db.read() as conn:
        return int(conn.execute(select(func.count()).select_from(table)).scalar_one())


def kept_files(store: Store) -> set[str]:
    """Every file below the blobs' folder but the mark of this process."""
    folder = store.blobs.path("00" * 32).parent.parent
    files = (path for path in folder.rglob("*") if path.is_file())
    return {shown for path in files if not (shown := _shown(path, folder)).startswith(".writer-")}


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def at_once(work: Sequence[Callable[[], Result]]) -> list[Result | Exception]:
    """Run all of them in threads that begin together; results or errors in order."""
    gate = threading.Barrier(len(work))
    results: list[Result | Exception | None] = [None] * len(work)

    def run(index: int) -> None:
        gate.wait()
        try:
            results[index] = work[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [result for result in results if result is not None]
