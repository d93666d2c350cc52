"""A request of everything that the API takes, good and bad; small, so that a minute holds many."""

import base64
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.live import ROOT, Server

TEXT = "Hello there, this is the server."
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
SPEECH_CLIP = ROOT / "tests" / "data" / "5s_dont_worry_about_him.wav"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and the status that is right for it."""

    what: str
    expected: int
    send: Callable[[], Any]


def mixed_requests(server: Server) -> list[Ask]:
    return [*_speech(server), *_transcriptions(server), *_refusals(server), *_lists(server)]


def _speech(server: Server) -> list[Ask]:
    sample = {"audio_sample": base64.b64encode(tone_wav(1.0, 220)).decode()}
    bodies: list[dict[str, Any]] = [
        *({"response_format": name} for name in FORMATS),
        *({"response_format": name, "stream": True} for name in ("wav", "flac")),
        {"stream_format": "sse"},
        {"speed": 1.5},
        {"instructions": "A calm low voice.", "language": "English"},
        {"temperature": 0, "voice": "vivian"},
        sample,
        sample | {"audio_sample_text": "The reference words."},
    ]

    def ask(number: int, body: dict[str, Any]) -> Ask:
        fields = {"max_new_tokens": 10 + 3 * number} | body
        return Ask("speech", 200, lambda: server.speak(TEXT, **fields))

    return [ask(number, body) for number, body in enumerate(bodies)]


def _transcriptions(server: Server) -> list[Ask]:
    clip = SPEECH_CLIP.read_bytes()
    fields: list[dict[str, str]] = [
        {},
        {"response_format": "text", "language": "en"},
        {"response_format": "verbose_json", "prompt": "PostgreSQL, Redis"},
        {"stream": "true"},
    ]
    sounds = [clip, tone_wav(0.5, 330), tone_wav(2.5, 440), tone_wav(6.0, 550)]

    def ask(data: bytes, form: dict[str, str]) -> Ask:
        return Ask("transcription", 200, lambda: server.transcribe(data, **form))

    return [ask(sounds[i], fields[(i + k) % len(fields)]) for i in range(4) for k in range(2)]


def _refusals(server: Server) -> list[Ask]:
    return [
        Ask("no such voice", 400, lambda: server.speak(TEXT, "nobody")),
        Ask("too long a text", 400, lambda: server.speak("word " * 1000)),
        Ask("no recording", 400, lambda: server.transcribe(b"no sound at all" * 500)),
        Ask("no such page", 404, lambda: server.http.get("/v1/nothing")),
    ]


def _lists(server: Server) -> list[Ask]:
    return [
        Ask("page", 200, lambda path=path: server.http.get(path))  # type: ignore[misc]
        for path in ("/health", "/ready", "/metrics", "/v1/models", "/openapi.json")
    ]


def tone_wav(seconds: float, pitch_hz: float, rate_hz: int = 24_000) -> bytes:
    """A tone that swells and fades three times a second, as a 16-bit WAV file."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = 0.3 * np.sin(2 * np.pi * pitch_hz * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()
