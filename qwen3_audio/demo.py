"""The pocket models: tiny trained checkpoints that come with this program (`pocket/`).

Three kinds of speech share their weights and are told apart by config.json alone, so the package
holds one of them whole, and of the others what differs; they are put together in the cache.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qwen3_audio.checkpoints import find_damage
from qwen3_audio.errors import StartError
from qwen3_audio.progress import Report
from qwen3_audio.settings import Settings

POCKET = Path(__file__).parent / "pocket"
WHOLE = "pocket-tts-custom-voice"
VARIANTS = ("pocket-tts-voice-design", "pocket-tts-base")
LISTENING = "pocket-asr"
NOTICE = "pocket models, which know simple English and are for trying things out"


def demo_folders(settings: Settings, report: Report) -> list[Path]:
    """The four checkpoints; those in the cache are made once for each version of the files.

    Raises StartError where the cache folder can't be written.
    """
    home = settings.cache_dir / f"pocket-{_fingerprint()}"
    if _is_damaged(home):
        report(f"Putting pocket models together in {home}")
        try:
            _make_at_once(home)
        except OSError as error:
            raise StartError(
                f"Can't write to {error.filename or home}: {error.strerror};"
                " set XDG_CACHE_HOME to a folder that is writable"
            ) from None
    return [POCKET / WHOLE, *(home / name for name in VARIANTS), POCKET / LISTENING]


def lay_out(home: Path) -> None:
    """Write every variant as a folder of its own below `home`."""
    for name in VARIANTS:
        for source in (POCKET / WHOLE, POCKET / name):
            for path in _files(source):
                copy = home / name / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # without its mode: packages may be read-only


def _fingerprint() -> str:
    """Of everything that the variants are made of."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(str(path.relative_to(POCKET)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    for name in (WHOLE, *VARIANTS):
        yield from _files(POCKET / name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_damaged(home: Path) -> bool:
    return any(find_damage(home / name) for name in VARIANTS)


def _make_at_once(home: Path) -> None:
    """Under another name first, so that nobody ever sees half a checkpoint."""
    home.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".pocket-", dir=home.parent))
    try:
        lay_out(made)
        made.chmod(0o755)
        if _is_damaged(home):
            shutil.rmtree(home, ignore_errors=True)
        os.replace(made, home)
    except OSError:
        # Another process may have been quicker; its folder is as good.
        if _is_damaged(home):
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
