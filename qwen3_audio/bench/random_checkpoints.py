"""Random checkpoints made on the spot. Their speech never ends by itself: requests set lengths."""

from collections.abc import Sequence
from pathlib import Path

from qwen3_audio.checkpoints import find_damage
from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.random_weights.tts import write_tts_checkpoint

SIZES = {  # presets of speech and of recognition
    "tiny": ("tiny", "tiny-asr"),
    "0.6b": ("0.6b", "asr-0.6b"),
    "1.7b": ("1.7b", "asr-1.7b"),
}
NEVER_ENDS = 0.0  # scale of the end token's row: half of all logits are then above it


def write_checkpoints(home: Path, kinds: Sequence[str], sizes: tuple[str, str]) -> list[Path]:
    """One folder for each kind, by its name; sizes are the presets of speech and recognition."""
    folders = [home / kind for kind in kinds]
    for kind, folder in zip(kinds, folders, strict=True):
        if (folder / "model.safetensors").exists() and not find_damage(folder):
            continue
        dtype = "float32" if sizes[0].startswith("tiny") else "bfloat16"
        if kind == "asr":
            write_asr_checkpoint(folder, preset=sizes[1], dtype=dtype)
        else:
            write_tts_checkpoint(folder, kind, preset=sizes[0], dtype=dtype, eos_scale=NEVER_ENDS)
    return folders
