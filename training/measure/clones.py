"""Speech like a recording: the words, and how closely pitch and brightness follow it."""

from collections.abc import Sequence

import numpy as np
import soxr

from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.bench.own_server import run_own_server
from qwen3_audio.types import SPEECH_RATE_HZ
from training.measure.asking import Client, Reference, Spoken, cloned, named
from training.measure.figures import count_ends, ends_of, follows, pooled_wer, words_of
from training.measure.plan import Json, Plan
from training.measure.sound import brightness_hz, median, pitch_hz, samples_of, shared_espeak
from training.run import say
from training.tts.evaluate import draw_sentences
from training.world.espeak import Style

_FROM_VOICES = ("uncle_fu", "dylan", "serena", "ono_anna")
# Pitch of espeak, and how much shorter the vocal tract is made by playing it faster.
_FROM_ESPEAK = ((5, 0.95), (25, 1.0), (45, 1.1), (65, 1.0), (85, 1.1), (99, 1.2))
_LOUDEST = 0.7  # of full scale
_SEED = 3
_FEWER = 10  # each reference speaks a tenth of the sentences
_WAYS = {"with_text": True, "without_text": False}


def measure_clones(plan: Plan) -> Json:
    """Each reference with its text and without; the references' sentences are not spoken again."""
    num_references = len(_FROM_VOICES) + len(_FROM_ESPEAK)
    texts = draw_sentences(num_references + plan.part_of(_FEWER), seed=_SEED)
    with run_own_server(plan.server_arguments) as server, Client(server.address) as client:
        references = make_references(client, texts[:num_references])
        return measure_references(client, references, texts[num_references:])


def measure_references(
    client: Client, references: Sequence[Reference], texts: Sequence[str]
) -> Json:
    result: Json = {}
    for way, with_text in _WAYS.items():
        rows: dict[str, Json] = {}
        for reference in references:
            spoken = client.speak_all(cloned(texts, reference, with_text=with_text))
            rows[reference.name] = _row(client, reference, spoken)
            say(f"  like {reference.name}, {way}: {_short(rows[reference.name])}")
        result[way] = _summary(rows)
    return result


def make_references(client: Client, texts: Sequence[str]) -> list[Reference]:
    """Four of the trained voices, as the server speaks, and espeak-ng at other pitches."""
    given = iter(texts)
    own = [speak_reference(client, next(given), name) for name in _FROM_VOICES]
    others = [espeak_reference(next(given), *how) for how in _FROM_ESPEAK]
    return [*(one for one in own if one.wav), *others]


def speak_reference(client: Client, text: str, speaker: str) -> Reference:
    return Reference(speaker, client.speak(named([text], speaker, is_greedy=True)[0]).wav, text)


def espeak_reference(text: str, pitch: int, warp: float) -> Reference:
    said = shared_espeak().say(text, Style("en-us", pitch=pitch))
    samples = soxr.resample(said.samples, said.rate_hz * warp, SPEECH_RATE_HZ).astype(np.float32)
    wav = wav_bytes(samples * np.float32(_LOUDEST / np.abs(samples).max()), SPEECH_RATE_HZ)
    return Reference(f"espeak at {pitch}, tract / {warp}", wav, text)


def _row(client: Client, reference: Reference, spoken: Sequence[Spoken]) -> Json:
    heard = client.hear_all([one.wav for one in spoken])
    row = ends_of(spoken) | words_of([one.text for one in spoken], heard)
    original, sounds = samples_of(reference.wav), [samples_of(one.wav) for one in spoken]
    return row | {
        "reference_hz": median([pitch_hz(original)]),
        "pitch_hz": median([pitch_hz(samples) for samples in sounds]),
        "reference_brightness_hz": median([brightness_hz(original)]),
        "brightness_hz": median([brightness_hz(samples) for samples in sounds]),
    }


def _summary(rows: dict[str, Json]) -> Json:
    def column(key: str) -> list[float | None]:
        return [row[key] for row in rows.values()]

    return {
        "references": rows,
        "wer": pooled_wer(rows.values()),
        "ends": count_ends(rows.values()),
        "pitch_follows": follows(column("reference_hz"), column("pitch_hz")),
        "brightness_follows": follows(column("reference_brightness_hz"), column("brightness_hz")),
    }


def _short(row: Json) -> str:
    return f"WER {row['wer']:.3f}, {row['reference_hz']} Hz answered by {row['pitch_hz']} Hz"
