"""What the model is judged by: sentences never trained, voices, bad conditions, and no speech."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np
from numpy.typing import NDArray

from qwen3_audio.types import LISTEN_RATE_HZ
from training.asr.clips import to_16k
from training.asr.nonspeech import draw_sound
from training.asr.voices import (
    ACCENTS,
    AMERICAN,
    BRITISH,
    NEVER_TRAINED,
    manner,
    trained_style,
)
from training.world.espeak import Espeak, Style
from training.world.grammar import phrases, utterance

Samples = NDArray[np.float32]
SNR_DB = 10.0
TELEPHONE_HZ = (300, 3400)
SHORTEST_S, LONGEST_S = 0.5, 20.0
LONG_S = {"long_8_to_20_s": (8.0, 20.0), "long_20_to_30_s": (20.0, 30.0)}
_RANDOM_SHARE = 0.1  # of the sentences are words in no order
_LEVEL = 0.3  # of full scale: loudest sample of a clip before noise is added
_SEED = 20_000


@dataclass(frozen=True, slots=True)
class Trial:
    """One recording at 16 kHz and what is said in it; "": nobody speaks."""

    samples: Samples
    text: str


def speech_trials(espeak: Espeak, share: float = 1.0) -> dict[str, list[Trial]]:
    """Held-out utterances by condition; `share` of the full numbers, at least two of each."""

    def draw(count: int, style: Callable[[Random], Style], seed: int) -> list[Trial]:
        return _draw(espeak, max(int(count * share), 2), style, seed)

    plain = draw(500, trained_style, 0)
    rng = np.random.default_rng(_SEED)
    trials = {"trained_voices": plain}
    trials["default_american"] = draw(100, lambda _: Style(AMERICAN), 1)
    trials["default_british"] = draw(100, lambda _: Style(BRITISH), 2)
    for number, name in enumerate(NEVER_TRAINED):
        trials[f"never_trained_{name}"] = draw(150, partial(_with_variant, name=name), 10 + number)
    for number, accent in enumerate(ACCENTS):
        trials[f"accent_{accent}"] = draw(60, partial(manner, voice=accent), 20 + number)
    some = plain[: max(int(200 * share), 2)]
    trials["white_noise_10_db"] = [_noisy(trial, rng, 0.0) for trial in some]
    trials["pink_noise_10_db"] = [_noisy(trial, rng, 0.5) for trial in some]
    trials["telephone"] = [Trial(_telephone(trial.samples), trial.text) for trial in some]
    trials["quiet"] = [Trial(trial.samples * np.float32(0.02), trial.text) for trial in some]
    for name, (shortest_s, longest_s) in LONG_S.items():
        trials[name] = _draw_long(espeak, max(int(40 * share), 2), shortest_s, longest_s)
    return trials


def phrase_trials(espeak: Espeak) -> list[Trial]:
    """What the documents let a server speak: trained sentences, in espeak's default manner."""
    return [_say(espeak, text, Style(AMERICAN)) for text in phrases()]


def silent_trials(share: float = 1.0) -> dict[str, list[Trial]]:
    """Two to nine seconds each, of seeds that training has never had."""
    rng = np.random.default_rng(_SEED + 1)
    count = max(int(60 * share), 2)
    kinds = {
        "silence": ["silence"],
        "noise": ["noise", "hum"],
        "music": ["tone", "music", "beats"],
    }
    return {
        name: [
            Trial(draw_sound(rng, some[k % len(some)], int(rng.uniform(2, 9) * 16_000)), "")
            for k in range(count)
        ]
        for name, some in kinds.items()
    }


def _with_variant(rng: Random, name: str) -> Style:
    return manner(rng, f"{rng.choice([AMERICAN, BRITISH])}+{name}")


def _say(espeak: Espeak, text: str, style: Style) -> Trial:
    spoken = espeak.say(text, style)
    samples = to_16k(spoken.samples, spoken.rate_hz)
    loudest = max(float(np.abs(samples).max(initial=0)), 1e-6)
    return Trial((samples * (_LEVEL / loudest)).astype(np.float32), text)


def _draw(espeak: Espeak, count: int, style: Callable[[Random], Style], seed: int) -> list[Trial]:
    rng = Random(_SEED + seed)
    trials: list[Trial] = []
    while len(trials) < count:
        trial = _say(espeak, utterance(rng, held_out=True, random_share=_RANDOM_SHARE), style(rng))
        if SHORTEST_S <= len(trial.samples) / LISTEN_RATE_HZ <= LONGEST_S:
            trials.append(trial)
    return trials


def _draw_long(espeak: Espeak, count: int, shortest_s: float, longest_s: float) -> list[Trial]:
    rng = Random(_SEED + int(longest_s))
    trials: list[Trial] = []
    while len(trials) < count:
        text = utterance(
            rng,
            held_out=True,
            random_share=_RANDOM_SHARE,
            num_sentences=rng.randrange(3, 14),
        )
        trial = _say(espeak, text, trained_style(rng))
        if shortest_s <= len(trial.samples) / LISTEN_RATE_HZ <= longest_s:
            trials.append(trial)
    return trials


def _noisy(trial: Trial, rng: np.random.Generator, colour: float) -> Trial:
    """Noise 10 dB under the speech, by the power of the whole clip."""
    count = len(trial.samples)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.maximum(np.fft.rfftfreq(count, 1 / LISTEN_RATE_HZ), 50)
    noise = np.fft.irfft(spectrum / hz**colour, count)
    power = np.mean(np.square(trial.samples)) * 10 ** (-SNR_DB / 10)
    noise *= np.sqrt(power / np.mean(np.square(noise)))
    return Trial((trial.samples + noise).astype(np.float32), trial.text)


def _telephone(samples: Samples) -> Samples:
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / LISTEN_RATE_HZ)
    low, high = TELEPHONE_HZ
    spectrum[(hz < low) | (hz > high)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)
