"""Many recordings at once through /v1/audio/transcriptions: WER, throughput, latency, RTF.

    QWEN3_ASR_CI_CONCURRENCY=32 pytest tests/test_model/test_qwen3_asr_ci.py -s

prints them and compares them with a file of thresholds. Without the variable four recordings are
sent to a tiny random checkpoint, and every one must be answered. Other variables:

QWEN3_ASR_CI_URL         a server that runs; without it one is started
ASR_MODEL_PATH           the checkpoint that it is started with
QWEN3_ASR_CI_RANDOM      or the size of a random one: tiny (default), 0.6b, 1.7b; WER is not judged
QWEN3_ASR_CI_MANIFEST    recordings with texts, [{"file": ..., "text": ...}]
QWEN3_ASR_CI_THRESHOLDS  JSON; a threshold that is left out is not judged
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from qwen3_audio.assembly import load_backend
from qwen3_audio.bench.figures import summarise
from qwen3_audio.bench.http_client import HttpTarget
from qwen3_audio.bench.loops import closed_loop
from qwen3_audio.bench.manifest import read_manifest
from qwen3_audio.bench.own_server import run_own_server
from qwen3_audio.bench.random_checkpoints import SIZES, write_checkpoints
from qwen3_audio.bench.sample import Sample
from qwen3_audio.bench.transcription_request import TranscriptionRun
from qwen3_audio.bench.word_errors import NOT_JUDGED, count_errors
from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.service import SpeechService
from qwen3_audio.settings import Settings
from qwen3_audio.web.app import create_app

HERE = Path(__file__).parent
CONCURRENCY = os.environ.get("QWEN3_ASR_CI_CONCURRENCY")
TURNS = 2  # of everybody who asks at once


def variable(name: str, default: str) -> str:
    return os.environ.get(f"QWEN3_ASR_CI_{name}", default)


@pytest.fixture
def address(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[str]:
    """Of the server that the variables name; without a load a tiny one in this process."""
    if CONCURRENCY is None:
        tiny_asr: Path = request.getfixturevalue("tiny_asr")
        with serve_here(tiny_asr / "tiny-asr", tmp_path_factory.getbasetemp()) as here:
            yield here
        return
    if url := variable("URL", ""):
        yield url
        return
    checkpoint = os.environ.get("ASR_MODEL_PATH")
    if checkpoint is None:
        size = SIZES[variable("RANDOM", "tiny")]
        checkpoint = str(write_checkpoints(tmp_path, ["asr"], size)[0])
    with run_own_server(["--model-path", checkpoint]) as server:
        yield server.address


@contextmanager
def serve_here(folder: Path, cache: Path) -> Iterator[str]:
    settings = Settings(qwen_tts_device="cpu", qwen_tts_dtype="float32", xdg_cache_home=cache)
    backend = load_backend([open_checkpoint(folder)], settings)
    app = create_app(SpeechService(backend, settings), settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def ask(address: str, concurrency: int) -> list[Sample]:
    clips = read_manifest(Path(variable("MANIFEST", str(HERE / "qwen3_asr_ci_clips.json"))))
    num_requests = len(clips) if CONCURRENCY is None else max(len(clips), TURNS * concurrency)
    return closed_loop(
        TranscriptionRun(target=HttpTarget(address), clips=clips),
        concurrency=concurrency,
        num_requests=num_requests,
        duration_s=0,
        on_done=lambda: None,
    )


def measure(samples: list[Sample]) -> dict[str, Any]:
    point = summarise(samples)
    has_meaning = "ASR_MODEL_PATH" in os.environ or bool(variable("URL", ""))
    said = [sample.said or "" for sample in samples]
    heard = [sample.heard or "" for sample in samples]
    return {
        "wer": count_errors(said, heard, "en")["wer"] if has_meaning else NOT_JUDGED,
        "requests_per_s": point["requests_per_s"],
        "audio_s_per_s": point["audio_s_per_s"],
        "latency_mean_s": point["latency_ms"]["mean"] / 1000,
        "latency_p95_s": point["latency_ms"]["p95"] / 1000,
        "rtf_mean": point["rtf"]["mean"],
    }


def judge(figures: dict[str, Any], thresholds: dict[str, float]) -> list[str]:
    """Prints a line for each figure, and gives those that miss their threshold."""
    missed = []
    for name, figure in figures.items():
        line = f"{name}: {figure if isinstance(figure, str) else round(figure, 4)}"
        for key, sign in ((f"{name}_at_most", -1), (f"{name}_at_least", 1)):
            if key in thresholds and not isinstance(figure, str):
                is_kept = sign * (figure - thresholds[key]) >= 0
                line += f" ({key.removeprefix(name + '_').replace('_', ' ')} {thresholds[key]:g})"
                missed += [] if is_kept else [line]
        sys.stdout.write(f"{line}\n")
    return missed


def test_recordings_at_once_are_answered_within_the_thresholds(address: str) -> None:
    samples = ask(address, int(CONCURRENCY or 4))
    assert [sample.error for sample in samples if sample.error is not None] == []
    assert all(isinstance(sample.heard, str) for sample in samples)
    if CONCURRENCY is not None:
        path = variable("THRESHOLDS", str(HERE / "qwen3_asr_ci_thresholds.json"))
        sys.stdout.write(f"\n{len(samples)} requests, {CONCURRENCY} at once\n")
        assert judge(measure(samples), json.loads(Path(path).read_text("utf-8"))) == []


def test_a_missed_threshold_is_named() -> None:
    figures = {"wer": 0.3, "requests_per_s": 2.0, "rtf_mean": 0.1}
    thresholds = {"wer_at_most": 0.25, "requests_per_s_at_least": 1.0}
    assert judge(figures, thresholds) == ["wer: 0.3 (at most 0.25)"]
    assert judge(figures | {"wer": NOT_JUDGED}, thresholds) == []
