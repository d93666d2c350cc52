"""Random checkpoints, drawn on the device that is checked, so that the large ones take seconds."""

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.gpu_check.part import Part
from qwen3_audio.checkpoints import Checkpoint, find_damage, open_checkpoint
from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.random_weights.tts import write_tts_checkpoint

NEVER_ENDS = 0.0  # scale of the end token's row: requests set the lengths
PLAIN_GAIN = 1.0  # attention as in trained models: sharper, it makes much of the smallest rounding
MEMORY_FOLDER = Path("/dev/shm")
ROOM_BYTES = 24 << 30  # for all full-size checkpoints at once


def choose_home() -> Path:
    """A new folder, in memory if there is room for everything."""
    has_room = MEMORY_FOLDER.is_dir() and shutil.disk_usage(MEMORY_FOLDER).free >= ROOM_BYTES
    parent = MEMORY_FOLDER if has_room else None
    return Path(tempfile.mkdtemp(prefix="qwen3-audio-gpu-check-", dir=parent))


def make(part: Part, kind: str, size: str) -> Checkpoint:
    """A checkpoint of one kind (`asr` or one that speaks) and size: tiny, 0.6b or 1.7b."""
    folder = part.home / f"{size}-{kind}"
    if not folder.exists():
        part.say(f"making {folder.name}")
        draft = part.home / f"draft-{os.getpid()}-{folder.name}"
        device = "cpu" if size == "tiny" else part.device  # tiny ones are the same everywhere
        dtype = "float32" if size == "tiny" else "bfloat16"
        if kind == "asr":
            write_asr_checkpoint(
                draft, preset=_asr_preset(size), dtype=dtype, device=device, qk_gain=PLAIN_GAIN
            )
        else:
            write_tts_checkpoint(
                draft, kind, preset=size, dtype=dtype, eos_scale=NEVER_ENDS, device=device
            )
        draft.rename(folder)
    damage = find_damage(folder)
    if damage:
        raise RuntimeError(damage)
    return open_checkpoint(folder)


def _asr_preset(size: str) -> str:
    return "tiny-asr" if size == "tiny" else f"asr-{size}"
