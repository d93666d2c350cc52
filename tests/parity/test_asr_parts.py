"""The parts around the decoder against what the official package was recorded to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asr_clips import read_clip
from safetensors.torch import load_file

from qwen3_audio.engine.asr_prompt import build_prompt, parse_output
from qwen3_audio.engine.tokenizer import TextTokenizer
from qwen3_audio.models.aligner import lay_out, place_words, repair_stamps, split_words
from qwen3_audio.models.asr import AsrConfig, AudioEncoder, num_audio_tokens
from qwen3_audio.models.mel import log_mel_16k

GOLDEN = np.load(Path(__file__).parent / "golden_asr.npz")
CASES: dict[str, Any] = json.loads(str(GOLDEN["cases"]))


@pytest.fixture(scope="module")
def encoder(tiny_asr: Path) -> AudioEncoder:
    config = json.loads((tiny_asr / "tiny-asr" / "config.json").read_text("utf-8"))
    weights = load_file(tiny_asr / "tiny-asr" / "model.safetensors")
    return AudioEncoder(AsrConfig.from_json(config).audio, weights)


@pytest.fixture(scope="module")
def tokenizer(tiny_asr: Path) -> TextTokenizer:
    return TextTokenizer(tiny_asr / "tiny-asr")


@pytest.mark.parametrize("preset", ["tiny-asr", "tiny-aligner"])
def test_the_checkpoint_is_the_recorded_one(tiny_asr: Path, preset: str) -> None:
    tensors = load_file(tiny_asr / preset / "model.safetensors")
    heads = [tensor.flatten()[:4].numpy() for _, tensor in sorted(tensors.items())]
    assert np.array_equal(np.concatenate(heads), GOLDEN[f"weights/{preset}"])


@pytest.mark.parametrize("clip", CASES["mels"])
def test_log_mel_equals_the_official_one(clip: str) -> None:
    mel = log_mel_16k(torch.from_numpy(read_clip(clip))).numpy()
    assert mel.shape == GOLDEN[f"mels/{clip}"].shape
    assert np.abs(mel - GOLDEN[f"mels/{clip}"]).max() < 1e-5


@pytest.mark.parametrize("clip", CASES["embeddings"])
def test_audio_embeddings_equal_the_official_ones(encoder: AudioEncoder, clip: str) -> None:
    [embeddings] = encoder.encode([log_mel_16k(torch.from_numpy(read_clip(clip)))])
    assert embeddings.shape == GOLDEN[f"embeddings/{clip}"].shape
    assert np.abs(embeddings.numpy() - GOLDEN[f"embeddings/{clip}"]).max() < 1e-5


def test_packed_clips_get_the_official_embeddings_of_each_alone(encoder: AudioEncoder) -> None:
    clips = list(CASES["embeddings"])
    mels = [log_mel_16k(torch.from_numpy(read_clip(clip))) for clip in clips]
    for clip, embeddings in zip(clips, encoder.encode(mels), strict=True):
        assert np.abs(embeddings.numpy() - GOLDEN[f"embeddings/{clip}"]).max() < 1e-5


@pytest.mark.parametrize("name", CASES["tokens"])
def test_prompt_ids_equal_the_official_ones(tokenizer: TextTokenizer, name: str) -> None:
    case = CASES["tokens"][name]
    num_tokens = num_audio_tokens(len(read_clip(case["clip"])) // 160)
    prompt = build_prompt(tokenizer, num_tokens, context=case["context"], language=case["language"])
    assert list(prompt.ids) == GOLDEN[f"prompt/{case['number']}"].tolist()
    audio = prompt.ids[prompt.audio_start : prompt.audio_start + prompt.num_audio_tokens]
    assert set(audio) == {tokenizer.special("<|audio_pad|>")}
    assert len(audio) == num_tokens


@pytest.mark.parametrize("name", CASES["tokens"])
def test_tokens_become_the_official_language_and_text(tokenizer: TextTokenizer, name: str) -> None:
    case = CASES["tokens"][name]
    raw = tokenizer.decode(GOLDEN[f"tokens/{case['number']}"].tolist())
    assert list(parse_output(raw, case["language"])) == case["heard"]


def test_answers_are_parsed_as_the_official_package_parses_them() -> None:
    for case in CASES["parsed"]:
        assert list(parse_output(case["raw"], case["forced"])) == case["heard"], case


def test_time_stamps_are_repaired_as_the_official_package_repairs_them() -> None:
    for before, after in CASES["repaired"]:
        assert repair_stamps(before) == after


@pytest.mark.parametrize("name", CASES["aligned"])
def test_aligner_layout_equals_the_official_one(tokenizer: TextTokenizer, name: str) -> None:
    case = CASES["aligned"][name]
    words = split_words(case["text"], case["language"])
    assert words == [word for word, _, _ in case["words"]]
    num_tokens = num_audio_tokens(len(read_clip(case["clip"])) // 160)
    layout = lay_out(words, num_tokens, encode=tokenizer.encode, special=tokenizer.special)
    ids = GOLDEN[f"aligned/{name}/ids"]
    assert list(layout.ids) == ids.tolist()
    stamp = tokenizer.special("<timestamp>")
    assert list(layout.stamps) == np.flatnonzero(ids == stamp).tolist()


@pytest.mark.parametrize("name", CASES["aligned"])
def test_classes_become_the_official_seconds(name: str) -> None:
    case = CASES["aligned"][name]
    words = [word for word, _, _ in case["words"]]
    classes = GOLDEN[f"aligned/{name}/classes"].tolist()
    placed = place_words(words, classes, step_ms=80)
    assert [[word.text, word.start_s, word.end_s] for word in placed] == case["words"]
