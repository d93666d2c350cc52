"""Texts spoken with stored voices, without HTTP: prices, what is learnt, and being cancelled."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_rows import count, kept_files, make_voice

from qwen3_audio import accounts, pricing
from qwen3_audio.audio.formats import FORMATS
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.batch_synthesis import SpokenBatch, speak_batch
from qwen3_audio.books import LOCAL_CALLER
from qwen3_audio.errors import BadRequest, LimitReached
from qwen3_audio.fake import FakeBackend
from qwen3_audio.orders import SamplingForm
from qwen3_audio.pricing import DiscountRule, DiscountState
from qwen3_audio.scope import Scope
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.store import runtime_stats
from qwen3_audio.store.generations import start_generation
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.opening import Store, open_store
from qwen3_audio.store.tables import batches, generations
from qwen3_audio.store.users import Limits
from qwen3_audio.store.voices import get_voice
from qwen3_audio.synthesis import SpokenText, VoiceForm, speak_text, stream_text
from qwen3_audio.types import SPEECH_RATE_HZ, ModelKind

LONG = "word " * 400
LIMIT_S = 20.0
ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
SOUND = wav_bytes(np.full(SPEECH_RATE_HZ, 0.1, np.float32), SPEECH_RATE_HZ)


def voice_form(voice_id: int, **fields: Any) -> VoiceForm:
    return VoiceForm(voice_id=voice_id, format=FORMATS["wav"], **fields)


def speak(service: SpeechService, text: str, form: VoiceForm, caller: Caller = LOCAL_CALLER) -> Any:
    assert service.voices is not None
    return speak_text(service, service.voices, caller, text, form)


def speak_all(
    service: SpeechService, texts: list[str], form: VoiceForm, caller: Caller = LOCAL_CALLER
) -> Any:
    assert service.voices is not None
    return speak_batch(service, service.voices, caller, texts, form)


@pytest.fixture
def voice_id(store: Store) -> int:
    return make_voice(store, 1, sound=SOUND)


@pytest.fixture
def slow(store: Store) -> SpeechService:
    """At the pace of an engine."""
    return SpeechService(FakeBackend(delay_s=0.01), Settings(), store=store)


def run(work: Coroutine[Any, Any, None]) -> None:
    """The work, unless what it waits for never comes."""
    asyncio.run(asyncio.wait_for(work, LIMIT_S))


async def cancel_in_midst(service: SpeechService, work: Coroutine[Any, Any, Any]) -> None:
    """Begin the work, and as soon as the engine makes sound, leave."""
    task = asyncio.create_task(work)
    while not any(row.num_steps > 3 for row in service.backend.stats()):
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await service.books.run(lambda: None)


def rows(store: Store, table: Any) -> list[Any]:
    with store.db.read() as conn:
        return list(conn.execute(table.select()))


def running(service: SpeechService) -> int:
    stats = service.backend.stats()
    return sum(row.num_running + row.num_waiting for row in stats if row.kind is ModelKind.BASE)


@ON_SQLITE
def test_a_small_model_names_the_text_that_it_does_not_know(store: Store, voice_id: int) -> None:
    small = SpeechService(FakeBackend(scope=Scope("English alone")), Settings(), store=store)
    with pytest.raises(BadRequest, match="English alone") as error:
        run(speak_all(small, ["Good morning.", "Привет"], voice_form(voice_id)))
    assert error.value.param == "texts[1]"


Begin = Callable[[SpeechService, VoiceForm], Any]
BEGIN: dict[str, Begin] = {
    "tts": lambda service, form: speak(service, LONG, form),
    "batch": lambda service, form: speak_all(service, [LONG, "short", LONG], form),
}


@pytest.mark.parametrize("route", BEGIN)
def test_work_that_is_cancelled_is_booked_free_and_leaves_its_slots(
    store: Store, slow: SpeechService, voice_id: int, route: str
) -> None:
    files = kept_files(store)
    form = voice_form(voice_id, is_stored=True)

    async def work() -> None:
        await cancel_in_midst(slow, BEGIN[route](slow, form))
        while len(rows(store, generations)) < (3 if route == "batch" else 1):
            await asyncio.sleep(0.002)  # booked behind the answer
        assert running(slow) == 0

    run(work())
    for row in rows(store, generations):
        assert (row.status, row.tokens, row.text, row.audio_sha256) == ("cancelled", 0, None, None)
    assert [row.status for row in rows(store, batches)] == ["cancelled"] * (route == "batch")
    usage = accounts.show_usage(store, 1)
    assert (usage["tokens_used_tts"], usage["tokens_used_batch"]) == (0, 0)
    assert usage["tts_calls"] + usage["batch_calls"] == 1  # it was one, at no price
    with store.db.read() as conn:
        assert get_voice(conn, 1, voice_id).use_count == 0
    assert kept_files(store) == files
    with store.db.read() as conn:  # what never ended teaches nothing
        assert runtime_stats.read_stats(conn)[runtime_stats.SINGLE_MS_PER_CHAR] is None


def test_who_leaves_while_a_streams_row_is_begun_is_booked_once(
    store: Store, slow: SpeechService, voice_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_there, go_on = threading.Event(), threading.Event()

    def begin(*arguments: Any) -> int:
        is_there.set()
        go_on.wait(LIMIT_S)
        return start_generation(*arguments)

    monkeypatch.setattr("qwen3_audio.synthesis.start_generation", begin)
    assert slow.voices is not None
    pieces = stream_text(slow, slow.voices, LOCAL_CALLER, LONG, voice_form(voice_id))

    async def first() -> Any:
        return await anext(pieces)

    async def work() -> None:
        task = asyncio.create_task(first())
        await asyncio.to_thread(is_there.wait, LIMIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        while [row.status for row in rows(store, generations)] != ["cancelled"]:
            await asyncio.sleep(0.002)
        await slow.close()
        assert [row.status for row in rows(store, generations)] == ["cancelled"]

    run(work())
    assert accounts.show_usage(store, 1)["tts_calls"] == 1


@ON_SQLITE
def test_who_leaves_gives_back_the_place_among_their_requests_at_once(
    store: Store, slow: SpeechService, voice_id: int
) -> None:
    caller = Caller(1, None, Limits(max_requests_at_once=1, max_tokens_per_day=10_000), None)
    form = voice_form(voice_id)

    async def work() -> None:
        works = (speak(slow, LONG, form, caller), speak_all(slow, [LONG, LONG], form, caller))
        for one in works:
            task = asyncio.create_task(one)
            while running(slow) == 0:
                await asyncio.sleep(0.002)
            with pytest.raises(LimitReached, match="1 requests at once"):
                await speak(slow, "a", form, caller)
            num_rows = count(store, generations)
            task.cancel()
            while count(store, generations) == num_rows:
                await asyncio.sleep(0.002)
            spoken: SpokenText = await speak(slow, "a", form, caller)
            assert spoken.tokens == 1

    run(work())


@ON_SQLITE
def test_a_quota_covers_a_batch_at_its_full_price_before_any_work(
    store: Store, voice_id: int
) -> None:
    backend = FakeBackend()
    service = SpeechService(backend, Settings(), store=store)
    caller = Caller(1, None, Limits(max_tokens_per_day=9), None)
    with pytest.raises(LimitReached, match="needs 10 of your 9 tokens"):
        asyncio.run(speak_all(service, ["12345", "67890"], voice_form(voice_id), caller))
    assert backend.last_request is None
    assert count(store, generations) == 0


@ON_SQLITE
def test_a_refusal_names_the_text_it_means(store: Store, voice_id: int) -> None:
    service = SpeechService(FakeBackend(), Settings(max_text_len=3), store=store)
    for texts in (["a", " "], ["a", "1234"]):
        with pytest.raises(BadRequest, match=r"texts\[1\]") as refused:
            asyncio.run(speak_all(service, texts, voice_form(voice_id)))
        assert refused.value.param == "texts[1]"


@ON_SQLITE
def test_the_texts_of_a_batch_have_seeds_in_a_row(store: Store, voice_id: int) -> None:
    service = SpeechService(FakeBackend(), Settings(), store=store)
    form = voice_form(voice_id, sampling=SamplingForm(seed=2**63 - 2))
    spoken: SpokenBatch = asyncio.run(speak_all(service, ["a", "b", "c"], form))
    assert [item.seed for item in spoken.items] == [2**63 - 2, 2**63 - 1, 0]


def test_the_discount_goes_on_where_it_was_after_a_restart(
    tmp_path: Path, migrated_file: Path
) -> None:
    file = tmp_path / "a.db"
    file.write_bytes(migrated_file.read_bytes())

    def open_again() -> Store:
        return open_store(f"sqlite:///{file}", tmp_path)

    def batch(store: Store) -> SpokenBatch:
        service = SpeechService(FakeBackend(delay_s=0.001), Settings(), store=store)
        spoken: SpokenBatch = asyncio.run(speak_all(service, ["one", "two"], voice_form(number)))
        return spoken

    with closing(open_again()) as store:
        number = make_voice(store, 1, sound=SOUND)
        with store.db.write() as conn:  # single texts took long, batches take no time
            runtime_stats.save_stats(conn, {runtime_stats.SINGLE_MS_PER_CHAR: 10_000.0})
        used = [batch(store).discount]
    for _ in range(2):
        with closing(open_again()) as store:
            used.append(batch(store).discount)
    state, rule = DiscountState(10_000.0, None), DiscountRule()
    for discount in used:
        state = pricing.learn_from_batch(state, latency_ms=1, num_chars=6, rule=rule)
        assert discount == pricing.priced_discount(pricing.current_discount(state, rule))
    assert used[:2] == [0.87, 0.843]
