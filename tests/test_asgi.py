"""`uvicorn server:app`: nothing at import, everything in the lifespan, one sentence if it fails."""

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from live_process import ROOT, clean_environment

from qwen3_audio.asgi import LateApp, Message
from qwen3_audio.errors import StartError

UVICORN = [sys.executable, "-m", "uvicorn", "server:app", "--port", "0"]


def refuse() -> LateApp:
    raise StartError("there is no model")


def start(app: LateApp) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app({"type": "lifespan"}, receive, send))
    return sent


def test_what_keeps_it_from_starting_is_told_in_a_sentence() -> None:
    (answer,) = start(LateApp(refuse))
    assert answer["type"] == "lifespan.startup.failed"
    assert answer["message"] == "qwen3-audio: there is no model"


def test_a_server_without_a_lifespan_is_told_so() -> None:
    async def ask() -> None:
        app = LateApp(refuse)
        await app({"type": "http"}, None, None)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="runs its lifespan"):
        asyncio.run(ask())


def test_importing_it_loads_nothing() -> None:
    code = "import sys, server; assert not {'torch', 'fastapi'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_uvicorn_serves_what_the_variables_name(tiny_asr: Path) -> None:
    env = clean_environment(ASR_MODEL_PATH=str(tiny_asr / "tiny-asr"), MAX_RUNNING="2")
    with subprocess.Popen(
        UVICORN, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        found = (re.search(r"running on (http://\S+)", line) for line in server.stderr)
        address = next(match[1] for match in found if match)
        assert httpx2.get(f"{address}/ready").json() == {"status": "ready"}
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


def test_uvicorn_leaves_with_a_sentence_when_nothing_is_named() -> None:
    done = subprocess.run(
        UVICORN, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "no checkpoint is named" in done.stderr
    assert "Traceback" not in done.stderr
