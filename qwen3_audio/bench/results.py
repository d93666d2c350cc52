"""A result: where and when it was measured, of what, and its points; as JSON and as a table."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qwen3_audio.errors import StartError
from qwen3_audio.machine import allowed_cores

FORMAT = 1
Result = dict[str, Any]

# Heading, and where in a point; times in milliseconds.
COLUMNS = {
    "speech": (
        ("1st byte p50", "first_byte_ms.p50"),
        ("1st sound p50", "first_sound_ms.p50"),
        ("p95", "first_sound_ms.p95"),
        ("p99", "first_sound_ms.p99"),
        ("gap p99", "chunk_gap_ms.p99"),
        ("underruns", "num_underruns"),
        ("gap-free", "gap_free_share.0 ms"),
        ("RTF p50", "rtf.p50"),
        ("p95", "rtf.p95"),
    ),
    "transcription": (
        ("1st byte p50", "first_byte_ms.p50"),
        ("latency p50", "latency_ms.p50"),
        ("p95", "latency_ms.p95"),
        ("p99", "latency_ms.p99"),
        ("RTF p50", "rtf.p50"),
        ("p95", "rtf.p95"),
        ("WER", "words.wer"),
        ("CER", "words.cer"),
    ),
}
COMMON_COLUMNS = (
    ("audio s/s", "audio_s_per_s"),
    ("req/s", "requests_per_s"),
    ("tok/s", "tokens_per_s"),
    ("peak MB", "peak_memory_mb"),
    ("load avg", "load_average"),
)


def find_figure(point: dict[str, Any], path: str) -> Any:
    """The figure under a path such as rtf.p50; None if the point has none."""
    value: Any = point
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def format_points(result: Result) -> str:
    """One row for each point of load, then every kind of error by its number."""
    columns = (*COLUMNS[result["work"]["kind"]], *COMMON_COLUMNS)
    shown = [row for row in columns if any(_has(p, row[1]) for p in result["points"])]
    rows = [
        [
            point["label"],
            f"{point['num_done']}/{point['num_requests']}",
            *(_cell(point, path) for _, path in shown),
        ]
        for point in result["points"]
    ]
    lines = [format_table(["load", "done", *(name for name, _ in shown)], rows)]
    for point in result["points"]:
        lines += [f"{point['label']}: {n} x {what}" for what, n in point["errors"].items()]
    return "\n".join(lines)


def _has(point: dict[str, Any], path: str) -> bool:
    """Also where failures took the figure; not where nobody knows it."""
    is_lost = point["num_failed"] > 0 and find_figure(point, path.partition(".")[0]) is not None
    return is_lost or find_figure(point, path) is not None


def _cell(point: dict[str, Any], path: str) -> object:
    value = find_figure(point, path)
    if value is None:
        return "failed" if point["num_failed"] else "-"
    return round(value, 1) if path.partition(".")[0].endswith("_ms") else value


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


def describe_machine() -> dict[str, Any]:
    """Where and when, without names or folders of the machine."""
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "none"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cores": allowed_cores(),
        "python": platform.python_version(),
        "torch": torch_version,
        "load_average": load_average(),
    }


def load_average() -> float:
    """Of the last minute: how many threads of the whole machine wanted to run."""
    return round(os.getloadavg()[0], 2)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(path: Path, result: Result) -> None:
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StartError(f"Can't write {path}: {error.strerror}") from None


def read_result(path: Path) -> Result:
    """StartError if it is none of `qwen3-audio bench`."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"Can't read {path}: {error.strerror}") from None
    except ValueError:
        result = None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise StartError(f"{path} is no result of qwen3-audio bench")
    return result
