"""`qwen3-audio bench` from the command line to its files, and what it refuses."""

import json
import signal
import socket
from pathlib import Path

import pytest

from qwen3_audio.bench.own_server import run_own_server
from qwen3_audio.cli import build_parser, run
from qwen3_audio.errors import StartError
from qwen3_audio.settings import VARIABLES


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)


def call(*arguments: str) -> int:
    return run(build_parser().parse_args(["bench", *arguments]))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """One sentence, and nothing was measured."""
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("qwen3-audio: ")
    assert err.count("\n") == 1
    return err.removeprefix("qwen3-audio: ").strip()


def test_a_server_of_our_own_is_measured_from_start_to_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    load = ("--concurrency", "1,3", "--rate", "40", "--requests", "6", "--warm-up", "1")
    assert call("--fake", *load, "--frames", "8", "--out", str(path)) == 0
    result = json.loads(path.read_text("utf-8"))
    assert [p["label"] for p in result["points"]] == ["1 at once", "3 at once", "40 per s"]
    for point in result["points"]:
        assert (point["num_done"], point["num_failed"]) == (6, 0)
        assert point["tokens_per_s"] == pytest.approx(12.5 * point["audio_s_per_s"], rel=1e-3)
        assert point["peak_memory_mb"] > 10
        assert point["first_byte_ms"]["p50"] <= point["first_sound_ms"]["p50"]
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("load")
    assert "6/6" in out
    assert call("compare", str(path), str(path)) == 0
    assert "above 1: B is better" in capsys.readouterr().out


@pytest.mark.slow
def test_answers_with_errors_are_counted_by_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("one two\n\nBOOM\n")
    with run_own_server(["--fake"]) as server:
        arguments = ("--url", server.address, "--texts", "texts.txt", "--requests", "6")
        assert call(*arguments, "--warm-up", "0", "--work", "speech") == 1
        out = capsys.readouterr().out
        assert "1 at once: 3 x HTTP 500 generation_failed" in out
        assert "3/6" in out
        manifest = Path(__file__).parent.parent / "test_model" / "qwen3_asr_ci_clips.json"
        words = ("--work", "transcription", "--manifest", str(manifest), "--language", "en")
        assert call("--url", server.address, *words) == 0
        head, _, row = capsys.readouterr().out.splitlines()
        assert "WER" in head
        assert "8/8" in row


def test_a_target_that_is_down_is_one_sentence_and_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert call("--url", f"http://127.0.0.1:{port}") == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"Nobody answers at http://127.0.0.1:{port}" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Nothing to measure: give --url"),
        (["--url", "nowhere"], "--url nowhere is no address"),
        (["--url", "http://localhost:1", "--fake"], "leave out what would start another one"),
        (["--fake", "--engine"], "--fake has no engine"),
        (["--fake", "--dtype", "int3"], "--dtype='int3' is not one of bfloat16"),
        (["--fake", "--threads", "0"], "--threads 0 must be a whole number from 1 to"),
        (["--fake", "--threads", "9999"], "--threads 9999 must be a whole number from 1 to"),
        (["--fake", "--threads", "two"], "--threads two must be a whole number from 1 to"),
        (["--fake", "--concurrency", "1,,2"], "must be numbers with commas"),
        (["--fake", "--concurrency", "0"], "--concurrency 0 must be a whole number"),
        (["--fake", "--rate", "-1"], "--rate -1 must be a number above 0"),
        (["--fake", "--rate", "nan"], "--rate nan must be a number above 0"),
        (["--fake", "--requests", "1.5"], "--requests 1.5 must be a whole number"),
        (["--fake", "--duration", "soon"], "--duration soon must be a number above 0"),
        (["--fake", "--texts", "none.txt"], "Can't read none.txt"),
        (["--fake", "--field", "speed"], "--field speed must be NAME=VALUE"),
        (["--fake", "--plot", "a.gif"], "--plot a.gif must end in .png or .svg"),
        (["--fake", "--manifest", "m.json"], "--manifest goes with --work transcription"),
        (["compare", "a.json", "b.json"], "Can't read a.json"),
    ],
)
def test_wrong_use_is_refused_before_anything_starts(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refusal(capsys, *arguments)


def test_missing_recordings_are_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.json").write_text('[{"file": "gone.flac", "text": "words"}]')
    said = refusal(capsys, "--fake", "--work", "transcription", "--manifest", "m.json")
    assert said == "1 of 1 files of m.json are not there: gone.flac"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    arguments = ["--model-path", str(tmp_path / "nothing")]
    with (
        pytest.raises(StartError, match=r"did not start: .*nothing"),
        run_own_server(arguments, {"MODELS_DIR": str(tmp_path)}),
    ):
        pass


def test_the_engine_alone_is_measured_without_http(
    tiny_tts: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models = ("--model-path", str(tiny_tts / "tiny-CustomVoice"), "--dtype", "float32")
    options = ("--requests", "2", "--warm-up", "0", "--field", "unused=1", "--device", "cpu")
    assert call("--engine", *models, *options, "--concurrency", "2") == 0
    assert "2/2" in capsys.readouterr().out
