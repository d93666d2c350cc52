"""What crosses a seam: frozen dataclasses, and the Backend protocol that separates web from engine.

The standard library and numpy only. `Pcm` is mono float32 sound in [-1, 1], shape [samples].
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.scope import Scope

Pcm = NDArray[np.float32]
Codes = NDArray[np.int16]  # [frames, code groups]

SPEECH_RATE_HZ = 24_000  # of everything the codec makes and every voice reference
LISTEN_RATE_HZ = 16_000  # of everything speech recognition hears


class ModelKind(StrEnum):
    """What a checkpoint is for; one of each kind is served at a time."""

    CUSTOM_VOICE = "custom_voice"
    VOICE_DESIGN = "voice_design"
    BASE = "base"
    ASR = "asr"
    ALIGNER = "aligner"


SPEECH_KINDS = (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN, ModelKind.BASE)


class EndReason(StrEnum):
    """Why a generation ended. The guards' reasons are loop and silence."""

    STOP = "stop"
    LENGTH = "length"
    LOOP = "loop"
    SILENCE = "silence"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One loaded checkpoint, as lists and metrics show it."""

    kind: ModelKind
    name: str  # folder name
    languages: tuple[str, ...]  # English names, capitalised
    speakers: tuple[str, ...] = ()  # the checkpoint's own names, lower case
    takes_instructions: bool = False
    max_prompt_tokens: int = 0
    fingerprint: str = ""  # Base: of what turns a reference into a voice prompt
    max_streams: int = 0  # requests of usual length at once; 0: nobody has counted
    scope: Scope | None = None  # what text it can take; None: any


@dataclass(frozen=True, slots=True)
class Sampling:
    """None means the checkpoint's own default. Temperature 0 is greedy."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True, slots=True)
class VoicePrompt:
    """A reference as a Base checkpoint takes it; codes fit every size, the vector only its own."""

    speaker_vector: Pcm  # [hidden size of the talker]
    codes: Codes | None = None  # None: speaker vector only
    text: str | None = None  # transcript, present exactly when codes are


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text for one prompt. `kind` says which checkpoint speaks it.

    custom_voice needs `speaker`, base needs `voice_prompt`, voice_design uses `instructions`.
    """

    kind: ModelKind
    text: str
    seed: int  # 0 … 2**63 - 1
    language: str | None = None  # English name as in languages.py; None: the model decides
    speaker: str | None = None
    instructions: str | None = None
    voice_prompt: VoicePrompt | None = None
    sampling: Sampling = Sampling()
    max_frames: int | None = None  # may lower the budget, never raise it
    owner: int = 1  # for fair order between users


@dataclass(frozen=True, slots=True)
class SpeechEnd:
    """The last item of a speech stream; no sound follows."""

    reason: EndReason
    num_frames: int
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    samples: Pcm  # at LISTEN_RATE_HZ
    language: str | None = None  # English name; None: detected
    context: str = ""
    sampling: Sampling = Sampling(temperature=0.0)
    seed: int = 0
    max_new_tokens: int | None = None  # of each piece of a long recording; may only lower the limit
    owner: int = 1


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that will not change any more."""

    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a transcript, as long audio is cut at quiet points."""

    start_s: float
    end_s: float
    text: str
    token_ids: tuple[int, ...]
    avg_logprob: float
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Transcript:
    """The last item of a transcription stream: everything."""

    text: str
    language: str  # English name, "" if there was no speech
    duration_s: float
    segments: tuple[Segment, ...]
    num_prompt_tokens: int
    num_output_tokens: int
    reason: EndReason


@dataclass(frozen=True, slots=True)
class RunnerStats:
    """A snapshot of one runner of the engine."""

    kind: ModelKind
    num_running: int
    num_waiting: int
    num_slots: int
    num_steps: int  # frames (speech) or tokens (recognition) stepped since the start
    ended: dict[EndReason, int] = field(default_factory=dict)


class Backend(Protocol):
    """The one seam with two sides: the engine in this process, a fake, or something far away.

    `speak` and `transcribe` raise SpeechError before the first item where they can; closing the
    generator early cancels the work within one step. Safe to call from any event loop.
    """

    def models(self) -> list[ModelInfo]:
        """The loaded checkpoints, at most one of each kind."""
        ...

    def stats(self) -> list[RunnerStats]: ...

    def trouble(self) -> str | None:
        """Why nothing can be computed any more until a new start; None while all is well."""
        ...

    def speak(self, request: SpeechRequest) -> AsyncGenerator[Pcm | SpeechEnd]:
        """Sound at SPEECH_RATE_HZ as it is made, then exactly one SpeechEnd."""
        ...

    async def make_voice_prompt(self, samples: Pcm, text: str | None) -> VoicePrompt:
        """From a reference at SPEECH_RATE_HZ; with its transcript also the reference's codes."""
        ...

    def transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[TextDelta | Transcript]:
        """Text as it becomes final, then exactly one Transcript."""
        ...

    async def close(self) -> None:
        """End every request in flight as cancelled and free the device."""
        ...
