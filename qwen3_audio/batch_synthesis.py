"""What /batchtts does: many texts at once in the engine, priced together, each failing alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from qwen3_audio import pricing
from qwen3_audio.entries import new_generation
from qwen3_audio.errors import BadRequest, EngineFailed, SpeechError
from qwen3_audio.orders import SpeechOrder
from qwen3_audio.outcomes import Ending
from qwen3_audio.service import SpeechService
from qwen3_audio.store.batches import BatchEnd, NewBatch, end_batch, start_batch
from qwen3_audio.store.generations import GenerationEnd, NewGeneration, add_generations
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.tables import Route, Status
from qwen3_audio.stored_voices import StoredVoices
from qwen3_audio.synthesis import (
    MadeSound,
    VoiceForm,
    discount_rule,
    lock_state,
    make_sound,
    order_texts,
    save_state,
    sha256_of,
)
from qwen3_audio.types import SPEECH_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One text of a batch; without data it failed, and was free."""

    generation_id: int
    tokens: int
    seed: int
    made: MadeSound | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenBatch:
    """A batch that is in the books."""

    batch_id: int
    items: tuple[BatchItem, ...]
    language: str
    discount: float
    latency_ms: int

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.items)


async def speak_batch(
    service: SpeechService,
    voices: StoredVoices,
    caller: Caller,
    texts: Sequence[str],
    form: VoiceForm,
) -> SpokenBatch:
    """All texts at once. BadRequest for any bad one before any work; EngineFailed if all failed."""
    _check_number(service, len(texts))
    named = {f"texts[{index}]": text for index, text in enumerate(texts)}
    made_orders = await order_texts(service, voices, caller, named, form)
    batch = _Batch(service, caller, form, [text.strip() for text in texts], made_orders)
    entry = service.books.entry(
        caller,
        num_tokens=sum(order.num_chars for order in made_orders),
        received_s=made_orders[0].received_s,
        book=batch.book,
    )
    async with entry:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_try(service, order, form)) for order in made_orders]
        batch.results = [task.result() for task in tasks]
        batch.refuse_if_all_failed()
        entry.note(batch.num_samples / SPEECH_RATE_HZ, is_sent=False)
        await entry.finish(finish_reason="stop", sounds=batch.kept)
    return batch.as_spoken()


def _check_number(service: SpeechService, num_texts: int) -> None:
    low, high = service.settings.min_batch_size, service.settings.max_batch_size
    if not low <= num_texts <= high:
        raise BadRequest(
            f"texts has {num_texts} texts; a batch has {low} to {high}.",
            param="texts",
            code="invalid_value",
        )


async def _try(
    service: SpeechService, order: SpeechOrder, form: VoiceForm
) -> MadeSound | SpeechError:
    """What became of one text; its failure is nobody else's."""
    try:
        return await make_sound(service, order, form.format)
    except SpeechError as error:
        return error


class _Batch:
    """The rows of a batch, however it ends, in one transaction."""

    def __init__(
        self,
        service: SpeechService,
        caller: Caller,
        form: VoiceForm,
        texts: list[str],
        made_orders: list[SpeechOrder],
    ) -> None:
        self.results: list[MadeSound | SpeechError] = []  # in order, once all have ended
        self._rule = discount_rule(service.settings)
        self._form = form
        self._texts = texts
        self._new = [
            new_generation(caller, order, route=Route.BATCH, response_format=form.format.name)
            for order in made_orders
        ]
        self._key_id = caller.key_id
        self._batch_id = self._latency_ms = 0
        self._discount = 1.0
        self._numbers: list[int] = []
        self._tokens: list[int] = []

    @property
    def made(self) -> list[MadeSound]:
        return [result for result in self.results if isinstance(result, MadeSound)]

    @property
    def num_samples(self) -> int:
        return sum(made.num_samples for made in self.made)

    @property
    def kept(self) -> list[bytes]:
        return [made.data for made in self.made] if self._form.is_stored else []

    def refuse_if_all_failed(self) -> None:
        """The line's refusal where that is all it was: another try makes sense then."""
        errors = [result for result in self.results if isinstance(result, SpeechError)]
        if len(errors) < len(self.results):
            return
        if len({type(error) for error in errors}) == 1:
            raise errors[0]
        raise EngineFailed(f"All {len(errors)} texts failed; the first one: {errors[0]}")

    def book(self, conn: Connection, user_id: int, ending: Ending) -> int:
        is_done = ending.outcome == "done"
        results = self.results if is_done else []
        self._latency_ms = ending.latency_ms
        self._tokens = [0] * len(self._new)
        if is_done:
            self._price(conn, ending.latency_ms)
        new = NewBatch(
            response_format=self._form.format.name,
            language=self._new[0].language,
            num_texts=len(self._new),
            is_stored=self._form.is_stored,
            voice_id=self._form.voice_id,
            key_id=self._key_id,
            created_at=self._new[0].created_at,
        )
        self._batch_id = start_batch(conn, user_id, new)
        rows = [
            self._row(index, ending, results[index] if results else None)
            for index in range(len(self._new))
        ]
        self._numbers = add_generations(conn, user_id, rows)
        end = BatchEnd(
            status=Status(ending.outcome),
            tokens=sum(self._tokens),
            discount=self._discount,
            latency_ms=ending.latency_ms,
            error=ending.error,
        )
        end_batch(conn, user_id, self._batch_id, end)
        return self._batch_id

    def as_spoken(self) -> SpokenBatch:
        items = [
            BatchItem(
                generation_id=number,
                tokens=tokens,
                seed=result.spoken.seed if isinstance(result, MadeSound) else new.seed or 0,
                made=result if isinstance(result, MadeSound) else None,
                error=str(result) if isinstance(result, SpeechError) else None,
            )
            for number, tokens, result, new in zip(
                self._numbers, self._tokens, self.results, self._new, strict=True
            )
        ]
        return SpokenBatch(
            batch_id=self._batch_id,
            items=tuple(items),
            language=self._new[0].language,
            discount=self._discount,
            latency_ms=self._latency_ms,
        )

    def _price(self, conn: Connection, latency_ms: int) -> None:
        """Learn first, then charge what was spoken; a batch with failures teaches nothing."""
        chars = [
            new.num_chars if isinstance(result, MadeSound) else 0
            for new, result in zip(self._new, self.results, strict=True)
        ]
        state = lock_state(conn)
        if all(chars):
            state = pricing.learn_from_batch(
                state, latency_ms=latency_ms, num_chars=sum(chars), rule=self._rule
            )
            save_state(conn, state)
        discount = pricing.current_discount(state, self._rule)
        self._discount = pricing.priced_discount(discount)
        total = pricing.batch_tokens(sum(chars), self._discount)
        self._tokens = pricing.split_tokens(total, chars)

    def _row(
        self, index: int, ending: Ending, result: MadeSound | SpeechError | None
    ) -> tuple[NewGeneration, GenerationEnd]:
        new = replace(self._new[index], batch_id=self._batch_id, position=index)
        if isinstance(result, MadeSound):
            kept = result.data if self._form.is_stored else None
            end = GenerationEnd(
                status=Status.DONE,
                tokens=self._tokens[index],
                latency_ms=ending.latency_ms,
                audio_ms=result.audio_ms,
                finish_reason=result.spoken.reason.value,
                audio_sha256=None if kept is None else sha256_of(kept),
                text=None if kept is None else self._texts[index],
            )
            return replace(new, seed=result.spoken.seed), end
        status = Status.FAILED if result is not None else Status(ending.outcome)
        error = ending.error if result is None else str(result)
        return new, GenerationEnd(
            status=status, tokens=0, latency_ms=ending.latency_ms, error=error
        )
