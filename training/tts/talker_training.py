"""Training talker and code predictor: one set of weights for every kind of voice and prompt."""

from pathlib import Path

import numpy as np
import torch

from training.tts.examples import ExampleMaker, Mix
from training.tts.lexicon import Lexicon
from training.tts.talker import build_talker, losses_of
from training.tts.trainer import Losses, Schedule, Step, Trainer, device_of

_NUM_ROWS = 3600  # of a batch, padding not counted
_ALL_LAYOUTS = (0.66, 0.10, 0.14, 0.10)
_HARD_LAYOUTS = (0.25, 0.30, 0.10, 0.35)  # text beside speech takes longest to learn
_CURRICULUM = (
    (0.00, Mix(2, _NUM_ROWS)),
    (0.08, Mix(4, _NUM_ROWS, (0.9, 0.1, 0.0, 0.0), 0.10)),
    (0.20, Mix(8, _NUM_ROWS, _ALL_LAYOUTS, 0.15)),
    (0.45, Mix(15, _NUM_ROWS, _ALL_LAYOUTS, 0.15)),
    (0.70, Mix(15, _NUM_ROWS, _HARD_LAYOUTS, 0.15)),
)
_CORRUPTED = 0.02
_FRAME_SHARE = 0.5
_SPEAKER_NOISE = 0.2  # so that a vector near a speaker's row is that speaker too
_EXACT_FROM = 0.88  # from here on in float32


def mix_at(share: float) -> Mix:
    return [mix for begin, mix in _CURRICULUM if share >= begin][-1]


def make_talker_trainer(work: Path, lexicon: Lexicon, budget_s: float) -> tuple[Trainer, Step]:
    schedule = Schedule(budget_s, learning_rate=2e-3, num_warm_steps=100, weight_decay=0.01)
    talker = build_talker(lexicon.vocabulary.size)
    maker = ExampleMaker(lexicon)

    def step(draw: np.random.Generator, share: float) -> Losses:
        return losses_of(
            talker,
            maker.batch(draw, mix_at(share)).to(device_of(talker)),
            corrupted=_CORRUPTED,
            frame_share=_FRAME_SHARE,
            noise=_SPEAKER_NOISE,
            dtype=torch.bfloat16 if share < _EXACT_FROM else torch.float32,
        )

    return Trainer(work, "talker", talker, schedule), step
