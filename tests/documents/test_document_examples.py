"""Every example of the two documents, as it stands there, against a live server.

Only scheme, host and port differ. Blocks that cannot run here are listed with what they are.
"""

import json
import re
import signal
from pathlib import Path

import httpx2
import pytest
from code_blocks import Block, read_blocks, run_text, shell_environment
from live_process import LiveProcess, run_program

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.types import SPEECH_RATE_HZ

HERE = Path(__file__).parent
BLOCKS = [
    block
    for page in ("openai_audio_server.md", "asr_serving.md")
    for block in read_blocks(HERE / page)
]
CURL = [block for block in BLOCKS if block.text.startswith("curl ")]
PYTHON = [block for block in BLOCKS if block.language == "python"]
START = [block for block in BLOCKS if re.search(r"python main\.py|\bserve\b", block.text)]
NOT_RUN = {
    "ASR Models": "downloads of the published weights",
    "Prerequisites": "a download of the published weights",
    "CPU (all models):": "Docker",
    "CPU (ASR only):": "Docker",
    "CPU (TTS only):": "Docker",
    "CUDA GPU (all models):": "Docker with a GPU",
    "Response (JSON):": "an answer, not a command",
    "Response (text):": "an answer, not a command",
    "Preparing reference audio": "the ffmpeg program",
    "Preparing reference audio #2": "the ffmpeg program",
    "Install dependencies": "an installation",
    "Install dependencies #2": "an installation of flash-attn",
    "Benchmarking": "pytest itself collects it: tests/test_model",
}


def by_name(block: Block) -> str:
    return re.sub(r"\W+", "-", block.name).strip("-")


def check_sound(path: Path) -> None:
    """It is a sound file with at least one frame of the model in it."""
    samples = decode_audio(path.read_bytes(), sample_rate_hz=SPEECH_RATE_HZ, max_seconds=600)
    assert len(samples) >= 1_000


def test_every_block_is_run_or_listed_as_not_run() -> None:
    run = [block.name for block in (*CURL, *PYTHON, *START)]
    assert sorted([*run, *NOT_RUN]) == sorted(block.name for block in BLOCKS)
    assert (len(CURL), len(PYTHON), len(START)) == (5, 1, 3)


@pytest.mark.curl
@pytest.mark.parametrize("block", CURL, ids=by_name)
def test_curl_examples_do_what_the_document_says(
    block: Block, live: LiveProcess, folder: Path
) -> None:
    answer = run_text(block.at(live.address), "bash", folder)
    if block.output_name:
        check_sound(folder / block.output_name)
        assert (folder / block.output_name).read_bytes()[:4] == b"RIFF"
    elif "response_format=text" in block.text:
        assert not answer.startswith('{"text"')
    else:
        assert isinstance(json.loads(answer)["text"], str)


@pytest.mark.parametrize("block", PYTHON, ids=by_name)
def test_python_examples_do_what_the_document_says(
    block: Block, live: LiveProcess, folder: Path
) -> None:
    assert run_text(block.at(live.address), "python", folder).endswith("\n")


@pytest.mark.slow
@pytest.mark.uv
@pytest.mark.parametrize("block", START, ids=by_name)
@pytest.mark.usefixtures("models")
def test_start_lines_start_a_server_that_a_signal_ends(
    block: Block, folder: Path, cache: Path
) -> None:
    """The GPU is named as cpu, and another project's program is ours; nothing else differs."""
    (folder / "main.py").write_bytes((HERE.parent.parent / "main.py").read_bytes())
    text = block.text.replace("sgl-omni serve", "qwen3-audio serve")
    text = text.replace("--port 8000", "--port 0")
    env = shell_environment(XDG_CACHE_HOME=str(cache), QWEN_TTS_DEVICE="cpu")
    with run_program(["bash", "-c", text], folder, **env) as server:
        assert httpx2.get(f"{server.address}/health").json() == {"status": "ok"}
        assert server.stop(signal.SIGTERM) == 0
    named = re.findall(r"Qwen3-[\w.-]+", text)
    assert named
    assert all(f" from models/{name}" in server.what for name in named)
    assert " on cpu " in server.what
