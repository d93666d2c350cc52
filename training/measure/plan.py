"""What is measured, and how much of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_audio.checkpoints import find_damage, open_checkpoint
from qwen3_audio.demo import LISTENING, demo_folders
from qwen3_audio.errors import StartError
from qwen3_audio.settings import Settings
from qwen3_audio.types import ModelKind
from training.run import say
from training.tts.assemble import FOLDERS as SPEECH_FOLDERS

Json = dict[str, Any]

FOLDERS = {
    ModelKind.ASR: LISTENING,
    **{ModelKind(kind): name for kind, name in SPEECH_FOLDERS.items()},
}
FULL_SENTENCES = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """The command line, understood."""

    models: Mapping[ModelKind, Path]
    out: Path
    is_demo: bool = False  # the models are those that `serve --demo` uses
    num_sentences: int = FULL_SENTENCES
    share: float = 1.0  # of the trials of recognition
    judge: Path | None = None
    judge_words: Path | None = None
    official_speech: Path | None = None
    official_listening: Path | None = None
    curves: tuple[Path, ...] = ()

    @property
    def server_arguments(self) -> list[str]:
        """Of `qwen3-audio serve`, for all four models."""
        if self.is_demo:
            return ["--demo"]
        return [word for folder in self.models.values() for word in ("--model-path", str(folder))]

    @property
    def is_full(self) -> bool:
        return self.num_sentences >= FULL_SENTENCES and self.share >= 1

    def part_of(self, divisor: int, least: int = 2) -> int:
        """A number of sentences for what needs fewer of them."""
        return min(max(self.num_sentences // divisor, least), self.num_sentences)


def find_models(home: Path | None) -> dict[ModelKind, Path]:
    """The four folders in `home`, or those of the demo; StartError names what is missing."""
    if home is not None:
        folders = {kind: home / name for kind, name in FOLDERS.items()}
        for folder in folders.values():
            if damage := find_damage(folder):
                raise StartError(f"{damage}; --models needs {', '.join(FOLDERS.values())}")
        return folders
    found = [open_checkpoint(folder) for folder in demo_folders(Settings.from_env(), say)]
    return {checkpoint.kind: checkpoint.folder for checkpoint in found}


def fingerprints(models: Mapping[ModelKind, Path]) -> dict[str, str]:
    """The beginning of the SHA-256 of each folder's weights, so that figures name their models."""
    return {str(kind): _digest(folder) for kind, folder in models.items()}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
