"""What happens around the recognition runner, with a runner that answers from a list."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3_audio.engine.asr import AsrSequence, PieceEnd, PieceText
from qwen3_audio.engine.asr_prompt import token_limit
from qwen3_audio.engine.engine import Ending, Engine, Runner
from qwen3_audio.engine.kv_cache import PAGE_POSITIONS, PageBook
from qwen3_audio.engine.listening import transcribe
from qwen3_audio.engine.loading import ListeningModel
from qwen3_audio.engine.scheduler import Scheduler
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.errors import BadRequest, EngineFailed, Overloaded
from qwen3_audio.random_weights.vocabulary import (
    REAL_ASR_ADDED,
    build_word_vocabulary,
    write_vocabulary,
)
from qwen3_audio.scope import Scope
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    EndReason,
    ModelInfo,
    ModelKind,
    Pcm,
    TextDelta,
    Transcript,
    TranscriptionRequest,
)

NUM_PAGES = 2000
MAX_POSITIONS = 2000


@dataclass(frozen=True)
class Answer:
    """What the model hears in a piece: one word a step, after some steps of thinking."""

    text: str = ""
    language: str = "English"
    reason: EndReason = EndReason.STOP
    num_steps_before: int = 0
    breaks: bool = False

    @property
    def words(self) -> list[str]:
        first, *rest = self.text.split(" ")
        return [first, *(f" {word}" for word in rest)]


Answers = Callable[[AsrSequence], Answer]


class ListRunner(Runner):
    """A runner without a model; remembers what it was asked, in order, and in which step."""

    kind = ModelKind.ASR

    def __init__(self, answers: Answers, *, num_slots: int = 16, max_waiting: int = 100) -> None:
        self.answers = answers
        self.book = PageBook(NUM_PAGES)
        self.decoder = SimpleNamespace(pool=SimpleNamespace(max_positions=MAX_POSITIONS))
        self.scheduler: Scheduler[AsrSequence] = Scheduler(
            num_slots=num_slots,
            max_prefill_tokens=100_000,
            max_waiting=max_waiting,
            memory=self.book,
        )
        self.asked: list[AsrSequence] = []
        self.steps: list[list[int]] = []
        self.ages: dict[int, int] = {}

    def step(self) -> list[Ending]:
        plan = self.scheduler.plan()
        self.asked += plan.prefill
        seqs = plan.decode + plan.prefill
        self.steps.append([seq.index for seq in seqs])
        endings = [self._advance(seq, self.answers(seq)) for seq in seqs]
        return [ending for ending in endings if ending is not None]

    def _advance(self, seq: AsrSequence, answer: Answer) -> Ending | None:
        if answer.breaks:
            raise RuntimeError("device lost")
        age = self.ages.get(seq.seq_id, 0)
        self.ages[seq.seq_id] = age + 1
        at = age - answer.num_steps_before
        if at < 0:
            return None
        if at == 0 and answer.text:
            seq.emit(PieceText(seq.index, "", answer.language))
        if answer.text and at < len(answer.words):
            seq.emit(PieceText(seq.index, answer.words[at], answer.language))
            return None
        end = PieceEnd(
            index=seq.index,
            delta="",
            text=answer.text,
            language=answer.language,
            token_ids=(seq.index,),
            avg_logprob=-0.5,
            num_prompt_tokens=seq.num_prompt_tokens,
            reason=answer.reason,
        )
        return Ending(seq, answer.reason, end)

    def release(self, seq: AsrSequence) -> None:
        self.book.release(seq.num_reserved_positions, [])

    def is_clean(self) -> bool:
        return self.scheduler.is_idle and self.book.can_reserve(NUM_PAGES * PAGE_POSITIONS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder: Path = tmp_path_factory.mktemp("listening")
    write_vocabulary(folder, build_word_vocabulary((), REAL_ASR_ADDED), {})
    return TextTokenizer(folder)


def draw_sound(duration_s: float, level: float = 0.1) -> Pcm:
    num_samples = round(duration_s * LISTEN_RATE_HZ)
    return (level * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


LONG = draw_sound(100.0)  # four pieces


class Room:
    """An engine with one runner that answers, and a model in front of it."""

    def __init__(self, tokenizer: TextTokenizer, answers: Answers, **limits: Any) -> None:
        self.runner = ListRunner(answers, **limits)
        self.engine = Engine([self.runner])
        info = ModelInfo(kind=ModelKind.ASR, name="list", languages=())
        self.model = ListeningModel(info, self.runner, tokenizer)  # type: ignore[arg-type]
        self.ids = itertools.count()

    def transcribe(self, samples: Pcm, **settings: Any) -> Any:
        request = TranscriptionRequest(samples, **settings)
        return transcribe(self.engine, self.model, request, self.ids)

    async def hear(self, samples: Pcm, **settings: Any) -> tuple[list[str], Transcript]:
        *deltas, transcript = [item async for item in self.transcribe(samples, **settings)]
        assert all(isinstance(delta, TextDelta) and delta.text for delta in deltas)
        assert isinstance(transcript, Transcript)
        return [delta.text for delta in deltas], transcript


def run(
    tokenizer: TextTokenizer,
    answers: Answers,
    test: Callable[[Room], Awaitable[Any]],
    **limits: Any,
) -> Any:
    async def go() -> Any:
        room = Room(tokenizer, answers, **limits)
        try:
            return await test(room)
        finally:
            await asyncio.wrap_future(room.engine.call(lambda: None))
            is_clean = room.runner.is_clean()
            await room.engine.close()
            assert is_clean

    return asyncio.run(asyncio.wait_for(go(), 30))


def hear(
    tokenizer: TextTokenizer, answers: Answers, samples: Pcm = LONG, **settings: Any
) -> tuple[list[str], Transcript]:
    result: tuple[list[str], Transcript] = run(
        tokenizer, answers, lambda room: room.hear(samples, **settings)
    )
    return result


def by_index(*answers: Answer) -> Answers:
    return lambda seq: answers[seq.index]


FOUR = tuple(Answer(f"piece {word}") for word in ("zero", "one", "two", "three"))


def test_a_short_recording_is_one_piece(tokenizer: TextTokenizer) -> None:
    deltas, transcript = hear(tokenizer, by_index(Answer("the water")), draw_sound(2.0))
    assert deltas == ["the", " water"]
    assert (transcript.text, transcript.language) == ("the water", "English")
    assert transcript.duration_s == 2.0
    assert (transcript.reason, transcript.num_output_tokens) == (EndReason.STOP, 1)
    (segment,) = transcript.segments
    assert (segment.start_s, segment.end_s, segment.text) == (0.0, 2.0, "the water")
    assert (segment.token_ids, segment.avg_logprob) == ((0,), -0.5)


def test_a_long_recording_is_an_exact_row_of_pieces(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        _, transcript = await room.hear(LONG)
        assert transcript.text == "piece zero piece one piece two piece three"
        segments = transcript.segments
        assert (segments[0].start_s, segments[-1].end_s) == (0.0, 100.0)
        for before, after in itertools.pairwise(segments):
            assert before.end_s == after.start_s
        assert all(0 < segment.end_s - segment.start_s <= 30 for segment in segments)
        assert np.array_equal(np.concatenate([seq.samples for seq in room.runner.asked]), LONG)
        assert transcript.num_prompt_tokens == sum(s.num_prompt_tokens for s in room.runner.asked)

    run(tokenizer, by_index(*FOUR), test)


def test_a_small_model_is_given_shorter_pieces(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        scope = Scope("it hears English", max_s=8.0)
        room.model = replace(room.model, info=replace(room.model.info, scope=scope))
        _, transcript = await room.hear(LONG)
        assert all(0 < segment.end_s - segment.start_s <= 8 for segment in transcript.segments)
        assert np.array_equal(np.concatenate([seq.samples for seq in room.runner.asked]), LONG)

    run(tokenizer, lambda seq: Answer("piece"), test)


def test_the_first_piece_names_the_language_and_the_others_join_it(
    tokenizer: TextTokenizer,
) -> None:
    async def test(room: Room) -> None:
        _, transcript = await room.hear(LONG)
        assert [seq.language for seq in room.runner.asked] == [None, *["French"] * 3]
        assert room.runner.steps[:3] == [[0]] * 3
        assert transcript.language == "French"

    slow = Answer("un " * 400 + "deux", "French", num_steps_before=3)
    run(
        tokenizer,
        by_index(slow, *[replace(answer, language="French") for answer in FOUR[1:]]),
        test,
    )


def test_with_a_language_named_all_pieces_start_at_once(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        await room.hear(LONG, language="German")
        assert [seq.language for seq in room.runner.asked] == ["German"] * 4
        assert room.runner.steps[0] == [0, 1, 2, 3]

    run(tokenizer, by_index(*[replace(answer, language="German") for answer in FOUR]), test)


def test_a_first_piece_without_speech_names_no_language(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        deltas, transcript = await room.hear(LONG)
        assert [seq.language for seq in room.runner.asked] == [None] * 4
        assert "".join(deltas) == transcript.text == "piece one piece two piece three"
        assert transcript.language == "English"
        assert transcript.segments[0].text == ""

    run(tokenizer, by_index(Answer("", ""), *FOUR[1:]), test)


def test_text_leaves_in_the_order_of_the_recording(tokenizer: TextTokenizer) -> None:
    late = [replace(answer, num_steps_before=30 - 10 * at) for at, answer in enumerate(FOUR)]
    deltas, transcript = hear(tokenizer, by_index(*late), language="English")
    assert "".join(deltas) == transcript.text == "piece zero piece one piece two piece three"
    # What was ready long before leaves in one piece.
    assert deltas[-1].endswith("piece one piece two piece three")


@pytest.mark.parametrize(
    ("languages", "text"),
    [
        (("English", "English"), "one two"),
        (("Chinese", "Chinese"), "onetwo"),
        (("English", "Chinese"), "onetwo"),
        (("Chinese", "English"), "onetwo"),
        (("", "English"), "one two"),
    ],
)
def test_pieces_are_joined_as_their_languages_are_written(
    tokenizer: TextTokenizer, languages: tuple[str, str], text: str
) -> None:
    first, second = languages
    answers = by_index(Answer("one", first), Answer("two", second))
    deltas, transcript = hear(tokenizer, answers, draw_sound(40.0))
    assert "".join(deltas) == transcript.text == text


some_answers = st.lists(
    st.builds(
        Answer,
        st.sampled_from(("", "one", "one two", "one two three four")),
        st.sampled_from(("English", "Chinese", "French", "")),
        num_steps_before=st.integers(0, 5),
    ),
    min_size=4,
    max_size=4,
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(answers=some_answers, language=st.sampled_from((None, "English")))
def test_all_that_left_is_the_text_of_the_transcript(
    tokenizer: TextTokenizer, answers: list[Answer], language: str | None
) -> None:
    deltas, transcript = hear(tokenizer, by_index(*answers), language=language)
    assert "".join(deltas) == transcript.text
    assert [segment.text for segment in transcript.segments] == [a.text for a in answers]


def test_leaving_in_the_middle_ends_every_piece(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        async with aclosing(room.transcribe(LONG)) as items:
            await anext(items)
            await anext(items)
        await asyncio.wrap_future(room.engine.call(lambda: None))
        assert room.engine.stats()[0].ended[EndReason.CANCELLED] == 4

    run(tokenizer, by_index(*[Answer("word " * 100_000)] * 4), test)


def test_a_task_that_is_cancelled_ends_every_piece(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        task = asyncio.create_task(room.hear(LONG))
        await until(lambda: len(room.runner.asked) == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(tokenizer, by_index(*[Answer("word " * 100_000)] * 4), test)


def test_a_piece_that_fails_fails_the_request_once(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        with pytest.raises(EngineFailed):
            await room.hear(LONG)
        room.runner.answers = by_index(*FOUR)
        assert (await room.hear(LONG))[1].text.endswith("three")

    run(tokenizer, by_index(*FOUR[:2], Answer("two", breaks=True), FOUR[3]), test)


def test_a_full_line_refuses_a_recording_before_any_text(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        async with aclosing(room.transcribe(draw_sound(1.0))) as running:
            await anext(running)
            waiting = asyncio.create_task(room.hear(draw_sound(1.0)))
            await until(lambda: room.engine.stats()[0].num_waiting == 1)
            with pytest.raises(Overloaded):
                await room.hear(LONG)
            waiting.cancel()
            await asyncio.wait([waiting])

    run(tokenizer, by_index(Answer("word " * 100_000)), test, num_slots=1, max_waiting=1)


def test_a_recording_that_was_let_in_is_heard_to_its_end_though_the_line_is_full(
    tokenizer: TextTokenizer,
) -> None:
    gates = [threading.Event(), threading.Event()]

    async def test(room: Room) -> None:
        def answers(seq: AsrSequence) -> Answer:
            if len(room.runner.steps) <= len(gates):
                gates[len(room.runner.steps) - 1].wait()
            return FOUR[seq.index]

        room.runner.answers = answers
        long = asyncio.create_task(room.hear(LONG))
        await until(lambda: len(room.runner.steps) == 1)
        waiting = asyncio.create_task(room.hear(draw_sound(1.0)))
        await until(lambda: room.engine._inbox.qsize() == 1)
        gates[0].set()  # the language is named, and somebody waits
        await until(lambda: len(room.runner.steps) == 2)
        await until(lambda: room.engine._inbox.qsize() == 1)
        gates[1].set()  # the other pieces have come
        assert (await long)[1].text == "piece zero piece one piece two piece three"
        assert (await waiting)[1].text == "piece zero"

    run(tokenizer, by_index(*FOUR), test, num_slots=1, max_waiting=1)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


def test_the_first_reason_that_is_no_ordinary_end_is_told(tokenizer: TextTokenizer) -> None:
    reasons = (EndReason.STOP, EndReason.LOOP, EndReason.LENGTH, EndReason.STOP)
    answers = [replace(a, reason=r) for a, r in zip(FOUR, reasons, strict=True)]
    _, transcript = hear(tokenizer, by_index(*answers))
    assert transcript.reason is EndReason.LOOP
    assert tuple(segment.reason for segment in transcript.segments) == reasons


def test_limits_follow_from_the_duration_and_can_be_lowered(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> list[int]:
        for max_new_tokens in (None, 5, 100_000):
            await room.hear(draw_sound(2.0), max_new_tokens=max_new_tokens)
        return [seq.max_tokens for seq in room.runner.asked]

    limits = run(tokenizer, by_index(Answer("the")), test)
    assert limits == [token_limit(2.0), 5, token_limit(2.0)]


def test_a_context_too_long_for_the_model_is_refused(tokenizer: TextTokenizer) -> None:
    async def test(room: Room) -> None:
        with pytest.raises(BadRequest, match="this model takes 2000") as error:
            await room.hear(draw_sound(1.0), context="12" * 1200)
        assert error.value.param == "prompt"

    run(tokenizer, by_index(Answer("the")), test)


QUIET, LOUD = draw_sound(2.0, level=0.0001), draw_sound(2.0)
CONTEXT = "The water, of life!"
ECHO = "the water of life"


def echo(plain: Answer) -> Answers:
    """Reads the context back; without one it answers `plain`."""
    return lambda seq: Answer(ECHO) if seq.request.context else plain


def test_a_context_read_back_from_a_quiet_clip_is_dropped(tokenizer: TextTokenizer) -> None:
    deltas, transcript = hear(tokenizer, echo(Answer("noise")), QUIET, context=CONTEXT)
    assert deltas == []
    assert (transcript.text, transcript.language, transcript.segments) == ("", "", ())


def test_a_context_read_back_is_dropped_if_nothing_is_heard_without_it(
    tokenizer: TextTokenizer,
) -> None:
    deltas, transcript = hear(tokenizer, echo(Answer("", "")), LOUD, context=CONTEXT)
    assert (deltas, transcript.text) == ([], "")


def test_words_of_the_context_that_were_really_said_stay(tokenizer: TextTokenizer) -> None:
    deltas, transcript = hear(tokenizer, echo(Answer("the wafer of life")), LOUD, context=CONTEXT)
    assert deltas == [ECHO]
    assert transcript.text == ECHO


def test_text_that_turns_out_to_be_no_echo_is_released_at_once(tokenizer: TextTokenizer) -> None:
    answers = by_index(Answer("the water is the water of life"))
    deltas, transcript = hear(tokenizer, answers, QUIET, context=CONTEXT)
    assert deltas[:3] == ["the water is", " the", " water"]
    assert "".join(deltas) == transcript.text


def test_without_a_context_nothing_is_held_back(tokenizer: TextTokenizer) -> None:
    deltas, _ = hear(tokenizer, by_index(Answer(ECHO)), QUIET)
    assert deltas == ["the", " water", " of", " life"]
