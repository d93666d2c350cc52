"""What a client asks for, and what is left of it once it has been checked.

Forms hold values as the client gave them; orders hold what the back-end can be asked for.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from qwen3_audio.errors import BadRequest, NotLoaded
from qwen3_audio.languages import OPENAI_VOICES, SPEAKERS
from qwen3_audio.sentences import split_text
from qwen3_audio.types import (
    LISTEN_RATE_HZ,
    EndReason,
    ModelInfo,
    ModelKind,
    Sampling,
    SpeechRequest,
    Transcript,
    TranscriptionRequest,
)

MAX_SEED = 2**63 - 1
MAX_DRAWN_SEED = 2**32 - 1  # short enough to be typed again
MAX_CONTEXT_CHARS = 10_000
MAX_TEMPERATURE = 2
MAX_COUNT = 2**31 - 1
DEFAULT_VOICE = "alloy"
STORED_NEEDS = "a voice of the library needs a Base model"
VARIABLES = {
    ModelKind.CUSTOM_VOICE: "TTS_CUSTOMVOICE_MODEL_PATH",
    ModelKind.VOICE_DESIGN: "TTS_VOICEDESIGN_MODEL_PATH",
    ModelKind.BASE: "TTS_BASE_MODEL_PATH",
    ModelKind.ASR: "ASR_MODEL_PATH",
}
Upload = bytes | str | BinaryIO  # str: base64 or a data URL

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingForm:
    """Numbers as given; None means left out."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechForm:
    text: str
    voice: str | None = None
    language: str | None = None
    instructions: str | None = None
    kind: ModelKind | None = None  # None: chosen by what is asked for
    audio_sample: Upload | None = None
    audio_sample_text: str | None = None
    sampling: SamplingForm = SamplingForm()


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionForm:
    audio: Upload
    audio_param: str = "file"  # what the client calls it
    language: str | None = None
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    sampling: SamplingForm = SamplingForm()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechOrder:
    """One text, ready to be spoken part after part as one stream."""

    parts: tuple[SpeechRequest, ...]
    model: ModelInfo
    may_retry: bool
    num_chars: int
    received_s: float
    warnings: tuple[str, ...] = ()
    voice_id: int | None = None  # of a stored voice
    voice_owner_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionOrder:
    request: TranscriptionRequest
    model: ModelInfo
    has_sound: bool  # False: too short or digitally silent, so there is nothing to recognise
    received_s: float

    @property
    def duration_s(self) -> float:
        return len(self.request.samples) / LISTEN_RATE_HZ

    def nothing_said(self) -> Transcript:
        """The transcript of a recording without speech."""
        return Transcript(
            text="",
            language="",
            duration_s=self.duration_s,
            segments=(),
            num_prompt_tokens=0,
            num_output_tokens=0,
            reason=EndReason.STOP,
        )


def check_text(text: str, *, max_chars: int, param: str = "input") -> str:
    """The text without outer white space."""
    text = text.strip()
    if not text:
        raise BadRequest(f"{param} is empty.", param=param, code="invalid_value")
    return check_length(text, param=param, max_chars=max_chars)


def check_length(text: str, *, param: str, max_chars: int = MAX_CONTEXT_CHARS) -> str:
    if len(text) > max_chars:
        raise BadRequest(
            f"{param} has {len(text)} characters; at most {max_chars} are allowed.",
            param=param,
            code="string_above_max_length",
        )
    return text


def fit_text(text: str, model: ModelInfo, *, param: str) -> str:
    """The text as this model can take it; BadRequest for what a small one does not know."""
    return text if model.scope is None else model.scope.fit(text, param=param)


def check_instructions(text: str | None) -> str | None:
    text = (text or "").strip()
    if text in ("", "None"):  # a client that formats a missing value sends "None"
        return None
    return check_length(text, param="instructions")


def join_context(prompt: str, keywords: tuple[str, ...]) -> str:
    context = "\n".join(filter(None, (prompt.strip(), ", ".join(keywords))))
    return check_length(context, param="prompt")


def check_sampling(form: SamplingForm) -> Sampling:
    """Numbers within their ranges; NaN and infinity are outside every range."""
    _check_range("temperature", form.temperature, 0, MAX_TEMPERATURE)
    _check_range("top_p", form.top_p, 0, 1)
    _check_range("top_k", form.top_k, 0, MAX_COUNT)
    _check_range("seed", form.seed, 0, MAX_SEED)
    _check_range("max_new_tokens", form.max_new_tokens, 1, MAX_COUNT)
    return Sampling(temperature=form.temperature, top_k=form.top_k, top_p=form.top_p)


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:  # NaN is not either
        raise BadRequest(
            f"{name} is not a number from {low} to {high}.", param=name, code="invalid_value"
        )


def draw_seed() -> int:
    return secrets.randbelow(MAX_DRAWN_SEED + 1)


def shift_seed(seed: int, step: int) -> int:
    return (seed + step) % (MAX_SEED + 1)


def find_model(models: Iterable[ModelInfo], kind: ModelKind) -> ModelInfo | None:
    return next((model for model in models if model.kind is kind), None)


def get_model(models: Iterable[ModelInfo], kind: ModelKind, *, purpose: str) -> ModelInfo:
    """The loaded checkpoint of a kind; NotLoaded names the variable that would load one."""
    model = find_model(models, kind)
    if model is None:
        raise NotLoaded(
            f"{purpose}, and none is loaded: {VARIABLES[kind]} or --model-path names one.",
            code="model_not_loaded",
        )
    return model


def choose_speech_model(
    models: list[ModelInfo],
    *,
    has_sample: bool,
    instructions: str | None,
    has_stored_voice: bool = False,
    kind: ModelKind | None = None,
) -> ModelInfo:
    """Base for a sample or a stored voice, else the kind that is asked for, else CustomVoice;
    VoiceDesign where it alone can follow instructions.
    """
    if has_sample:
        return get_model(models, ModelKind.BASE, purpose="audio_sample needs a Base model")
    if has_stored_voice:
        return get_model(models, ModelKind.BASE, purpose=STORED_NEEDS)
    if kind is ModelKind.BASE:
        raise BadRequest(
            "task_type Base needs audio_sample or a stored voice.",
            param="task_type",
            code="invalid_value",
        )
    if kind is ModelKind.VOICE_DESIGN and not instructions:
        raise BadRequest(
            "task_type VoiceDesign needs instructions that describe the voice.",
            param="instructions",
            code="missing_required_parameter",
        )
    if kind is not None:
        return get_model(models, kind, purpose=f"task_type asks for a {kind} model")
    design = find_model(models, ModelKind.VOICE_DESIGN)
    if design and instructions and not find_model(models, ModelKind.CUSTOM_VOICE):
        return design
    purpose = "voice needs a CustomVoice model"
    if design and not instructions:
        purpose = "without instructions, which VoiceDesign follows, " + purpose
    return get_model(models, ModelKind.CUSTOM_VOICE, purpose=purpose)


def find_speaker(voice: str | None, speakers: tuple[str, ...]) -> str:
    """The checkpoint's own spelling of the speaker that a voice name means, in any case.

    A speaker of the documents that this checkpoint lacks is its first one.
    """
    name = (voice or "").strip().lower() or DEFAULT_VOICE
    own = {speaker.lower(): speaker for speaker in speakers}
    meant = name if name in own else OPENAI_VOICES.get(name, name).lower()
    if meant in own:
        return own[meant]
    if speakers and meant in {speaker.lower() for speaker in SPEAKERS}:
        return speakers[0]
    raise BadRequest(
        f"Unknown voice {name[:60]!r}; choose one of {', '.join(spell_speakers(speakers))},"
        f" {', '.join(OPENAI_VOICES)}.",
        param="voice",
        code="invalid_value",
    )


def spell_speakers(speakers: Iterable[str]) -> list[str]:
    """The speakers of a checkpoint as the documents spell them, where they know them."""
    documented = {speaker.lower(): speaker for speaker in SPEAKERS}
    return [documented.get(speaker.lower(), speaker) for speaker in speakers]


def split_request(request: SpeechRequest, model: ModelInfo) -> tuple[SpeechRequest, ...]:
    """Long text as several requests, each with numbers of its own: seed, seed + 1 and so on."""
    most = None if model.scope is None else model.scope.max_chars
    limits = {} if most is None else {"whole_chars": most, "part_chars": most}
    return tuple(
        replace(request, text=part, seed=shift_seed(request.seed, index))
        for index, part in enumerate(split_text(request.text, **limits))
    )


def read_upload(upload: Upload, *, param: str) -> bytes | BinaryIO:
    """Bytes or an open file as they are, text as base64; a path or address is never opened."""
    return decode_base64(upload, param=param) if isinstance(upload, str) else upload


def decode_base64(text: str, *, param: str) -> bytes:
    """The bytes of a data URL or of base64 text: either alphabet, white space, padding or none."""
    match = _DATA_URL.match(text.lstrip())
    body = text.lstrip()[match.end() :] if match else text
    packed = "".join(body.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(
            f"{param} is neither an uploaded file nor base64; paths and addresses are not opened.",
            param=param,
            code="invalid_audio",
        ) from None
    if not data:
        raise BadRequest(f"{param} is empty.", param=param, code="invalid_audio")
    return data
