"""What a measurement leaves behind: progress, a table, a JSON file."""

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


def counted(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a bar on a terminal and one line at the end in a log."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, leave=False)
    else:
        yield from items
        say(f"{what}: {total} done")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def format_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; floats with three digits behind the point."""
    cells = [[_format(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _format(cell: object) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that this share of all does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def best_and_median(values: Sequence[float]) -> dict[str, float]:
    return {"best": min(values), "median": statistics.median(values)}


def machine() -> dict[str, Any]:
    """Where and when, without names or folders of the machine."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": version("torch"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Keep each part with where and when; those that were not measured now stay as they were."""
    path = folder / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = before.get("measured", {}) | dict.fromkeys(result, machine())
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"measured": measured, **before} | result | {"measured": measured}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def check_all(checks: dict[str, bool], report: Callable[[str], None] = print) -> int:
    """Exit code 1 if any bound was missed; every one is named."""
    for what, is_kept in checks.items():
        report(f"{'kept  ' if is_kept else 'MISSED'}  {what}")
    return 0 if all(checks.values()) else 1
