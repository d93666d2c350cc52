"""What is left behind: one JSON file and one table in Markdown, named after the card."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.part import Figures
from benchmarks.gpu_check.schedule import Results

FORMAT = 1

# What issue and README promise of a card of the H200 class: part, figure, column, bound.
AT_MOST = (
    ("speech-1.7b", "1 streams", "two_frames_ms", 16.0),
    ("speech-1.7b", "1 streams", "step_ms", 5.0),
    ("speech-1.7b", "1 streams", "rtf", 0.065),
    ("speech-1.7b", "32 streams", "underruns", 0),
)
AT_LEAST = (
    ("speech-1.7b", "32 streams", "audio_s_per_s", 200.0),
    ("listening-1.7b", "32 of 30 s", "times_real_time", 2000.0),
    ("listening-1.7b", "128 of 30 s", "times_real_time", 2000.0),
)
SPEECH_COLUMNS = (
    "first_frame_ms",
    "two_frames_ms",
    "two_frames_p95_ms",
    "step_ms",
    "rtf",
    "audio_s_per_s",
    "underruns",
    "gap_free",
)
LISTENING_COLUMNS = ("latency_ms", "first_text_ms", "loop_ms", "times_real_time", "requests_per_s")


def figure(results: Results, part: str, name: str, column: str) -> Any:
    """None where it was not measured."""
    return results.get(part, {}).get("figures", {}).get(name, {}).get(column)


def judge(results: Results) -> dict[str, bool]:
    """Each bound whose figure was measured, and each claim."""
    verdicts = {}
    for bounds, sign in ((AT_MOST, "<="), (AT_LEAST, ">=")):
        for part, name, column, bound in bounds:
            found = figure(results, part, name, column)
            if found is not None:
                is_kept = found <= bound if sign == "<=" else found >= bound
                verdicts[f"{part}, {name}: {column} {found} {sign} {bound}"] = is_kept
    for part, result in results.items():
        for name, check in result.get("checks", {}).items():
            verdicts[f"{part}, {name}: {check['detail']}"] = check["ok"]
        if result["state"] != "done":
            verdicts[f"{part}: {result['state']}, {result.get('error', '')}"] = False
    return verdicts


def write(folder: Path, card: str, results: Results, about: Figures) -> Path:
    """The JSON file's path; the table lies beside it. Parts measured before stay as they were."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-{slug(card)}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    results = before | {name: one | {"measured": about} for name, one in results.items()}
    kept = {"format": FORMAT, "card": card, "verdicts": judge(results), "parts": results}
    _replace(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    _replace(path.with_suffix(".md"), "\n".join(describe(card, results)) + "\n")
    return path


def _replace(path: Path, text: str) -> None:
    """Either the file before or the whole new one is there, whatever happens meanwhile."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def describe(card: str, results: Results) -> Iterator[str]:
    yield f"# {card}"
    machine = results.get("machine", {}).get("figures", {}).get("machine", {})
    yield ""
    yield "`scripts/gpu-check`: random weights in the published shapes, lengths forced, sampler on;"
    yield "the runners alone, without HTTP."
    yield ""
    for name, one in results.items():
        measured = one["measured"]
        yield (
            f"- {name}: {one['state']} in {one.get('seconds', 0)} s,"
            f" {measured['date']}, commit {measured['commit']}"
        )
    yield ""
    yield ", ".join(f"{name} {value}" for name, value in machine.items())
    yield from _table("Speech", "speech-", results, SPEECH_COLUMNS)
    yield from _table("Recognition", "listening-", results, LISTENING_COLUMNS)
    yield from _kernel_table(results)
    yield from _memory_table(results)
    yield from ("", "## Right or wrong", "")
    for text, is_kept in judge(results).items():
        yield f"- {'kept' if is_kept else '**MISSED**'}: {text}"
    notes = [f"- {part}: {note}" for part, one in results.items() for note in one.get("notes", [])]
    if notes:
        yield from ("", "## Notes", "", *notes)


def _table(title: str, prefix: str, results: Results, columns: Sequence[str]) -> Iterator[str]:
    rows = [
        (f"{part.removeprefix(prefix)}, {name}", figures)
        for part, result in results.items()
        if part.startswith(prefix)
        for name, figures in result.get("figures", {}).items()
        if columns[-1] in figures
    ]
    if rows:
        yield from ("", f"## {title}", "")
        yield _row("", *(column.replace("_", " ") for column in columns))
        yield _row(*["---"] * (len(columns) + 1))
        for name, figures in rows:
            yield _row(name, *(figures.get(column, "") for column in columns))


def _kernel_table(results: Results) -> Iterator[str]:
    rows = [
        (f"{part}, {name}", figures)
        for part, result in results.items()
        for name, figures in result.get("figures", {}).items()
        if "per_step" in figures
    ]
    if rows:
        yield from ("", "## Kernels of a frame or token, prompt and codec included", "")
        yield _row("", "kernels", "device ms", "ms by part")
        yield _row(*["---"] * 4)
        for name, figures in rows:
            parts = ", ".join(f"{key} {value}" for key, value in figures["ms_by_part"].items())
            yield _row(name, figures["per_step"], figures["device_ms"], parts)


def _memory_table(results: Results) -> Iterator[str]:
    rows = [
        (f"{part}, {name}", figures)
        for part, result in results.items()
        for name, figures in result.get("figures", {}).items()
        if "taken_gb" in figures
    ]
    if rows:
        columns = tuple(rows[0][1])
        yield from ("", "## Memory", "")
        yield _row("", *(column.replace("_", " ") for column in columns))
        yield _row(*["---"] * (len(columns) + 1))
        for name, figures in rows:
            yield _row(name, *(figures.get(column, "") for column in columns))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
