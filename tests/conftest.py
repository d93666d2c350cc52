"""Small random checkpoints, made once per session, and stores; nothing is downloaded."""

from pathlib import Path

import pytest
import torch
from store_fixtures import (
    alice,
    bob,
    cluster,
    empty_place,
    migrated_database,
    migrated_file,
    place,
    sqlite_file,
    store,
)

from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.random_weights.tts import write_tts_checkpoint

__all__ = [
    "alice",
    "bob",
    "cluster",
    "empty_place",
    "migrated_database",
    "migrated_file",
    "place",
    "sqlite_file",
    "store",
]

TTS_FOLDERS = {
    "tiny-Base": "base",
    "tiny-CustomVoice": "custom_voice",
    "tiny-VoiceDesign": "voice_design",
}


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    """Small tensors are slower on several threads, and sums stay in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tts(tmp_path_factory: pytest.TempPathFactory, single_thread: None) -> Path:
    """A folder with tiny-Base, tiny-CustomVoice and tiny-VoiceDesign in the shape of the 1.7B."""
    return _write_tts(tmp_path_factory.mktemp("tiny-tts"), preset="tiny")


@pytest.fixture(scope="session")
def tiny_tts_same_width(tmp_path_factory: pytest.TempPathFactory, single_thread: None) -> Path:
    """The same three in the shape of the 0.6B: talker and code predictor are equally wide."""
    return _write_tts(tmp_path_factory.mktemp("tiny-tts-same-width"), preset="tiny-same-width")


@pytest.fixture(scope="session")
def tiny_asr(tmp_path_factory: pytest.TempPathFactory, single_thread: None) -> Path:
    """A folder with tiny-asr and tiny-aligner."""
    folder = tmp_path_factory.mktemp("tiny-asr")
    for preset in ("tiny-asr", "tiny-aligner"):
        write_asr_checkpoint(folder / preset, preset=preset)
    return folder


def _write_tts(folder: Path, *, preset: str) -> Path:
    for seed, (name, kind) in enumerate(TTS_FOLDERS.items()):
        write_tts_checkpoint(folder / name, kind, preset=preset, seed=seed)
    return folder
