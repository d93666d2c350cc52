"""A client of a real server: many texts to sound, many sounds to text, a handful at once."""

import base64
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx2

AT_ONCE = 6
_TIMEOUT_S = 300

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spoken:
    """One text and its answer; a refusal has no sound, and its reason says why."""

    text: str
    wav: bytes
    reason: str  # X-Finish-Reason
    wall_s: float = 0.0

    @property
    def is_ended(self) -> bool:
        return self.reason == "stop"


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording to speak like."""

    name: str
    wav: bytes
    text: str


class Client:
    """Asks one server; every method may be called from one thread only."""

    def __init__(self, address: str, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
        self._http = httpx2.Client(base_url=address, timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def speak(self, body: Json) -> Spoken:
        began_s = time.perf_counter()
        answer = self._http.post("/v1/audio/speech", json={"response_format": "wav", **body})
        wall_s = time.perf_counter() - began_s
        if answer.status_code != 200:
            return Spoken(body["input"], b"", f"{answer.status_code}: {answer.text[:200]}", wall_s)
        reason = answer.headers["X-Finish-Reason"]
        return Spoken(body["input"], answer.content, reason, wall_s)

    def speak_all(self, bodies: Iterable[Json]) -> list[Spoken]:
        with ThreadPoolExecutor(self.at_once) as threads:
            return list(threads.map(self.speak, bodies))

    def hear(self, data: bytes, name: str = "clip.wav") -> str:
        """What the server understands; nothing where there is no sound, wrong words if refused."""
        if not data:
            return ""
        answer = self._http.post("/v1/audio/transcriptions", files={"file": (name, data)})
        if answer.status_code != 200:
            return f"refused with {answer.status_code}"
        return str(answer.json()["text"])

    def hear_all(self, sounds: Sequence[bytes], name: str = "clip.wav") -> list[str]:
        with ThreadPoolExecutor(self.at_once) as threads:
            return list(threads.map(lambda data: self.hear(data, name), sounds))


def named(texts: Sequence[str], voice: str, *, is_greedy: bool) -> list[Json]:
    """Requests for a speaker. A seed of one's own also forbids the server's second attempts."""
    return [
        {"input": text, "voice": voice, **_choosing(is_greedy, number)}
        for number, text in enumerate(texts)
    ]


def cloned(texts: Sequence[str], reference: Reference, *, with_text: bool) -> list[Json]:
    sample: Json = {"audio_sample": base64.b64encode(reference.wav).decode()}
    if with_text:
        sample["audio_sample_text"] = reference.text
    return [
        {"input": text, **sample, **_choosing(True, number)} for number, text in enumerate(texts)
    ]


def described(texts: Sequence[str], description: str) -> list[Json]:
    fields = {"task_type": "VoiceDesign", "instructions": description}
    return [
        {"input": text, **fields, **_choosing(True, number)} for number, text in enumerate(texts)
    ]


def _choosing(is_greedy: bool, seed: int) -> Json:
    return {"seed": seed, **({"temperature": 0} if is_greedy else {})}
