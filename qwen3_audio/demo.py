"""Tiny checkpoints with random weights, one of each kind: they run everything and mean nothing."""

import os
import shutil
import tempfile
from pathlib import Path

from qwen3_audio import __version__
from qwen3_audio.checkpoints import find_damage
from qwen3_audio.errors import StartError
from qwen3_audio.progress import Report
from qwen3_audio.settings import Settings

SPEECH_KINDS = ("custom_voice", "voice_design", "base")
NOTICE = "tiny random checkpoints: only noise comes out, and only nonsense is heard"


def demo_folders(settings: Settings, report: Report) -> list[Path]:
    """The demo's checkpoints in the cache folder; made once for each version of this program."""
    home = settings.cache_dir / f"demo-{__version__}"
    folders = list_folders(home)
    if any(find_damage(folder) for folder in folders):
        report(f"Making tiny random checkpoints in {home}")
        try:
            _make_at_once(home)
        except OSError as error:
            raise StartError(
                f"Can't write to {error.filename or home}: {error.strerror};"
                " set XDG_CACHE_HOME to a folder that is writable"
            ) from None
    return folders


def write_tiny_checkpoints(home: Path, *, seed: int = 0) -> list[Path]:
    """One checkpoint of each kind in folders of their own; a few megabytes together."""
    from qwen3_audio.random_weights.asr import write_asr_checkpoint
    from qwen3_audio.random_weights.tts import write_tts_checkpoint

    folders = list_folders(home)
    for folder, kind in zip(folders, SPEECH_KINDS, strict=False):
        write_tts_checkpoint(folder, kind, seed=seed)
    write_asr_checkpoint(folders[-1], seed=seed, eos_scale=4.0)
    return folders


def list_folders(home: Path) -> list[Path]:
    """Where `write_tiny_checkpoints` puts them."""
    names = [f"tiny-tts-{kind.replace('_', '-')}" for kind in SPEECH_KINDS]
    return [home / name for name in (*names, "tiny-asr")]


def _make_at_once(home: Path) -> None:
    """Under another name first, so that nobody ever sees half a checkpoint."""
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".demo-", dir=home.parent))
    try:
        write_tiny_checkpoints(made)
        if home.exists():
            shutil.rmtree(home, ignore_errors=True)
        os.replace(made, home)
    except OSError:
        # Another process may have been quicker; its folder is as good.
        if any(find_damage(folder) for folder in list_folders(home)):
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
