"""What a part of the check is told, and how it answers: a file of lines that outlives a crash."""

import json
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
MOST_CAUSES = 4  # of an exception, each with its traceback
MOST_LINES = 30  # of its message: those of compilers are long


@dataclass(frozen=True, slots=True)
class Part:
    """One run of one part in a process of its own."""

    name: str
    device: str  # "cuda:0", or "cpu" to try the tool itself
    home: Path  # where checkpoints are made and found again
    report: Path
    deadline_s: float  # of time.monotonic
    is_quick: bool

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def left_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def has_time(self, needed_s: float, what: str) -> bool:
        """False, and noted, if something should better not be begun."""
        if self.left_s >= needed_s:
            return True
        self.note(f"left out for lack of time: {what}")
        return False

    def put(self, name: str, figures: Figures) -> None:
        """A result, from now on safe whatever happens."""
        self._write({"figures": {name: figures}})
        shown = ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
        self.say(f"{name}: {shown}")

    def check(self, name: str, is_right: bool, detail: object = "") -> None:
        """A claim that holds or not."""
        self._write({"checks": {name: {"ok": bool(is_right), "detail": detail}}})
        self.say(f"{'right' if is_right else 'WRONG'}: {name} {_short(detail)}")

    def note(self, text: str) -> None:
        self._write({"notes": [text]})
        self.say(text)

    def crash(self, name: str, error: BaseException) -> None:
        """A claim that was not come to; the traceback stays in the report."""
        text, lines = describe_error(error), trace(error)
        self._write({"checks": {name: {"ok": False, "detail": text, "traceback": lines}}})
        self.say("\n    ".join([f"WRONG: {name} {text}", *lines]))

    def fail(self, error: BaseException) -> None:
        """The end of the part."""
        text, lines = describe_error(error), trace(error)
        self._write({"error": text, "traceback": lines})
        self.say("\n    ".join([text, *lines]))

    def say(self, text: str) -> None:
        print(f"  [{self.name}, {self.left_s:.0f} s left] {text}", file=sys.stderr, flush=True)

    def _write(self, line: Figures) -> None:
        with self.report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


def describe_error(error: BaseException) -> str:
    """One line: kind, first line of the message, place."""
    text = traceback.format_exception_only(error)[-1].strip().split("\n")[0]
    places = traceback.extract_tb(error.__traceback__)
    return f"{text} ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else text


def trace(error: BaseException) -> list[str]:
    """The calls that led to it, then those of what caused it; files by the ends of their paths."""
    lines: list[str] = []
    cause: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if cause is None:
            break
        lines += [f"caused by {describe_error(cause)}"] if lines else []
        for place in traceback.extract_tb(cause.__traceback__):
            file = "/".join(Path(place.filename).parts[-3:])
            lines.append(f"{file}:{place.lineno} {place.name}: {place.line}")
        lines += str(cause).split("\n")[1:MOST_LINES]
        cause = cause.__cause__ or cause.__context__
    return lines


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
