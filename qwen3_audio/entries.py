"""What each kind of paid request is in the books: an order, and the row that its end becomes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import perf_counter

from sqlalchemy import Connection

from qwen3_audio.books import Books, Entry
from qwen3_audio.orders import SpeechOrder, TranscriptionOrder
from qwen3_audio.outcomes import Ending
from qwen3_audio.store.generations import GenerationEnd, NewGeneration, add_generation
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.tables import Route, Status
from qwen3_audio.store.transcriptions import NewTranscription, add_transcription

AUTO = "auto"


def speech_entry(
    books: Books, caller: Caller, order: SpeechOrder, *, response_format: str
) -> Entry:
    """Costs its characters; nothing of text or sound stays."""
    new = new_generation(caller, order, route=Route.SPEECH, response_format=response_format)

    def book(conn: Connection, user_id: int, ending: Ending) -> int:
        used = new if ending.seed is None else replace(new, seed=ending.seed)
        return add_generation(conn, user_id, used, generation_end(order, ending))

    return books.entry(caller, num_tokens=order.num_chars, received_s=order.received_s, book=book)


def new_generation(
    caller: Caller, order: SpeechOrder, *, route: Route, response_format: str
) -> NewGeneration:
    request = order.parts[0]
    return NewGeneration(
        route=route,
        response_format=response_format,
        language=request.language or AUTO,
        num_chars=order.num_chars,
        voice_id=order.voice_id,
        voice_owner_id=order.voice_owner_id,
        speaker=request.speaker,
        model=order.model.name,
        seed=request.seed,
        key_id=caller.key_id,
        created_at=_moment(order.received_s),
    )


def generation_end(order: SpeechOrder, ending: Ending) -> GenerationEnd:
    return GenerationEnd(
        status=Status(ending.outcome),
        tokens=order.num_chars if ending.is_charged else 0,
        latency_ms=ending.latency_ms,
        audio_ms=ending.audio_ms,
        finish_reason=ending.finish_reason,
        error=ending.error,
    )


def transcription_entry(books: Books, caller: Caller, order: TranscriptionOrder) -> Entry:
    """Costs no tokens; never what was said."""

    def book(conn: Connection, user_id: int, ending: Ending) -> int:
        new = NewTranscription(
            status=Status(ending.outcome),
            audio_ms=ending.audio_ms,
            latency_ms=ending.latency_ms,
            language=ending.language or order.request.language or AUTO,
            model=order.model.name,
            finish_reason=ending.finish_reason,
            error=ending.error,
            key_id=caller.key_id,
            created_at=_moment(order.received_s),
        )
        return add_transcription(conn, user_id, new)

    return books.entry(caller, num_tokens=0, received_s=order.received_s, book=book)


def _moment(received_s: float) -> datetime:
    """The time of day at which an order was received, from the clock that measures durations."""
    return datetime.now(UTC) - timedelta(seconds=perf_counter() - received_s)
