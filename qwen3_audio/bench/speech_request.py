"""One request for speech over HTTP, as PCM or WAV that is taken as it comes."""

import json
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3_audio.bench.http_client import HttpTarget, RequestFailed
from qwen3_audio.bench.sample import Arrival, Sample
from qwen3_audio.bench.work import FRAME_S, WAV_HEADER_BYTES
from qwen3_audio.types import SPEECH_RATE_HZ

PATH = "/v1/audio/speech"
SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRun:
    """Speaks the texts in turn. With `num_frames` every answer must be exactly that long."""

    target: HttpTarget
    texts: Sequence[str]
    voice: str
    model: str | None = None
    response_format: str = "pcm"
    num_frames: int | None = None
    is_ours: bool = False  # takes seeds, and makes 12.5 frames a second
    fields: Mapping[str, Any] = field(default_factory=dict)  # null leaves one out

    def __call__(self, number: int, planned_s: float) -> Sample:
        begin_s, first_byte_s, arrivals, error = time.perf_counter(), None, [], None
        try:
            with self.target.post(PATH, self._body(number), "application/json") as answer:
                for at_s, data, seconds in self._sound(answer.pieces):
                    first_byte_s = first_byte_s or (at_s if data else None)
                    if seconds > 0:
                        arrivals.append(Arrival(at_s, seconds))
        except RequestFailed as failure:
            error = str(failure)
        end_s = time.perf_counter()
        audio_s = sum(arrival.audio_s for arrival in arrivals)
        return Sample(
            planned_s=planned_s,
            begin_s=begin_s,
            end_s=end_s,
            first_byte_s=first_byte_s,
            arrivals=tuple(arrivals),
            audio_s=audio_s,
            num_tokens=round(audio_s / FRAME_S) if self.is_ours else None,
            error=error or self._judge(audio_s),
        )

    def _body(self, number: int) -> bytes:
        body: dict[str, Any] = {
            "model": self.model or "tts-1",
            "input": self.texts[number % len(self.texts)],
            "voice": self.voice,
            "response_format": self.response_format,
            "stream": True,
        }
        if self.is_ours:
            body["seed"] = number
        if self.num_frames is not None:
            body["max_new_tokens"] = self.num_frames
        body |= self.fields
        return json.dumps({key: value for key, value in body.items() if value is not None}).encode()

    def _sound(self, pieces: Iterator[tuple[float, bytes]]) -> Iterator[tuple[float, bytes, float]]:
        """(when, bytes, seconds of sound in them); half a sample waits for its other half."""
        rate_hz, held, in_header = SPEECH_RATE_HZ, b"", self.response_format == "wav"
        for at_s, data in pieces:
            held += data
            if in_header:
                if len(held) < WAV_HEADER_BYTES:
                    yield at_s, data, 0.0
                    continue
                rate_hz, held, in_header = _read_rate_hz(held), held[WAV_HEADER_BYTES:], False
            whole = len(held) // SAMPLE_BYTES
            held = held[whole * SAMPLE_BYTES :]
            yield at_s, data, whole / rate_hz

    def _judge(self, audio_s: float) -> str | None:
        if audio_s == 0:
            return "no sound"
        num_frames = round(audio_s / FRAME_S)
        if self.num_frames is not None and num_frames != self.num_frames:
            return f"{num_frames} frames instead of {self.num_frames}"
        return None


def _read_rate_hz(header: bytes) -> int:
    if not header.startswith(b"RIFF"):
        raise RequestFailed("not a WAV file")
    rate_hz: int = struct.unpack_from("<I", header, 24)[0]
    return max(rate_hz, 1)
