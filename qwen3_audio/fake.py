"""A Backend without a model: a tone per word and fixed words, for tests, UI work and load tests.

Marker words in a text: BOOM fails before the first sound, BOOM-LATE after some; LOOP, SILENCE and
LENGTH end the speech there with that reason, but only with an even seed, so that a retry succeeds.
"""

import asyncio
import functools
import threading
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager

import numpy as np

from qwen3_audio.errors import EngineFailed, NotLoaded, Overloaded
from qwen3_audio.languages import ASR_LANGUAGES, SPEAKERS, TTS_LANGUAGES
from qwen3_audio.scope import Scope
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    SPEECH_RATE_HZ,
    EndReason,
    ModelInfo,
    ModelKind,
    Pcm,
    RunnerStats,
    Segment,
    SpeechEnd,
    SpeechRequest,
    TextDelta,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)

FRAME_SAMPLES = 1920
FRAMES_PER_WORD = 2
NUM_PITCHES = 500
SEGMENT_S = 30.0
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog")
GUARDED = {"LOOP": EndReason.LOOP, "SILENCE": EndReason.SILENCE, "LENGTH": EndReason.LENGTH}
SHUTTING_DOWN = "The server is shutting down"
OFFICIAL_SPEAKERS = tuple(name.lower() for name in SPEAKERS)
ALL_KINDS = (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN, ModelKind.BASE, ModelKind.ASR)


class FakeBackend:
    """Slots, a bounded waiting line and counters as the engine has them; pacing by `delay_s`."""

    def __init__(
        self,
        *,
        kinds: Collection[ModelKind] = ALL_KINDS,
        speakers: tuple[str, ...] = OFFICIAL_SPEAKERS,
        takes_instructions: bool = True,
        scope: Scope | None = None,
        num_slots: int = 64,
        max_waiting: int = 512,
        delay_s: float = 0.0,
    ) -> None:
        self.delay_s = delay_s
        self.last_request: SpeechRequest | TranscriptionRequest | None = None
        self._models = [_model(kind, speakers, takes_instructions, scope) for kind in kinds]
        self._lines = {kind: _Line(kind, num_slots, max_waiting) for kind in kinds}

    def models(self) -> list[ModelInfo]:
        return list(self._models)

    def stats(self) -> list[RunnerStats]:
        return [line.stats() for line in self._lines.values()]

    def trouble(self) -> str | None:
        return None

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
        self.last_request = request
        words = request.text.split()
        line = self._line(request.kind)
        async with line.slot(request.owner):
            if "BOOM" in words:
                raise EngineFailed("The fake engine was asked to fail")
            num_frames = 0
            reason = EndReason.STOP
            for item in _frames(request, words):
                if isinstance(item, EndReason):
                    reason = item
                    break
                await asyncio.sleep(self.delay_s)
                num_frames += 1
                line.num_steps += 1
                yield item
            line.ended[reason] += 1
        yield SpeechEnd(reason, num_frames, num_prompt_tokens=len(words) + 8)

    async def make_voice_prompt(self, samples: Pcm, text: str | None) -> VoicePrompt:
        self._line(ModelKind.BASE)
        vector = np.resize(samples, 8).astype(np.float32)
        num_frames = len(samples) // FRAME_SAMPLES
        codes = None if text is None else np.zeros((num_frames, 16), dtype=np.int16)
        return VoicePrompt(vector, codes, text)

    async def transcribe(
        self, request: TranscriptionRequest
    ) -> AsyncGenerator[TextDelta | Transcript]:
        self.last_request = request
        line = self._line(ModelKind.ASR)
        async with line.slot(request.owner):
            if "BOOM" in request.context.split():
                raise EngineFailed("The fake engine was asked to fail")
            transcript = _transcript(request)
            for index, word in enumerate(transcript.text.split()):
                await asyncio.sleep(self.delay_s)
                if index and "BOOM-LATE" in request.context.split():
                    raise EngineFailed("The fake engine was asked to fail late")
                line.num_steps += 1
                yield TextDelta(f" {word}" if index else word)
            line.ended[transcript.reason] += 1
        yield transcript

    async def close(self) -> None:
        for line in self._lines.values():
            line.close()

    def _line(self, kind: ModelKind) -> "_Line":
        if kind not in self._lines:
            raise NotLoaded(f"No {kind.value} checkpoint is loaded")
        return self._lines[kind]


class _Line:
    """Slots and the line before them; the next one in is whose owner has the fewest running."""

    def __init__(self, kind: ModelKind, num_slots: int, max_waiting: int) -> None:
        self.kind = kind
        self.num_slots = num_slots
        self.max_waiting = max_waiting
        self.num_steps = 0
        self.is_closed = False
        self.ended: Counter[EndReason] = Counter()
        self._running: Counter[int] = Counter()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._lock = threading.Lock()  # requests may come from several event loops

    def stats(self) -> RunnerStats:
        return RunnerStats(
            kind=self.kind,
            num_running=self._running.total(),
            num_waiting=len(self._waiting),
            num_slots=self.num_slots,
            num_steps=self.num_steps,
            ended=dict(self.ended),
        )

    @asynccontextmanager
    async def slot(self, owner: int) -> AsyncIterator[None]:
        turn = self._enter(owner)
        try:
            if turn is not None:
                await turn
            yield
        except EngineFailed:
            self.ended[EndReason.FAILED] += 1
            raise
        except (GeneratorExit, asyncio.CancelledError):
            self.ended[EndReason.CANCELLED] += 1
            raise
        finally:
            self._leave(owner, turn)

    def close(self) -> None:
        with self._lock:
            self.is_closed = True
            waiting = list(self._waiting)
        for _, turn in waiting:
            turn.get_loop().call_soon_threadsafe(
                _wake, turn, Overloaded(SHUTTING_DOWN, code="shutting_down")
            )

    def _enter(self, owner: int) -> "asyncio.Future[None] | None":
        with self._lock:
            if self.is_closed:
                raise Overloaded(SHUTTING_DOWN, code="shutting_down")
            if self._running.total() < self.num_slots:
                self._running[owner] += 1
                return None
            if len(self._waiting) >= self.max_waiting:
                raise Overloaded("The waiting line is full; try again in a moment")
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((owner, turn))
            return turn

    def _leave(self, owner: int, turn: "asyncio.Future[None] | None") -> None:
        with self._lock:
            if turn is not None and (owner, turn) in self._waiting:
                self._waiting.remove((owner, turn))
                return
            self._running[owner] -= 1
            if self._waiting and not self.is_closed:
                self._call_next()

    def _call_next(self) -> None:
        chosen = min(self._waiting, key=lambda entry: self._running[entry[0]])
        self._waiting.remove(chosen)
        owner, turn = chosen
        self._running[owner] += 1
        turn.get_loop().call_soon_threadsafe(_wake, turn)


def _wake(turn: "asyncio.Future[None]", error: Overloaded | None = None) -> None:
    if turn.done():
        return
    if error is None:
        turn.set_result(None)
    else:
        turn.set_exception(error)


def _model(
    kind: ModelKind, speakers: tuple[str, ...], takes_instructions: bool, scope: Scope | None
) -> ModelInfo:
    is_custom = kind is ModelKind.CUSTOM_VOICE
    return ModelInfo(
        kind=kind,
        name=f"fake-{kind.value.replace('_', '-')}",
        languages=ASR_LANGUAGES if kind is ModelKind.ASR else TTS_LANGUAGES,
        speakers=speakers if is_custom else (),
        takes_instructions=takes_instructions if is_custom else kind is ModelKind.VOICE_DESIGN,
        max_prompt_tokens=32_768,
        fingerprint="fake" if kind is ModelKind.BASE else "",
        scope=scope,
    )


def _frames(request: SpeechRequest, words: list[str]) -> Iterator[Pcm | EndReason]:
    """The sound frame by frame; an EndReason is the last item where it is not an ordinary stop."""
    num_left = -1 if request.max_frames is None else request.max_frames
    for word in words:
        for pcm in _word(request, word):
            if num_left == 0:
                yield EndReason.LENGTH
            num_left -= 1
            yield pcm
        if word == "BOOM-LATE":
            raise EngineFailed("The fake engine was asked to fail late")
        if word in GUARDED and request.seed % 2 == 0:
            yield GUARDED[word]


def _word(request: SpeechRequest, word: str) -> list[Pcm]:
    voice = request.voice_prompt.speaker_vector.tobytes() if request.voice_prompt else b""
    traits = f"{request.seed} {request.speaker} {request.instructions} {word}".encode() + voice
    return _tone(150 + zlib.crc32(traits) % NUM_PITCHES)


@functools.lru_cache(NUM_PITCHES)
def _tone(pitch_hz: int) -> list[Pcm]:
    """Kept, as an engine that answers at once must not hold up the event loop."""
    time_s = np.arange(FRAME_SAMPLES * FRAMES_PER_WORD) / SPEECH_RATE_HZ
    tone = (0.3 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)
    tone.flags.writeable = False
    return np.split(tone, FRAMES_PER_WORD)


def _transcript(request: TranscriptionRequest) -> Transcript:
    """Two words a second of sound, cut into segments as long recordings are."""
    duration_s = len(request.samples) / LISTEN_RATE_HZ
    num_words = max(1, round(2 * duration_s))
    limit = num_words if request.max_new_tokens is None else request.max_new_tokens
    words = [WORDS[index % len(WORDS)] for index in range(min(num_words, limit))]
    reason = EndReason.STOP if limit >= num_words else EndReason.LENGTH
    words_each = int(2 * SEGMENT_S)
    segments = tuple(
        _segment(words[first : first + words_each], first / 2, duration_s, reason)
        for first in range(0, len(words), words_each)
    )
    return Transcript(
        text=" ".join(words),
        language=request.language or "English",
        duration_s=duration_s,
        segments=segments,
        num_prompt_tokens=round(13 * duration_s) + len(request.context.split()) + 10,
        num_output_tokens=len(words),
        reason=reason,
    )


def _segment(words: list[str], start_s: float, end_s: float, reason: EndReason) -> Segment:
    return Segment(
        start_s=start_s,
        end_s=min(start_s + SEGMENT_S, end_s),
        text=" ".join(words),
        token_ids=tuple(1000 + WORDS.index(word) for word in words),
        avg_logprob=-0.25,
        reason=reason,
    )
