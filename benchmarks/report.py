"""What a measurement leaves behind: progress, a table, a JSON file."""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from qwen3_audio.bench.figures import percentile
from qwen3_audio.bench.results import describe_machine, format_table

__all__ = ["check_all", "counted", "format_table", "percentile", "say", "write_result"]

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


def best_and_median(values: Sequence[float]) -> dict[str, float]:
    return {"best": min(values), "median": statistics.median(values)}


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Keep each part with where and when; those that were not measured now stay as they were."""
    path = folder / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = before.get("measured", {}) | dict.fromkeys(result, describe_machine())
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"measured": measured, **before} | result | {"measured": measured}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def check_all(checks: dict[str, bool], report: Callable[[str], None] = print) -> int:
    """Exit code 1 if any bound was missed; every one is named."""
    for what, is_kept in checks.items():
        report(f"{'kept  ' if is_kept else 'MISSED'}  {what}")
    return 0 if all(checks.values()) else 1
