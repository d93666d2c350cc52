"""What is measured over HTTP, against a real server whose engine is a fake one."""

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.bench.own_server import OwnServer, run_own_server
from qwen3_audio.errors import StartError
from training.measure import __main__ as program
from training.measure import clones, pictures, round_trip, sound, speed
from training.measure import described as described_module
from training.measure.asking import Client, Reference, cloned, described, named
from training.measure.clones import espeak_reference
from training.measure.plan import Json, Plan
from training.measure.round_trip import heard_row, measure_judged
from training.tts.voices import VOICES

pytestmark = pytest.mark.slow  # of the training, not of the product

FAKE = ["--fake"]


def pulses(pitch_hz: float, seconds: float = 1.0, smooth: int = 1) -> np.ndarray:
    samples = np.zeros(int(seconds * 24_000), np.float32)
    samples[:: round(24_000 / pitch_hz)] = 0.8
    return np.convolve(samples, np.hanning(smooth + 2)[1:-1], "same").astype(np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with run_own_server(FAKE) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: OwnServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


def test_answers_come_with_their_texts_in_order_and_their_ends(client: Client) -> None:
    texts = [f"{word} again" for word in ("one", "two", "three", "LOOP")]
    spoken = client.speak_all(named(texts, "ryan", is_greedy=True))
    assert [one.text for one in spoken] == texts
    assert [one.reason for one in spoken[:3]] == ["stop"] * 3
    assert sum(one.is_ended for one in spoken) >= 3
    assert all(sound.duration_s(one.wav) > 0 for one in spoken[:3])


def test_an_early_end_is_not_hidden_by_a_second_attempt(client: Client) -> None:
    ends = [
        client.speak(named(["well"] * seed + ["one two three LOOP"], "ryan", is_greedy=False)[seed])
        for seed in range(4)
    ]
    assert "loop" in [one.reason for one in ends]


def test_a_refusal_counts_as_missing_words_and_as_no_end(client: Client) -> None:
    row = heard_row(client, client.speak_all(named(["Good night."], "nobody", is_greedy=True)))
    assert (row["texts"], row["ended"], row["wer"]) == (1, 0, 1.0)
    assert next(iter(row["reasons"])).startswith("400: ")


def test_clones_and_descriptions_are_spoken_by_their_own_checkpoints(client: Client) -> None:
    reference = Reference("made", wav_bytes(pulses(100), 24_000), "The reference words.")
    bodies = [
        *cloned(["Hello."], reference, with_text=True),
        *cloned(["Hello."], reference, with_text=False),
        *described(["Hello."], "A deep voice."),
    ]
    assert [one.reason for one in client.speak_all(bodies)] == ["stop"] * 3


def test_mp3_has_64_kbit_and_the_same_length() -> None:
    wav = wav_bytes(pulses(120, seconds=3.0), 24_000)
    mp3 = sound.to_mp3(wav)
    assert len(mp3) == pytest.approx(3 * 64_000 / 8, rel=0.05)
    samples = decode_audio(mp3, sample_rate_hz=24_000, max_seconds=10)
    assert len(samples) == pytest.approx(3 * 24_000, rel=0.05)
    assert sound.to_mp3(b"") == b""


def test_pitch_and_brightness_of_a_voice_are_heard() -> None:
    assert sound.pitch_hz(pulses(100)) == pytest.approx(100, rel=0.02)
    assert sound.pitch_hz(pulses(240)) == pytest.approx(240, rel=0.02)
    bright, dull = sound.brightness_hz(pulses(100)), sound.brightness_hz(pulses(100, smooth=20))
    assert bright is not None and dull is not None and bright > 1.5 * dull
    assert sound.pitch_hz(np.zeros(0, np.float32)) is None
    assert sound.brightness_hz(np.zeros(24_000, np.float32)) is None


@pytest.mark.espeak
def test_references_differ_in_pitch_as_they_are_asked_to() -> None:
    low, high = (espeak_reference("Good morning to you.", pitch, 1.0) for pitch in (10, 90))
    pitches = [sound.pitch_hz(sound.samples_of(one.wav)) for one in (low, high)]
    assert pitches[0] is not None and pitches[1] is not None
    assert pitches[1] > 1.5 * pitches[0]


def test_one_core_is_given_to_children_and_taken_back() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system binds no process to a core")
    before = os.sched_getaffinity(0)
    with speed.one_core() as is_bound:
        assert is_bound and len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_a_judge_needs_the_words_that_it_knows(tmp_path: Path) -> None:
    assert measure_judged(Plan({}, tmp_path)) is None
    with pytest.raises(StartError, match="--judge-words"):
        measure_judged(Plan({}, tmp_path, judge=tmp_path))
    with pytest.raises(StartError, match="Can't read --judge-words"):
        measure_judged(Plan({}, tmp_path, judge=tmp_path, judge_words=tmp_path / "none.txt"))


@pytest.mark.espeak
def test_the_command_measures_every_speaker_clone_description_and_draws(
    tmp_path: Path, server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (round_trip, clones, described_module, pictures):  # one server for all parts
        monkeypatch.setattr(module, "run_own_server", lambda _: nullcontext(server))
    monkeypatch.setattr(program, "find_models", lambda _: {})
    parts = "round_trip,clones,descriptions,pictures"
    code = program.main(["--out", str(tmp_path), "--sentences", "2", "--parts", parts])
    kept = json.loads((tmp_path / "pocket-models.json").read_text("utf-8"))
    assert code == 1  # tones are not understood
    assert not kept["failed"]
    figures: dict[str, Json] = {name: part["figures"] for name, part in kept["parts"].items()}
    spoken = figures["round_trip"]
    assert [*spoken["speakers"]] == [voice.name for voice in VOICES]
    assert spoken["ends"]["greedy"] == {"texts": 18, "ended": 18}
    assert spoken["wer"]["mp3"] > 0.5
    assert len(figures["clones"]["with_text"]["references"]) == 10
    assert len(figures["descriptions"]["pairs"]) == 5
    for name in ("speakers.png", "clones.png"):
        assert 0 < (tmp_path / "pocket" / name).stat().st_size <= pictures.MAX_BYTES
    page = (tmp_path / "pocket-models.md").read_text("utf-8")
    for voice in VOICES:
        assert f"| {voice.name} |" in page
    assert "![speakers](pocket/speakers.png)" in page


def test_speed_is_measured_with_both_directions_and_two_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "server_arguments", FAKE)
    monkeypatch.setattr(speed, "measure_bare_torch", lambda: (1.0, None))
    figures = speed.measure_speed(Plan({}, tmp_path, num_sentences=4))
    for what in ("speech", "transcription"):
        assert figures["one_core"][what]["rtf"] > 0
    for which in ("first", "again"):
        row = figures["start"][which]
        assert 0 < row["ready_s"] < row["spoken_s"]


def test_noise_is_drawn_in_a_small_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 24_000 * 5).astype(np.float32)
    sounds = {"noise": noise, "more": noise, "short": noise[:100], "none": noise[:0]}
    path = pictures.draw_spectrograms(sounds, tmp_path / "noise.png")
    assert 0 < path.stat().st_size <= pictures.MAX_BYTES


def test_curves_are_drawn_from_what_a_training_has_left(tmp_path: Path) -> None:
    speech, listening = tmp_path / "speech", tmp_path / "listening"
    for folder, name, rows in (
        (speech, "codec", [{"stage": "codec", "step": 1, "active_s": 2, "spectral": 0.5}]),
        (listening, "training", [{"minutes": 1.0, "text": 2.0}, {"minutes": 2.0, "wer": 0.5}]),
    ):
        folder.mkdir()
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = [*pictures.draw_training((speech, listening), tmp_path)]
    assert [path.name for path in made] == ["tts-codec.png", "asr-training.png"]
    with pytest.raises(FileNotFoundError, match="no training has left"):
        [*pictures.draw_training((tmp_path,), tmp_path)]
