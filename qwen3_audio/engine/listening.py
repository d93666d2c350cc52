"""One recording → pieces → one transcript: what happens around the recognition runner.

Long sound is cut at quiet points. The first piece runs alone until the model has named its
language, then all others join the batch with that language forced; text leaves in order.
"""

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

import numpy as np

from qwen3_audio.engine.asr import AsrSequence, PieceEnd, PieceText
from qwen3_audio.engine.asr_prompt import (
    MAX_PIECE_S,
    build_prompt,
    could_be_context_echo,
    cut_points,
    is_context_echo,
    measure_loudest_dbfs,
    merge_languages,
    piece_separator,
    token_limit,
)
from qwen3_audio.engine.engine import Engine
from qwen3_audio.engine.loading import ListeningModel
from qwen3_audio.engine.sink import Sink
from qwen3_audio.engine.tts import resolve
from qwen3_audio.errors import BadRequest
from qwen3_audio.models.asr import num_audio_tokens
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    EndReason,
    ModelKind,
    Pcm,
    Segment,
    TextDelta,
    Transcript,
    TranscriptionRequest,
)

HOP = 160  # samples of a mel frame
DEFAULT_TOP_K = 1024  # with a temperature: what lies beyond has no weight and costs a long sort


@dataclass(slots=True)
class _Piece:
    start: int  # samples
    samples: Pcm
    language: str = ""
    text: str = ""  # what was passed on
    end: PieceEnd | None = None


class _Recording:
    """The pieces of one request and how far their text has been passed on."""

    def __init__(self, request: TranscriptionRequest, cuts: list[int], request_id: int) -> None:
        self.request, self.request_id = request, request_id
        starts = [0, *cuts]
        parts = np.split(request.samples, cuts)
        self.pieces = [_Piece(start, part) for start, part in zip(starts, parts, strict=True)]
        self.num_passed_on = 0
        self.held: dict[int, str] = {}

    def take(self, item: PieceText | PieceEnd) -> str:
        """New text that can leave now, in the order of the pieces."""
        piece = self.pieces[item.index]
        piece.language = item.language
        self.held[item.index] = self.held.get(item.index, "") + item.delta
        if isinstance(item, PieceEnd):
            piece.end = item
        out = []
        while self.num_passed_on < len(self.pieces):
            current = self.pieces[self.num_passed_on]
            delta = self.held.pop(self.num_passed_on, "")
            if delta:
                out.append(self._separator(current) + delta)
                current.text += delta
            if current.end is None:
                break
            self.num_passed_on += 1
        return "".join(out)

    def _separator(self, piece: _Piece) -> str:
        before = [p for p in self.pieces[: self.num_passed_on] if p.text]
        if piece.text or not before:
            return ""
        return piece_separator(before[-1].language, piece.language)

    @property
    def is_done(self) -> bool:
        return self.num_passed_on == len(self.pieces)


async def transcribe(
    engine: Engine,
    model: ListeningModel,
    request: TranscriptionRequest,
    ids: "itertools.count[int]",
) -> AsyncGenerator[TextDelta | Transcript]:
    """Deltas in order, then the Transcript; cancels what is left when closed early."""
    scope = model.info.scope
    max_s = scope.max_s if scope is not None and scope.max_s is not None else MAX_PIECE_S
    cuts = await asyncio.to_thread(cut_points, request.samples, max_s=max_s)
    recording = _Recording(request, cuts, next(ids))
    sink = Sink()
    first = slice(0, 1) if request.language is None else slice(None)
    seqs = await asyncio.to_thread(_sequences, model, recording, ids, sink, first)
    engine.submit(ModelKind.ASR, seqs)
    held_back, may_be_echo = "", True
    try:
        while not recording.is_done:
            item = await sink.get()
            if len(seqs) < len(recording.pieces):
                later = await asyncio.to_thread(
                    _sequences, model, recording, ids, sink, slice(1, None), item.language
                )
                seqs += later
                engine.submit(ModelKind.ASR, later, is_admitted=True)
            held_back += recording.take(item)
            if held_back and may_be_echo:
                may_be_echo = could_be_context_echo(held_back, request.context)
            if held_back and not may_be_echo:
                yield TextDelta(held_back)
                held_back = ""
    finally:
        engine.cancel(ModelKind.ASR, seqs)
    transcript = _transcript(recording)
    if await _is_echo(engine, model, transcript, request, ids):
        transcript = replace(transcript, text="", language="", segments=())
        held_back = ""
    if held_back:
        yield TextDelta(held_back)
    yield transcript


async def _is_echo(
    engine: Engine,
    model: ListeningModel,
    transcript: Transcript,
    request: TranscriptionRequest,
    ids: "itertools.count[int]",
) -> bool:
    """Whether the context was read back: if it could be, ask again without it."""
    if not is_context_echo(
        transcript.text, request.context, loudest_dbfs=-math.inf, is_speechless=True
    ):
        return False
    loudest_dbfs = await asyncio.to_thread(measure_loudest_dbfs, request.samples)
    if is_context_echo(transcript.text, request.context, loudest_dbfs=loudest_dbfs):
        return True
    plain = replace(request, context="", language=None)
    text = "unheard"
    async for item in transcribe(engine, model, plain, ids):
        if isinstance(item, Transcript):
            text = item.text
    return not text


def _sequences(
    model: ListeningModel,
    recording: _Recording,
    ids: "itertools.count[int]",
    sink: Sink,
    which: slice,
    heard_language: str = "",
) -> list[AsrSequence]:
    request = recording.request
    language = request.language or heard_language or None
    indexes = range(len(recording.pieces))[which]
    return [_sequence(model, recording, next(ids), index, language, sink) for index in indexes]


def _sequence(
    model: ListeningModel,
    recording: _Recording,
    seq_id: int,
    index: int,
    language: str | None,
    sink: Sink,
) -> AsrSequence:
    request, piece = recording.request, recording.pieces[index]
    num_sound = num_audio_tokens(len(piece.samples) // HOP)
    prompt = build_prompt(model.tokenizer, num_sound, context=request.context, language=language)
    room = model.runner.decoder.pool.max_positions - len(prompt.ids)
    if room < 1:
        raise BadRequest(
            f"The prompt makes {len(prompt.ids)} tokens together with the audio; this model takes "
            f"{model.runner.decoder.pool.max_positions}",
            param="prompt",
        )
    limit = min(token_limit(len(piece.samples) / LISTEN_RATE_HZ), room)
    max_tokens = min(limit, request.max_new_tokens or limit)
    return AsrSequence(
        seq_id=seq_id,
        request_id=recording.request_id,
        owner=request.owner,
        num_prompt_tokens=len(prompt.ids),
        num_reserved_positions=len(prompt.ids) + max_tokens,
        emit=sink.emit,
        request=request,
        index=index,
        samples=piece.samples,
        language=language,
        max_tokens=max_tokens,
        settings=resolve(request.sampling, 0.0, DEFAULT_TOP_K, 1.0),
    )


def _transcript(recording: _Recording) -> Transcript:
    ends = [piece.end for piece in recording.pieces if piece.end is not None]
    reasons = [end.reason for end in ends if end.reason is not EndReason.STOP]
    text = ""
    last_language = ""
    for end in ends:
        if end.text:
            text += (piece_separator(last_language, end.language) if text else "") + end.text
            last_language = end.language
    return Transcript(
        text=text,
        language=merge_languages([end.language for end in ends]),
        duration_s=len(recording.request.samples) / LISTEN_RATE_HZ,
        segments=tuple(_segment(piece) for piece in recording.pieces),
        num_prompt_tokens=sum(end.num_prompt_tokens for end in ends),
        num_output_tokens=sum(len(end.token_ids) for end in ends),
        reason=reasons[0] if reasons else EndReason.STOP,
    )


def _segment(piece: _Piece) -> Segment:
    assert piece.end is not None
    start_s = piece.start / LISTEN_RATE_HZ
    return Segment(
        start_s=start_s,
        end_s=start_s + len(piece.samples) / LISTEN_RATE_HZ,
        text=piece.end.text,
        token_ids=piece.end.token_ids,
        avg_logprob=piece.end.avg_logprob,
        reason=piece.end.reason,
    )
