"""What a paid request does, once for every front door: check it, speak or listen, count its end."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from qwen3_audio import orders
from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.books import Books, Entry
from qwen3_audio.errors import BadRequest
from qwen3_audio.languages import parse_language
from qwen3_audio.orders import (
    SpeechForm,
    SpeechOrder,
    TranscriptionForm,
    TranscriptionOrder,
    Upload,
)
from qwen3_audio.outcomes import Listener, Tally
from qwen3_audio.settings import Settings
from qwen3_audio.speaking import Spoken, join_ends, speak_parts
from qwen3_audio.store.opening import Store
from qwen3_audio.stored_voices import StoredVoice, StoredVoices
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    SPEECH_RATE_HZ,
    Backend,
    ModelInfo,
    ModelKind,
    Pcm,
    Sampling,
    SpeechRequest,
    TextDelta,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)

MIN_AUDIO_S = 0.1
MAX_KEPT_PROMPTS = 64
NUM_DECODERS = 4
SILENCE = 0.5 / 32_768  # less than half a step of 16-bit sound is digital silence
T = TypeVar("T")
IGNORED_INSTRUCTIONS = "instructions were left out: the loaded CustomVoice model does not use them"


class SpeechService:
    """Checks orders and runs them on a back-end; listeners hear how each one ended."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        *,
        store: Store | None = None,  # None: nothing is booked, and there are no accounts
        draw_seed: Callable[[], int] = orders.draw_seed,
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.store = store
        self.books = Books(store)
        self.voices = None if store is None else StoredVoices(store, backend)
        self.is_closing = False
        self.listeners: list[Listener] = []
        self.draw_seed = draw_seed
        self._prompts: dict[bytes, VoicePrompt] = {}  # of samples heard before, the youngest last
        # Its own threads, so that long uploads can't hold up the encoders of running streams.
        self._decoders = ThreadPoolExecutor(NUM_DECODERS, thread_name_prefix="decode")

    async def close(self) -> None:
        self.is_closing = True
        await self.backend.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        await self.books.close()

    def unready_reasons(self) -> list[str]:
        """Why no request can be served now; empty when one can."""
        reasons = ["the server is shutting down"] if self.is_closing else []
        trouble = self.backend.trouble()
        reasons += [trouble] if trouble is not None else []
        return reasons if self.backend.models() else [*reasons, "no model is loaded"]

    # Speech

    async def prepare_speech(self, user_id: int, form: SpeechForm) -> SpeechOrder:
        """All checks that can fail before the first byte is sent; raises SpeechError."""
        received_s = time.perf_counter()
        order, stored = await asyncio.to_thread(self._check_speech, user_id, form, received_s)
        if form.audio_sample is not None:
            prompt = await self._make_voice_prompt(form, order.model)
        elif stored is not None and self.voices is not None:
            prompt = await self.voices.load_prompt(stored)
        else:
            return order
        parts = tuple(replace(part, voice_prompt=prompt) for part in order.parts)
        return replace(order, parts=parts)

    async def speak(
        self, order: SpeechOrder, *, is_buffered: bool = False, entry: Entry | None = None
    ) -> AsyncGenerator[Pcm | Spoken]:
        """Sound as it is made, then one Spoken; by then it is in the books as done.

        Buffered means that nothing is sent before the end, so that a guard's end may be retried.
        """
        ends: list[Spoken] = []
        tally = Tally("speech", order.received_s, self.listeners)
        made = speak_parts(self.backend, order, ends, tally=tally, is_buffered=is_buffered)
        async with entry or Entry() as booked, aclosing(made) as sound:
            async for pcm in sound:
                booked.note(len(pcm) / SPEECH_RATE_HZ, is_sent=not is_buffered)
                yield pcm
            spoken = join_ends(ends, len(order.parts))
            await booked.finish(finish_reason=spoken.reason, seed=spoken.seed)
        yield spoken

    def _check_speech(
        self, user_id: int, form: SpeechForm, received_s: float
    ) -> tuple[SpeechOrder, StoredVoice | None]:
        text = orders.check_text(form.text, max_chars=self.settings.max_input_chars)
        sampling = orders.check_sampling(form.sampling)
        instructions = orders.check_instructions(form.instructions)
        has_sample = form.audio_sample is not None
        voice: StoredVoice | str | None = form.voice
        if self.voices is not None and not has_sample:
            voice = self.voices.find(user_id, form.voice)
        stored = voice if isinstance(voice, StoredVoice) else None
        speaker = None if isinstance(voice, StoredVoice) else voice
        model = orders.choose_speech_model(
            self.backend.models(),
            has_sample=has_sample,
            instructions=instructions,
            has_stored_voice=stored is not None,
            kind=form.kind,
        )
        is_custom = model.kind is ModelKind.CUSTOM_VOICE
        is_ignored = is_custom and instructions is not None and not model.takes_instructions
        if is_ignored or has_sample or stored is not None:
            instructions = None
        if instructions is not None:
            instructions = orders.fit_text(instructions, model, param="instructions")
        seed = form.sampling.seed
        request = SpeechRequest(
            kind=model.kind,
            text=orders.fit_text(text, model, param="input"),
            seed=self.draw_seed() if seed is None else seed,
            language=parse_language(form.language, model.languages),
            speaker=orders.find_speaker(speaker, model.speakers) if is_custom else None,
            instructions=instructions,
            sampling=sampling,
            max_frames=form.sampling.max_new_tokens,
            owner=user_id,
        )
        order = SpeechOrder(
            parts=orders.split_request(request, model),
            model=model,
            may_retry=seed is None and sampling.temperature != 0,
            num_chars=len(text),
            received_s=received_s,
            warnings=(IGNORED_INSTRUCTIONS,) if is_ignored else (),
            voice_id=stored.row.voice_id if stored else None,
            voice_owner_id=stored.owner_id if stored else None,
        )
        return order, stored

    async def _make_voice_prompt(self, form: SpeechForm, base: ModelInfo) -> VoicePrompt:
        param = "audio_sample_text"
        text = orders.check_length((form.audio_sample_text or "").strip(), param=param) or None
        text = text and orders.fit_text(text, base, param=param)
        samples = await self._decode(
            form.audio_sample or b"",
            param="audio_sample",
            rate_hz=SPEECH_RATE_HZ,
            max_seconds=self.settings.max_reference_s,
        )
        if len(samples) < MIN_AUDIO_S * SPEECH_RATE_HZ:
            raise BadRequest(
                f"audio_sample is shorter than {MIN_AUDIO_S} seconds.",
                param="audio_sample",
                code="invalid_audio",
            )
        key = await asyncio.to_thread(_fingerprint, samples, text)
        prompt = self._prompts.pop(key, None) or await self.backend.make_voice_prompt(samples, text)
        self._prompts[key] = prompt  # again the youngest
        while len(self._prompts) > MAX_KEPT_PROMPTS:
            del self._prompts[next(iter(self._prompts))]
        return prompt

    # Transcription

    async def prepare_transcription(
        self, user_id: int, form: TranscriptionForm
    ) -> TranscriptionOrder:
        """All checks that can fail before the first byte is sent; raises SpeechError."""
        received_s = time.perf_counter()
        model = orders.get_model(
            self.backend.models(), ModelKind.ASR, purpose="Transcription needs an ASR model"
        )
        sampling = orders.check_sampling(form.sampling)
        language = parse_language(form.language, model.languages)
        context = orders.join_context(form.prompt, form.keywords)
        samples = await self._decode(
            form.audio,
            param=form.audio_param,
            rate_hz=LISTEN_RATE_HZ,
            max_seconds=self.settings.max_audio_s,
        )
        request = TranscriptionRequest(
            samples=samples,
            language=language,
            context=context,
            sampling=Sampling(sampling.temperature or 0.0, sampling.top_k, sampling.top_p),
            seed=form.sampling.seed or 0,
            max_new_tokens=form.sampling.max_new_tokens,
            owner=user_id,
        )
        has_sound = await asyncio.to_thread(_has_sound, samples)
        return TranscriptionOrder(
            request=request, model=model, has_sound=has_sound, received_s=received_s
        )

    async def transcribe(
        self, order: TranscriptionOrder, *, entry: Entry | None = None
    ) -> AsyncGenerator[TextDelta | Transcript]:
        """Text as it becomes final, then one Transcript; by then it is in the books as done."""
        transcript = order.nothing_said()
        heard = self._hear(order)
        async with entry or Entry() as booked, aclosing(heard) as items:
            booked.note(order.duration_s, is_sent=False)
            async for item in items:
                if isinstance(item, Transcript):
                    transcript = item
                else:
                    yield item
            language = transcript.language or None
            await booked.finish(finish_reason=transcript.reason, language=language)
        yield transcript

    async def _hear(self, order: TranscriptionOrder) -> AsyncGenerator[TextDelta | Transcript]:
        tally = Tally("transcription", order.received_s, self.listeners)
        with tally:
            tally.audio_s = order.duration_s
            if order.has_sound:
                async with aclosing(self.backend.transcribe(order.request)) as items:
                    async for item in items:
                        tally.note_first()
                        yield item

    async def _decode(self, upload: Upload, *, param: str, rate_hz: int, max_seconds: float) -> Pcm:
        return await self.on_decoder(lambda: _decode_upload(upload, param, rate_hz, max_seconds))

    async def on_decoder(self, work: Callable[[], T]) -> T:
        """On one of the threads for long uploads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


def _decode_upload(upload: Upload, param: str, rate_hz: int, max_seconds: float) -> Pcm:
    source = orders.read_upload(upload, param=param)
    return decode_audio(source, sample_rate_hz=rate_hz, max_seconds=max_seconds, param=param)


def _fingerprint(samples: Pcm, text: str | None) -> bytes:
    said = b"" if text is None else b"\0" + text.encode()
    return hashlib.sha256(samples.tobytes() + said).digest()


def _has_sound(samples: Pcm) -> bool:
    if len(samples) < MIN_AUDIO_S * LISTEN_RATE_HZ:
        return False
    return bool(max(samples.max(), -samples.min()) > SILENCE)
