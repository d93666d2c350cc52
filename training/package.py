"""`python -m training.package`: finished checkpoints into the package, as `--demo` expects them.

The kinds of speech share their weights, so one folder goes in whole and of the others config.json.
Model cards stay as they are; they are written by hand.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from qwen3_audio.checkpoints import open_checkpoint
from qwen3_audio.demo import LISTENING, POCKET, VARIANTS, WHOLE
from qwen3_audio.errors import StartError
from training.run import plain_failures, say

_KINDS_OF_FILES = (".json", ".txt", ".safetensors")


def package_speech(finished: Path, pocket: Path) -> None:
    """From the three folders that `training.tts` wrote. Raises StartError for a damaged one."""
    for name in (WHOLE, *VARIANTS):
        open_checkpoint(finished / name)
    _copy_files(finished / WHOLE, pocket / WHOLE)
    for name in VARIANTS:
        (pocket / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finished / name / "config.json", pocket / name / "config.json")


def package_listening(finished: Path, pocket: Path) -> None:
    """From the folder that `training.asr` wrote. Raises StartError for a damaged one."""
    open_checkpoint(finished)
    _copy_files(finished, pocket / LISTENING)


def _copy_files(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.suffix in _KINDS_OF_FILES:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.package", description=__doc__)
    parser.add_argument("--tts", type=Path, metavar="FOLDER", help="--out of training.tts")
    parser.add_argument("--asr", type=Path, metavar="FOLDER", help="--out of training.asr")
    parser.add_argument("--pocket", type=Path, default=POCKET, help="default: %(default)s")
    given = parser.parse_args(arguments)
    if given.tts is None and given.asr is None:
        parser.error("name --tts, --asr or both")
    with plain_failures(StartError, FileNotFoundError):
        if given.tts is not None:
            package_speech(given.tts, given.pocket)
        if given.asr is not None:
            package_listening(given.asr, given.pocket)
    num_bytes = sum(path.stat().st_size for path in given.pocket.rglob("*") if path.is_file())
    say(f"{given.pocket}: {num_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
