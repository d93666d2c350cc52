"""The programs in examples/ do what they say, against a live server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import ROOT, shell_environment
from live_process import LiveProcess
from multi_user import ADMIN_TOKEN, PAGE
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


def start_example(
    name: str, *arguments: str, folder: Path, address: str, **env: str
) -> subprocess.CompletedProcess[str]:
    program = "sh" if name.endswith(".sh") else sys.executable
    return subprocess.run(
        [program, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=shell_environment(BASE=address, **env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_example(name: str, *arguments: str, folder: Path, address: str, **env: str) -> str:
    done = start_example(name, *arguments, folder=folder, address=address, **env)
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


SAID = "What is said in it."
CLIENT = ("reference.wav", SAID)


def check_client(said: list[str], folder: Path) -> None:
    check_sound(folder / "out.wav")
    check_sound(folder / "voice_sample.wav")
    assert said[0] == "server: ok ready"
    assert f"sample: {SAID}" in said
    assert any(line.endswith("stored as it was: True") for line in said)
    assert any(line.startswith("batch: 0.ogg, 1.ogg for ") for line in said)
    assert re.fullmatch(r"tokens used: [1-9]\d*", said[-1])


def test_client_without_keys(live: LiveProcess, folder: Path) -> None:
    said = run_example("client.py", *CLIENT, folder=folder, address=live.address)
    check_client(said.splitlines(), folder)


@pytest.mark.slow
def test_client_makes_a_user_and_designs_a_voice(on_sqlite: LiveProcess, folder: Path) -> None:
    arguments = (*CLIENT, "A calm narrator.")
    env = {"ADMIN_TOKEN": ADMIN_TOKEN}
    address = on_sqlite.address
    lines = run_example("client.py", *arguments, folder=folder, address=address, **env).splitlines()
    check_client(lines, folder)
    assert "designed: A calm narrator." in lines
    assert "voices: warm_narrator, Geoff" in lines


def test_client_says_what_the_server_says(on_sqlite: LiveProcess, folder: Path) -> None:
    done = start_example(
        "client.py", *CLIENT, folder=folder, address=on_sqlite.address, API_KEY="no such key"
    )
    assert done.returncode == 1
    assert re.fullmatch(r"POST /clonevoice: [^\n]*key[^\n]*\n", done.stderr)


def test_the_client_has_every_route_of_the_document() -> None:
    text = (EXAMPLES / "client.py").read_text()
    assert len(text.splitlines()) < 130
    paths = re.findall(r"`(/(?!app/)[a-z/{}_]+)`|\$BASE(/[^\"? ]*)", PAGE.read_text())
    templates = {re.sub(r"\{\w+\}|\$\w+", "{}", "".join(path)) for path in paths}
    assert len(templates) == 15
    routes = {re.sub(r"\{\w+\}", "{}", path) for path in re.findall(r'f?"(/[^"]+)"', text)}
    assert templates == routes
