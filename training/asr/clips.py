"""Labelled clips: rendering them, and keeping them on disk in shards.

A clip is a log-mel with its text, and for each mel frame the phoneme and the word that sound in
it (0: none), which is what the tower learns from before the decoder does.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from qwen3_audio.models.mel import LISTEN_HOP, LISTEN_RATE_HZ, log_mel_16k
from training.asr.nonspeech import KINDS, draw_sound
from training.asr.voices import training_style
from training.run import write_text
from training.world.espeak import Espeak, Style, Utterance
from training.world.grammar import utterance
from training.world.words import all_words, normalise

NUM_MELS = 128
MS_PER_FRAME = 1000 * LISTEN_HOP // LISTEN_RATE_HZ
UNKNOWN = 255  # of sound whose phonemes nobody knows; as a word: UNKNOWN_WORD
UNKNOWN_WORD = 65535
NUM_PHONEMES = 250
MAX_FRAMES = {"short": 780, "long": 3000}  # the product cuts recordings at 30 s
MIN_FRAMES = {"short": 30, "long": 780}


@dataclass(frozen=True, slots=True)
class Clip:
    mel: NDArray[np.float16]  # [T, 128]
    phonemes: NDArray[np.uint8]  # [T]
    words: NDArray[np.uint16]  # [T]
    text: str  # "": nobody speaks

    @property
    def num_frames(self) -> int:
        return len(self.mel)


@cache
def word_numbers() -> dict[str, int]:
    """Every word of the world → its class, from 1 on."""
    return {word.lower(): number for number, word in enumerate(all_words(), 1)}


def phoneme_number(name: str) -> int:
    """A class from 1 on for each phoneme of espeak-ng, the same in every process; 0: a pause."""
    name = name.rstrip("#")
    if not name or name.startswith("_"):
        return 0
    value = 0
    for letter in name:
        value = (value * 31 + ord(letter)) % 1_000_003
    return 1 + value % (NUM_PHONEMES - 1)


def to_16k(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    if rate_hz == LISTEN_RATE_HZ:
        return samples
    return np.asarray(soxr.resample(samples, rate_hz, LISTEN_RATE_HZ), np.float32)


def mel_of(samples: NDArray[np.float32]) -> NDArray[np.float16]:
    """The product's own front end: float16 [T, 128]."""
    mel = log_mel_16k(torch.from_numpy(samples))
    return np.ascontiguousarray(mel.T.numpy().astype(np.float16))


def render(espeak: Espeak, text: str, style: Style) -> Clip:
    spoken = espeak.say(text, style)
    mel = mel_of(to_16k(spoken.samples, spoken.rate_hz))
    phonemes, words = _frame_labels(spoken, text, len(mel))
    return Clip(mel, phonemes, words, text)


def _frame_labels(
    spoken: Utterance, text: str, num_frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    phonemes, words = np.zeros(num_frames, np.uint8), np.zeros(num_frames, np.uint16)
    starts = [ms for ms, _ in spoken.phonemes]
    ends = [*starts[1:], starts[-1]] if starts else []
    for (start, name), end in zip(spoken.phonemes, ends, strict=True):
        phonemes[start // MS_PER_FRAME : end // MS_PER_FRAME] = phoneme_number(name)
    numbers = [word_numbers().get(normalise(word), 0) for word in text.split()]
    last = starts[-1] if starts else 0
    word_ends = [*(ms for ms, _ in spoken.words[1:]), last]
    for (start, place), end in zip(spoken.words, word_ends, strict=True):
        if place < len(numbers):
            words[start // MS_PER_FRAME : end // MS_PER_FRAME] = numbers[place]
    words[phonemes == 0] = 0
    return phonemes, words


def unlabelled(samples: NDArray[np.float32], text: str) -> Clip:
    """Sound at 16 kHz of which only the text is known."""
    mel = mel_of(samples)
    phonemes = np.full(len(mel), UNKNOWN, np.uint8)
    return Clip(mel, phonemes, np.full(len(mel), UNKNOWN_WORD, np.uint16), text)


def without_speech(rng: np.random.Generator, seconds: float) -> Clip:
    kind = [*KINDS][rng.integers(len(KINDS))]
    mel = mel_of(draw_sound(rng, kind, int(seconds * LISTEN_RATE_HZ)))
    return Clip(mel, np.zeros(len(mel), np.uint8), np.zeros(len(mel), np.uint16), "")


def training_clips(espeak: Espeak, seed: int, kind: str) -> Iterator[Clip]:
    """Clips without end: `short` of one to three sentences, `long` of 8 to 30 s."""
    rng = Random(seed)
    while True:
        count = rng.randrange(3, 14) if kind == "long" else None
        text = utterance(rng, random_share=0.3, num_sentences=count)
        clip = render(espeak, text, training_style(rng))
        if MIN_FRAMES[kind] <= clip.num_frames <= MAX_FRAMES[kind]:
            yield clip


class Shard:
    """Some thousand clips in two files, mapped from disk."""

    def __init__(self, path: Path) -> None:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.path = path
        self.texts: list[str] = index["texts"]
        self.ends: list[int] = index["ends"]
        self._rows = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.texts)

    def num_frames(self, number: int) -> int:
        return self.ends[number] - (self.ends[number - 1] if number else 0)

    def clip(self, number: int) -> Clip:
        end = self.ends[number]
        rows = self._rows[end - self.num_frames(number) : end]
        return Clip(rows["mel"], rows["phoneme"], rows["word"], self.texts[number])

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".json").unlink(missing_ok=True)


_ROW = np.dtype([("mel", np.float16, NUM_MELS), ("phoneme", np.uint8), ("word", np.uint16)])


def write_shard(path: Path, clips: Sequence[Clip]) -> Shard:
    """The index comes last and whole: a shard without one was never finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.zeros(sum(clip.num_frames for clip in clips), _ROW)
    ends = np.cumsum([clip.num_frames for clip in clips]).tolist()
    for clip, end in zip(clips, ends, strict=True):
        part = rows[end - clip.num_frames : end]
        part["mel"], part["phoneme"], part["word"] = clip.mel, clip.phonemes, clip.words
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, rows)
    temporary.replace(path)
    index = {"texts": [clip.text for clip in clips], "ends": ends}
    write_text(path.with_suffix(".json"), json.dumps(index))
    return Shard(path)
