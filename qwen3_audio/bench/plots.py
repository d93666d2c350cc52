"""Latency against load as a picture, one line for each percentile and result."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen3_audio.bench.results import Result, find_figure
from qwen3_audio.errors import StartError

PACKAGES = {"matplotlib": "matplotlib"}
SUFFIXES = (".png", ".svg")
MEASURES = {
    "speech": ("first_sound_ms", "first sound [ms]"),
    "transcription": ("latency_ms", "latency [ms]"),
}
LINES = {"p50": "-", "p95": "--", "p99": ":"}


def check_plot(path: Path) -> None:
    """StartError before anything runs: the suffix says which kind of picture."""
    if path.suffix.lower() not in SUFFIXES:
        raise StartError(f"--plot {path} must end in {' or '.join(SUFFIXES)}")


def write_plot(path: Path, results: Sequence[tuple[str, Result]]) -> None:
    """Open and closed loops have axes of their own, where there are points of both."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    from matplotlib.figure import Figure

    kind = results[0][1]["work"]["kind"]
    modes = [mode for mode in ("closed", "open") if any(_points(r, mode) for _, r in results)]
    figure = Figure(figsize=(7 * max(len(modes), 1), 4.5), layout="constrained")
    for place, mode in enumerate(modes, 1):
        axes = figure.add_subplot(1, len(modes), place)
        for number, (name, result) in enumerate(results):
            _draw(axes, _points(result, mode), MEASURES[kind][0], name, f"C{number}")
        is_closed = mode == "closed"
        axes.set_xlabel("requests at once" if is_closed else "requests per second")
        axes.set_ylabel(MEASURES[kind][1])
        if is_closed:
            axes.set_xscale("log", base=2)
        loads = sorted({float(point["load"]) for _, r in results for point in _points(r, mode)})
        axes.set_xticks(loads, [f"{load:g}" for load in loads])
        axes.set_yscale("log")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise StartError(f"Can't write {path}: {error.strerror}") from None


def _points(result: Result, mode: str) -> list[dict[str, Any]]:
    points = [point for point in result["points"] if point["mode"] == mode]
    return sorted(points, key=lambda point: float(point["load"]))


def _draw(
    axes: Any, points: Sequence[dict[str, Any]], measure: str, name: str, colour: str
) -> None:
    for key, style in LINES.items():
        found = [(p["load"], find_figure(p, f"{measure}.{key}")) for p in points]
        shown = [(load, value) for load, value in found if value is not None]
        if shown:
            loads, values = zip(*shown, strict=True)
            axes.plot(loads, values, style, marker="o", color=colour, label=f"{name} {key}")
