"""Somebody else's program, given as a command line, and the bounds of the CPU benchmark."""

import sys
from pathlib import Path

import pytest

from benchmarks import cpu, work
from benchmarks.peers.program import Program
from qwen3_audio.bench.sample import Arrival

WRITES = """
import sys, wave
folder, text, steps, path = sys.argv[1:]
assert len(text.split()) == 12, text
with wave.open(path, "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(24000)
    file.writeframes(bytes(2 * 1920 * int(steps)))
"""


def program(tmp_path: Path, command: str, kind: str = "custom_voice") -> Program:
    (tmp_path / "writes.py").write_text(WRITES)
    places = {
        "checkpoint": "folder",
        "text": work.TEXT,
        "recording": "clip.wav",
        "output": str(tmp_path / "out.wav"),
    }
    return Program(f"{sys.executable} {tmp_path}/writes.py {command}", kind, places)


def test_a_program_is_timed_beyond_its_loading(tmp_path: Path) -> None:
    row = program(tmp_path, "{checkpoint} {text} {steps} {output}").run()
    assert row["loading_s"] > 0
    assert row["wall_s"] < row["loading_s"] + 10


def test_a_program_that_makes_another_length_ends_the_comparison(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="Made 7 frames or tokens instead of 60"):
        program(tmp_path, "{checkpoint} {text} 7 {output}").run()


def test_a_program_that_fails_or_writes_nothing_ends_it_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="The program failed"):
        program(tmp_path, "{text}").run()
    (tmp_path / "none.py").write_text("")
    idle = Program(f"{sys.executable} {tmp_path}/none.py", "custom_voice", {"output": "no.wav"})
    with pytest.raises(SystemExit, match="wrote no WAV file"):
        idle.run()


def test_the_time_of_a_frame_is_taken_around_it() -> None:
    steady = [Arrival(0.01 * frame, 0.08) for frame in range(1, 1026)]
    assert cpu.ms_per_frame(steady, 50) == pytest.approx(10)
    assert cpu.ms_per_frame(steady, 1000) == pytest.approx(10)
    by_eight = [Arrival(0.08 * piece, 0.64) for piece in range(1, 130)]
    assert cpu.ms_per_frame(by_eight, 1000) == pytest.approx(10)


def figures(median: float) -> dict[str, float]:
    return {"median": median, "best": 0.0, "worst": 9.9}


def test_medians_are_held_against_the_bounds_of_their_precision() -> None:
    results = {
        "speech int8": {"rtf": figures(1.0), "together_audio_s_per_s": figures(2.1)},
        "speech bfloat16": {"rtf": figures(1.6), "gb_above_torch": 3.0},
        "listening int8": {"gb_above_torch": 1.4},
    }
    assert cpu.judge(results) == {
        "speech in int8: rtf 1.0 <= 1.0": True,
        "speech in bfloat16: rtf 1.6 <= 1.5": False,
        "listening in int8: gb_above_torch 1.4 <= 1.4": True,
        "speech in int8: together_audio_s_per_s 2.1 >= 2.2": False,
    }


def test_the_long_text_lasts_for_all_frames_as_one_prompt() -> None:
    assert len(cpu.LONG_TEXT) <= 600  # above that it would be spoken in parts
    assert 20 * len(cpu.LONG_TEXT.split()) > cpu.LATE_FRAME + cpu.FRAMES_AROUND  # the budget
