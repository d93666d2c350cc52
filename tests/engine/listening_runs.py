"""Pieces of sound on a recognition runner, stepped by hand the way the engine steps it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qwen3_audio.engine.asr import AsrSequence, PieceEnd, PieceText
from qwen3_audio.engine.asr_prompt import build_prompt
from qwen3_audio.engine.loading import ListeningModel
from qwen3_audio.models.asr import num_audio_tokens
from qwen3_audio.types import LISTEN_RATE_HZ, Pcm, TranscriptionRequest

GREEDY = (0.0, 0, 1.0)
_ids = itertools.count()


def draw_sound(duration_s: float, seed: int = 0) -> Pcm:
    num_samples = round(duration_s * LISTEN_RATE_HZ)
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    return (0.1 * noise).astype(np.float32)


@dataclass(eq=False)
class Hearing:
    """One piece in flight and what it emitted."""

    seq: AsrSequence
    texts: list[PieceText]
    end: PieceEnd | None = None


def hearing_of(
    model: ListeningModel,
    samples: Pcm,
    *,
    max_tokens: int = 12,
    settings: tuple[float, int, float] = GREEDY,
    seed: int = 0,
    language: str | None = None,
    context: str = "",
) -> Hearing:
    request = TranscriptionRequest(samples, context=context, seed=seed)
    prompt = build_prompt(
        model.tokenizer, num_audio_tokens(len(samples) // 160), context=context, language=language
    )
    texts: list[PieceText] = []
    seq = AsrSequence(
        seq_id=next(_ids),
        owner=1,
        num_prompt_tokens=len(prompt.ids),
        num_reserved_positions=len(prompt.ids) + max_tokens,
        emit=texts.append,
        request=request,
        index=0,
        samples=samples,
        language=language,
        max_tokens=max_tokens,
        settings=settings,
    )
    return Hearing(seq, texts)


def leave(model: ListeningModel, hearing: Hearing) -> None:
    """What the engine does when a running piece ends or is cancelled."""
    assert model.runner.scheduler.remove(hearing.seq)
    model.runner.release(hearing.seq)


def run(
    model: ListeningModel,
    joining: Mapping[int, Sequence[Hearing]],
    leaving: Mapping[int, Sequence[Hearing]] | None = None,
) -> None:
    """Pieces join and leave before the steps they are listed under; until all have ended."""
    by_id = {h.seq.seq_id: h for group in joining.values() for h in group}
    runner, leaving = model.runner, leaving or {}
    for number in itertools.count():
        runner.scheduler.add([h.seq for h in joining.get(number, ())])
        for hearing in leaving.get(number, ()):
            leave(model, hearing)
        if runner.scheduler.is_idle and number >= max(joining):
            break
        for ending in runner.step():
            hearing = by_id[ending.seq.seq_id]
            assert hearing.end is None
            hearing.end = ending.item
            leave(model, hearing)
    book = runner.decoder.pool.book
    assert sorted(book._free) == list(range(book.num_pages))
    assert sorted(runner.scheduler.free_slots) == list(range(runner.scheduler.num_slots))


def hear(model: ListeningModel, *args: Any, **settings: Any) -> Hearing:
    hearing = hearing_of(model, *args, **settings)
    run(model, {0: [hearing]})
    return hearing
