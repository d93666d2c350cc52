"""A small lexicon whose units are made up, so that nothing has to be said by espeak-ng."""

import numpy as np

from training.tts.features import NUM_BANDS, NUM_FEATURES, SILENCE, SUBFRAMES, Array
from training.tts.lexicon import FAST, PAUSE, PIECE, WORD, Lexicon, speaker_point
from training.tts.lexicon import pieces as pieces_of
from training.tts.quantiser import fit_quantiser
from training.tts.vocabulary import build_vocabulary
from training.tts.voices import VOICES
from training.world.numbers import ONES, TENS

WORDS = (
    *("hello", "world", "it's", "don't", "A", "I", "Monday", "and", "river", "over", "percent"),
    *("hundred", "thing", "think", "this"),
    *ONES,
    *TENS,
)


def made_up_unit(draw: np.random.Generator, num_frames: int) -> Array:
    """Features that move smoothly and end in silence, as those of words do."""
    knots = draw.uniform(-60, -15, (num_frames + 1, NUM_FEATURES)).astype(np.float32)
    knots[:, NUM_BANDS:] = draw.uniform(0, 20, (num_frames + 1, 2))
    knots[-1] = SILENCE
    times = np.linspace(0, num_frames, num_frames * SUBFRAMES)
    columns = [np.interp(times, range(num_frames + 1), knots[:, i]) for i in range(NUM_FEATURES)]
    unit = np.stack(columns, 1).astype(np.float32)
    unit[-3:] = SILENCE
    return unit


def build_made_up_lexicon() -> Lexicon:
    draw = np.random.default_rng(0)
    vocabulary = build_vocabulary(WORDS)
    names = [PAUSE, *(f"{kind} {word.lower()}" for word in WORDS for kind in (WORD, FAST))]
    names += [f"{PIECE} {piece}" for piece in pieces_of(vocabulary)]
    units = [np.tile(SILENCE, (SUBFRAMES, 1))]
    units += [made_up_unit(draw, int(draw.integers(2, 6))) for _ in names[1:]]
    features = np.concatenate(units)
    points = np.array([speaker_point(voice) for voice in VOICES], np.float32)
    quantiser = fit_quantiser(features, points)
    starts = np.cumsum([0, *(len(unit) // SUBFRAMES for unit in units)])
    return Lexicon(
        vocabulary, quantiser, tuple(names), starts, features, quantiser.encode(features)
    )
