"""The audio encoder and both layouts of its checkpoints; numbers are compared in parity/."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qwen3_audio.errors import StartError
from qwen3_audio.models.asr import (
    AsrConfig,
    AudioConfig,
    AudioEncoder,
    num_audio_tokens,
    original_name,
)
from qwen3_audio.models.windows import arrange_windows, window_spans
from qwen3_audio.random_weights.asr import write_asr_checkpoint


@pytest.fixture(scope="module")
def config(tiny_asr: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((tiny_asr / "tiny-asr" / "config.json").read_text("utf-8"))
    return read


@pytest.fixture(scope="module")
def weights(tiny_asr: Path) -> dict[str, Tensor]:
    return load_file(tiny_asr / "tiny-asr" / "model.safetensors")


@pytest.fixture(scope="module")
def encoder(config: dict[str, Any], weights: dict[str, Tensor]) -> AudioEncoder:
    return AudioEncoder(AudioConfig.from_json(config), weights)


def mel_of(num_frames: int, seed: int = 0) -> Tensor:
    return torch.randn(128, num_frames, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("num_frames", "num_tokens"),
    [
        *((1, 1), (8, 1), (9, 2), (50, 7), (99, 13), (100, 13), (101, 14), (230, 30)),
        *((1000, 130), (3000, 390), (120_000, 15_600)),
    ],
)
def test_a_second_of_sound_is_13_tokens(num_frames: int, num_tokens: int) -> None:
    assert num_audio_tokens(num_frames) == num_tokens


@pytest.mark.parametrize("num_frames", [1, 7, 55, 99, 100, 101, 230, 800, 808, 1100])
def test_the_encoder_gives_as_many_tokens_as_announced(
    encoder: AudioEncoder, num_frames: int
) -> None:
    [embeddings] = encoder.encode([mel_of(num_frames)])
    assert embeddings.shape == (num_audio_tokens(num_frames), 64)
    assert embeddings.isfinite().all()


def test_clips_packed_together_get_what_they_get_alone(encoder: AudioEncoder) -> None:
    mels = [mel_of(frames, seed=frames) for frames in (75, 1100, 20, 800, 230, 99, 100, 1700, 75)]
    for mel, packed in zip(mels, encoder.encode(mels), strict=True):
        [alone] = encoder.encode([mel])
        assert (packed - alone).abs().max() < 1e-5


def test_sound_of_another_window_changes_nothing(encoder: AudioEncoder) -> None:
    mel = mel_of(1100)
    louder = mel.clone()
    louder[:, 900:] += 3
    [before], [after] = encoder.encode([mel]), encoder.encode([louder])
    assert torch.equal(before[:104], after[:104])
    assert (before[104:117] - after[104:117]).abs().max() > 1e-3  # same window, earlier second


def test_a_clip_shorter_than_a_second_is_not_heard_as_padded(encoder: AudioEncoder) -> None:
    short = mel_of(75)
    padded = torch.nn.functional.pad(short, (0, 25))
    [alone], [as_second] = encoder.encode([short]), encoder.encode([padded])
    differs = (alone - as_second[: len(alone)]).abs().amax(1) > 1e-4
    assert len(alone) == 10
    assert differs[-1]


def test_padded_windows_equal_windows_of_their_own_length(encoder: AudioEncoder) -> None:
    tokens = torch.randn(34 * 13, 64, generator=torch.Generator().manual_seed(1))
    spans = window_spans([143, 5, 104, 175], chunk_tokens=13, window_tokens=104)
    outs = []
    for pad_to in (None, 104):
        rows, windows = arrange_windows(spans, pad_to=pad_to, device=torch.device("cpu"))
        parts = encoder(tokens[rows], windows).split(windows.lengths)
        outs.append([part[: span.length] for part, span in zip(parts, spans, strict=True)])
    for ragged, padded in zip(*outs, strict=True):
        assert (ragged - padded).abs().max() < 1e-5


def test_windows_cover_every_token_of_every_clip_once() -> None:
    spans = window_spans([143, 5, 104], chunk_tokens=13, window_tokens=104)
    covered = [(span.clip, span.start + at) for span in spans for at in range(span.length)]
    starts = {0: 0, 1: 143, 2: 156}  # each clip begins at a whole chunk
    lengths = {0: 143, 1: 5, 2: 104}
    expected = [(clip, starts[clip] + at) for clip in starts for at in range(lengths[clip])]
    assert sorted(covered) == sorted(expected)


def test_bfloat16_stays_close_to_float32(
    config: dict[str, Any], weights: dict[str, Tensor], encoder: AudioEncoder
) -> None:
    rounded = {name: tensor.bfloat16() for name, tensor in weights.items()}
    half = AudioEncoder(AudioConfig.from_json(config), rounded)
    [exact], [rough] = encoder.encode([mel_of(1100)]), half.encode([mel_of(1100)])
    assert rough.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(exact, rough.float()).min() > 0.99


@pytest.mark.parametrize("preset", ["tiny-asr", "tiny-aligner"])
def test_both_layouts_read_alike(tiny_asr: Path, tmp_path: Path, preset: str) -> None:
    write_asr_checkpoint(tmp_path, preset=preset, layout="hf")
    original, converted = (
        json.loads((folder / "config.json").read_text("utf-8"))
        for folder in (tiny_asr / preset, tmp_path)
    )
    languages = tuple(original["support_languages"])
    assert replace(AsrConfig.from_json(converted), languages=languages) == AsrConfig.from_json(
        original
    )
    names = [original_name(name) for name in load_file(tmp_path / "model.safetensors")]
    assert sorted(names) == sorted(load_file(tiny_asr / preset / "model.safetensors"))


def test_original_names_stay_as_they_are(weights: dict[str, Tensor]) -> None:
    assert [original_name(name) for name in weights] == list(weights)


def test_keys_that_are_left_out_have_the_defaults_of_their_layout() -> None:
    nested = AudioConfig.from_json({"thinker_config": {"audio_config": {"d_model": 64}}})
    flat = AudioConfig.from_json({"audio_config": {"d_model": 64}})
    assert (nested.num_layers, nested.num_heads, nested.width) == (32, 20, 64)
    assert (nested.chunk_frames, nested.window_chunks) == (200, 2)
    assert (flat.num_layers, flat.num_heads, flat.width) == (24, 16, 64)
    assert (flat.chunk_frames, flat.window_chunks, flat.window_tokens) == (100, 8, 104)


def test_what_the_encoder_cannot_run_is_named() -> None:
    with pytest.raises(StartError, match=r"audio_config\.activation_function is 'relu'"):
        AudioConfig.from_json({"audio_config": {"activation_function": "relu"}})
    with pytest.raises(StartError, match=r"thinker_config\.audio_config"):
        AudioConfig.from_json({"thinker_config": {}})
