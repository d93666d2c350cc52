"""Server processes with tiny checkpoints for all examples, and a folder with what they read."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
from code_blocks import ROOT, shell_environment
from live_process import LiveProcess, run_program, run_server
from multi_user import ADMIN_TOKEN
from postgres_cluster import Cluster

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


@pytest.fixture(scope="session")
def demo(cache: Path) -> Iterator[LiveProcess]:
    """A server with the pocket models, whose words mean something."""
    with run_server(["-m", "qwen3_audio", "serve", "--demo"], XDG_CACHE_HOME=str(cache)) as server:
        yield server


@pytest.fixture(scope="session")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording as MP3."""
    sound = decode_audio(
        RECORDING.read_bytes(), sample_rate_hz=SPEECH_RATE_HZ, max_seconds=60, param="file"
    )
    file = tmp_path_factory.mktemp("mp3") / "audio.mp3"
    file.write_bytes(encode_whole("mp3", np.asarray(sound)))
    return file


@pytest.fixture
def folder(tmp_path: Path, mp3: Path) -> Path:
    """The working folder of an example: sounds under the names that examples read."""
    shutil.copy(RECORDING, tmp_path / "reference.wav")
    recorded = tmp_path / "tests/data" / RECORDING.name
    recorded.parent.mkdir(parents=True)
    shutil.copy(RECORDING, recorded)
    shutil.copy(mp3, tmp_path)
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


# Document 2: users with keys, checkpoints by the names of their repositories.

START = ["sh", "entrypoint.sh"]


@pytest.fixture(scope="session")
def multi_user_env(
    tiny_tts: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Document 2's variables; a server needs a DATA_DIR of its own besides."""
    models = tmp_path_factory.mktemp("models")
    repositories = {}
    for name, kind in (("MODEL_BASE_REPO", "Base"), ("MODEL_CUSTOM_REPO", "VoiceDesign")):
        repositories[name] = f"Qwen/Qwen3-TTS-12Hz-1.7B-{kind}"
        os.symlink(tiny_tts / f"tiny-{kind}", models / repositories[name].rpartition("/")[2])
    return shell_environment(
        **repositories,
        MODELS_DIR=str(models),
        ADMIN_TOKEN=ADMIN_TOKEN,
        XDG_CACHE_HOME=str(cache),
        QWEN_TTS_DTYPE="float32",
    )


@pytest.fixture(scope="session")
def on_sqlite(
    multi_user_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveProcess]:
    """Started as its container starts it."""
    env = multi_user_env | {"DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with run_program(START, ROOT, **env) as server:
        yield server


@pytest.fixture(scope="module")
def on_postgres(
    multi_user_env: dict[str, str], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveProcess]:
    """Under somebody else's uvicorn."""
    env = multi_user_env | {"DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    command = ["uvicorn", "server:app", "--port", "0"]
    with (
        new_database(cluster) as url,
        run_program(command, ROOT, **env, DATABASE_URL=url) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def in_two_processes(
    multi_user_env: dict[str, str], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveProcess]:
    """Both on one database; a request may reach either."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    more = {"DATA_DIR": str(tmp_path_factory.mktemp("data")), "WORKERS": "2", "PORT": str(port)}
    env = multi_user_env | more
    with (
        new_database(cluster) as url,
        run_program(START, ROOT, **env, DATABASE_URL=url) as server,
    ):
        try:
            wait_until_ready(server)
            yield server
        finally:
            assert server.stop(signal.SIGTERM) == 0


@contextmanager
def new_database(cluster: Cluster) -> Iterator[str]:
    """An empty PostgreSQL database."""
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


def wait_until_ready(server: LiveProcess) -> None:
    """The processes load behind a greeting that comes before."""
    with httpx2.Client() as client:
        while server.process.poll() is None:
            try:
                if client.get(f"{server.address}/ready").is_success:
                    return
            except httpx2.ConnectError:
                time.sleep(0.05)
    raise AssertionError("it ended before it served")
