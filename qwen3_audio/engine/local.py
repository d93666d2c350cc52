"""The Backend in this process: loaded checkpoints behind one engine."""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import torch

from qwen3_audio.checkpoints import Checkpoint
from qwen3_audio.engine.codecs import SharedCodecs
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.engine import Engine
from qwen3_audio.engine.gpu.errors import diagnosis_for
from qwen3_audio.engine.guards import LoopDetector, SilenceDetector, frame_budget
from qwen3_audio.engine.listening import transcribe
from qwen3_audio.engine.loading import (
    ListeningModel,
    SpeechModel,
    load_listening,
    load_speech,
)
from qwen3_audio.engine.memory import choose_device, describe_use, plan_gpu
from qwen3_audio.engine.sink import Sink
from qwen3_audio.engine.speech_sound import CodecThreads, SpeechSequence
from qwen3_audio.errors import BadRequest, NotLoaded
from qwen3_audio.settings import Settings
from qwen3_audio.types import (
    ModelInfo,
    ModelKind,
    Pcm,
    RunnerStats,
    SpeechEnd,
    SpeechRequest,
    TextDelta,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)

log = logging.getLogger(__name__)


class LocalBackend:
    """Implements types.Backend. Everything that computes runs on the engine's thread."""

    def __init__(
        self,
        speech: dict[ModelKind, SpeechModel],
        listening: ListeningModel | None,
        device: Device,
        codec_threads: CodecThreads | None = None,
    ) -> None:
        self.where = str(device)  # with the precision, for people
        self._device, self._codec_threads = device, codec_threads
        self._speech, self._listening = speech, listening
        self._ids = itertools.count()
        runners = [model.runner for model in speech.values()]
        self._engine = Engine(
            [*runners, *([listening.runner] if listening else [])],
            diagnose=diagnosis_for(device.device),
            begin=device.enter,
        )

    def models(self) -> list[ModelInfo]:
        listening = [self._listening.info] if self._listening else []
        return [*(model.info for model in self._speech.values()), *listening]

    def stats(self) -> list[RunnerStats]:
        return self._engine.stats()

    def trouble(self) -> str | None:
        return self._engine.trouble

    def when_broken(self, tell: Callable[[str], None]) -> None:
        """`tell` hears the sentence, from any thread, once nothing can be computed any more."""
        self._engine.when_broken(tell)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
        if request.kind not in self._speech:
            raise NotLoaded(f"No {request.kind} checkpoint is loaded")
        sink = Sink()
        seq = await asyncio.to_thread(self._prepare, self._speech[request.kind], request, sink)
        self._engine.submit(request.kind, [seq])
        try:
            while not isinstance(item := await sink.get(), SpeechEnd):
                yield item
            yield item
        finally:
            self._engine.cancel(request.kind, [seq])  # nothing to do if it has ended

    async def make_voice_prompt(self, samples: Pcm, text: str | None) -> VoicePrompt:
        model = self._speech.get(ModelKind.BASE)
        if model is None:
            raise NotLoaded("No base checkpoint is loaded")
        future = self._engine.call(lambda: hear_reference(model, samples, text))
        return await asyncio.wrap_future(future)

    async def transcribe(
        self, request: TranscriptionRequest
    ) -> AsyncGenerator[TextDelta | Transcript]:
        if self._listening is None:
            raise NotLoaded("No asr checkpoint is loaded")
        async with aclosing(transcribe(self._engine, self._listening, request, self._ids)) as items:
            async for item in items:
                yield item

    async def close(self) -> None:
        await self._engine.close()
        if self._codec_threads is not None:
            await asyncio.to_thread(self._codec_threads.shutdown)
        if self._device.kernels is not None:
            self._device.kernels.close()

    def _prepare(self, model: SpeechModel, request: SpeechRequest, sink: Sink) -> SpeechSequence:
        return lay_out(model, request, next(self._ids), sink.emit)


def lay_out(
    model: SpeechModel, request: SpeechRequest, seq_id: int, emit: Callable[[Any], None]
) -> SpeechSequence:
    """Tokenise a request and bound it; BadRequest if it is longer than the model takes."""
    prompt = model.prompts.build(request)
    budget = frame_budget(prompt.num_text_tokens, model.frames_per_s)
    room = model.runner.decoder.pool.max_positions - len(prompt.rows)
    if room < 1:
        raise BadRequest(
            f"Text, instructions and reference are {len(prompt.rows)} tokens together; "
            f"this model takes {model.runner.decoder.pool.max_positions}",
            param="input",
        )
    max_frames = min(budget, room, request.max_frames or budget)
    return SpeechSequence(
        seq_id=seq_id,
        owner=request.owner,
        num_prompt_tokens=len(prompt.rows),
        num_reserved_positions=len(prompt.rows) + max_frames,
        emit=emit,
        request=request,
        prompt=prompt,
        max_frames=max_frames,
        loop=LoopDetector(model.frames_per_s),
        silence=SilenceDetector(model.sample_rate_hz, model.samples_per_frame),
    )


@torch.inference_mode()
def hear_reference(model: SpeechModel, samples: Pcm, text: str | None) -> VoicePrompt:
    """Speaker vector, and with a transcript also the codes of a reference, where they help."""
    assert model.speaker_encoder is not None and model.codec_encoder is not None
    sound = torch.tensor(samples).to(model.runner.talker.device)
    vector = model.speaker_encoder(sound).float().cpu().numpy()
    scope = model.info.scope
    if text is None or (scope is not None and not scope.in_context):
        return VoicePrompt(vector)
    codes = model.codec_encoder.encode(sound).cpu().numpy().astype(np.int16)
    return VoicePrompt(vector, codes, text)


def build_backend(
    checkpoints: Sequence[Checkpoint],
    settings: Settings,
    report: Callable[[str, int, int], None],
) -> LocalBackend:
    """Load every checkpoint and start the engine; `report` hears (folder, tensors read, of all).

    Raises StartError in one sentence for whatever can't be loaded or run here.
    """
    device = choose_device(checkpoints, settings)
    if device.without_gpu:
        log.info("No GPU is used: %s", device.without_gpu)
    if device.missing:
        log.warning("%s", device.explain_missing(settings.qwen_tts_dtype == "int8"))
    plan = plan_gpu(checkpoints, device) if device.device.type == "cuda" else None
    room_bytes = None if plan is None else plan.room_bytes
    codecs, codec_threads, listening = SharedCodecs(device), CodecThreads.beside(device), None
    speech: dict[ModelKind, SpeechModel] = {}
    for checkpoint in checkpoints:
        if checkpoint.kind is ModelKind.ALIGNER:
            log.warning("%s is left out: no route uses a forced aligner yet", checkpoint.name)
        elif checkpoint.kind is ModelKind.ASR:
            listening = load_listening(checkpoint, settings, device, report, room_bytes=room_bytes)
        else:
            speech[checkpoint.kind] = load_speech(
                checkpoint,
                settings,
                device,
                report,
                codecs=codecs,
                codec_threads=codec_threads,
                room_bytes=room_bytes,
            )
    backend = LocalBackend(speech, listening, device, codec_threads)
    if plan is not None:
        log.info("%s", describe_use(plan, device, backend.models()))
    return backend
