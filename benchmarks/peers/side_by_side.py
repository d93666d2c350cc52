"""Our engine beside the official packages: the same random checkpoint, precision and length.

    python -m benchmarks.peers.side_by_side --official-tts PYTHON --official-asr PYTHON

Each arm is a process of its own that loads once; then they run in turns, so that what the machine
does meanwhile falls on all alike. benchmarks/README.md says how to make the two environments.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import write_checkpoints
from benchmarks.report import format_table, say, write_result

ROOT = Path(__file__).parent.parent.parent
TEXT = "The quick brown fox jumps over the lazy dog near the river."  # 12 words
REFERENCE_TEXT = "Some words that the reference is said to hold."
TASKS = {
    "custom_voice": {"num_frames": 60},
    "base": {"num_frames": 60, "reference_s": 5.0, "reference_text": REFERENCE_TEXT},
    "asr": {"audio_s": 10.0, "num_tokens": 35},
}


class Arm:
    """A process that runs once for every seed it is given."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self.process = name, process
        self.results: list[dict[str, float]] = []

    def run(self, seed: int) -> dict[str, float]:
        assert self.process.stdin is not None
        print(seed, file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; its own output says why")
        answer: dict[str, float] = json.loads(line)
        return answer

    @property
    def seconds(self) -> list[float]:
        return [result["seconds"] for result in self.results]


@contextmanager
def open_arm(name: str, python: str, module: str, order: dict[str, Any]) -> Iterator[Arm]:
    variables = os.environ | {
        "OMP_NUM_THREADS": str(order["threads"]),
        "OMP_WAIT_POLICY": "PASSIVE",  # an arm that waits must not keep a core busy
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [python, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
        cwd=ROOT,
    )
    arm = Arm(name, process)
    try:
        assert process.stdin is not None
        print(json.dumps(order), file=process.stdin, flush=True)
        arm.read()
        yield arm
    finally:
        process.kill()
        process.wait()


def compare(
    task: str, folder: Path, dtype: str, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """All arms of one task at one precision, `options.runs` times in turns after one to warm up."""
    order = {"task": task, "folder": str(folder), "dtype": dtype, "text": TEXT} | TASKS[task]
    official = options.official_asr if task == "asr" else options.official_tts
    ours, theirs = "benchmarks.peers.arm_ours", "benchmarks.peers.official_arm"
    with ExitStack() as stack:
        arms = [
            stack.enter_context(
                open_arm("ours", sys.executable, ours, order | {"threads": options.threads})
            )
        ]
        for threads in (1, options.threads) if official else ():
            name = f"official, {threads} threads"
            arm = open_arm(name, official, theirs, order | {"threads": threads})
            arms.append(stack.enter_context(arm))
        for seed in range(options.runs + 1):
            for arm in arms:
                result = arm.run(seed)
                say(f"{task} {dtype} {arm.name}: {result['seconds']:.2f} s, {result['units']:g}")
                if seed:
                    arm.results.append(result)
        return {arm.name: summary(arm, task) for arm in arms}


def summary(arm: Arm, task: str) -> dict[str, Any]:
    audio_s = TASKS[task].get("audio_s") or TASKS[task]["num_frames"] * 0.08
    figures = {
        "best_s": min(arm.seconds),
        "median_s": statistics.median(arm.seconds),
        "real_time_factor": min(arm.seconds) / float(audio_s),
        "units": arm.results[-1]["units"],
        "load_average": round(os.getloadavg()[0], 2),
    }
    firsts = [result["first_s"] for result in arm.results if "first_s" in result]
    return figures | ({"first_sound_s": min(firsts)} if firsts else {})


def main() -> None:
    options = parse_options()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="qwen3-audio-bench-") as made:
        home = options.checkpoints or Path(made)
        for task in options.tasks:
            say(f"checkpoint for {task}")
            (folder,) = write_checkpoints(home, [task], options.sizes)
            for dtype in options.dtypes:
                result[f"{task} {dtype}"] = compare(task, folder, dtype, options)
    print_table(result)
    print(f"written to {write_result(options.result, result)}")


def print_table(result: dict[str, Any]) -> None:
    rows = []
    for what, arms in result.items():
        officials = [arm["best_s"] for name, arm in arms.items() if name != "ours"]
        ratio = min(officials) / arms["ours"]["best_s"] if officials else ""
        rows += [
            [what, name, arm["best_s"], arm["median_s"], arm["real_time_factor"], ratio]
            for name, arm in arms.items()
        ]
    head = ["what", "arm", "best s", "median s", "real-time factor", "best official / ours"]
    print(format_table(head, rows))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--official-tts", metavar="PYTHON", help="of an environment with qwen-tts")
    parser.add_argument("--official-asr", metavar="PYTHON", help="of an environment with qwen-asr")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--sizes", nargs=2, default=("0.6b", "asr-0.6b"), help="presets of both")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--checkpoints", type=Path, help="keep and reuse them in this folder")
    parser.add_argument("--result", default="side_by_side", help="name in benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
