"""One tiny checkpoint of each kind, which runs everything and means nothing."""

from pathlib import Path

from qwen3_audio.random_weights.asr import write_asr_checkpoint
from qwen3_audio.random_weights.tts import write_tts_checkpoint

SPEECH_KINDS = ("custom_voice", "voice_design", "base")


def write_tiny_checkpoints(home: Path, *, seed: int = 0) -> list[Path]:
    """Folders of their own below `home`; a few megabytes together."""
    folders = []
    for kind in SPEECH_KINDS:
        folders.append(home / f"tiny-tts-{kind.replace('_', '-')}")
        write_tts_checkpoint(folders[-1], kind, seed=seed)
    folders.append(home / "tiny-asr")
    write_asr_checkpoint(folders[-1], seed=seed, eos_scale=4.0)
    return folders
