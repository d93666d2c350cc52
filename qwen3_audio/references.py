"""A recording that is to become a voice: read, listened to, compared with what it should say."""

import asyncio
import hashlib
import io
from contextlib import aclosing

import numpy as np

from qwen3_audio import orders
from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.resample import Resampler
from qwen3_audio.errors import BadRequest
from qwen3_audio.orders import Upload
from qwen3_audio.service import MIN_AUDIO_S, SILENCE, SpeechService
from qwen3_audio.store.keys import Caller
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    SPEECH_RATE_HZ,
    ModelKind,
    Pcm,
    Transcript,
    TranscriptionRequest,
)
from qwen3_audio.voice_samples import transcript_error_rate

DOUBTFUL_ERROR_RATE = 0.5


def read_reference(audio: Upload, *, max_seconds: float, param: str) -> tuple[str, Pcm]:
    """The fingerprint of the bytes as they came, and the sound in them; BadRequest for silence."""
    source = orders.read_upload(audio, param=param)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    samples = decode_audio(
        file, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=max_seconds, param=param
    )
    if len(samples) < MIN_AUDIO_S * SPEECH_RATE_HZ:
        raise unfit_recording(f"is shorter than {MIN_AUDIO_S} seconds", param)
    if float(np.abs(samples).max()) <= SILENCE:
        raise unfit_recording("is silent", param)
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest(), samples


def unfit_recording(what: str, param: str) -> BadRequest:
    return BadRequest(f"The recording {what}.", param=param, code="invalid_audio")


async def listen(
    service: SpeechService, caller: Caller, samples: Pcm, language: str | None
) -> Transcript | None:
    """What speech recognition hears in the reference; None: there is none here."""
    model = orders.find_model(service.backend.models(), ModelKind.ASR)
    if model is None:
        return None
    request = TranscriptionRequest(
        samples=await service.on_decoder(lambda: _resample(samples)),
        language=language if language in model.languages else None,
        owner=caller.user_id,
    )
    async with aclosing(service.backend.transcribe(request)) as items:
        async for item in items:
            if isinstance(item, Transcript):
                return item
    raise AssertionError("a transcription ends with its transcript")


def _resample(samples: Pcm) -> Pcm:
    resampler = Resampler(SPEECH_RATE_HZ, LISTEN_RATE_HZ)
    return np.concatenate((resampler.write(samples), resampler.finish()))


async def compare(
    transcript: str, heard: Transcript, *, language: str | None, allowed: float | None, param: str
) -> float:
    """How much of the transcript is not what was heard; BadRequest if that is too much."""
    spoken = language or heard.language
    rate = await asyncio.to_thread(transcript_error_rate, transcript, heard.text, language=spoken)
    error_rate = round(rate, 3)
    if allowed is not None and error_rate > allowed:
        raise BadRequest(
            f"{param} does not match the recording: its error rate is {error_rate:g}, at most"
            f" {allowed:g} is allowed.",
            param=param,
            code="transcript_mismatch",
        )
    return error_rate


def doubt(error_rate: float | None) -> str | None:
    """A warning where a transcript and what was heard are far apart."""
    if error_rate is None or error_rate <= DOUBTFUL_ERROR_RATE:
        return None
    return (
        "The transcript does not match what was heard in the recording; the voice may sound wrong"
        " or say something else."
    )
