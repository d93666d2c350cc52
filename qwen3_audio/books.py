"""The books: who may begin a paid request, and how each one ended; every one exactly once.

All of it happens on threads of its own, never on the event loop: a transaction takes milliseconds.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from qwen3_audio.errors import Overloaded, SpeechError, StorageFull
from qwen3_audio.outcomes import Ending, Outcome, outcome_of
from qwen3_audio.store.key_uses import KeyUses
from qwen3_audio.store.keys import Caller, authenticate
from qwen3_audio.store.limits import InFlight, check_tokens, count_request
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import LOCAL_USER_ID
from qwen3_audio.store.users import Limits

log = logging.getLogger(__name__)

NUM_WORKERS = 16
CLOSE_S = 5.0  # enough for requests that were just cancelled to unwind
LOCAL_CALLER = Caller(LOCAL_USER_ID, None, Limits(), None)
ANSWER_S = 3.0
MAX_UNBOOKED = 10_000
T = TypeVar("T")


Book = Callable[[Connection, int, Ending], int]  # writes the row of this user; gives its number
Begin = Callable[[Connection, int], int]  # the same for a row that has no end yet


class Entry:
    """One paid request, as an `async with` around its work.

    `finish` books it before its answer ends. Left without, it is booked behind the answer, as
    failed or cancelled. This one is in no books: for the command line.
    """

    async def __aenter__(self) -> "Entry":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def note(self, audio_s: float, *, is_sent: bool) -> None:
        """So much more sound; sent: from the first of it on, leaving has its price."""

    async def begin(self, begin: Begin) -> int | None:
        """The number of its row before its end, for an answer that begins earlier."""
        return None

    async def finish(
        self,
        *,
        finish_reason: str,
        seed: int | None = None,
        language: str | None = None,
        sounds: Sequence[bytes] = (),
    ) -> int | None:
        """The number of its row, if it has one; `sounds` are kept in the same transaction."""
        return None


class Books:
    """The store's worker threads, and the limits of those who call."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self._in_flight = InFlight()
        self._key_uses = KeyUses()
        self._workers = ThreadPoolExecutor(NUM_WORKERS, thread_name_prefix="books")
        self._unbooked: deque[Callable[[], object]] = deque(maxlen=MAX_UNBOOKED)
        self._num_open = 0
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()

    async def close(self) -> None:
        """Wait until every request is in the books, then close the store."""
        with contextlib.suppress(TimeoutError):  # rather a row too few than a server that stays
            await asyncio.wait_for(self._nothing_open.wait(), CLOSE_S)
        await asyncio.to_thread(self._workers.shutdown)
        if self.store is not None:
            await asyncio.to_thread(self.store.close)

    async def unready_reasons(self) -> list[str]:
        """Why nothing can be booked now; empty when it can."""
        store = self.store
        if store is None:
            return []

        def ask() -> None:
            with store.db.read() as conn:
                conn.execute(select(1))

        try:
            await asyncio.wait_for(self.run(ask), ANSWER_S)
        except SpeechError as error:
            return [str(error)]
        except TimeoutError:
            return ["the database does not answer"]
        return []

    async def run(self, work: Callable[[], T]) -> T:
        """On a worker thread. Once handed over it is done, even if the caller is cancelled."""
        return await _awaited(self.submit(work))

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """The same for a worker to wait for, too: work begins in the order in which it came."""
        return self._workers.submit(work)

    def run_behind(self, work: Callable[[], object]) -> None:
        """The same without waiting: for the way out after a disconnect, where nothing can wait."""
        try:
            self._workers.submit(_logged, work)
        except RuntimeError:  # at the very end no thread takes it any more
            _logged(work)

    def book_behind(self, work: Callable[[], object]) -> None:
        """The same for a row: what a database in trouble refuses follows the next it takes."""

        def book() -> None:
            try:
                work()
            except (Overloaded, StorageFull):
                self._unbooked.append(work)
                raise

        self.run_behind(book)

    def note_booked(self) -> None:
        """The database took a row: it may take one that it refused before."""
        with contextlib.suppress(IndexError):
            self.book_behind(self._unbooked.popleft())

    def note_open(self, change: int) -> None:
        """One request more (1) or less (-1) that is not handed over to the workers yet."""
        self._num_open += change
        if self._num_open:
            self._nothing_open.clear()
        else:
            self._nothing_open.set()

    async def authenticate(self, store: Store, key: str) -> Caller:
        """Who this key belongs to; that it was used is noted behind."""
        caller = await self.run(lambda: authenticate(store.db, store.secret, key))
        if self._key_uses.add(caller):
            self.run_behind(lambda: self._key_uses.write(store.db))
        return caller

    async def count_request(self, caller: Caller) -> None:
        """LimitReached if the caller had enough requests in this minute."""
        store = self.store
        if store is None or caller.limits.max_requests_per_minute is None:
            return

        def count() -> None:
            with store.db.write() as conn:
                count_request(conn, caller.user_id, caller.limits)

        await self.run(count)

    @asynccontextmanager
    async def admitted(self, caller: Caller, *, num_tokens: int = 0) -> AsyncIterator[None]:
        """Around work that is booked inside: LimitReached if it exceeds the caller's limits.

        Only for work that is booked before this is left; an `Entry` books behind as well.
        """
        with await self.admit(caller, num_tokens=num_tokens):
            yield

    async def admit(self, caller: Caller, *, num_tokens: int = 0) -> ExitStack:
        """A place among the caller's requests at once; close it when the work is booked."""
        store, limits = self.store, caller.limits
        place = ExitStack()
        if store is None:
            return place
        num_ahead = place.enter_context(
            self._in_flight.one_more(caller.user_id, limits, num_tokens=num_tokens)
        )
        if limits.max_tokens_per_day is None:
            return place

        def check() -> None:
            with store.db.read() as conn:
                check_tokens(
                    conn, caller.user_id, limits, num_tokens=num_tokens, num_in_flight=num_ahead
                )

        try:
            await self.run(check)
        except BaseException:
            place.close()
            raise
        return place

    def entry(self, caller: Caller, *, num_tokens: int, received_s: float, book: Book) -> Entry:
        """A request that will be in the books; without a store it is in none."""
        if self.store is None:
            return Entry()
        return BookedEntry(
            self, self.store, caller, num_tokens=num_tokens, received_s=received_s, book=book
        )


class BookedEntry(Entry):
    """An entry in the store's books, within the caller's limits."""

    def __init__(
        self,
        books: Books,
        store: Store,
        caller: Caller,
        *,
        num_tokens: int,
        received_s: float,
        book: Book,
    ) -> None:
        self._was_heard = False
        self._audio_s = 0.0
        self._books = books
        self._store = store
        self._caller = caller
        self._num_tokens = num_tokens
        self._received_s = received_s
        self._book = book
        self._is_booked = False
        self._begun: Future[int] | None = None

    def note(self, audio_s: float, *, is_sent: bool) -> None:
        self._audio_s += audio_s
        self._was_heard = self._was_heard or is_sent

    async def __aenter__(self) -> Entry:
        self._place = await self._books.admit(self._caller, num_tokens=self._num_tokens)
        self._books.note_open(1)
        return self

    async def begin(self, begin: Begin) -> int | None:
        def work() -> int:
            with self._store.db.write() as conn:
                return begin(conn, self._caller.user_id)

        self._begun = self._books.submit(work)
        return await _awaited(self._begun)

    async def finish(
        self,
        *,
        finish_reason: str,
        seed: int | None = None,
        language: str | None = None,
        sounds: Sequence[bytes] = (),
    ) -> int | None:
        """Book it as done; the number of its row. StorageFull if there is no room for sounds."""
        ending = self._ending("done", finish_reason=finish_reason, seed=seed, language=language)
        self._hand_over()
        return await self._books.run(lambda: self._write_or_fail(ending, sounds))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_booked:
            return
        self._hand_over()
        told = str(error) if isinstance(error, SpeechError) else None
        ending = self._ending(outcome_of(kind), error=told)
        # Not awaited: after a disconnect, any await in here would be cancelled again.
        self._books.book_behind(lambda: self._write(ending))

    def _hand_over(self) -> None:
        """From here on a worker answers for it, whoever else leaves."""
        self._is_booked = True
        self._books.note_open(-1)

    def _ending(self, outcome: Outcome, **more: Any) -> Ending:
        return Ending(
            outcome=outcome,
            latency_ms=round((time.perf_counter() - self._received_s) * 1000),
            audio_ms=round(self._audio_s * 1000),
            was_heard=self._was_heard,
            **more,
        )

    def _write_or_fail(self, ending: Ending, sounds: Sequence[bytes]) -> int:
        """A request whose end could not be booked has failed, and that is booked instead."""
        try:
            return self._write_row(ending, sounds)
        except SpeechError as error:
            failed = self._ending("failed", error=str(error))
            # Behind the answer: a locked database would keep the client waiting once more.
            self._books.book_behind(lambda: self._write(failed))
            raise

    def _write(self, ending: Ending) -> None:
        with self._place:
            self._write_row(ending)

    def _number(self) -> int | None:
        """Of the row that was begun. Who leaves at once is booked while that is still done."""
        if self._begun is None or self._begun.exception() is not None:
            return None
        return self._begun.result()

    def _write_row(self, ending: Ending, sounds: Sequence[bytes] = ()) -> int:
        blobs, db, user_id = self._store.blobs, self._store.db, self._caller.user_id
        ending = replace(ending, number=self._number())
        with blobs.staged(db, *sounds) as staged, db.write() as conn:
            if staged:
                blobs.keep(conn, user_id, staged)
            number = self._book(conn, user_id, ending)
        self._place.close()
        self._books.note_booked()
        return number


async def _awaited(work: Future[T]) -> T:
    return await asyncio.shield(asyncio.wrap_future(work))


def _logged(work: Callable[[], object]) -> None:
    """Nobody waits for this work, so nobody else would hear that it could not be done."""
    try:
        work()
    except SpeechError as error:
        log.error("Could not be booked: %s", error)
