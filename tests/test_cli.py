"""The command line: what it starts, what it says, and which code it leaves with."""

import json
import logging
import re
import shutil
import signal
import socket
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fake_hub import FakeHub, run_hub
from live_process import run_server

from qwen3_audio.cli import build_parser, main, run
from qwen3_audio.commands.serve import LOGGING, PathOnly
from qwen3_audio.settings import VARIABLES

SERVE = ("-m", "qwen3_audio", "serve")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests, and no file outside of the test's own folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("QWEN_TTS_DTYPE", "float32")
    monkeypatch.setenv("MAX_RUNNING", "2")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def call(*arguments: str) -> int:
    return run(build_parser().parse_args(arguments))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must not start says; one sentence, exit code 2."""
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("qwen3-audio: ")
    assert err.count("\n") == 1
    return err.strip()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for name in ("serve", "say", "transcribe", "download", "doctor", "make-tiny"):
        assert re.search(rf"^ +{name}\b", text, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["sing"], ["say"], ["serve", "--loud"]])
def test_wrong_use_leaves_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: qwen3-audio" in capsys.readouterr().err


def test_serve_with_nothing_configured_shows_one_screen_of_ways_to_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("serve") == 2
    text = capsys.readouterr().err
    for words in ("serve --demo", "--model-path", "download", "TTS_CUSTOMVOICE_MODEL_PATH"):
        assert words in text
    assert len(text.splitlines()) <= 24


def test_a_misspelt_setting_stops_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_TTS_DEVISE", "cpu")
    message = "qwen3-audio: Unknown setting QWEN_TTS_DEVISE: did you mean QWEN_TTS_DEVICE?"
    assert refusal(capsys, "serve", "--fake") == message


def test_an_option_out_of_range_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port='99999'" in refusal(capsys, "serve", "--fake", "--port", "99999")
    assert "--dtype='int4'" in refusal(capsys, "serve", "--demo", "--dtype", "int4")


def test_a_port_in_use_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], taken_port: int
) -> None:
    address = ("--host", "127.0.0.1", "--port", str(taken_port))
    assert f"Port {taken_port} is in use" in refusal(capsys, "serve", "--fake", *address)


@pytest.mark.parametrize(
    ("host", "words"),
    [("192.0.2.1", "is no address of this machine"), ("no.such.host.invalid", "is no address")],
)
def test_an_address_of_nobody_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], host: str, words: str
) -> None:
    assert words in refusal(capsys, "serve", "--fake", "--host", host)


def test_an_unknown_folder_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no folder ./gone" in refusal(capsys, "serve", "--model-path", "./gone")
    monkeypatch.setenv("ASR_MODEL_PATH", "/gone")
    assert "ASR_MODEL_PATH=/gone: There is no folder" in refusal(capsys, "serve")


def test_a_half_downloaded_checkpoint_is_told_by_file(
    capsys: pytest.CaptureFixture[str], tiny_asr: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_asr / "tiny-asr", tmp_path / "half")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors is cut off" in refusal(capsys, "serve", "--model-path", str(folder))
    weights.unlink()
    assert "model.safetensors is missing" in refusal(capsys, "serve", "--model-path", str(folder))


def test_more_processes_need_a_database_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS", "2")
    assert "WORKERS=2 needs DATABASE_URL" in refusal(capsys, "serve", "--demo")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_clean_end(signum: signal.Signals) -> None:
    with run_server([*SERVE, "--fake"]) as server:
        assert httpx2.get(f"{server.address}/health").json() == {"status": "ok"}
        assert server.stop(signum) == 0
    assert "no model: tones and fixed words" in server.what
    assert not [line for line in server.lines if "Traceback" in line or "Local mode" in line]


def test_a_public_address_without_keys_is_warned_of_once() -> None:
    with run_server([*SERVE, "--fake"], HOST="0.0.0.0") as server:
        assert server.stop(signal.SIGTERM) == 0
    (warning,) = [line for line in server.lines if "WARNING" in line]
    assert "set ADMIN_TOKEN" in warning


def test_main_py_is_serve() -> None:
    with run_server(["main.py", "--fake"]) as server:
        assert httpx2.get(f"{server.address}/ready").status_code == 200


@pytest.mark.slow
def test_the_demo_speaks_and_listens_and_says_that_it_is_small(tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "QWEN_TTS_DTYPE": "float32"}
    with run_server([*SERVE, "--demo"], **env, MAX_RUNNING="2") as server:
        body = {"input": "Good morning.", "response_format": "wav", "temperature": 0}
        speech = httpx2.post(f"{server.address}/v1/audio/speech", json=body, timeout=60)
        assert speech.status_code == 200
        files = {"file": ("a.wav", speech.content)}
        heard = httpx2.post(f"{server.address}/v1/audio/transcriptions", files=files, timeout=60)
        assert heard.json()["text"] == "Good morning."
        assert server.stop(signal.SIGTERM) == 0
    for words in ("custom_voice", "voice_design", "base", "asr", "pocket", "cpu in float32"):
        assert words in server.what


@pytest.mark.slow
def test_say_and_transcribe_understand_each_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = "The quick brown fox jumps over the lazy dog."
    assert call("say", said, "--out", "fox.mp3", "--voice", "ryan", "--seed", "1", "--demo") == 0
    capsys.readouterr()
    assert call("transcribe", "fox.mp3", "--demo") == 0
    assert said.lower() in capsys.readouterr().out.lower()
    assert "simple English" in refusal(capsys, "say", "Привет", "--out", "a.wav", "--demo")


@pytest.mark.slow
def test_serve_takes_ids_from_the_models_folder(tiny_asr: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_asr / "tiny-asr", tmp_path / "Qwen3-ASR-1.7B")
    command = [*SERVE, "--model-path", "Qwen/Qwen3-ASR-1.7B", "--port", "0"]
    with run_server(command, MODELS_DIR=str(tmp_path), HF_HUB_OFFLINE="1") as server:
        names = [row["id"] for row in httpx2.get(f"{server.address}/v1/models").json()["data"]]
    assert "Qwen3-ASR-1.7B" in names


def test_make_tiny_writes_one_of_each_kind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call("make-tiny", str(tmp_path / "new")) == 0
    folders = capsys.readouterr().out.split()
    assert len(folders) == 4
    assert all((Path(folder) / "config.json").is_file() for folder in folders)
    assert "is not empty" in refusal(capsys, "make-tiny", str(tmp_path / "new"))


def test_say_writes_a_file_by_its_extension(
    capsys: pytest.CaptureFixture[str], tiny_tts: Path, tmp_path: Path
) -> None:
    model = ("--model-path", str(tiny_tts / "tiny-CustomVoice"))
    assert call("say", "Hello.", "--seed", "7", "--out", "a.wav", *model) == 0
    assert "seed 7" in capsys.readouterr().out
    with wave.open("a.wav") as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (24_000, 1)
        assert sound.getnframes() % 1920 == 0
        assert sound.getnframes() > 0
    assert call("say", "Hello.", "--seed", "7", "--out", "b.wav", *model) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    assert call("say", "Hello.", "--seed", "7", "--out", "a.mp3", "--speed", "2", *model) == 0
    assert Path("a.mp3").read_bytes()[:2] in (b"\xff\xf3", b"\xff\xfb")


@pytest.mark.slow
def test_say_clones_a_reference(tiny_tts: Path) -> None:
    custom = ("--model-path", str(tiny_tts / "tiny-CustomVoice"))
    assert call("say", "This is the reference.", "--seed", "1", "--out", "ref.wav", *custom) == 0
    base = ("--model-path", str(tiny_tts / "tiny-Base"), "--reference", "ref.wav")
    assert call("say", "Hello.", "--out", "clone.flac", *base) == 0
    assert Path("clone.flac").read_bytes()[:4] == b"fLaC"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Hi", "--out", "a.txt"], "the extension must be one of"),
        (["Hi", "--out", "gone/a.wav"], "there is no folder gone"),
        (["Hi", "--speed", "9"], "speed"),
        (["Hi", "--voice", "nobody"], "Unknown voice 'nobody'"),
        pytest.param(["Hi", "--language", "Klingon"], "Klingon", marks=pytest.mark.slow),
        (["Hi", "--reference", "gone.wav"], "Can't read gone.wav"),
        ([" "], "input is empty"),
    ],
)
def test_say_refuses_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tiny_tts: Path, arguments: list[str], words: str
) -> None:
    model = ("--model-path", str(tiny_tts / "tiny-CustomVoice"))
    assert words in refusal(capsys, "say", *arguments, *model)


@pytest.mark.slow
def test_transcribe_goes_on_after_a_file_that_is_no_sound(
    capsys: pytest.CaptureFixture[str], tiny_asr: Path
) -> None:
    Path("noise.txt").write_text("this is no sound")
    with wave.open("quiet.wav", "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(32_000))
    model = ("--model-path", str(tiny_asr / "tiny-asr"))
    files = ("noise.txt", "gone.wav", "quiet.wav")
    assert call("transcribe", *files, "--format", "json", *model) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"text": "", "language": "", "duration": 1.0}
    assert "noise.txt: " in err
    assert "gone.wav: No such file" in err
    assert call("transcribe", "quiet.wav", "--format", "vtt", *model) == 0
    assert capsys.readouterr().out.startswith("WEBVTT")


def test_download_fetches_into_the_models_folder(
    capsys: pytest.CaptureFixture[str], tiny_asr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in (tiny_asr / "tiny-asr").iterdir()}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with run_hub(FakeHub("me/asr", files)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        assert call("download", "me/gone", "me/asr", "asr") == 1
    out, err = capsys.readouterr()
    assert out == "models/asr: asr, complete\n"
    assert "The hub has no me/gone" in err
    assert "asr is no hub id" in err


def test_access_lines_hold_no_query() -> None:
    line = ("127.0.0.1:1", "GET", "/voices?api_key=sk-secret", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, "%s %s %s %s %s", line, None)
    assert PathOnly().filter(record)
    assert record.getMessage() == "127.0.0.1:1 GET /voices 1.1 200"
    assert LOGGING["loggers"]["uvicorn.access"]["filters"] == ["path_only"]
