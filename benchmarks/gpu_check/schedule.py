"""The parts in their order, each with the seconds that it may take; one process runs one part.

What matters most comes first: if all took as long as they may, the last would be left out.

A process of its own, because an error of CUDA stays in the process that had it.
"""

import importlib
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.part import Figures, Part

GRACE_S = 12.0  # for a part to notice that its time is over, before it is ended
SMALLEST_S = 15.0  # with less left a part is not begun
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Planned:
    module: str
    budget_s: float
    size: str | None = None  # of its checkpoints, where it has a choice
    dtype: str | None = None  # where it is not the usual one


PARTS = {
    "machine": Planned("machine", 30),
    "tiny": Planned("tiny", 120),
    "speech-1.7b": Planned("speech", 150, "1.7b"),
    "listening-1.7b": Planned("listening", 110, "1.7b"),
    "forced-0.6b": Planned("forced", 60, "0.6b"),
    "speech-0.6b": Planned("speech", 110, "0.6b"),
    "listening-0.6b": Planned("listening", 80, "0.6b"),
    "forced-1.7b": Planned("forced", 75, "1.7b"),
    "speech-1.7b-fp8": Planned("speech", 45, "1.7b", "fp8"),
    "official-1.7b": Planned("official", 60, "1.7b"),
}
# What stands for all of it where the tool itself is tried.
TINY_PARTS = {
    "machine": Planned("machine", 60),
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
    try:
        return _run(part, planned)
    finally:
        log.removeHandler(noting)


def _run(part: Part, planned: Planned) -> int:
    choices = (planned.size, planned.dtype)
    arguments = (part, *(choice for choice in choices if choice is not None))
    try:
        importlib.import_module(f"benchmarks.gpu_check.{planned.module}").run(*arguments)
    except Exception as error:  # whatever it is, it is this part's result, and the others go on
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        text = traceback.format_exception_only(error)[-1].strip()
        part.fail(f"{text} ({where})")
        return 1
    return 0


def run_all(
    names: Sequence[str], parts: dict[str, Planned], *, end_s: float, options: Sequence[str]
) -> dict[str, Figures]:
    """Each part in a child of its own; what was left out says so."""
    results: dict[str, Figures] = {}
    for name in names:
        left_s = end_s - time.monotonic()
        if left_s < SMALLEST_S:
            results[name] = {"state": "left out", "error": "no time was left"}
            print(f"{name}: left out, no time was left", file=sys.stderr, flush=True)
            continue
        seconds = min(parts[name].budget_s, left_s - GRACE_S)
        print(f"{name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        results[name] = run_child(name, seconds, options)
    return results


def run_child(name: str, seconds: float, options: Sequence[str]) -> Figures:
    """Its results so far, however it ended."""
    home = Path(options[options.index("--home") + 1])
    report = home / f"{name}.lines"
    report.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--child", name]
    command += ["--seconds", f"{seconds:.1f}", "--report", str(report), *options]
    begin_s, state, error = time.monotonic(), "done", None
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        child = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, timeout=seconds + GRACE_S
        )
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
        if "error" in line:
            result["error"] = line["error"]
    return result
