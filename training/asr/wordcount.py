"""Word error rates as the evaluation takes them: case and punctuation do not count."""

from collections.abc import Sequence

import jiwer

from training.world.words import normalise


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Over all clips together; an answer without a word counts as all words missing."""
    return float(jiwer.wer([normalise(text) for text in said], [normalise(text) for text in heard]))
