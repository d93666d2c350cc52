"""The speaker encoder: shapes, precision and defaults; its numbers are in tests/parity."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qwen3_audio.models.speaker import SpeakerConfig, SpeakerEncoder
from qwen3_audio.random_weights.tts_configs import SPEAKER_ENCODER_DEFAULTS

Files = tuple[dict[str, Any], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def files(tiny_tts: Path) -> Files:
    folder = tiny_tts / "tiny-Base"
    config = json.loads((folder / "config.json").read_text())
    return config["speaker_encoder_config"], load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def encoder(files: Files) -> SpeakerEncoder:
    return SpeakerEncoder.from_weights(*files)


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("num_samples", [2400, 24_000, 25_601, 240_000])
def test_any_reference_gives_one_vector_of_the_talkers_width(
    encoder: SpeakerEncoder, files: Files, num_samples: int
) -> None:
    vector = encoder(noise(num_samples))
    assert vector.shape == (files[0]["enc_dim"],)
    assert vector.dtype == torch.float32
    assert vector.isfinite().all()


def test_silence_gives_a_finite_vector(encoder: SpeakerEncoder) -> None:
    assert encoder(torch.zeros(24_000)).isfinite().all()


def test_different_sounds_give_different_vectors(encoder: SpeakerEncoder) -> None:
    tone = torch.sin(torch.arange(24_000) * 0.05) * 0.3
    assert (encoder(tone) - encoder(noise(24_000))).abs().max() > 0.01


def test_half_precision_weights_are_computed_in_single_precision(files: Files) -> None:
    config, weights = files
    halves = {name: tensor.half() for name, tensor in weights.items()}
    doubled = {name: tensor.half().float() for name, tensor in weights.items()}
    vector = SpeakerEncoder.from_weights(config, halves)(noise(24_000))
    assert torch.equal(vector, SpeakerEncoder.from_weights(config, doubled)(noise(24_000)))


def test_left_out_numbers_have_the_official_defaults() -> None:
    assert SpeakerConfig.from_json({"enc_dim": 1024, "sample_rate": 24_000}) == (
        SpeakerConfig.from_json(SPEAKER_ENCODER_DEFAULTS)
    )
