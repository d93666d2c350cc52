"""Which checkpoints are served: what the command line, the variables and config.json say together.

One of each kind. --model-path wins over TTS_*, ASR_* and ALIGNER_*, which win over MODEL_*_REPO.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qwen3_audio.checkpoints import Checkpoint, open_checkpoint
from qwen3_audio.errors import StartError
from qwen3_audio.hub import find_folder
from qwen3_audio.progress import Report
from qwen3_audio.settings import MODEL_VARIABLES, Settings
from qwen3_audio.types import ModelKind


@dataclass(frozen=True, slots=True)
class Source:
    """One value that names a checkpoint, who gave it, and what it may hold."""

    label: str
    value: str
    kinds: frozenset[ModelKind]


def select_checkpoints(
    settings: Settings, model_paths: Sequence[str], report: Report
) -> list[Checkpoint]:
    """Look up, and if need be download, every checkpoint to serve; [] if none is named.

    Raises StartError for an unknown folder, an incomplete or misplaced checkpoint, and a second
    one of a kind.
    """
    chosen: dict[ModelKind, Checkpoint] = {}
    for layer in _layers(settings, model_paths):
        chosen |= _select_layer(layer, settings, chosen.keys(), report)
    return [chosen[kind] for kind in ModelKind if kind in chosen]


def list_sources(settings: Settings, model_paths: Sequence[str]) -> list[Source]:
    """Every value that names a checkpoint, strongest first."""
    return [source for layer in _layers(settings, model_paths) for source in layer]


def _layers(settings: Settings, model_paths: Sequence[str]) -> list[list[Source]]:
    paths = [Source("--model-path", value, frozenset(ModelKind)) for value in model_paths]
    variables = [(name, {kind}) for kind, name in MODEL_VARIABLES.items()]
    repositories = [
        ("MODEL_BASE_REPO", {ModelKind.BASE}),
        ("MODEL_CUSTOM_REPO", {ModelKind.CUSTOM_VOICE, ModelKind.VOICE_DESIGN}),
        ("MODEL_VOICEDESIGN_REPO", {ModelKind.VOICE_DESIGN}),
    ]
    return [paths, _sources(settings, variables), _sources(settings, repositories)]


def _sources(settings: Settings, names: list[tuple[str, set[ModelKind]]]) -> list[Source]:
    values = ((name, getattr(settings, name.lower()), kinds) for name, kinds in names)
    return [Source(name, value, frozenset(kinds)) for name, value, kinds in values if value]


def _select_layer(
    layer: list[Source], settings: Settings, taken: Collection[ModelKind], report: Report
) -> dict[ModelKind, Checkpoint]:
    found: dict[ModelKind, Checkpoint] = {}
    for source in layer:
        if source.kinds <= set(taken):
            continue
        checkpoint = open_source(source, settings, report)
        if checkpoint.kind in found:
            raise StartError(
                f"{found[checkpoint.kind].folder} and {checkpoint.folder} are both"
                f" {checkpoint.kind} checkpoints; one of each kind is served"
            )
        if checkpoint.kind not in taken:
            found[checkpoint.kind] = checkpoint
    return found


def open_source(source: Source, settings: Settings, report: Report) -> Checkpoint:
    """The checkpoint that a value means; raises StartError with the value's name in it."""
    try:
        checkpoint = open_checkpoint(find_folder(source.value, settings, report))
    except StartError as error:
        raise StartError(f"{source.label}={source.value}: {error}") from None
    if checkpoint.kind not in source.kinds:
        raise StartError(
            f"{source.label}={source.value} is a {checkpoint.kind} checkpoint;"
            f" set {MODEL_VARIABLES[checkpoint.kind]} to it"
        )
    return checkpoint
