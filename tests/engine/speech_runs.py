"""Requests on a speech runner, stepped by hand the way the engine steps it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.engine.guards import LoopDetector, SilenceDetector
from qwen3_audio.engine.loading import SpeechModel
from qwen3_audio.engine.speech_sound import SpeechSequence
from qwen3_audio.types import (
    EndReason,
    ModelKind,
    Pcm,
    Sampling,
    SpeechEnd,
    SpeechRequest,
    VoicePrompt,
)

FRAME_SAMPLES = 1920
TEXT = "the other in the end"
GREEDY = Sampling(temperature=0.0)
_ids = itertools.count()


class WatchedFrames(LoopDetector):
    """Sees every frame that the detector sees."""

    def __init__(self, frames_per_s: float, frames: list[Sequence[int]]) -> None:
        super().__init__(frames_per_s)
        self._frames = frames

    def is_loop(self, frame: Sequence[int]) -> bool:
        self._frames.append(frame)
        return super().is_loop(frame)


@dataclass(eq=False)
class Speech:
    """One request and what came of it."""

    seq: SpeechSequence
    pieces: list[Pcm]
    frames: list[Sequence[int]]
    end: SpeechEnd | None = field(default=None)

    @property
    def sound(self) -> Pcm:
        return np.concatenate([np.zeros(0, np.float32), *self.pieces])

    @property
    def codes(self) -> NDArray[np.int64]:
        return np.array(self.frames, np.int64)


def request_of(kind: ModelKind = ModelKind.CUSTOM_VOICE, **settings: Any) -> SpeechRequest:
    plain = SpeechRequest(kind=kind, text=TEXT, seed=1, sampling=Sampling())
    if kind is ModelKind.CUSTOM_VOICE:
        plain = replace(plain, speaker="vivian")
    return replace(plain, **settings)


def speech_of(
    model: SpeechModel,
    request: SpeechRequest,
    *,
    max_frames: int = 30,
    is_streaming_text: bool = False,
) -> Speech:
    """A request ready for the line."""
    prompt = model.prompts.build(request, is_streaming_text=is_streaming_text)
    pieces: list[Pcm] = []
    frames: list[Sequence[int]] = []
    seq = SpeechSequence(
        seq_id=next(_ids),
        owner=request.owner,
        num_prompt_tokens=len(prompt.rows),
        num_reserved_positions=len(prompt.rows) + max_frames,
        emit=pieces.append,
        request=request,
        prompt=prompt,
        max_frames=max_frames,
        loop=WatchedFrames(model.frames_per_s, frames),
        silence=SilenceDetector(model.sample_rate_hz, model.samples_per_frame),
    )
    return Speech(seq, pieces, frames)


def leave(model: SpeechModel, speech: Speech) -> None:
    """What the engine does when a running request ends or is cancelled."""
    assert model.runner.scheduler.remove(speech.seq)
    model.runner.release(speech.seq)


def step(model: SpeechModel, speeches: Sequence[Speech]) -> None:
    by_id = {speech.seq.seq_id: speech for speech in speeches}
    for ending in model.runner.step():
        speech = by_id[ending.seq.seq_id]
        assert speech.end is None
        speech.end = ending.item
        assert ending.item.reason is ending.reason
        leave(model, speech)


def run(
    model: SpeechModel,
    joining: Mapping[int, Sequence[Speech]],
    leaving: Mapping[int, Sequence[Speech]] | None = None,
) -> None:
    """Requests join and leave before the steps they are listed under; until all have ended."""
    speeches = [speech for group in joining.values() for speech in group]
    leaving = leaving or {}
    for number in itertools.count():
        for speech in joining.get(number, ()):
            model.runner.scheduler.add([speech.seq])
        for speech in leaving.get(number, ()):
            leave(model, speech)
        if model.runner.scheduler.is_idle and number >= max(joining):
            break
        step(model, speeches)
    assert_clean(model)


def run_alone(model: SpeechModel, speech: Speech) -> Speech:
    run(model, {0: [speech]})
    return speech


def assert_clean(model: SpeechModel) -> None:
    """Every slot is free and every page is back, none reserved."""
    scheduler, pool = model.runner.scheduler, model.runner.decoder.pool
    assert scheduler.is_idle
    assert sorted(scheduler.free_slots) == list(range(scheduler.num_slots))
    assert sorted(pool.book._free) == list(range(pool.book.num_pages))
    assert pool.book._num_reserved == 0


def ended(speech: Speech) -> tuple[EndReason, int]:
    assert speech.end is not None
    assert speech.end.num_frames == len(speech.frames)
    assert len(speech.sound) == len(speech.frames) * FRAME_SAMPLES
    return speech.end.reason, speech.end.num_frames


def draw_voice(model: SpeechModel, num_frames: int | None, seed: int = 0) -> VoicePrompt:
    """A reference that nobody said; without frames its vector only."""
    random = np.random.default_rng(seed)
    config = model.runner.talker.config
    vector = random.standard_normal(config.stack.hidden_size).astype(np.float32)
    if num_frames is None:
        return VoicePrompt(vector)
    shape = (num_frames, config.num_code_groups)
    codes = random.integers(0, config.codebook_size, shape, np.int16)
    return VoicePrompt(vector, codes, "in the end")


SETTINGS = (
    Sampling(),
    GREEDY,
    Sampling(temperature=1.5, top_k=0, top_p=0.7),
    Sampling(temperature=0.3, top_k=5),
    Sampling(temperature=2.0, top_k=3000),
    Sampling(top_p=0.1),
)


def mixed_requests(model: SpeechModel, lengths: Sequence[int]) -> list[Speech]:
    """All layouts and settings at once; `lengths` in frames, one for each of SETTINGS."""
    speeches = []
    for at, (sampling, max_frames) in enumerate(zip(SETTINGS, lengths, strict=True)):
        voice = draw_voice(model, (None, 3, 40)[at % 3], seed=at)
        text = TEXT if at < 4 else f"{TEXT}, {TEXT} and {TEXT}; {TEXT} at last"
        request = request_of(
            ModelKind.BASE, text=text, seed=at * 1000, sampling=sampling, voice_prompt=voice
        )
        speeches.append(
            speech_of(model, request, max_frames=max_frames, is_streaming_text=at % 2 == 1)
        )
    return speeches
