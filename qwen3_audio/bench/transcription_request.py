"""One request for a transcription over HTTP."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.bench.http_client import HttpTarget, RequestFailed, encode_form
from qwen3_audio.bench.sample import Sample
from qwen3_audio.bench.work import CLIP_RATE_HZ, count_pieces, make_recording, mark

PATH = "/v1/audio/transcriptions"


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording as it is sent, and what is said in it where that is known."""

    name: str
    data: bytes = field(repr=False)
    audio_s: float
    text: str | None = None


def make_clip(seconds: float) -> Clip:
    """A recording of ours, in which nothing is said."""
    return Clip("clip.wav", wav_bytes(make_recording(seconds), CLIP_RATE_HZ), seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRun:
    """Sends the clips in turn. With `num_tokens` every piece must have exactly so many."""

    target: HttpTarget
    clips: Sequence[Clip]
    model: str | None = None
    num_tokens: int | None = None
    is_ours: bool = False  # takes seeds, and says how many tokens it made
    fields: Mapping[str, Any] = field(default_factory=dict)  # null leaves one out

    def __call__(self, number: int, planned_s: float) -> Sample:
        clip = self.clips[number % len(self.clips)]
        body, content_type = self._body(number, clip)
        begin_s, first_byte_s, data, error = time.perf_counter(), None, b"", None
        try:
            with self.target.post(PATH, body, content_type) as answer:
                for at_s, piece in answer.pieces:
                    first_byte_s, data = first_byte_s or at_s, data + piece
        except RequestFailed as failure:
            error = str(failure)
        end_s = time.perf_counter()
        text, num_tokens = read_answer(data)
        return Sample(
            planned_s=planned_s,
            begin_s=begin_s,
            end_s=end_s,
            first_byte_s=first_byte_s,
            audio_s=clip.audio_s,
            num_tokens=num_tokens,
            said=clip.text,
            heard=text,
            error=error or self._judge(clip, text, num_tokens),
        )

    def _body(self, number: int, clip: Clip) -> tuple[bytes, str]:
        fields: dict[str, Any] = {
            "model": self.model or "whisper-1",
            "response_format": "verbose_json" if self.is_ours else "json",
        }
        if self.is_ours:
            fields["seed"] = number
        if self.num_tokens is not None:
            # Greedy random weights repeat themselves, which a guard ends.
            fields |= {"max_new_tokens": self.num_tokens, "temperature": 1.0}
        fields |= self.fields
        data = clip.data if clip.text is not None else mark(clip.data, number)
        texts = {key: str(value) for key, value in fields.items() if value is not None}
        return encode_form(texts, name=clip.name, data=data)

    def _judge(self, clip: Clip, text: str | None, num_tokens: int | None) -> str | None:
        if text is None:
            return "no text in the answer"
        if self.num_tokens is None or num_tokens is None:
            return None
        wanted = self.num_tokens * count_pieces(clip.audio_s)
        return None if num_tokens == wanted else f"{num_tokens} tokens instead of {wanted}"


def read_answer(data: bytes) -> tuple[str | None, int | None]:
    """(text, number of tokens) of a JSON answer, None each where it does not say."""
    try:
        answer = json.loads(data)
        text = answer["text"]
    except (ValueError, KeyError, TypeError):
        return None, None
    if not isinstance(text, str):
        return None, None
    return text, _count_tokens(answer)


def _count_tokens(answer: dict[str, Any]) -> int | None:
    usage, segments = answer.get("usage"), answer.get("segments")
    if isinstance(usage, dict) and isinstance(usage.get("output_tokens"), int):
        num_tokens: int = usage["output_tokens"]
        return num_tokens
    try:
        return None if segments is None else sum(len(segment["tokens"]) for segment in segments)
    except (KeyError, TypeError):
        return None
