"""What /tts does: check everything, speak with a stored voice, encode, price, keep, book."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection

from qwen3_audio import orders, pricing
from qwen3_audio.audio.encode import Encoder, encode_whole
from qwen3_audio.audio.formats import AudioFormat
from qwen3_audio.books import Entry
from qwen3_audio.encoding import encode_sound
from qwen3_audio.entries import generation_end, new_generation
from qwen3_audio.errors import BadRequest, NotFound
from qwen3_audio.languages import parse_language
from qwen3_audio.orders import STORED_NEEDS, SamplingForm, SpeechOrder
from qwen3_audio.outcomes import Ending
from qwen3_audio.pricing import DiscountRule, DiscountState, count_tokens
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.speaking import Spoken
from qwen3_audio.store import runtime_stats
from qwen3_audio.store.failures import GONE
from qwen3_audio.store.generations import (
    GenerationEnd,
    add_generation,
    end_generation,
    start_generation,
)
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.tables import Route
from qwen3_audio.stored_voices import StoredVoices
from qwen3_audio.types import SPEECH_RATE_HZ, ModelKind, Pcm, SpeechRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceForm:
    """How texts are to be spoken."""

    voice_id: int
    format: AudioFormat
    is_stored: bool = False
    language: str | None = None
    sampling: SamplingForm = SamplingForm()  # noqa: RUF009  frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenText:
    """A text that has been spoken and booked."""

    generation_id: int
    data: bytes
    tokens: int
    latency_ms: int
    seed: int
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedText:
    """A text whose first sound is there; what else happens to it is booked under this number."""

    generation_id: int
    tokens: int
    latency_ms: int  # to the first sound
    seed: int


@dataclass(frozen=True, slots=True)
class MadeSound:
    """A text that has been spoken, before it is booked."""

    data: bytes
    spoken: Spoken
    num_samples: int

    @property
    def audio_ms(self) -> int:
        return round(1000 * self.num_samples / SPEECH_RATE_HZ)


async def speak_text(
    service: SpeechService, voices: StoredVoices, caller: Caller, text: str, form: VoiceForm
) -> SpokenText:
    """One text; when this gives something back it is in the books, and kept if it was to be."""
    (order,) = await order_texts(service, voices, caller, {"text": text}, form)
    row = _Row(service, caller, order, text, form)
    async with row.entry as entry:
        made = await make_sound(service, order, form.format)
        entry.note(made.num_samples / SPEECH_RATE_HZ, is_sent=False)
        row.kept = made.data if form.is_stored else None
        number = await row.finish(entry, made.spoken)
    return SpokenText(
        generation_id=number or 0,
        data=made.data,
        tokens=row.num_tokens,
        latency_ms=row.latency_ms,
        seed=made.spoken.seed,
        finish_reason=made.spoken.reason.value,
    )


async def stream_text(
    service: SpeechService, voices: StoredVoices, caller: Caller, text: str, form: VoiceForm
) -> AsyncGenerator[StartedText | bytes]:
    """One text: what is known at its first sound, then its bytes as they are made.

    It has a row from the beginning, which ends before this does; what is kept is what was sent.
    """
    (order,) = await order_texts(service, voices, caller, {"text": text}, form)
    row = _Row(service, caller, order, text, form)
    sent = bytearray()
    async with row.entry as entry, AsyncExitStack() as stack:
        number = await entry.begin(row.begin)
        sound = await stack.enter_async_context(aclosing(_noted(service.speak(order), entry)))
        first = await anext(sound)
        row.first_ms = round(1000 * (time.perf_counter() - order.received_s))
        yield StartedText(
            generation_id=number or 0,
            tokens=row.num_tokens,
            latency_ms=row.first_ms,
            seed=order.parts[0].seed,
        )
        encoded = encode_sound(
            first, sound, lambda: Encoder(form.format.name), is_cheap=form.format.codec is None
        )
        pieces = await stack.enter_async_context(aclosing(encoded))
        async for piece in pieces:
            if isinstance(piece, Spoken):
                row.kept = bytes(sent) if form.is_stored else None
                await row.finish(entry, piece)
                continue
            if form.is_stored:
                sent += piece
            yield piece


async def _noted(sound: AsyncGenerator[Pcm | Spoken], entry: Entry) -> AsyncGenerator[Pcm | Spoken]:
    """The same, and the books know how much of it left."""
    async with aclosing(sound):
        async for item in sound:
            if not isinstance(item, Spoken):
                entry.note(len(item) / SPEECH_RATE_HZ, is_sent=True)
            yield item


async def order_texts(
    service: SpeechService,
    voices: StoredVoices,
    caller: Caller,
    texts: Mapping[str, str],
    form: VoiceForm,
) -> list[SpeechOrder]:
    """All checks that can fail, and the voice's prompt; each text has a seed of its own.

    Texts go by what the client calls them, so that a refusal names the one it means.
    """
    received_s = time.perf_counter()
    models = service.backend.models()
    stripped = {
        name: orders.check_text(text, max_chars=service.settings.max_text_len, param=name)
        for name, text in texts.items()
    }
    model = orders.get_model(models, ModelKind.BASE, purpose=STORED_NEEDS)
    fitted = [orders.fit_text(text, model, param=name) for name, text in stripped.items()]
    chars = [count_tokens(text) for text in stripped.values()]
    language = parse_language(form.language, model.languages)
    sampling = orders.check_sampling(form.sampling)
    voice = await asyncio.to_thread(voices.get, caller.user_id, form.voice_id)
    if language is None:
        with suppress(BadRequest):  # the checkpoint that made the voice may have known more
            language = parse_language(voice.row.language, model.languages)
    seed = form.sampling.seed
    request = SpeechRequest(
        kind=ModelKind.BASE,
        text="",
        seed=seed or 0,
        language=language,
        voice_prompt=await voices.load_prompt(voice),
        sampling=sampling,
        max_frames=form.sampling.max_new_tokens,
        owner=caller.user_id,
    )
    return [
        SpeechOrder(
            parts=orders.split_request(replace(request, text=text, seed=text_seed), model),
            model=model,
            may_retry=seed is None and sampling.temperature != 0,
            num_chars=num_chars,
            received_s=received_s,
            voice_id=form.voice_id,
            voice_owner_id=caller.user_id,
        )
        for text, num_chars, text_seed in zip(
            fitted, chars, _seeds(service, seed, len(fitted)), strict=True
        )
    ]


def _seeds(service: SpeechService, seed: int | None, num_texts: int) -> list[int]:
    """One for each text: drawn, or counted up from the one that was given."""
    if seed is None:
        return [service.draw_seed() for _ in range(num_texts)]
    return [orders.shift_seed(seed, index) for index in range(num_texts)]


async def make_sound(service: SpeechService, order: SpeechOrder, row: AudioFormat) -> MadeSound:
    """Speak one order to its end and encode it."""
    pieces: list[Pcm] = [np.zeros(0, np.float32)]
    async with aclosing(service.speak(order, is_buffered=True)) as items:
        async for item in items:
            if not isinstance(item, Spoken):
                pieces.append(item)
                continue
            samples = np.concatenate(pieces)
            data = await asyncio.to_thread(encode_whole, row.name, samples)
            return MadeSound(data, item, len(samples))
    raise AssertionError("speech ends with its Spoken")


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def discount_rule(settings: Settings) -> DiscountRule:
    return DiscountRule(
        start=settings.batch_discount_default,
        lowest=settings.batch_discount_min,
        highest=settings.batch_discount_max,
        alpha=settings.batch_discount_ewma_alpha,
    )


def lock_state(conn: Connection) -> DiscountState:
    """What has been learnt; nobody else changes it until this transaction ends."""
    stats = runtime_stats.lock_stats(conn)
    return DiscountState(
        single_ms_per_char=stats[runtime_stats.SINGLE_MS_PER_CHAR],
        discount=stats[runtime_stats.BATCH_DISCOUNT],
    )


def save_state(conn: Connection, state: DiscountState) -> None:
    values = {
        runtime_stats.SINGLE_MS_PER_CHAR: state.single_ms_per_char,
        runtime_stats.BATCH_DISCOUNT: state.discount,
    }
    runtime_stats.save_stats(conn, values)


class _Row:
    """The row of one generation, however it ends; what it teaches is in the same transaction."""

    def __init__(
        self, service: SpeechService, caller: Caller, order: SpeechOrder, text: str, form: VoiceForm
    ) -> None:
        self.kept: bytes | None = None
        self.latency_ms = 0
        self.first_ms: int | None = None  # only of a stream
        self.num_tokens = order.num_chars
        self.entry = service.books.entry(
            caller, num_tokens=order.num_chars, received_s=order.received_s, book=self.book
        )
        self._order = order
        self._text = text.strip()
        self._new = new_generation(caller, order, route=Route.TTS, response_format=form.format.name)
        self._rule = discount_rule(service.settings)

    async def finish(self, entry: Entry, spoken: Spoken) -> int | None:
        sounds = () if self.kept is None else (self.kept,)
        return await entry.finish(finish_reason=spoken.reason, seed=spoken.seed, sounds=sounds)

    def begin(self, conn: Connection, user_id: int) -> int:
        return start_generation(conn, user_id, self._new)

    def book(self, conn: Connection, user_id: int, ending: Ending) -> int:
        self.latency_ms = ending.latency_ms if self.first_ms is None else self.first_ms
        is_done = ending.outcome == "done"
        kept = self.kept if is_done else None
        end = replace(generation_end(self._order, ending), latency_ms=self.latency_ms)
        if kept is not None:
            end = replace(end, audio_sha256=sha256_of(kept), text=self._text)
        # How long a stream takes is up to its reader: it teaches nothing.
        if is_done and self.first_ms is None:
            learnt = pricing.learn_from_single(
                lock_state(conn),
                latency_ms=ending.latency_ms,
                num_chars=self.num_tokens,
                rule=self._rule,
            )
            save_state(conn, learnt)
        if ending.number is not None:
            return self._end(conn, user_id, ending.number, end)
        new = self._new if ending.seed is None else replace(self._new, seed=ending.seed)
        return add_generation(conn, user_id, new, end)

    def _end(self, conn: Connection, user_id: int, number: int, end: GenerationEnd) -> int:
        if not end_generation(conn, user_id, number, self._new, end):
            raise NotFound(GONE)
        return number
