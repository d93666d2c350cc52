"""Side by side with a program of somebody else's, given as a command line: the same checkpoint,
the same work, taking turns.

In the command {checkpoint} becomes the folder, {text} the sentence, {steps} the number of frames or
tokens to make, {recording} a WAV file of 10 s to listen to, {output} the WAV file to write. It runs
twice each time, once for a single step: the difference is the work without loading. A command
without {steps} has its loading counted.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import work
from benchmarks.checkpoints import SIZES, write_checkpoints
from benchmarks.peers.__main__ import Row, describe, start_arm, summarise
from benchmarks.report import check_all, counted, say, write_result
from qwen3_audio.audio.wav import wav_bytes
from qwen3_audio.bench.results import load_average


class Program:
    """Somebody else's command, ready to run."""

    def __init__(self, command: str, kind: str, places: Mapping[str, str]) -> None:
        self.words, self.kind, self.places = shlex.split(command), kind, places
        self.output = Path(places["output"])
        self.has_steps = "{steps}" in command

    def run(self) -> Row:
        """One run as a row of figures, as our own arm makes them."""
        num_steps = work.NUM_TOKENS if self.kind == "asr" else work.NUM_FRAMES
        loading_s = self._time(1) if self.has_steps else 0.0
        wall_s = self._time(num_steps) - loading_s
        if self.kind != "asr":
            work.check_length(work.Done(count_frames(self.output), 0), num_steps)
        return {
            "wall_s": round(wall_s, 4),
            "loading_s": round(loading_s, 4),
            "load_average": load_average(),
        }

    def _time(self, num_steps: int) -> float:
        self.output.unlink(missing_ok=True)
        begin_s = time.perf_counter()
        try:
            subprocess.run(self._fill(num_steps), stdout=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"The program failed: {error}") from None
        return time.perf_counter() - begin_s

    def _fill(self, num_steps: int) -> list[str]:
        """Word by word, so that a text with spaces stays one argument."""
        values = {**self.places, "steps": str(num_steps)}
        filled = []
        for word in self.words:
            for name, value in values.items():
                word = word.replace(f"{{{name}}}", value)
            filled.append(word)
        return filled


def count_frames(path: Path) -> int:
    """Of the sound that a program wrote."""
    try:
        with wave.open(str(path)) as file:
            return round(file.getnframes() / file.getframerate() / work.FRAME_S)
    except (OSError, EOFError, wave.Error) as error:
        raise SystemExit(f"The program wrote no WAV file to {{output}}: {error}") from None


def compare(given: argparse.Namespace, home: Path) -> Row:
    """One run each to warm up, then ours, theirs, ours, theirs."""
    say("Making a random checkpoint")
    folder = write_checkpoints(given.checkpoints or home, [given.kind], SIZES[given.size])[0]
    recording = home / "recording.wav"
    recording.write_bytes(wav_bytes(work.clip(), work.CLIP_RATE_HZ))
    program = Program(
        given.program,
        given.kind,
        {
            "checkpoint": str(folder),
            "text": work.TEXT,
            "recording": str(recording),
            "output": str(home / "output.wav"),
        },
    )
    options = ("--folder", str(folder), "--kind", given.kind, "--dtype", given.dtype)
    threads = ("--threads", str(given.threads))
    with start_arm(Path(sys.executable), "benchmarks.engine", "--arm", *threads, *options) as ours:
        ours.run(threads=given.threads, seed=0)
        program.run()
        our_rows, their_rows = [], []
        for seed in counted(range(1, given.repeats + 1), given.kind, given.repeats):
            our_rows.append(ours.run(threads=given.threads, seed=seed))
            their_rows.append(program.run())
    return summarise(our_rows, their_rows) | {"threads": {"ours": given.threads}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.program",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", help="its command line, with {checkpoint} and so on in it")
    parser.add_argument("--name", help="what to call it; default: the name of its file")
    parser.add_argument("--kind", choices=("custom_voice", "asr"), default="custom_voice")
    parser.add_argument("--dtype", default="int8", help="of ours")
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoints", type=Path, help="keep them here and use them again")
    given = parser.parse_args(arguments)
    name = given.name or Path(shlex.split(given.program)[0]).name
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-peers-") as scratch:
        result = {f"{given.size} {given.kind} {given.dtype}, {name}": compare(given, Path(scratch))}
    print(describe(result, name))
    if given.size != "tiny":  # that one only tries the tool
        write_result("programs", result)
    return check_all(
        {
            f"{what}: median ratio {row['ratio']['median']:.2f} >= 1": row["ratio"]["median"] >= 1
            for what, row in result.items()
        }
    )


if __name__ == "__main__":
    sys.exit(main())
