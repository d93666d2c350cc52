"""Clips without espeak-ng: a row of loud mel bands for each word."""

from random import Random

import numpy as np

from training.asr.clips import Clip, word_numbers

WORDS = ("apples", "bread", "cheese", "coffee")
_FRAMES_PER_WORD = 24


def made_clip(words: list[str]) -> Clip:
    """Each word is a band of its own; the log-mel's floor is 2 below its loudest value."""
    num_frames = _FRAMES_PER_WORD * len(words)
    mel = np.full((num_frames, 128), -0.8, np.float16)
    phonemes = np.zeros(num_frames, np.uint8)
    labels = np.zeros(num_frames, np.uint16)
    for at, word in enumerate(words):
        span = slice(at * _FRAMES_PER_WORD, (at + 1) * _FRAMES_PER_WORD)
        number = WORDS.index(word)
        mel[span, 30 * number : 30 * number + 20] = 1.2
        phonemes[span] = number + 1
        labels[span] = word_numbers()[word]
    return Clip(mel, phonemes, labels, " ".join(words).capitalize() + ".")


def random_clip(rng: Random) -> Clip:
    return made_clip([rng.choice(WORDS) for _ in range(rng.randrange(2, 6))])
