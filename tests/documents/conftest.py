"""One server process with tiny checkpoints for all examples, and a folder with what they read."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from code_blocks import ROOT
from live_process import LiveProcess, run_server

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.encode import encode_whole
from qwen3_audio.types import SPEECH_RATE_HZ

RECORDING = ROOT / "tests/data/query_to_cars.wav"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps the compiled kernels from one server to the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def live(tiny_tts: Path, tiny_asr: Path, cache: Path) -> Iterator[LiveProcess]:
    """A server with CustomVoice, Base and ASR."""
    folders = (tiny_tts / "tiny-CustomVoice", tiny_tts / "tiny-Base", tiny_asr / "tiny-asr")
    models = [word for folder in folders for word in ("--model-path", str(folder))]
    settings = {"XDG_CACHE_HOME": str(cache), "QWEN_TTS_DTYPE": "float32"}
    with run_server(["-m", "qwen3_audio", "serve", *models], **settings) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working folder of an example: sounds under the names that examples read."""
    shutil.copy(RECORDING, tmp_path / "reference.wav")
    recorded = tmp_path / "tests/data" / RECORDING.name
    recorded.parent.mkdir(parents=True)
    shutil.copy(RECORDING, recorded)
    sound = decode_audio(
        RECORDING.read_bytes(), sample_rate_hz=SPEECH_RATE_HZ, max_seconds=60, param="file"
    )
    (tmp_path / "audio.mp3").write_bytes(encode_whole("mp3", np.asarray(sound)))
    return tmp_path


@pytest.fixture
def models(tiny_tts: Path, tiny_asr: Path, folder: Path) -> Path:
    """Tiny checkpoints at the places in ./models that the documents name."""
    home = folder / "models"
    home.mkdir()
    for size in ("0.6B", "1.7B"):
        for kind in ("CustomVoice", "Base"):
            os.symlink(tiny_tts / f"tiny-{kind}", home / f"Qwen3-TTS-12Hz-{size}-{kind}")
        os.symlink(tiny_asr / "tiny-asr", home / f"Qwen3-ASR-{size}")
    return home
