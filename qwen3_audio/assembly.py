"""Puts the parts together: settings and checkpoints → backend → service → application."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwen3_audio.checkpoints import Checkpoint, open_checkpoint
from qwen3_audio.demo import demo_folders
from qwen3_audio.errors import StartError
from qwen3_audio.progress import loading_progress
from qwen3_audio.selection import select_checkpoints
from qwen3_audio.settings import Settings
from qwen3_audio.types import Backend

if TYPE_CHECKING:
    from fastapi import FastAPI

    from qwen3_audio.engine.local import LocalBackend

log = logging.getLogger("qwen3_audio")

NOTHING_TO_SERVE = """\
no checkpoint is named, so there is nothing to serve. Any of these is a start:

  qwen3-audio serve --demo
      tiny checkpoints made on this machine: everything works, nothing makes sense

  qwen3-audio download Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice Qwen/Qwen3-ASR-0.6B
      puts checkpoints into MODELS_DIR (./models)

  qwen3-audio serve --model-path Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice \\
                    --model-path Qwen/Qwen3-ASR-0.6B
      folders or hub ids, one of each kind; an id that is not here is downloaded

  or the same by variables, again as folders or hub ids:
      TTS_CUSTOMVOICE_MODEL_PATH  speakers by name
      TTS_BASE_MODEL_PATH         speaks like a recording (audio_sample)
      TTS_VOICEDESIGN_MODEL_PATH  a voice from a description
      ASR_MODEL_PATH              transcription"""


def choose_checkpoints(
    settings: Settings, model_paths: Sequence[str], *, is_demo: bool
) -> list[Checkpoint]:
    """What is to be served, complete and on this machine; StartError if that is nothing."""
    if is_demo:
        return [open_checkpoint(folder) for folder in demo_folders(settings, log.info)]
    checkpoints = select_checkpoints(settings, model_paths, log.info)
    if not checkpoints:
        raise StartError(NOTHING_TO_SERVE)
    return checkpoints


def load_backend(checkpoints: Sequence[Checkpoint], settings: Settings) -> "LocalBackend":
    """The engine of this process with all checkpoints loaded."""
    from qwen3_audio.engine.local import build_backend

    with loading_progress(log.info) as report:
        return build_backend(checkpoints, settings, report)


def build_app(backend: Backend, settings: Settings) -> "FastAPI":
    """The HTTP application over any backend; closes it when it ends."""
    from qwen3_audio.service import SpeechService
    from qwen3_audio.web.app import create_app

    return create_app(SpeechService(backend, settings), settings)
