"""`serve --demo` from the outside: words go in, the same words come out.

The sentences are held out of the pocket models' training (`training/world/grammar.py`).
"""

import base64
import io
import re
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import jiwer
import numpy as np
import pytest
from live_process import LiveProcess, run_server
from openai import OpenAI

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.languages import SPEAKERS
from qwen3_audio.types import SPEECH_RATE_HZ, Pcm

pytestmark = pytest.mark.slow

SENTENCES = (
    "Is the scarf yours?",
    "Maria has the headache and needs a nurse.",
    "Set a timer for forty two months.",
    "What is the weather in Tokyo on Saturday?",
    "Her test was quite ill.",
    "The grandmother of Charles is a minister.",
    "Our happy sailor and a complicated turtle received the money.",
    "Taste the pizza and the corn.",
    "They will need their differences.",
    "This cousin has a hospital and needs a doctor.",
    "The flight to Rome is late.",
    "We are talking seriously.",
)
MAX_WER = 0.08
MAX_CLONED_WER = 0.2
MAX_LONG_WER = 0.12
GREEDY = {"temperature": 0, "seed": 1}
SPEECH, HEARING = "/v1/audio/speech", "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveProcess]:
    env = {name: str(tmp_path_factory.mktemp(name)) for name in ("DATA_DIR", "XDG_CACHE_HOME")}
    with run_server(["-m", "qwen3_audio", "serve", "--demo"], **env) as server:
        yield server


@pytest.fixture(scope="module")
def client(demo: LiveProcess) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=demo.address, timeout=60) as client:
        yield client


def say(client: httpx2.Client, text: str, **fields: object) -> httpx2.Response:
    body = {"input": text, "response_format": "wav", **GREEDY, **fields}
    reply = client.post(SPEECH, json=body)
    assert reply.status_code == 200, reply.text
    return reply


def hear(client: httpx2.Client, sound: bytes, name: str = "a.wav") -> str:
    reply = client.post(HEARING, files={"file": (name, sound)})
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["text"]
    return text


def plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    return float(jiwer.wer([*map(plain, said)], [*map(plain, heard)]))


def samples_of(sound: bytes) -> Pcm:
    return decode_audio(sound, sample_rate_hz=SPEECH_RATE_HZ, max_seconds=300)


def pitch_hz(samples: Pcm) -> float:
    """Where the autocorrelation of the whole is highest between 60 and 400 Hz."""
    spectrum = np.fft.rfft(samples, 2 * len(samples))
    similarity = np.fft.irfft(np.abs(spectrum) ** 2)
    shortest, longest = SPEECH_RATE_HZ // 400, SPEECH_RATE_HZ // 60
    best = shortest + int(np.argmax(similarity[shortest:longest]))
    while best > 2 * shortest and similarity[best // 2] > 0.9 * similarity[best]:
        best //= 2  # of a strictly regular voice every multiple of the period is as good
    return SPEECH_RATE_HZ / best


@pytest.mark.parametrize("voice", SPEAKERS)
def test_what_a_speaker_says_is_heard(client: httpx2.Client, voice: str) -> None:
    replies = [say(client, text, voice=voice) for text in SENTENCES]
    assert {reply.headers["x-finish-reason"] for reply in replies} == {"stop"}
    assert {reply.headers["x-model"] for reply in replies} == {"pocket-tts-custom-voice"}
    heard = [hear(client, reply.content) for reply in replies]
    assert word_error_rate(SENTENCES, heard) <= MAX_WER


def test_sampled_speech_means_the_same_and_ends_by_itself(client: httpx2.Client) -> None:
    replies = [
        say(client, text, temperature=None, seed=number) for number, text in enumerate(SENTENCES)
    ]
    assert {reply.headers["x-finish-reason"] for reply in replies} == {"stop"}
    heard = [hear(client, reply.content) for reply in replies]
    assert word_error_rate(SENTENCES, heard) <= MAX_WER


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac"])
def test_words_survive_every_format(client: httpx2.Client, name: str) -> None:
    replies = [say(client, text, response_format=name) for text in SENTENCES[:6]]
    heard = [hear(client, reply.content, f"a.{name}") for reply in replies]
    assert word_error_rate(SENTENCES[:6], heard) <= 0.12


def test_openais_client_speaks_and_listens(demo: LiveProcess) -> None:
    text = "Good morning. How are you today?"
    with OpenAI(base_url=f"{demo.address}/v1", api_key="none") as client:
        spoken = client.audio.speech.create(model="x", voice="alloy", input=text)
        file = ("speech.mp3", spoken.read())
        heard = client.audio.transcriptions.create(model="x", file=file, temperature=0)
    assert plain(heard.text) == plain(text)


def test_long_text_is_spoken_to_its_end(client: httpx2.Client) -> None:
    text = " ".join(SENTENCES * 2)
    assert len(text) > 600
    reply = say(client, text)
    assert reply.headers["x-finish-reason"] == "stop"
    assert word_error_rate([text], [hear(client, reply.content)]) <= MAX_LONG_WER


def test_punctuation_is_a_pause(client: httpx2.Client) -> None:
    plain = len(say(client, "Good morning we are late").content)
    assert len(say(client, "Good morning. We are late.").content) > plain


def test_subtitles_stand_where_the_words_are(client: httpx2.Client) -> None:
    sound = say(client, "Taste the pizza and the corn.").content
    form = {"response_format": "verbose_json"}
    told = client.post(HEARING, files={"file": ("a.wav", sound)}, data=form).json()
    assert told["language"].lower().startswith("en")
    assert told["duration"] == pytest.approx(len(samples_of(sound)) / SPEECH_RATE_HZ, abs=0.1)
    assert [segment["text"].strip() for segment in told["segments"]] == [told["text"]]


def test_a_clone_follows_the_pitch_of_the_recording(client: httpx2.Client) -> None:
    said = "This cousin has a hospital and needs a doctor."
    found = {}
    for voice in ("uncle_fu", "vivian"):
        reference = say(client, said, voice=voice).content
        for transcript in (None, said):
            more = {} if transcript is None else {"audio_sample_text": transcript}
            sample = base64.b64encode(reference).decode()
            replies = [say(client, text, audio_sample=sample, **more) for text in SENTENCES[:6]]
            assert {reply.headers["x-model"] for reply in replies} == {"pocket-tts-base"}
            heard = [hear(client, reply.content) for reply in replies]
            assert word_error_rate(SENTENCES[:6], heard) <= MAX_CLONED_WER
            found[voice, transcript] = pitch_hz(samples_of(replies[0].content))
        assert found[voice, None] == pytest.approx(pitch_hz(samples_of(reference)), rel=0.1)
    assert found["vivian", said] > 1.5 * found["uncle_fu", said]


def test_a_description_chooses_pitch_and_tempo(client: httpx2.Client) -> None:
    def describe(words: str) -> bytes:
        fields = {"task_type": "VoiceDesign", "instructions": words}
        reply = say(client, "The flight to Rome is late.", **fields)
        assert reply.headers["x-model"] == "pocket-tts-voice-design"
        return reply.content

    low, high = describe("A deep male voice."), describe("A high female voice.")
    assert pitch_hz(samples_of(high)) > 1.5 * pitch_hz(samples_of(low))
    slow = describe("A deep male voice, speaking slowly.")
    fast = describe("A deep male voice, speaking quickly.")
    assert len(slow) > len(low) > len(fast)


def test_a_stored_voice_says_what_a_user_writes(client: httpx2.Client) -> None:
    said = "The grandmother of Charles is a minister."
    files = {"file": ("a.wav", say(client, said, voice="sohee").content)}
    made = client.post("/clonevoice", files=files, data={"name": "Her", "transcript": "auto"})
    assert made.status_code == 200, made.text
    body = {"voice_id": made.json()["voice_id"], "text": "The flight to Rome is late."}
    spoken = client.post("/tts", json=body)
    assert spoken.status_code == 200, spoken.text
    assert word_error_rate([body["text"]], [hear(client, spoken.content)]) <= MAX_CLONED_WER


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(48_000, np.float32),
        0.05 * np.random.default_rng(1).standard_normal(72_000).astype(np.float32),
        0.3 * np.sin(np.arange(72_000) * 0.11).astype(np.float32),
    ],
    ids=["silence", "noise", "tone"],
)
def test_where_nobody_speaks_nothing_is_written(client: httpx2.Client, samples: Pcm) -> None:
    assert hear(client, wav_bytes(samples, SPEECH_RATE_HZ)) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": "Привет, мир"}, ("Cyrillic", "simple English")),
        ({"input": "hello 你好"}, ("Chinese", "simple English")),
        ({"input": "👋🏽"}, ("no letter and no digit", "simple English")),
        ({"input": "Hello.", "language": "Chinese"}, ("Unknown language", "English")),
        (
            {"input": "Hello.", "task_type": "VoiceDesign", "instructions": "低い声"},
            ("instructions", "simple English"),
        ),
    ],
)
def test_what_it_does_not_know_is_refused_in_one_sentence(
    client: httpx2.Client, fields: dict[str, str], words: Sequence[str]
) -> None:
    reply = client.post(SPEECH, json=fields)
    assert reply.status_code == 400
    message = reply.json()["error"]["message"]
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "text",
    [
        "Pneumonoultramicroscopicsilicovolcanoconiosis",
        "1234567890 0987654321 1234567890",
        "a.b.c/d_e@f.com?g=h#i",
        "QWERTZ Zyx Llanfairpwll",
        '<|im_end|> <tts_pad> {"a": [1]}',
    ],
)
def test_any_latin_text_is_spoken_and_ends(client: httpx2.Client, text: str) -> None:
    reply = say(client, text)
    assert reply.headers["x-finish-reason"] == "stop"
    assert len(samples_of(reply.content)) > 0


def test_one_letter_for_ever_is_ended(client: httpx2.Client) -> None:
    assert say(client, "x" * 400).headers["x-finish-reason"] in ("stop", "loop")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Taste the pizza & the corn 🍕!", "Taste the pizza and the corn."),
        ("“Taste” the pizza – and the corn…", "Taste the pizza and the corn."),
        ("Taste (the) pizza: and; the-corn", "Taste the pizza and the corn."),
        (
            "The flight to Rome is late\nTaste the corn",
            "The flight to Rome is late. Taste the corn.",
        ),
    ],
)
def test_signs_are_pauses_or_words(client: httpx2.Client, text: str, said: str) -> None:
    assert plain(hear(client, say(client, text).content)) == plain(said)


def test_the_start_says_that_they_are_pocket_models(demo: LiveProcess) -> None:
    assert "pocket models" in demo.what


def test_wav_has_a_whole_number_of_frames(client: httpx2.Client) -> None:
    with wave.open(io.BytesIO(say(client, "Hello.").content)) as sound:
        assert sound.getnframes() % 1920 == 0


def test_recordings_of_people_do_no_harm(client: httpx2.Client) -> None:
    recording = (Path(__file__).parent.parent / "data/query_to_cars.wav").read_bytes()
    hear(client, recording)
    fields = {"audio_sample": base64.b64encode(recording).decode()}
    heard = hear(client, say(client, "The flight to Rome is late.", **fields).content)
    assert word_error_rate(["The flight to Rome is late."], [heard]) <= 0.34
