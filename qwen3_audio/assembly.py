"""Puts the parts together: settings and checkpoints → backend → service → application."""

import ctypes
import gc
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3_audio.checkpoints import Checkpoint, open_checkpoint
from qwen3_audio.demo import demo_folders
from qwen3_audio.errors import StartError
from qwen3_audio.kernels.compiled import make_ahead
from qwen3_audio.progress import loading_progress
from qwen3_audio.selection import select_checkpoints
from qwen3_audio.settings import Settings, suggest
from qwen3_audio.types import Backend

if TYPE_CHECKING:
    from fastapi import FastAPI

    from qwen3_audio.engine.local import LocalBackend
    from qwen3_audio.store.opening import Store

log = logging.getLogger("qwen3_audio")

# oneDNN keeps a compiled kernel of 0.3 MB for each shape that it meets, up to 1,024 of them, and
# torch's wrapper keeps them once more. Speech and recordings come in every length. One shape of
# the codec needs 30, which take 4 ms to make again.
KEPT_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "40", "LRU_CACHE_CAPACITY": "1"}
# torch's threads wait spinning for the next of many small steps (a prompt in bfloat16: 100 ms, and
# 180 ms if they fell asleep at once), but not for long on cores that the kernels then lack.
IDLE_THREADS = {"GOMP_SPINCOUNT": "20000"}
M_ARENA_MAX = -8  # of glibc's mallopt
_GPU = Path("/dev/nvidiactl")  # of NVIDIA's driver on Linux
MAX_ARENAS = 1  # each keeps what its threads have freed

NOTHING_TO_SERVE = """\
no checkpoint is named, so there is nothing to serve. Any of these is a start:

  qwen3-audio serve --demo
      tiny models that come with this program: simple English, without a download

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
    suggest(IDLE_THREADS)
    bound_memory()
    with _compiling(settings):
        from qwen3_audio.engine.local import build_backend

    with loading_progress(log.info) as report:
        backend = build_backend(checkpoints, settings, report)
    # What is there now stays: looking through all of it stops every thread for 0.1 s each time.
    gc.collect()
    gc.freeze()
    return backend


@contextmanager
def _compiling(settings: Settings) -> Iterator[None]:
    """The C compiler of a first start and the import of torch take seconds each: both at once."""
    if _GPU.exists() or (settings.qwen_tts_device or "").startswith("cuda"):
        yield  # the kernels are for CPUs; should this one be needed yet, it compiles then
        return
    thread = threading.Thread(target=make_ahead, args=(settings.kernels_dir,), daemon=True)
    thread.start()
    yield
    thread.join()


def bound_memory() -> None:
    """Before anything computes: nothing may be kept for every length and thread that comes by."""
    suggest(KEPT_KERNELS)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, MAX_ARENAS)


def open_server_store(settings: Settings) -> "Store":
    """The database and the sounds, as new or repaired after a kill; StartError in one sentence."""
    from qwen3_audio.store.opening import open_store_to_serve

    store, recovered = open_store_to_serve(
        settings.database, settings.data_dir, hmac_secret=settings.hmac_secret
    )
    if recovered.num_failed or recovered.num_files:
        log.info(
            "Tidied up after a server that was stopped: %d requests ended, %d files removed",
            recovered.num_failed,
            recovered.num_files,
        )
    return store


def build_app(backend: Backend, settings: Settings, *, store: "Store") -> "FastAPI":
    """The HTTP application over any backend; closes it and the store when it ends."""
    from qwen3_audio.service import SpeechService
    from qwen3_audio.web.app import create_app

    app = create_app(SpeechService(backend, settings, store=store), settings)
    # A full collection walks 300,000 objects of torch in 0.2 s while everybody waits; they stay.
    gc.collect()
    gc.freeze()
    return app
