"""The programs in examples/ do what they say, against a live server."""

import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import ROOT, shell_environment
from live_process import LiveProcess
from test_document_examples import check_sound

EXAMPLES = ROOT / "examples"
HAVE_TESTS = {
    "curl.sh",
    "openai_client.py",
    "stream_to_file.py",
    "clone_voice.py",
    "transcribe.py",
    "client.py",
}


def run_example(name: str, *arguments: str, folder: Path, address: str) -> str:
    program = "sh" if name.endswith(".sh") else sys.executable
    done = subprocess.run(
        [program, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=shell_environment(BASE=address),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == HAVE_TESTS


@pytest.mark.curl
def test_curl(live: LiveProcess, folder: Path) -> None:
    said = run_example("curl.sh", folder=folder, address=live.address)
    assert said.startswith('{"status":"ok"}')
    for name in ("hello.mp3", "again.wav", "cloned.flac"):
        check_sound(folder / name)
    assert (folder / "audio.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:0")


def test_openai_client(live: LiveProcess, folder: Path) -> None:
    said = run_example("openai_client.py", "reference.wav", folder=folder, address=live.address)
    check_sound(folder / "openai.wav")
    assert "reference.wav (5.0 s):" in said


@pytest.mark.parametrize("name", ["stream.mp3", "stream.wav"])
def test_stream_to_file(live: LiveProcess, folder: Path, name: str) -> None:
    address = live.address
    said = run_example("stream_to_file.py", "Hello.", name, folder=folder, address=address)
    check_sound(folder / name)
    assert said.startswith("first sound after ")


def test_clone_voice(live: LiveProcess, folder: Path) -> None:
    arguments = ("reference.wav", "What is said in it.")
    said = run_example("clone_voice.py", *arguments, folder=folder, address=live.address)
    check_sound(folder / "cloned.wav")
    assert said.startswith("In the recording: What is said in it.")


def test_clone_voice_writes_down_what_is_said(live: LiveProcess, folder: Path) -> None:
    run_example("clone_voice.py", "reference.wav", folder=folder, address=live.address)
    check_sound(folder / "cloned.wav")


def test_transcribe(live: LiveProcess, folder: Path) -> None:
    files = ("reference.wav", "audio.mp3")
    said = run_example("transcribe.py", *files, folder=folder, address=live.address)
    last = {line.partition(": ")[0] for line in said.splitlines()}
    assert set(files) <= last
    assert "not transcribed" not in said
    assert "broke off" not in said


def test_client(live: LiveProcess, folder: Path) -> None:
    arguments = ("reference.wav", "What is said in it.")
    said = run_example("client.py", *arguments, folder=folder, address=live.address)
    check_sound(folder / "out.wav")
    check_sound(folder / "voice_sample.wav")
    assert "stored as it was: True" in said
    assert "batch: 0.wav, 1.wav, manifest.json" in said
