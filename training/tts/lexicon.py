"""Everything that can be said: words, pieces of words, letters and silence, each a few frames.

A unit is always the same codes wherever it stands. The folder `lexicon` holds them all:
vocabulary.json, quantiser.npz, units.npz and sound.npy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from training.run import say
from training.tts.features import FRAME, RATE_HZ, SILENCE, SUBFRAMES, Array, analyse, lay_on_grid
from training.tts.quantiser import SPEAKER_GROUP, Codes, Quantiser, fit_quantiser
from training.tts.synthesis import synthesise
from training.tts.vocabulary import SPACE, Vocabulary, build_vocabulary
from training.tts.voices import VOICES, Voice
from training.world.espeak import Espeak, Style

WORD, PIECE, FAST = "word", "piece", "fast"
PAUSE = "pause"  # the unit of one silent frame
FAST_TEMPO = 1.35
_STYLE = Style(voice="en-us", words_per_minute=175, pitch=40, pitch_range=0)
_UNIT_PEAK = 0.9
_PITCHES = {240: (1, 1, 1), 160: (1, -1, -1), 120: (-1, 1, -1), 96: (-1, -1, 1)}
_RESPELT_WORDS = {"a": "uh"}
_RESPELT_PIECES = {
    **{"a": "eigh", "'s": "iz", "'t": "tea", "'re": "are", "'ve": "have", "'m": "em"},
    **{"'ll": "will", "'d": "dee"},
}


@dataclass(frozen=True)
class Lexicon:
    """Names of units (`word hello`), where their frames begin, and the codes of all frames."""

    vocabulary: Vocabulary
    quantiser: Quantiser
    names: tuple[str, ...]
    starts: NDArray[np.int64]  # [units + 1]
    features: Array  # [8 * frames, F]
    codes: Codes  # [frames, G], of speaker 0

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def unit_codes(self, name: str) -> Codes:
        i = self.numbers[name]
        return self.codes[self.starts[i] : self.starts[i + 1]]

    def unit_features(self, name: str) -> Array:
        i = self.numbers[name]
        return self.features[self.starts[i] * SUBFRAMES : self.starts[i + 1] * SUBFRAMES]

    def say(self, names: list[str], voice: Voice) -> Array:
        """What the codec is to make of these units' codes."""
        codes = np.concatenate([self.unit_codes(name) for name in names])
        return synthesise(self.quantiser.decode(codes), voice)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocabulary.json").write_text(self.vocabulary.to_json(), encoding="utf-8")
        self.quantiser.save(folder / "quantiser.npz")
        with (folder / "units.npz").open("wb") as file:
            np.savez(
                file,
                names=np.array(self.names),
                starts=self.starts,
                features=self.features,
                codes=self.codes,
            )

    @classmethod
    def load(cls, folder: Path) -> "Lexicon":
        vocabulary = Vocabulary.from_json((folder / "vocabulary.json").read_text("utf-8"))
        with np.load(folder / "units.npz") as arrays:
            names = tuple(str(name) for name in arrays["names"])
            fields = (arrays["starts"], arrays["features"], arrays["codes"])
        return cls(vocabulary, Quantiser.load(folder / "quantiser.npz"), names, *fields)


def speaker_point(voice: Voice) -> list[float]:
    """Where a voice lies in the latents' last four dimensions: pitches far apart, warp a line."""
    return [*(2.0 * sign for sign in _PITCHES[voice.period]), (voice.warp - 1.04) * 20]


def build_lexicon(words: tuple[str, ...]) -> Lexicon:
    """Say every unit once, fit the quantiser to all of them, encode them."""
    vocabulary = build_vocabulary(words)
    espeak = Espeak()
    units: dict[str, Array] = {PAUSE: np.tile(SILENCE, (SUBFRAMES, 1))}
    for name, spoken in _units_to_say(words, vocabulary):
        features = _analyse(espeak, spoken)
        if features is None:
            continue
        units[name] = lay_on_grid(features)
        if name.startswith(WORD):
            units[name.replace(WORD, FAST, 1)] = lay_on_grid(features, tempo=FAST_TEMPO)
        if len(units) % 1000 == 0:
            say(f"{len(units)} units said")
    features = np.concatenate(list(units.values()))
    points = np.array([speaker_point(voice) for voice in VOICES], np.float32)
    quantiser = fit_quantiser(features, points)
    lengths = [len(unit) // SUBFRAMES for unit in units.values()]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    codes = quantiser.encode(features)
    return Lexicon(vocabulary, quantiser, tuple(units), starts, features, codes)


def _units_to_say(words: tuple[str, ...], vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Names of units and what espeak-ng is to be given for them."""
    known = {word.lower() for word in words}
    for word in words:
        yield f"{WORD} {word.lower()}", _RESPELT_WORDS.get(word.lower(), word)
    for piece in pieces(vocabulary):
        if len(piece) == 1 or piece not in known:
            spoken = piece.upper() if len(piece) == 1 else piece
            yield f"{PIECE} {piece}", _RESPELT_PIECES.get(piece, spoken)


def pieces(vocabulary: Vocabulary) -> list[str]:
    """Tokens of small Latin letters; a part of an unknown word is read as one after the other."""
    aliases = vocabulary.aliases()
    tokens = (t for i, t in enumerate(vocabulary.tokens) if aliases[i] == i and t != SPACE)
    return [t for t in tokens if t.isascii() and t.lstrip("'").isalpha() and t == t.lower()]


def _analyse(espeak: Espeak, text: str) -> Array | None:
    utterance = espeak.say(text, _STYLE)
    if len(utterance.samples) < utterance.rate_hz // 50:
        return None
    samples = soxr.resample(utterance.samples, utterance.rate_hz, RATE_HZ)
    return analyse(samples.astype(np.float32))


def write_sound(lexicon: Lexicon, path: Path) -> float:
    """Every frame in every voice, int16 [voices, frames * 1920]; returns the loudest sample."""
    features = lexicon.quantiser.decode(lexicon.codes)
    num_samples = len(lexicon.codes) * FRAME
    temporary = path.with_name(path.name + ".tmp.npy")
    sound = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.int16, shape=(len(VOICES), num_samples)
    )
    loudest = 0.0
    for voice in VOICES:
        samples = synthesise(features, voice)
        loudest = max(loudest, float(np.abs(samples).max()))
        sound[voice.row] = (samples.clip(-_UNIT_PEAK, _UNIT_PEAK) * 32767).astype(np.int16)
        say(f"{voice.name}: {num_samples / RATE_HZ:.0f} s, rms {samples.std():.3f}")
    sound.flush()
    temporary.replace(path)
    return loudest


def with_speaker(codes: Codes, voice: Voice) -> Codes:
    """The same content in another voice."""
    codes = codes.copy()
    codes[:, SPEAKER_GROUP] = voice.row
    return codes
