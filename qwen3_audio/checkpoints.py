"""What a folder holds: which kind of checkpoint, and whether all of its files are there and whole.

Standard library only, so that a start stops in one sentence before torch is even imported.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_audio.errors import StartError
from qwen3_audio.scope import Scope
from qwen3_audio.types import ModelKind

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete folder and what it is for."""

    kind: ModelKind
    folder: Path
    scope: Scope | None = None

    @property
    def name(self) -> str:
        """The folder's name; in the Hugging Face cache the last part of the id."""
        folder = self.folder.resolve()
        if folder.parent.name == "snapshots":  # models--owner--name/snapshots/commit
            return folder.parent.parent.name.rpartition("--")[2]
        return folder.name


def open_checkpoint(folder: Path) -> Checkpoint:
    """Raises StartError naming the file that is missing, cut off or not understood."""
    damage = find_damage(folder)
    if damage:
        raise StartError(damage)
    return Checkpoint(read_kind(folder), folder, Scope.read(folder))


def read_kind(folder: Path) -> ModelKind:
    """From config.json: `tts_model_type`, `thinker_config.model_type`, or the flat -hf layout."""
    config = _read_json(folder / "config.json")
    if "tts_model_type" in config:
        kinds = (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN, ModelKind.BASE)
        if config["tts_model_type"] not in kinds:
            raise StartError(
                f"{folder / 'config.json'}: tts_model_type is {config['tts_model_type']!r},"
                f" not one of {', '.join(kinds)}"
            )
        return ModelKind(config["tts_model_type"])
    inner = config.get("thinker_config", config)
    name = inner.get("model_type") if isinstance(inner, dict) else None
    # The flat layout calls both qwen3_asr; the aligner's head tells them apart.
    classifies = "num_labels" in config or "Classification" in str(config.get("architectures"))
    if name == "qwen3_forced_aligner" or (name == "qwen3_asr" and inner is config and classifies):
        return ModelKind.ALIGNER
    if name == "qwen3_asr":
        return ModelKind.ASR
    described = config.get("model_type") or config.get("architectures") or "no model type"
    raise StartError(
        f"{folder / 'config.json'} has {described}; this server runs Qwen3-TTS and Qwen3-ASR"
    )


def find_damage(folder: Path) -> str | None:
    """One sentence about the first file that is missing or cut off; None if all is well."""
    if not folder.is_dir():
        return f"There is no folder {folder}"
    if not (folder / "config.json").is_file():
        return f"{folder} is no checkpoint: it has no config.json"
    try:
        needed = list(_needed_files(folder))
    except StartError as error:
        return str(error)
    for name in needed:
        problem = _problem(folder / name)
        if problem:
            return (
                f"The checkpoint in {folder} is incomplete: {name} {problem};"
                " copy or download it again"
            )
    return None


def _needed_files(folder: Path) -> Iterator[str]:
    kind = read_kind(folder)
    if (folder / "tokenizer.json").is_file():
        yield "tokenizer.json"
    else:
        yield from ("vocab.json", "merges.txt", "tokenizer_config.json")
    yield from _weight_files(folder, "")
    if kind in (ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN, ModelKind.BASE):
        yield "speech_tokenizer/config.json"
        yield from _weight_files(folder, "speech_tokenizer/")


def _weight_files(folder: Path, where: str) -> list[str]:
    if not (folder / where / INDEX).is_file():
        return [where + WEIGHTS]
    shards = _read_json(folder / where / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise StartError(f"{folder / where / INDEX} names no weight files")
    return [where + name for name in sorted(set(shards.values()))]


def _problem(path: Path) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.suffix == ".json":
        return _json_problem(path)
    if path.suffix != ".safetensors":
        return "is empty" if path.stat().st_size == 0 else None
    size_bytes, whole_bytes = path.stat().st_size, _whole_size_bytes(path)
    if whole_bytes is None:
        return "is no safetensors file or cut off in its first lines"
    if size_bytes < whole_bytes:
        return f"is cut off: {size_bytes:,} of {whole_bytes:,} bytes"
    return None


def _json_problem(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return "is not JSON"
    return None


def _whole_size_bytes(path: Path) -> int | None:
    """What the header of a safetensors file says its size is; None if there is no such header."""
    with path.open("rb") as file:
        start = file.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= header_bytes <= min(100_000_000, path.stat().st_size - 8):
            return None
        try:
            header = json.loads(file.read(header_bytes))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            return int(8 + header_bytes + max(ends, default=0))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise StartError(f"{path} is not JSON: a download was cut off, or it was edited") from None
    if not isinstance(value, dict):
        raise StartError(f"{path} is not a JSON object")
    return value
