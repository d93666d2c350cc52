"""The speaker encoder of the Base variant: a reference → the talker's row of the nearest voice.

It is trained on the nine voices and on espeak-ng speaking at many pitches and, by resampling, with
many lengths of the vocal tract: whoever is heard, the nearest of the nine answers.
"""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from qwen3_audio.models.mel import log_mel_24k
from qwen3_audio.models.speaker import SpeakerEncoder
from qwen3_audio.random_weights.tensors import TensorPlan
from qwen3_audio.random_weights.tts_tensors import plan_speaker_encoder
from training.tts.codec import Utterances
from training.tts.features import RATE_HZ, Array
from training.tts.lexicon import Lexicon
from training.tts.quantiser import SPEAKER_GROUP
from training.tts.talker import SPEAKER_IDS, Talker
from training.tts.trainer import Losses, Schedule, Step, Trainer, device_of
from training.tts.voices import VOICES, Voice
from training.world import grammar
from training.world.espeak import Espeak, Style

Json = dict[str, Any]

_NUM_REFERENCES = 600
_MIN_WARP, _MAX_WARP = 0.9, 1.25
_PITCH_WEIGHT, _WARP_WEIGHT = 1.0, 5.0  # of octaves and of warp
_NUM_CLIPS = 8
_CLIP_FRAMES = (12, 45)
_OWN_SHARE = 0.5


def speaker_config(width: int) -> Json:
    """`speaker_encoder_config` of config.json."""
    return {
        "enc_dim": width,
        "sample_rate": 24000,
        "mel_dim": 128,
        "enc_channels": [64, 64, 64, 64, 192],
        "enc_kernel_sizes": [5, 3, 3, 3, 1],
        "enc_dilations": [1, 2, 3, 4, 1],
        "enc_attention_channels": 32,
        "enc_res2net_scale": 8,
        "enc_se_channels": 32,
    }


class SpeakerNet(nn.Module):
    """The product's own encoder over weights that can be trained; names are the official ones."""

    def __init__(self, config: Json) -> None:
        super().__init__()
        self.config = config
        plan = TensorPlan()
        plan_speaker_encoder(plan, config)
        generator = torch.Generator().manual_seed(3)
        for tensor in plan.tensors:
            parameter = nn.Parameter(tensor.draw(generator).float())
            self.register_parameter(tensor.name.replace(".", "/"), parameter)

    def weights(self) -> Mapping[str, Tensor]:
        return {name.replace("/", "."): value for name, value in self.named_parameters()}

    def forward(self, clips: Tensor) -> Tensor:
        """clips [B, N] of equal length → vectors [B, width]."""
        encoder = SpeakerEncoder.from_weights(self.config, self.weights())
        mels = torch.stack([log_mel_24k(clip) for clip in clips])
        x = encoder.first(mels).relu()
        outputs = []
        for block in encoder.blocks:
            x = block(x)
            outputs.append(x)
        x = encoder.join(torch.cat(outputs, 1)).relu()
        vectors: Tensor = encoder.last(encoder.pooling(x))[:, :, 0]
        return vectors


def nearest_voice(pitch_hz: float, warp: float) -> Voice:
    """Which of the nine answers to a reference of this pitch and brightness."""

    def distance(voice: Voice) -> float:
        octaves = abs(np.log2(pitch_hz / voice.pitch_hz))
        return float(_PITCH_WEIGHT * octaves + _WARP_WEIGHT * abs(warp - voice.warp))

    return min(VOICES, key=distance)


def pitch_of(samples: Array) -> float:
    """The median pitch of the voiced parts in Hz, by autocorrelation; 120 if there is none."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, 1200)[::600]
    windows = windows[np.abs(windows).max(1) > 0.2 * np.abs(samples).max()]
    power = np.abs(np.fft.rfft(windows * np.hanning(1200), 4096)) ** 2
    correlation = np.fft.irfft(power)[:, :500]
    lags = correlation[:, 60:400].argmax(1) + 60
    is_voiced = correlation[np.arange(len(lags)), lags] > 0.4 * correlation[:, 0]
    return float(RATE_HZ / np.median(lags[is_voiced])) if is_voiced.any() else 120.0


def draw_references(path: Path) -> None:
    """Say random sentences in random voices and keep them with the number of the nearest voice."""
    espeak, rng = Espeak(), Random(11)
    clips: dict[str, Any] = {}
    rows = []
    for number in range(_NUM_REFERENCES):
        warp = rng.uniform(_MIN_WARP, _MAX_WARP)
        style = Style(
            "en-us", rng.randrange(140, 200), rng.randrange(0, 100), rng.randrange(20, 80)
        )
        said = espeak.say(grammar.sentence(rng), style)
        samples = soxr.resample(said.samples, said.rate_hz * warp, RATE_HZ).astype(np.float32)
        clips[f"clip {number}"] = (samples * 32767).astype(np.int16)
        rows.append(nearest_voice(pitch_of(samples), warp).row)
    with path.open("wb") as file:
        np.savez(file, rows=np.array(rows), **clips)


def make_speaker_trainer(
    work: Path, lexicon: Lexicon, talker: Talker, budget_s: float
) -> tuple[Trainer, Step]:
    path = work / "references.npz"
    if not path.exists():
        draw_references(path)
    with np.load(path) as arrays:
        rows = arrays["rows"]
        clips = [arrays[f"clip {i}"].astype(np.float32) / 32767 for i in range(len(rows))]
    sound = np.load(work / "lexicon" / "sound.npy", mmap_mode="r")
    utterances = Utterances(lexicon, sound)
    table = talker.model.codec_embedding.weight.detach()
    targets = torch.stack([table[SPEAKER_IDS[voice.name]] for voice in VOICES])
    net = SpeakerNet(speaker_config(targets.shape[1]))
    schedule = Schedule(budget_s, learning_rate=1e-3)

    def step(draw: np.random.Generator, share: float) -> Losses:
        length = int(draw.integers(*_CLIP_FRAMES))
        if draw.random() < _OWN_SHARE:
            batch = utterances.draw(draw, _NUM_CLIPS, length)
            samples, chosen = batch.samples, batch.codes[:, 0, SPEAKER_GROUP]
        else:
            picked = draw.integers(len(clips), size=_NUM_CLIPS)
            samples = torch.stack([_crop(draw, clips[i], length * 1920) for i in picked])
            chosen = torch.from_numpy(rows[picked])
        gains = torch.from_numpy(draw.uniform(0.2, 1.5, (_NUM_CLIPS, 1))).float()
        device = device_of(net)
        wanted = targets[chosen].to(device)
        loss = (net((samples * gains).to(device)) - wanted).square().mean() / wanted.square().mean()
        return {"loss": loss}

    return Trainer(work, "speaker", net, schedule), step


def _crop(draw: np.random.Generator, clip: Array, length: int) -> Tensor:
    """`length` samples from anywhere in a clip, which is repeated if it is too short."""
    clip = np.tile(clip, -(-length // len(clip)) + 1)
    begin = int(draw.integers(len(clip) - length))
    return torch.from_numpy(clip[begin : begin + length].copy())
