"""Side by side with the official packages: the same random checkpoints, taking turns.

Each arm is a process in its own environment. The official ones first try one thread and two, and
go on with the better; then the arms alternate. A ratio above 1 says that ours is faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.checkpoints import SIZES, write_checkpoints
from benchmarks.live import ROOT
from benchmarks.report import best_and_median, check_all, counted, format_table, say, write_result

DTYPES = ("float32", "bfloat16")
THREADS = (1, 2)
Row = dict[str, Any]


class Arm:
    """A process that runs once for each line that it is sent."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._read()  # it says when it is ready

    def run(self, *, threads: int, seed: int) -> Row:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"threads": threads, "seed": seed}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Row:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):  # what the packages print while they load
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended early")  # type: ignore[arg-type]
        row: Row = json.loads(line)
        return row


@contextmanager
def start_arm(python: Path, module: str, *options: str) -> Iterator[Arm]:
    """Ends with the block. Idle threads soon sleep, so no arm takes time from the other."""
    calm = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [python, "-m", module, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=dict(os.environ) | calm,
    )
    try:
        yield Arm(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def compare(ours: Arm, official: Arm, *, threads: int, repeats: int, what: str) -> Row:
    """One run each to warm up, the better thread count of theirs, then A/B/A/B."""
    ours.run(threads=threads, seed=0)
    official.run(threads=THREADS[0], seed=0)
    tried = {number: official.run(threads=number, seed=0)["wall_s"] for number in THREADS}
    their_threads = min(tried, key=lambda number: tried[number])
    our_rows, their_rows = [], []
    for seed in counted(range(1, repeats + 1), what, repeats):
        our_rows.append(ours.run(threads=threads, seed=seed))
        their_rows.append(official.run(threads=their_threads, seed=seed))
    return summarise(our_rows, their_rows) | {
        "threads": {"ours": threads, "official": their_threads},
        "official_threads_tried_s": tried,
    }


def summarise(our_rows: Sequence[Row], their_rows: Sequence[Row]) -> Row:
    """Best and median seconds of both, and how many times as long theirs takes."""
    ours = best_and_median([row["wall_s"] for row in our_rows])
    theirs = best_and_median([row["wall_s"] for row in their_rows])
    return {
        "ours_s": ours,
        "official_s": theirs,
        "ratio": {key: round(theirs[key] / ours[key], 3) for key in ours},
        "runs": {"ours": list(our_rows), "official": list(their_rows)},
    }


def describe(results: dict[str, Row], them: str = "official") -> str:
    head = [
        "",
        "ours best s",
        "median",
        f"{them} best s",
        "median",
        "ratio best",
        "median",
        "load",
    ]
    rows = [
        [
            what,
            *result["ours_s"].values(),
            *result["official_s"].values(),
            *result["ratio"].values(),
            result["runs"]["ours"][-1]["load_average"],
        ]
        for what, result in results.items()
    ]
    return format_table(head, rows)


def measure(given: argparse.Namespace, home: Path) -> dict[str, Row]:
    results = {}
    for kind in given.kind or work.KINDS:
        python = given.asr_python if kind == "asr" else given.tts_python
        if python is None:
            say(f"{kind}: left out, no Python of the official package was given")
            continue
        say(f"{kind}: making a random checkpoint")
        folder = write_checkpoints(home, [kind], SIZES[given.size])[0]
        module = (
            "benchmarks.peers.official_asr" if kind == "asr" else "benchmarks.peers.official_tts"
        )
        for dtype in given.dtype or DTYPES:
            options = ("--folder", str(folder), "--kind", kind, "--dtype", dtype)
            engine = ("--arm", "--threads", str(given.threads), *options)
            say(f"{kind} {dtype}: loading both")
            with (
                start_arm(Path(sys.executable), "benchmarks.engine", *engine) as ours,
                start_arm(python, module, *options) as official,
            ):
                results[f"{given.size} {kind} {dtype}"] = compare(
                    ours,
                    official,
                    threads=given.threads,
                    repeats=given.repeats,
                    what=f"{kind} {dtype}",
                )
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--tts-python", type=Path, help="a Python with qwen-tts")
    parser.add_argument("--asr-python", type=Path, help="a Python with qwen-asr")
    parser.add_argument("--kind", action="append", choices=work.KINDS, help="default: all three")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    parser.add_argument("--size", choices=SIZES, default="0.6b")
    parser.add_argument("--threads", type=int, default=2, help="of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoints", type=Path, help="keep them here and use them again")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-peers-") as scratch:
        results = measure(given, given.checkpoints or Path(scratch))
    if not results:
        parser.error("give --tts-python, --asr-python or both")
    print(describe(results))
    if given.size != "tiny":  # that one only tries the tool
        write_result("peers", results)
    checks = {
        f"{what}: median ratio {result['ratio']['median']:.2f} >= 1": result["ratio"]["median"] >= 1
        for what, result in results.items()
    }
    return check_all(checks)


if __name__ == "__main__":
    sys.exit(main())
