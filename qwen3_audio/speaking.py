"""Orders of speech on a back-end: part after part, and once more after a guard's end."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np

from qwen3_audio.orders import SpeechOrder, shift_seed
from qwen3_audio.outcomes import Tally
from qwen3_audio.types import SPEECH_RATE_HZ, Backend, EndReason, Pcm, SpeechEnd, SpeechRequest

RETRIED = {EndReason.LOOP, EndReason.SILENCE, EndReason.LENGTH}


@dataclass(frozen=True, slots=True)
class Spoken:
    """The last item of a spoken order."""

    reason: EndReason
    seed: int  # that made it; after a retry another one than was drawn
    num_frames: int
    num_prompt_tokens: int


async def speak_parts(
    backend: Backend, order: SpeechOrder, ends: list[Spoken], *, tally: Tally, is_buffered: bool
) -> AsyncGenerator[Pcm]:
    """The sound of all parts; `ends` grows by one for each part that was spoken to its end."""
    with tally:
        for part in _budgeted(order.parts, ends):
            if ends and (pause := _pause_of(order)).size:
                tally.audio_s += len(pause) / SPEECH_RATE_HZ
                yield pause
            may_retry = is_buffered and order.may_retry
            async with aclosing(_speak_part(backend, part, may_retry=may_retry)) as sound:
                async for item in sound:
                    if isinstance(item, Spoken):
                        ends.append(item)
                    else:
                        tally.note_first()
                        tally.audio_s += len(item) / SPEECH_RATE_HZ
                        yield item


def _pause_of(order: SpeechOrder) -> Pcm:
    """Silence between two parts; most models end with it by themselves."""
    seconds = 0.0 if order.model.scope is None else order.model.scope.pause_s
    return np.zeros(round(seconds * SPEECH_RATE_HZ), np.float32)


async def _speak_part(
    backend: Backend, request: SpeechRequest, *, may_retry: bool
) -> AsyncGenerator[Pcm | Spoken]:
    if may_retry:
        sound = [item async for item in _speak_once(backend, request)]
        if _should_retry(request, sound[-1]):
            request = replace(request, seed=shift_seed(request.seed, 1))
            sound = [item async for item in _speak_once(backend, request)]
        for item in sound:
            yield item
        return
    async with aclosing(_speak_once(backend, request)) as items:
        async for item in items:
            yield item


async def _speak_once(backend: Backend, request: SpeechRequest) -> AsyncGenerator[Pcm | Spoken]:
    async with aclosing(backend.speak(request)) as items:
        async for item in items:
            if isinstance(item, SpeechEnd):
                yield Spoken(item.reason, request.seed, item.num_frames, item.num_prompt_tokens)
            else:
                yield item


def _budgeted(parts: tuple[SpeechRequest, ...], ends: list[Spoken]) -> Iterator[SpeechRequest]:
    """The parts, as far as the frames asked for in all reach; `ends` grows as they are spoken."""
    for part in parts:
        if part.max_frames is None:
            yield part
            continue
        num_left = part.max_frames - sum(end.num_frames for end in ends)
        if num_left > 0:
            yield replace(part, max_frames=num_left)


def join_ends(ends: list[Spoken], num_parts: int) -> Spoken:
    """One end for all parts: the first reason that is not an ordinary stop."""
    reasons = [end.reason for end in ends if end.reason is not EndReason.STOP]
    is_cut = len(ends) < num_parts
    return Spoken(
        reason=reasons[0] if reasons else EndReason.LENGTH if is_cut else EndReason.STOP,
        seed=ends[0].seed,
        num_frames=sum(end.num_frames for end in ends),
        num_prompt_tokens=sum(end.num_prompt_tokens for end in ends),
    )


def _should_retry(request: SpeechRequest, end: Pcm | Spoken) -> bool:
    """True for a guard's end, not for the length that the client itself asked for."""
    if not isinstance(end, Spoken) or end.reason not in RETRIED:
        return False
    is_own_limit = request.max_frames is not None and end.num_frames >= request.max_frames
    return not (end.reason is EndReason.LENGTH and is_own_limit)
