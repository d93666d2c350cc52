"""Recordings with what is said in them: a JSON list of {"file": ..., "text": ...}."""

import json
from pathlib import Path
from typing import Any

from qwen3_audio.audio.decode import decode_audio
from qwen3_audio.bench.transcription_request import Clip
from qwen3_audio.errors import SpeechError, StartError
from qwen3_audio.types import LISTEN_RATE_HZ

NUM_NAMED = 3  # missing files that a message names
MAX_CLIP_S = 4 * 3600.0


def read_manifest(path: Path) -> list[Clip]:
    """Every recording, decoded once to know its length; StartError names whatever is wrong.

    Files are relative to the manifest's folder, or to the folder above.
    """
    rows = _read_rows(path)
    files = [_find(path.parent, row["file"]) for row in rows]
    missing = [row["file"] for row, file in zip(rows, files, strict=True) if file is None]
    if missing:
        rest = len(missing) - NUM_NAMED
        more = f" and {rest} more" if rest > 0 else ""
        raise StartError(
            f"{len(missing)} of {len(rows)} files of {path} are not there:"
            f" {', '.join(missing[:NUM_NAMED])}{more}"
        )
    return [
        _read_clip(file, row["text"])
        for row, file in zip(rows, files, strict=True)
        if file is not None
    ]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"Can't read the manifest {path}: {error.strerror}") from None
    except ValueError:
        raise StartError(f"The manifest {path} is not JSON") from None
    if not isinstance(rows, list) or not rows:
        raise StartError(f'{path} must be a list of {{"file": ..., "text": ...}}')
    for number, row in enumerate(rows, 1):
        is_good = isinstance(row, dict) and isinstance(row.get("file"), str) and row["file"]
        if not is_good or not isinstance(row.get("text"), str):
            raise StartError(f'Entry {number} of {path} must be {{"file": name, "text": words}}')
    return rows


def _find(folder: Path, name: str) -> Path | None:
    places = (folder / name, folder.parent / name)
    return next((place for place in places if place.is_file()), None)


def _read_clip(path: Path, text: str) -> Clip:
    try:
        data = path.read_bytes()
        samples = decode_audio(data, sample_rate_hz=LISTEN_RATE_HZ, max_seconds=MAX_CLIP_S)
    except OSError as error:
        raise StartError(f"Can't read {path}: {error.strerror}") from None
    except SpeechError as error:
        raise StartError(f"{path} is no recording: {error}") from None
    return Clip(path.name, data, len(samples) / LISTEN_RATE_HZ, text)
