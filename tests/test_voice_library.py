"""Voices without HTTP: prompts that are made once and again, references, transcripts, limits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_rows import count

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.books import LOCAL_CALLER
from qwen3_audio.errors import BadRequest, LimitReached, SpeechError
from qwen3_audio.fake import FakeBackend
from qwen3_audio.scope import Scope
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.store.keys import Caller
from qwen3_audio.store.opening import Store
from qwen3_audio.store.tables import voices
from qwen3_audio.store.users import Limits, add_user
from qwen3_audio.store.voices import get_voice_to_speak, set_prompt
from qwen3_audio.types import SPEECH_RATE_HZ, ModelKind, Pcm, VoicePrompt
from qwen3_audio.voice_library import CloneForm, DesignForm, clone_voice, design_voice
from qwen3_audio.voice_prompts import pack_prompt, unpack_prompt
from qwen3_audio.voice_samples import PAUSE_S, prepare_reference, transcript_error_rate, trim

SAID = "the quick"
ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


def tone(seconds: float, level: float = 0.3) -> Pcm:
    time_s = np.arange(round(seconds * SPEECH_RATE_HZ)) / SPEECH_RATE_HZ
    return (level * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


class Base(FakeBackend):
    """A Base checkpoint of some width that remembers what it was asked to make prompts of."""

    def __init__(self, width: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        self.references: list[tuple[Pcm, str | None]] = []
        for info in self._models:
            if info.kind is ModelKind.BASE:
                object.__setattr__(info, "fingerprint", f"width {width}")

    async def make_voice_prompt(self, samples: Pcm, text: str | None) -> VoicePrompt:
        self.references.append((samples, text))
        vector = np.resize(samples, self.width).astype(np.float32)
        return VoicePrompt(vector, np.ones((3, 16), np.int16), text)


MakeService = Callable[..., SpeechService]


@pytest.fixture
def make_service(store: Store) -> MakeService:
    def make(backend: FakeBackend, **settings: Any) -> SpeechService:
        return SpeechService(backend, Settings(**settings), store=store)

    return make


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def clone(
    service: SpeechService,
    *,
    caller: Caller = LOCAL_CALLER,
    sound: Pcm | None = None,
    rate_hz: int = SPEECH_RATE_HZ,
    **form: Any,
) -> Any:
    audio = wav_bytes(tone(1.0) if sound is None else sound, rate_hz)
    fields = {"name": "Geoff", "transcript": SAID, **form}
    assert service.store is not None
    return run(clone_voice(service, service.store, caller, CloneForm(audio=audio, **fields)))


@ON_SQLITE
def test_a_small_model_refuses_transcripts_and_descriptions_that_it_does_not_know(
    make_service: MakeService,
) -> None:
    service = make_service(FakeBackend(scope=Scope("English alone")))
    assert service.store is not None
    with pytest.raises(BadRequest, match="English alone") as error:
        clone(service, transcript="Привет")
    assert error.value.param == "transcript"
    form = DesignForm(name="Geoff", description="低い声")
    with pytest.raises(BadRequest, match="English alone") as error:
        run(design_voice(service, service.store, LOCAL_CALLER, form))
    assert error.value.param == "description"


def load(service: SpeechService, voice_id: int) -> VoicePrompt:
    assert service.voices is not None
    prompt: VoicePrompt = run(service.voices.load_prompt(service.voices.get(1, voice_id)))
    return prompt


def kept(store: Store, voice_id: int) -> tuple[bytes, str]:
    with store.db.read() as conn:
        row = get_voice_to_speak(conn, 1, voice_id)
    assert row.prompt is not None
    assert row.model_fingerprint is not None
    return row.prompt, row.model_fingerprint


# Prompts


def test_a_prompt_is_computed_once_and_read_ever_after(make_service: MakeService) -> None:
    backend = Base()
    service = make_service(backend)
    voice_id = clone(service).voice_id
    ((_, text),) = backend.references
    first, second = load(service, voice_id), load(service, voice_id)
    assert len(backend.references) == 1
    assert first.text == second.text == text == SAID
    assert first.codes is not None
    np.testing.assert_array_equal(first.speaker_vector, second.speaker_vector)


def test_a_checkpoint_of_another_size_makes_the_prompt_anew_of_the_same_reference(
    store: Store, make_service: MakeService
) -> None:
    small, large = Base(8), Base(16)
    voice_id = clone(make_service(small), rate_hz=22_050).voice_id  # resampled, then kept
    service = make_service(large)
    assert load(service, voice_id).speaker_vector.shape == (16,)
    assert load(service, voice_id).speaker_vector.shape == (16,)
    ((samples, text),) = large.references  # once: it is kept
    assert text == SAID
    np.testing.assert_array_equal(samples, small.references[0][0])
    assert kept(store, voice_id)[1] == "width 16"
    assert load(make_service(small), voice_id).speaker_vector.shape == (8,)


def damaged(data: bytes) -> list[bytes]:
    header = data[8:].replace(b'"F32","shape":[8]', b'"BF16","shape":[16]')
    return [
        (len(header) - 128).to_bytes(8, "little") + header,  # a type that numpy lacks
        b"",
        b"\0" * 8,
        b"\xff" * 8 + data[8:],
        data[:-5],
        data + b"more",
        data.replace(b'"version":"1"', b'"version":"2"'),
        data.replace(b'"F32"', b'"F16"'),
        data.replace(b'"F32"', b'"XYZ"'),
        data.replace(b"speaker_vector", b"speaker_victor"),
        data.replace(b"__metadata__", b"__metadatu__"),
    ]


@ON_SQLITE
def test_damaged_bytes_and_those_of_another_version_are_made_anew(
    store: Store, make_service: MakeService
) -> None:
    backend = Base()
    service = make_service(backend)
    voice_id = clone(service).voice_id
    good, fingerprint = kept(store, voice_id)
    first = load(service, voice_id)
    for number, data in enumerate(damaged(good), start=1):
        assert data != good
        with store.db.write() as conn:
            set_prompt(conn, 1, voice_id, prompt=data, model_fingerprint=fingerprint)
        for prompt in (load(service, voice_id), load(service, voice_id)):
            np.testing.assert_array_equal(prompt.speaker_vector, first.speaker_vector)
        assert len(backend.references) == 1 + number, data


@given(st.data())
def test_whatever_happened_to_the_bytes_a_prompt_or_none_comes_of_it(data: st.DataObject) -> None:
    prompt = VoicePrompt(np.ones(4, np.float32), np.ones((2, 16), np.int16), "a")
    packed = bytearray(pack_prompt(prompt, fingerprint="f"))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    read = unpack_prompt(bytes(packed), fingerprint="f", text="a")
    assert read is None or read.speaker_vector.ndim == 1


# References


def test_quiet_at_both_ends_is_cut_and_half_a_second_follows() -> None:
    quiet = np.zeros(SPEECH_RATE_HZ, np.float32)
    noise = tone(1.0, level=0.001)  # 50 dB below the speech
    sound = np.concatenate((quiet, noise, tone(1.0), noise, quiet))
    prepared = prepare_reference(sound)
    pause = round(PAUSE_S * SPEECH_RATE_HZ)
    assert not prepared[-pause:].any()
    assert len(prepared) - pause == pytest.approx(1.2 * SPEECH_RATE_HZ, abs=2 * 480)
    np.testing.assert_array_equal(trim(tone(1.0)), tone(1.0))
    soft = np.concatenate((tone(0.5), tone(0.5, level=0.02), tone(0.5)))  # pauses inside stay
    np.testing.assert_array_equal(trim(soft), soft)


@given(st.integers(1, 3000), st.floats(0, 1, width=32))
def test_trimming_keeps_a_piece_of_what_was_there(num_samples: int, level: float) -> None:
    sound = np.full(num_samples, level, np.float32)
    np.testing.assert_array_equal(trim(sound), sound)


@ON_SQLITE
def test_the_engine_hears_the_prepared_copy_and_the_sample_stays_whole(
    store: Store, make_service: MakeService
) -> None:
    backend = Base()
    service = make_service(backend)
    sound = np.concatenate((np.zeros(SPEECH_RATE_HZ, np.float32), tone(1.0)))
    voice_id = clone(service, sound=sound).voice_id
    ((heard, _),) = backend.references
    assert len(heard) == pytest.approx(1.6 * SPEECH_RATE_HZ, abs=2 * 480)
    assert service.voices is not None
    sample = store.blobs.read(service.voices.get(1, voice_id).row.reference_sha256)
    assert sample == wav_bytes(sound, SPEECH_RATE_HZ)


# Transcripts


@pytest.mark.parametrize(
    ("transcript", "heard", "language", "rate"),
    [
        ("The quick, brown fox!", "the quick brown fox", "English", 0),
        ("the quick brown fox", "the slow brown fox", "English", 1 / 4),
        ("the quick", "the very quick fox", "English", 1),
        ("the quick brown fox", "", "English", 1),
        ("don't", "dont", "English", 0),
        ("ＡＢＣ", "abc", "English", 0),
        ("你好，世界", "你好世间", "Chinese", 1 / 4),
        ("...", "the quick", "English", 2),
        ("...", "", "English", 0),
    ],
)
def test_the_error_rate_counts_words_or_characters(
    transcript: str, heard: str, language: str, rate: float
) -> None:
    assert transcript_error_rate(transcript, heard, language=language) == pytest.approx(rate)


@ON_SQLITE
def test_a_wrong_transcript_is_refused_only_above_what_is_allowed(
    store: Store, make_service: MakeService
) -> None:
    half_wrong = "the slow"  # the fake engine hears "the quick"
    assert clone(make_service(Base()), transcript=half_wrong).transcript_error_rate == 0.5
    allowed = make_service(Base(), max_transcript_error=0.5)
    assert clone(allowed, transcript=half_wrong).warning is None
    backend = Base()
    with pytest.raises(BadRequest, match=r"0\.5, at most 0\.4 is allowed") as refused:
        clone(
            make_service(backend, max_transcript_error=0.4),
            transcript=half_wrong,
            transcript_param="ref_text",
        )
    assert refused.value.param == "ref_text"
    assert backend.references == []
    assert count(store, voices) == 2


# Limits, before the engine works


def limited(store: Store, **limits: int) -> Caller:
    with store.db.write() as conn:
        user_id = add_user(conn, limits=Limits(**limits))
    return Caller(user_id, None, Limits(**limits), None)


def design(service: SpeechService, caller: Caller) -> Any:
    assert service.store is not None
    form = DesignForm(name="Ada", description="Warm.")
    return run(design_voice(service, service.store, caller, form))


def refuse(work: Callable[[], object], says: str) -> SpeechError:
    with pytest.raises(LimitReached, match=says) as refused:
        work()
    assert refused.value.code == "insufficient_quota"
    return refused.value


@pytest.mark.parametrize("transcript", [SAID, "auto"])
def test_who_has_no_tokens_left_costs_the_engine_nothing(
    store: Store, make_service: MakeService, transcript: str
) -> None:
    backend = Base()
    service, caller = make_service(backend), limited(store, max_tokens_per_day=0)
    refuse(lambda: clone(service, caller=caller, transcript=transcript), "0 tokens a day")
    refuse(lambda: design(service, caller), "0 tokens a day")
    assert (backend.last_request, backend.references) == (None, [])
    assert count(store, voices) == 0


@ON_SQLITE
def test_a_transcript_that_was_written_down_has_its_price_too(
    store: Store, make_service: MakeService
) -> None:
    backend = Base()
    poor = limited(store, max_tokens_per_day=len(SAID) - 1)
    refuse(lambda: clone(make_service(backend), caller=poor, transcript="auto"), "needs 9 of")
    assert (backend.references, count(store, voices)) == ([], 0)
    rich = limited(store, max_tokens_per_day=len(SAID), max_requests_at_once=1)
    made = clone(make_service(Base()), caller=rich, transcript="auto")
    assert made.tokens == len(SAID)


@ON_SQLITE
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_voices": 1}, "1 voices of 1.0 MB, and 1 of"),
        ({"max_voice_mb": 1}, "of 1 MB are allowed"),
    ],
)
def test_who_has_enough_voices_costs_the_engine_nothing(
    store: Store, make_service: MakeService, settings: dict[str, int], says: str
) -> None:
    backend = Base()
    service, caller = make_service(backend, **settings), limited(store)
    clone(service, caller=caller, sound=tone(21.5))  # almost a megabyte
    backend.references.clear()
    backend.last_request = None
    refuse(lambda: clone(service, caller=caller, transcript="auto"), says)
    refuse(lambda: design(service, caller), says)
    assert (backend.last_request, backend.references) == (None, [])
    clone(service, caller=limited(store))  # somebody else has room


@ON_SQLITE
def test_a_voice_too_large_for_the_room_that_is_left_is_not_kept(
    store: Store, make_service: MakeService
) -> None:
    service = make_service(Base(), max_voice_mb=1)
    refuse(lambda: clone(service, sound=tone(25.0)), "0 voices of 0.0 MB, and 1000 of 1 MB")
    wide = make_service(Base(width=50_000), max_voice_mb=1)  # the prompt counts, too
    refuse(lambda: clone(wide, sound=tone(21.5)), "would take 12")
    assert count(store, voices) == 0
