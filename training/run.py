"""What every training program needs: stages that resume, a budget of active time, curves.

A schedule anneals over active time, so that a process may be stopped for an hour, or killed and
started again, without harm.
"""

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Json = dict[str, Any]

MAX_STEP_S = 3.0  # what one step counts at most: a paused process does not use up its budget
SAVE_EVERY_S = 180.0


@dataclass(slots=True)
class ActiveTime:
    """Seconds that this thread has computed, against what there is.

    A step counts at most what the processor gave to it, so a busy machine costs patience and not
    quality, and at most three seconds, so a pause costs nothing.
    """

    budget_s: float
    used_s: float = 0.0
    _last: tuple[float, float] = field(default_factory=lambda: _clocks())

    def tick(self) -> None:
        """Count the time since the last tick, or since it was made."""
        now = _clocks()
        wall_s, computed_s = (new - old for new, old in zip(now, self._last, strict=True))
        self.used_s += min(wall_s, computed_s, MAX_STEP_S)
        self._last = now

    def restart(self) -> None:
        """Do not count what has happened since the last tick."""
        self._last = _clocks()

    @property
    def share(self) -> float:
        """How much of the budget is used, 0 to 1."""
        return min(self.used_s / self.budget_s, 1.0) if self.budget_s > 0 else 1.0

    @property
    def is_over(self) -> bool:
        return self.share >= 1.0


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.thread_time()


def run_stage(work: Path, name: str, stage: Callable[[], Json | None]) -> Json:
    """Run a stage once: its result is kept in `name.done.json` and returned from there later."""
    marker = work / f"{name}.done.json"
    if marker.exists():
        say(f"{name}: done before")
        return dict(json.loads(marker.read_text(encoding="utf-8")))
    say(f"{name}: begins")
    started = time.monotonic()
    result = {**(stage() or {})}
    result["wall_s"] = round(time.monotonic() - started, 1)
    write_text(marker, json.dumps(result, indent=1))
    say(f"{name}: done in {result['wall_s']:.0f} s")
    return result


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def save_state(path: Path, state: Json) -> None:
    """Tensors and plain values into one file, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_state(path: Path) -> Json | None:
    """What save_state wrote, or None if there is none. Only read files of your own making."""
    if not path.exists():
        return None
    return dict(torch.load(path, weights_only=False))


class Progress:
    """A line on the screen and a row in a file for every report."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def report(self, **row: float | int | str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        say("  ".join(f"{key} {_short(value)}" for key, value in row.items()))

    def rows(self) -> list[Json]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def draw_curves(rows: list[Json], picture: Path, *, x: str, columns: list[list[str]]) -> None:
    """One panel for each list of columns, over the column `x`; logarithmic upwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(columns), figsize=(5 * len(columns), 3.6))
    for panel, names in zip([panels] if len(columns) == 1 else panels, columns, strict=True):
        for name in names:
            points = [(row[x], row[name]) for row in rows if row.get(name, 0) > 0]
            if points:
                panel.plot(*zip(*points, strict=True), label=name, linewidth=1)
        panel.set(xlabel=x, yscale="log")
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def choose_device() -> torch.device:
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def use_few_threads() -> None:
    """One thread unless OMP_NUM_THREADS says otherwise: these models are too small for more."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@contextlib.contextmanager
def plain_failures(*expected: type[Exception]) -> Iterator[None]:
    """What a person can put right ends the program in one sentence, not in a stack trace."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"The disk is full: {error.filename or 'nothing more can be written'}. "
                 "Make room and start again: training goes on where it was")  # fmt: skip
    except expected as error:
        sys.exit(str(error))
