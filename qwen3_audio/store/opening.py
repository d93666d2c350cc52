"""The store room as one thing: the database, the sounds beside it, the secret."""

from dataclasses import dataclass
from pathlib import Path

from qwen3_audio.errors import StartError
from qwen3_audio.store.db import Database, open_database
from qwen3_audio.store.files import Blobs
from qwen3_audio.store.migrate import migrate
from qwen3_audio.store.recovery import Recovered, recover
from qwen3_audio.store.secret_file import load_secret


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that is kept. Safe from any thread; never on an event loop."""

    db: Database
    blobs: Blobs
    secret: bytes

    def close(self) -> None:
        self.blobs.close()
        self.db.close()


def open_store(
    url: str, data_dir: Path, *, hmac_secret: str | None = None, blobs: Blobs | None = None
) -> Store:
    """A database of this program's version, made if there is none. StartError in one sentence."""
    secret = load_secret(data_dir, hmac_secret)
    db = open_database(url)
    try:
        migrate(db)
    except StartError:
        db.close()
        raise
    return Store(db, blobs or Blobs(data_dir / "blobs"), secret)


def open_store_to_serve(
    url: str, data_dir: Path, *, hmac_secret: str | None = None, blobs: Blobs | None = None
) -> tuple[Store, Recovered]:
    """The same for a server, which first repairs what a killed one left."""
    store = open_store(url, data_dir, hmac_secret=hmac_secret, blobs=blobs)
    return store, recover(store.db, store.blobs)
