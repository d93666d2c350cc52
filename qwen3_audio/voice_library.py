"""Voices that are kept: made from a recording or from a description, once for every front door."""

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

import numpy as np

from qwen3_audio import orders
from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.errors import BadRequest, EngineFailed, LimitReached
from qwen3_audio.languages import parse_language
from qwen3_audio.orders import SamplingForm, SpeechOrder, Upload
from qwen3_audio.pricing import count_tokens
from qwen3_audio.references import compare, doubt, listen, read_reference, unfit_recording
from qwen3_audio.service import MIN_AUDIO_S, SpeechService
from qwen3_audio.speaking import Spoken
from qwen3_audio.store.caps import Caps
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.names import checked_name
from qwen3_audio.store.opening import Store
from qwen3_audio.store.voices import NewVoice, VoiceKind, add_voice, kept_voices
from qwen3_audio.types import (
    SPEECH_RATE_HZ,
    ModelInfo,
    ModelKind,
    Pcm,
    SpeechRequest,
)
from qwen3_audio.voice_prompts import pack_prompt
from qwen3_audio.voice_samples import prepare_reference

AUTO = "auto"
MB = 1024**2
PHRASE_S = 5.0  # at least
MAX_FRAMES_OF_PHRASE = 400  # 32 s, three times what the phrase takes
# Every consonant and vowel of English in a few seconds of ordinary speech.
COVERAGE_PHRASE = (
    "Both judges, looking rather pleased, thought the young choir sang with joy; outside, a cool"
    " breeze was pushing five huge paper boats down the azure river."
)
CLONE_NEEDS = "cloning a voice needs a Base model"
DESIGN_NEEDS = "designing a voice needs a VoiceDesign model"
KEEP_NEEDS = "keeping a designed voice needs a Base model"
AUTO_NEEDS = "transcript=auto needs an ASR model"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneForm:
    name: str
    audio: Upload
    transcript: str  # "auto": written down by speech recognition
    language: str | None = None
    consent_id: int | None = None
    audio_param: str = "file"
    transcript_param: str = "transcript"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignForm:
    name: str
    description: str
    language: str | None = None
    seed: int | None = None
    description_param: str = "description"


@dataclass(frozen=True, slots=True)
class MadeVoice:
    """A voice that is in the library now."""

    voice_id: int
    tokens: int
    transcript_error_rate: float | None = None  # None: nobody listened
    warning: str | None = None


async def clone_voice(
    service: SpeechService, store: Store, caller: Caller, form: CloneForm
) -> MadeVoice:
    """Keep a recording as a voice. Raises SpeechError before anything is kept."""
    name = checked_name(form.name)
    base = orders.get_model(service.backend.models(), ModelKind.BASE, purpose=CLONE_NEEDS)
    language = parse_language(form.language, base.languages)
    transcript = _check_transcript(form.transcript, base, param=form.transcript_param)
    if transcript == AUTO:
        orders.get_model(service.backend.models(), ModelKind.ASR, purpose=AUTO_NEEDS)
    num_tokens = 1 if transcript == AUTO else count_tokens(transcript)
    async with AsyncExitStack() as place:
        await place.enter_async_context(service.books.admitted(caller, num_tokens=num_tokens))
        upload_sha256, samples = await service.on_decoder(
            lambda: read_reference(
                form.audio, max_seconds=service.settings.max_reference_s, param=form.audio_param
            )
        )
        seconds = len(samples) / SPEECH_RATE_HZ
        await service.books.run(lambda: _check_room(service, store, caller, seconds))
        heard = await listen(service, caller, samples, language)
        if transcript == AUTO and heard is not None:
            transcript = heard.text.strip()
            if not transcript:
                raise unfit_recording("has no speech that could be written down", form.audio_param)
            # What it costs is known only now: it is admitted once more, at its price.
            await place.aclose()
            num_tokens = count_tokens(transcript)
            await place.enter_async_context(service.books.admitted(caller, num_tokens=num_tokens))
        error_rate = None
        if heard is not None:
            error_rate = await compare(
                transcript,
                heard,
                language=language,
                allowed=service.settings.max_transcript_error,
                param=form.transcript_param,
            )
        new = _NewReference(
            name=name,
            kind=VoiceKind.CLONE,
            language=language,
            samples=samples,
            ref_text=transcript,
            upload_sha256=upload_sha256,
            consent_id=form.consent_id,
            tokens=num_tokens,
        )
        voice_id = await _keep(service, store, caller, base, new)
    return MadeVoice(voice_id, num_tokens, error_rate, doubt(error_rate))


async def design_voice(
    service: SpeechService, store: Store, caller: Caller, form: DesignForm
) -> MadeVoice:
    """Have a described voice say the coverage phrase, and keep that as its reference."""
    name = checked_name(form.name)
    models = service.backend.models()
    design = orders.get_model(models, ModelKind.VOICE_DESIGN, purpose=DESIGN_NEEDS)
    base = orders.get_model(models, ModelKind.BASE, purpose=KEEP_NEEDS)
    language = parse_language(form.language, base.languages)
    description = form.description.strip()
    if not description:
        raise BadRequest(
            f"{form.description_param} must not be blank: say how the voice sounds.",
            param=form.description_param,
            code="invalid_value",
        )
    orders.check_length(description, param=form.description_param)
    fitted = orders.fit_text(description, design, param=form.description_param)
    order = _order_phrase(service, caller, design, form, fitted)
    tokens = count_tokens(description) + len(COVERAGE_PHRASE)
    async with service.books.admitted(caller, num_tokens=tokens):
        await service.books.run(lambda: _check_room(service, store, caller, PHRASE_S))
        new = _NewReference(
            name=name,
            kind=VoiceKind.DESIGN,
            language=language,
            samples=await _speak_phrase(service, order),
            ref_text=COVERAGE_PHRASE,
            description=description,
            tokens=tokens,
        )
        return MadeVoice(await _keep(service, store, caller, base, new), tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewReference:
    """A reference that has been checked, before its prompt is computed."""

    name: str
    kind: VoiceKind
    language: str | None
    samples: Pcm
    ref_text: str
    tokens: int
    description: str | None = None
    upload_sha256: str | None = None
    consent_id: int | None = None


async def _keep(
    service: SpeechService, store: Store, caller: Caller, base: ModelInfo, new: _NewReference
) -> int:
    sample, heard = await asyncio.to_thread(_prepare, new.samples)
    prompt = await service.backend.make_voice_prompt(heard, new.ref_text)
    settings = service.settings
    caps = Caps(settings.max_voices, settings.max_voice_mb * MB)

    def write() -> int:
        packed = pack_prompt(prompt, fingerprint=base.fingerprint)
        with store.blobs.staged(store.db, sample) as (staged,), store.db.write() as conn:
            store.blobs.keep(conn, caller.user_id, [staged])
            row = NewVoice(
                name=new.name,
                kind=new.kind,
                language=new.language or AUTO,
                ref_text=new.ref_text,
                reference_sha256=staged.sha256,
                reference_ms=round(1000 * len(new.samples) / SPEECH_RATE_HZ),
                prompt=packed,
                model_fingerprint=base.fingerprint,
                description=new.description,
                upload_sha256=new.upload_sha256,
                consent_id=new.consent_id,
                tokens=new.tokens,
                key_id=caller.key_id,
            )
            return add_voice(conn, caller.user_id, row, caps=caps)

    return await service.books.run(write)


def _prepare(samples: Pcm) -> tuple[bytes, Pcm]:
    """The file to keep, and what the engine hears: made of it, as if it had to be done again."""
    sample = wav_bytes(samples, SPEECH_RATE_HZ)
    kept = decode_audio(sample, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=float("inf"))
    return sample, prepare_reference(kept)


def _check_room(service: SpeechService, store: Store, caller: Caller, seconds: float) -> None:
    """For so much more sound, before the engine works for it; later the prompt counts, too."""
    settings = service.settings
    with store.db.read() as conn:
        num_voices, num_bytes = kept_voices(conn, caller.user_id)
    left = settings.max_voice_mb * MB - num_bytes
    if num_voices >= settings.max_voices or 2 * SPEECH_RATE_HZ * seconds > left:
        raise LimitReached(
            f"You have {num_voices} voices of {num_bytes / MB:.1f} MB, and {settings.max_voices}"
            f" of {settings.max_voice_mb} MB are allowed; delete one first",
            code="insufficient_quota",
        )


def _check_transcript(text: str, base: ModelInfo, *, param: str) -> str:
    transcript = text.strip()
    if not transcript:
        raise BadRequest(
            f"{param} must not be blank: send what is said in the recording, or auto.",
            param=param,
            code="invalid_value",
        )
    orders.fit_text(orders.check_length(transcript, param=param), base, param=param)
    return AUTO if transcript.lower() == AUTO else transcript


def _order_phrase(
    service: SpeechService, caller: Caller, design: ModelInfo, form: DesignForm, description: str
) -> SpeechOrder:
    orders.check_sampling(SamplingForm(seed=form.seed))
    request = SpeechRequest(
        kind=ModelKind.VOICE_DESIGN,
        text=COVERAGE_PHRASE,
        seed=service.draw_seed() if form.seed is None else form.seed,
        language="English" if "English" in design.languages else None,
        instructions=description,
        max_frames=MAX_FRAMES_OF_PHRASE,
        owner=caller.user_id,
    )
    return SpeechOrder(
        parts=(request,),
        model=design,
        may_retry=form.seed is None,
        num_chars=len(COVERAGE_PHRASE),
        received_s=time.perf_counter(),
    )


async def _speak_phrase(service: SpeechService, order: SpeechOrder) -> Pcm:
    pieces: list[Pcm] = [np.zeros(0, np.float32)]
    async with aclosing(service.speak(order, is_buffered=True)) as items:
        async for item in items:
            if not isinstance(item, Spoken):
                pieces.append(item)
    samples = np.concatenate(pieces)
    if len(samples) < MIN_AUDIO_S * SPEECH_RATE_HZ:
        raise EngineFailed("The model made no sound of this description; try again or change it")
    return samples
