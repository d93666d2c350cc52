"""Clients that want everything at once and write down what they were answered."""

import hashlib
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Event
from typing import Any

from benchmarks.light_client import GONE, Answer, Client
from benchmarks.mixed_requests import tone_wav

FORMATS = ("wav", "wav", "wav", "mp3", "flac")
WORDS = ("Hello", "big", "small", "world", "again")
MAX_SEED = 3  # few, so that different requests make the same bytes and share a file
RECORDINGS = [tone_wav(0.4, pitch_hz) for pitch_hz in (220, 330, 440)]  # all clients' the same


class State(StrEnum):
    """Of something that was answered; DELETING: nobody knows how its deletion ended."""

    KEPT = "kept"
    DELETING = "deleting"
    DELETED = "deleted"


@dataclass
class Sound:
    """What `store=true` was answered with."""

    sha256: str
    state: State = State.KEPT


@dataclass
class Journal:
    """What one client saw with its own eyes."""

    voices: dict[int, State] = field(default_factory=dict)
    sounds: dict[int, Sound] = field(default_factory=dict)  # by generation
    tokens: dict[int, int] = field(default_factory=dict)  # by generation
    batches: dict[int, int] = field(default_factory=dict)  # their tokens
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def kept_voices(self) -> list[int]:
        return [number for number, state in self.voices.items() if state is State.KEPT]

    def kept_sounds(self) -> list[int]:
        return [number for number, sound in self.sounds.items() if sound.state is State.KEPT]


class LoadClient:
    """Asks again as soon as it is answered, until it is told to stop or its server dies."""

    def __init__(self, key: str, chance: random.Random) -> None:
        self.key = key
        self.journal = Journal()
        self._chance = chance

    def work(self, address: str, is_over: Event) -> bool:
        """True if a request was cut off."""
        self._client = Client(address, self.key)
        try:
            while not is_over.is_set():
                self._choose()()
        except GONE as error:
            if not is_over.is_set():
                self.journal.faults.append(f"a client was cut off by a living server: {error!r}")
            return True
        finally:
            self._client.close()
        return False

    def _choose(self) -> Callable[[], None]:
        journal = self.journal
        if not journal.kept_voices():
            return self._clone
        actions = {self._clone: 15, self._speak: 40, self._speak_many: 12, self._speak_preset: 10}
        if len(journal.kept_voices()) > 2:
            actions[self._delete_voice] = 14
        if journal.kept_sounds():
            actions[self._delete_sound] = 12
        return self._chance.choices(list(actions), list(actions.values()))[0]

    def _clone(self) -> None:
        fields = {"name": "Geoff", "transcript": self._text(), "language": "English"}
        recording = self._chance.choice(RECORDINGS)
        answer = self._note("clone", self._client.upload("/clonevoice", fields, recording))
        if answer is not None:
            self.journal.voices[answer.json()["voice_id"]] = State.KEPT

    def _speak(self) -> None:
        is_stored = self._chance.random() < 0.6
        is_streamed = self._chance.random() < 0.4
        body = self._body(is_stored) | {"text": self._text(), "stream": is_streamed}
        how = "streamed" if is_streamed else "whole"
        what = f"stored {how} speech" if is_stored else f"{how} speech"
        answer = self._note(what, self._client.post("/tts", body))
        if answer is None:
            return
        number = int(answer.headers["X-Generation-Id"])
        self.journal.tokens[number] = int(answer.headers["X-Tokens-Used"])
        if is_stored:
            self.journal.sounds[number] = Sound(sha256(answer.data))

    def _speak_many(self) -> None:
        is_stored = self._chance.random() < 0.6
        texts = [self._text() for _ in range(self._chance.randint(2, 4))]
        body = self._body(is_stored) | {"texts": texts}
        what = "stored batch" if is_stored else "batch"
        answer = self._note(what, self._client.post("/batchtts", body))
        if answer is None:
            return
        with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            self.journal.batches[manifest["batch_id"]] = manifest["tokens_used"]
            for item in manifest["items"]:
                number = item["generation_id"]
                self.journal.tokens[number] = item["tokens"]
                if is_stored:
                    self.journal.sounds[number] = Sound(sha256(archive.read(item["filename"])))

    def _speak_preset(self) -> None:
        body = {"input": self._text(), "voice": "ryan", "response_format": "wav"}
        self._note("preset speech", self._client.post("/v1/audio/speech", body))

    def _delete_voice(self) -> None:
        number = self._chance.choice(self.journal.kept_voices())
        self.journal.voices[number] = State.DELETING
        if self._note("voice deleted", self._client.delete(f"/voices/{number}")) is not None:
            self.journal.voices[number] = State.DELETED

    def _delete_sound(self) -> None:
        number = self._chance.choice(self.journal.kept_sounds())
        sound = self.journal.sounds[number]
        sound.state = State.DELETING
        if self._note("sound deleted", self._client.delete(f"/getstored/{number}")) is not None:
            sound.state = State.DELETED

    def _body(self, is_stored: bool) -> dict[str, Any]:
        return {
            "voice_id": self._chance.choice(self.journal.kept_voices()),
            "format": self._chance.choice(FORMATS),
            "seed": self._chance.randint(1, MAX_SEED),
            "store": is_stored,
        }

    def _text(self) -> str:
        return " ".join(self._chance.choices(WORDS, k=self._chance.randint(1, 3)))

    def _note(self, what: str, answer: Answer) -> Answer | None:
        """The answer if it is the only right one."""
        if answer.status == 200:
            self.journal.answers[what] += 1
            return answer
        self.journal.faults.append(f"{what} was answered {answer.status}: {answer.data[:300]!r}")
        return None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
