"""Training the codec decoder: codes of random utterances → the sound of their units.

Every example begins where speech begins, with nothing before it, as every request does; crops from
the middle of a long recording never show the first word of an utterance.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.tts.features import FRAME
from training.tts.lexicon import PAUSE, Lexicon
from training.tts.quantiser import NUM_CODES, NUM_GROUPS, NUM_LATENTS, SPEAKER_GROUP
from training.tts.trainer import Losses, Schedule, Step, Trainer, device_of
from training.tts.vocoder import CodecDecoder, initialise
from training.tts.voices import VOICES

Json = dict[str, Any]

_NUM_UTTERANCES, _NUM_FRAMES = 4, 18
_PAUSE_SHARE = 0.12
_ONSET_WEIGHT = 2.0  # of a unit's first frame, where consonants are told apart
_WINDOWS = (1024, 256, 64)
_QUIET = 1e-3  # amplitudes below this are all alike to the ear and to the loss
_LEVEL = 0.06  # what a mean absolute difference is measured against
_EMPHASIS = 0.95


def codec_config() -> Json:
    """`decoder_config` of speech_tokenizer/config.json."""
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "latent_dim": 128,
        "codebook_dim": 2 * NUM_LATENTS,
        "codebook_size": NUM_CODES,
        "decoder_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 256,
        "layer_scale_initial_scale": 0.1,
        "max_position_embeddings": 8000,
        "head_dim": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 4,
        "num_quantizers": NUM_GROUPS,
        "num_semantic_quantizers": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000,
        "semantic_codebook_size": NUM_CODES,
        "sliding_window": 8,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "vector_quantization_hidden_dimension": 128,
    }


@dataclass(frozen=True)
class Batch:
    """codes int64 [B, T, G], samples float32 [B, T * 1920], is_onset bool [B, T]."""

    codes: Tensor
    samples: Tensor
    is_onset: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.codes.to(device), self.samples.to(device), self.is_onset.to(device))


@dataclass(frozen=True)
class Utterances:
    """Random units one after the other, cut to one length, with their sound from the disk."""

    lexicon: Lexicon
    sound: NDArray[np.int16]

    def draw(self, draw: np.random.Generator, num_rows: int, num_frames: int) -> Batch:
        frames = np.stack([self._frames(draw, num_frames) for _ in range(num_rows)])
        rows = draw.integers(0, len(VOICES), num_rows)
        codes = self.lexicon.codes[frames]
        codes[..., SPEAKER_GROUP] = rows[:, None]
        by_frame = self.sound.reshape(len(VOICES), -1, FRAME)
        samples = by_frame[rows[:, None], frames].reshape(num_rows, -1)
        is_onset = np.isin(frames, self.lexicon.starts)
        return Batch(
            torch.from_numpy(codes),
            torch.from_numpy(samples.astype(np.float32) / 32767),
            torch.from_numpy(is_onset),
        )

    def _frames(self, draw: np.random.Generator, num_frames: int) -> NDArray[np.int64]:
        """Numbers of the frames of an utterance."""
        starts, pause = self.lexicon.starts, self.lexicon.starts[self.lexicon.numbers[PAUSE]]
        frames: list[int] = []
        while len(frames) < num_frames:
            if draw.random() < _PAUSE_SHARE:
                frames += [int(pause)] * int(draw.integers(1, 5))
            else:
                unit = int(draw.integers(len(starts) - 1))
                frames += range(int(starts[unit]), int(starts[unit + 1]))
        return np.array(frames[:num_frames])


def spectral_loss(made: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Differences of magnitudes at three window lengths; weights [B, N] over time."""
    total = made.new_zeros(())
    for length in _WINDOWS:
        hop, window = length // 4, torch.hann_window(length, device=made.device)
        scale = window.square().sum().sqrt()
        first, second = (
            torch.stft(x, length, hop, window=window, return_complex=True) / scale
            for x in (made, wanted)
        )
        first_size = (first.real.square() + first.imag.square() + 1e-10).sqrt()
        second_size = second.abs()
        weight = functional.pad(weights, (0, 1), mode="replicate")[:, None, ::hop]
        difference = ((first_size + _QUIET).log() - (second_size + _QUIET).log()).abs()
        total = total + (difference * weight).mean()
        total = total + ((first_size - second_size) * weight).norm() / (
            (second_size * weight).norm() + 1e-3
        )
    return total / len(_WINDOWS)


def wave_loss(made: Tensor, wanted: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute differences of the samples and of their emphasised high frequencies."""
    plain = ((made - wanted).abs() * weights).mean() / _LEVEL
    difference = made - wanted
    high = difference[:, 1:] - _EMPHASIS * difference[:, :-1]
    return plain, (high.abs() * weights[:, 1:]).mean() / (_LEVEL / 2)


def losses_of(decoder: CodecDecoder, batch: Batch) -> Losses:
    made = decoder(batch.codes)
    per_frame = 1 + (_ONSET_WEIGHT - 1) * batch.is_onset.float()
    weights = (per_frame / per_frame.mean()).repeat_interleave(FRAME, 1)
    spectral = spectral_loss(made, batch.samples, weights)
    plain, high = wave_loss(made, batch.samples, weights)
    return {
        "loss": 2 * spectral + 0.5 * plain + 0.5 * high,
        "spectral": spectral,
        "plain": plain,
        "high": high,
    }


def build_decoder(lexicon: Lexicon) -> CodecDecoder:
    torch.manual_seed(0)
    decoder = CodecDecoder(codec_config())
    initialise(decoder, torch.from_numpy(lexicon.quantiser.tables))
    return decoder


def make_codec_trainer(work: Path, lexicon: Lexicon, budget_s: float) -> tuple[Trainer, Step]:
    schedule = Schedule(budget_s, learning_rate=2e-3, max_norm=5.0)
    decoder = build_decoder(lexicon)
    sound = np.load(work / "lexicon" / "sound.npy", mmap_mode="r")
    utterances = Utterances(lexicon, sound)

    def step(draw: np.random.Generator, share: float) -> Losses:
        batch = utterances.draw(draw, _NUM_UTTERANCES, _NUM_FRAMES)
        return losses_of(decoder, batch.to(device_of(decoder)))

    return Trainer(work, "codec", decoder, schedule), step
