"""Two results side by side: how many times as good the second is, point by point."""

from typing import Any

from qwen3_audio.bench.results import Result, find_figure, format_table
from qwen3_audio.errors import StartError

# What is compared, and whether less of it is better.
MEASURES = (
    ("first_byte_ms.p50", True),
    ("first_sound_ms.p50", True),
    ("first_sound_ms.p95", True),
    ("latency_ms.p50", True),
    ("latency_ms.p95", True),
    ("latency_ms.p99", True),
    ("chunk_gap_ms.p99", True),
    ("num_underruns", True),
    ("rtf.p50", True),
    ("rtf.p95", True),
    ("audio_s_per_s", False),
    ("requests_per_s", False),
    ("tokens_per_s", False),
    ("words.wer", True),
    ("peak_memory_mb", True),
    ("num_failed", True),
)


def compare_results(first: Result, second: Result) -> list[dict[str, Any]]:
    """A row for each measure that both have; StartError where nothing can be compared."""
    kinds = first["work"]["kind"], second["work"]["kind"]
    if kinds[0] != kinds[1]:
        raise StartError(f"One result is of {kinds[0]}, the other of {kinds[1]}")
    points = {point["label"]: point for point in second["points"]}
    pairs = [(p, points[p["label"]]) for p in first["points"] if p["label"] in points]
    if not pairs:
        raise StartError("The results have no point of load in common")
    return [
        row
        for one, two in pairs
        for path, is_less_better in MEASURES
        if (row := _compare(one, two, path, is_less_better)) is not None
    ]


def _compare(
    one: dict[str, Any], two: dict[str, Any], path: str, is_less_better: bool
) -> dict[str, Any] | None:
    a, b = find_figure(one, path), find_figure(two, path)
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        return None
    over, under = (a, b) if is_less_better else (b, a)
    ratio = 1.0 if over == under else over / under if under else None
    return {"load": one["label"], "measure": path, "a": a, "b": b, "ratio": ratio}


def describe_differences(first: Result, second: Result) -> list[str]:
    """One line for each thing that makes the two hard to compare."""
    lines = []
    for part in ("machine", "work"):
        for name in sorted({*first[part], *second[part]} - {"date"}):
            a, b = first[part].get(name), second[part].get(name)
            if a != b:
                lines.append(f"{part} differs in {name}: {a} and {b}")
    return lines


def format_comparison(rows: list[dict[str, Any]]) -> str:
    """Above 1 the second is better."""
    head = ["load", "measure", "A", "B", "ratio (above 1: B is better)"]
    cells = [
        [
            row["load"],
            row["measure"],
            row["a"],
            row["b"],
            "-" if row["ratio"] is None else round(row["ratio"], 2),
        ]
        for row in rows
    ]
    return format_table(head, cells)
