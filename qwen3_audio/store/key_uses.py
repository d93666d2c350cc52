"""When keys were last used: written behind the answers, so that no reader waits for a writer."""

import logging
import threading
from datetime import datetime

from qwen3_audio.errors import SpeechError
from qwen3_audio.store.columns import utc_now
from qwen3_audio.store.db import Database
from qwen3_audio.store.keys import LAST_USED_EVERY, Caller, note_use

log = logging.getLogger(__name__)


class KeyUses:
    """Collects uses, each key's at most once a minute; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[tuple[int, int], datetime] = {}
        self._is_writing = False

    def add(self, caller: Caller, *, now: datetime | None = None) -> bool:
        """True: somebody has to call `write` now; it takes all that come meanwhile, too."""
        moment, last = now or utc_now(), caller.last_used_at
        if caller.key_id is None or (last is not None and moment - last < LAST_USED_EVERY):
            return False
        with self._lock:
            self._uses[caller.user_id, caller.key_id] = moment
            is_first, self._is_writing = not self._is_writing, True
        return is_first

    def write(self, db: Database) -> None:
        """If the database refuses, the next use of the key is noted instead."""
        while uses := self._taken():
            try:
                with db.write() as conn:
                    for (user_id, key_id), moment in sorted(uses.items()):
                        note_use(conn, user_id, key_id, now=moment)
            except SpeechError as error:
                log.warning("When keys were last used could not be noted: %s", error)

    def _taken(self) -> dict[tuple[int, int], datetime]:
        with self._lock:
            uses, self._uses = self._uses, {}
            self._is_writing = bool(uses)
        return uses
