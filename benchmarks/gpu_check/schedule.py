"""The parts in their order, each with the seconds that it may take; one process runs one part.

What matters most comes first: where something takes longer than it may, the last is left out.

A process of its own, because an error of CUDA stays in the process that had it.
"""

import faulthandler
import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.gpu_check.part import Figures, Part

GRACE_S = 12.0  # for a part to notice that its time is over, before it is ended
SMALLEST_S = 15.0  # with less left a part is not begun
AGAIN_S = 45.0  # for a part that failed, with every launch waited for
ROOT = Path(__file__).parent.parent.parent
CHILD_ENV = {
    "PYTHONFAULTHANDLER": "1",
    # Profiles follow each other: tearing down what one used can meet the next, and hang.
    "TEARDOWN_CUPTI": "0",
    # torch's attention by cuDNN plans every new shape anew; the engine does without it, too.
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
}
# A kernel's error otherwise shows in whatever call comes next.
WAIT_FOR_EACH = {"CUDA_LAUNCH_BLOCKING": "1"}
Results = dict[str, Figures]


@dataclass(frozen=True, slots=True)
class Planned:
    module: str
    budget_s: float
    size: str | None = None  # of its checkpoints, where it has a choice
    dtype: str | None = None  # where it is not the usual one


# Seconds as estimated, not measured, for a card of the H200 class: 8 to 10 for Python, torch and
# CUDA, then compiling, drawing weights, loading, capturing, and the least of what is measured. What
# one leaves over is for those behind it: measurements that would be nice to have ask for it.
PARTS = {
    "machine": Planned("machine", 15),
    "speech-1.7b": Planned("speech", 95, "1.7b"),
    "listening-1.7b": Planned("listening", 80, "1.7b"),
    "tiny": Planned("tiny", 100),
    "forced-1.7b": Planned("forced", 65, "1.7b"),
    "kernels": Planned("kernel_trials", 70, "1.7b"),
    "speech-0.6b": Planned("speech", 65, "0.6b"),
    "official-1.7b": Planned("official", 20, "1.7b"),
}
# Only where they are named: another call, whose results stand beside those of the first.
MORE_PARTS = {
    "listening-0.6b": Planned("listening", 80, "0.6b"),
    "forced-0.6b": Planned("forced", 60, "0.6b"),
    "speech-1.7b-fp8": Planned("speech", 60, "1.7b", "fp8"),
}
# What stands for all of it where the tool itself is tried.
TINY_PARTS = {
    "machine": Planned("machine", 60),
    "kernels": Planned("kernel_trials", 120, "tiny"),
    "tiny": Planned("tiny", 240),
    "speech-tiny": Planned("speech", 120, "tiny"),
    "listening-tiny": Planned("listening", 120, "tiny"),
    "forced-tiny": Planned("forced", 120, "tiny"),
    "speech-tiny-fp8": Planned("speech", 120, "tiny", "fp8"),
    "official-tiny": Planned("official", 60, "tiny"),
}


class Noting(logging.Handler):
    """What the engine warns of, such as a step without a graph, belongs to the result."""

    def __init__(self, part: Part) -> None:
        super().__init__(logging.WARNING)
        self._part, self._told = part, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().split("\n")[0][:300]
        if text not in self._told:
            self._told.add(text)
            self._part.note(text)


def run_part(part: Part, planned: Planned) -> int:
    """In the child: 0 if it came to its end; a failure is a line like every other result."""
    log, noting = logging.getLogger("qwen3_audio"), Noting(part)
    log.addHandler(noting)
    # One that hangs is ended from outside: it says before where it is.
    faulthandler.dump_traceback_later(max(part.left_s, 0.0) + GRACE_S / 2)
    try:
        return _run(part, planned)
    finally:
        faulthandler.cancel_dump_traceback_later()
        log.removeHandler(noting)


def _run(part: Part, planned: Planned) -> int:
    choices = (planned.size, planned.dtype)
    arguments = (part, *(choice for choice in choices if choice is not None))
    try:
        importlib.import_module(f"benchmarks.gpu_check.{planned.module}").run(*arguments)
    except Exception as error:  # whatever it is, it is this part's result, and the others go on
        part.fail(error)
        return 1
    return 0


def run_all(
    names: Sequence[str],
    parts: dict[str, Planned],
    *,
    end_s: float,
    options: Sequence[str],
    reports: Path,
    keep: Callable[[Results], object],
) -> Results:
    """Each part in a child of its own; what was left out says so.

    `reports`: the folder of what a part has found so far; `keep` hears all results after each.
    """
    results: Results = {}
    for at, name in enumerate(names):
        report = reports / f"{name}.lines"
        later_s = sum(parts[later].budget_s for later in names[at + 1 :])
        results[name] = _run_one(name, parts[name].budget_s, end_s, later_s, options, report)
        keep(results)
        has_time = end_s - time.monotonic() >= AGAIN_S + GRACE_S
        if results[name]["state"] == "failed" and has_time and "cpu" not in options:
            print(f"{name}: again, waiting for every launch", file=sys.stderr, flush=True)
            quick = [*options, "--quick"]
            results[name]["again"] = run_child(name, AGAIN_S, quick, report, WAIT_FOR_EACH)
            keep(results)
        report.unlink(missing_ok=True)
    return results


def _run_one(
    name: str, budget_s: float, end_s: float, later_s: float, options: Sequence[str], report: Path
) -> Figures:
    """`later_s`: what the parts behind it may take; the rest is its own."""
    left_s = end_s - time.monotonic()
    if left_s < SMALLEST_S:
        print(f"{name}: left out, no time was left", file=sys.stderr, flush=True)
        return {"state": "left out", "error": "no time was left"}
    seconds = min(max(budget_s, left_s - later_s - GRACE_S), left_s - GRACE_S)
    print(f"{name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
    return run_child(name, seconds, options, report)


def run_child(
    name: str,
    seconds: float,
    options: Sequence[str],
    report: Path,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Figures:
    """Its results so far, however it ended."""
    report.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--child", name]
    command += ["--seconds", f"{seconds:.1f}", "--report", str(report.resolve()), *options]
    begin_s, state, error = time.monotonic(), "done", None
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": path, **CHILD_ENV, **variables}
    try:
        child = subprocess.run(command, cwd=ROOT, env=env, timeout=seconds + GRACE_S)
        if child.returncode:
            state, error = "failed", f"ended with code {child.returncode}"
    except subprocess.TimeoutExpired:
        state, error = "timed out", f"ended after {seconds + GRACE_S:.0f} s"
    result: dict[str, Any] = {
        "state": state,
        "seconds": round(time.monotonic() - begin_s, 1),
        **({"error": error} if error else {}),
    }
    return result | read_report(report)


def read_report(path: Path) -> Figures:
    """All lines as one; the last may be cut off by what ended the part."""
    result: Figures = {"figures": {}, "checks": {}, "notes": []}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        result["figures"] |= line.get("figures", {})
        result["checks"] |= line.get("checks", {})
        result["notes"] += line.get("notes", [])
        result |= {key: line[key] for key in ("error", "traceback") if key in line}
    return result
