"""Codes and tokens of our own engine in float32, greedily."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from qwen3_audio.checkpoints import Checkpoint, open_checkpoint
from qwen3_audio.engine.device import Device
from qwen3_audio.engine.guards import LoopDetector
from qwen3_audio.engine.loading import SpeechModel, load_speech
from qwen3_audio.engine.local import build_backend, hear_reference, lay_out
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.settings import Settings
from qwen3_audio.types import (
    Codes,
    Pcm,
    Sampling,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
    VoicePrompt,
)
from training.measure.plan import Json

_SETTINGS = Settings.from_env({"QWEN_TTS_DTYPE": "float32", "QWEN_TTS_DEVICE": "cpu"})
_GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class SpokenCodes:
    codes: Codes
    samples: Pcm


@dataclass(frozen=True, slots=True)
class Heard:
    language: str
    text: str
    tokens: list[int]


class Watching(LoopDetector):
    """Sees every frame as the guard does, and lets all of them pass."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.frames: list[list[int]] = []

    def is_loop(self, frame: Sequence[int]) -> bool:
        self.frames.append([*frame])
        return False


def speak_ourselves(
    folder: Path, cases: Sequence[Json], max_frames: int, reference: Pcm | None = None
) -> list[SpokenCodes]:
    """All cases together in one batch."""
    device = Device(torch.device("cpu"), torch.float32)
    model = load_speech(_without_scope(folder), _SETTINGS, device, lambda *_: None)
    speeches = [
        _lay_out(model, case, number, max_frames, reference) for number, case in enumerate(cases)
    ]
    runner = model.runner
    runner.scheduler.add([seq for seq, _, _ in speeches])
    while not runner.scheduler.is_idle:
        for ending in runner.step():
            assert isinstance(ending.seq, SpeechSequence)
            runner.scheduler.remove(ending.seq)
            runner.release(ending.seq)
    return [
        SpokenCodes(np.array(watch.frames, np.int16).reshape(len(watch.frames), -1), _join(pieces))
        for _, watch, pieces in speeches
    ]


def _lay_out(
    model: SpeechModel, case: Json, number: int, max_frames: int, reference: Pcm | None
) -> tuple[SpeechSequence, Watching, list[Pcm]]:
    voice: VoicePrompt | None = None
    if reference is not None and model.speaker_encoder is not None:
        voice = hear_reference(model, reference, case.get("reference_text"))
    request = SpeechRequest(
        model.info.kind,
        case["text"],
        seed=0,
        language=case.get("language"),
        speaker=case.get("speaker"),
        instructions=case.get("instructions"),
        voice_prompt=voice,
        sampling=_GREEDY,
        max_frames=max_frames,
    )
    pieces: list[Pcm] = []
    seq, watch = lay_out(model, request, number, pieces.append), Watching()
    seq.loop = watch
    return seq, watch, pieces


def _join(pieces: list[Pcm]) -> Pcm:
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _without_scope(folder: Path) -> Checkpoint:
    """As the official packages take it, which know no scope.json."""
    return replace(open_checkpoint(folder), scope=None)


def listen_ourselves(folder: Path, clips: Sequence[Pcm]) -> list[Heard]:
    return asyncio.run(_listen(folder, clips))


async def _listen(folder: Path, clips: Sequence[Pcm]) -> list[Heard]:
    backend = build_backend([_without_scope(folder)], _SETTINGS, lambda *_: None)
    try:
        heard: list[Heard] = []
        for samples in clips:
            async for item in backend.transcribe(TranscriptionRequest(samples)):
                if isinstance(item, Transcript):
                    tokens = [token for part in item.segments for token in part.token_ids]
                    heard.append(Heard(item.language, item.text, tokens))
        return heard
    finally:
        await backend.close()
